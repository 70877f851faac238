"""Images from recipes (images/NAME): built by mmdebstrap from the machine's own mirror, cached by hash.

An image is a folder `CACHE/NAME-HASH`. A host's has a tree `root`, the lower layer of overlays, and beside it are the
`packages` that it can install. A guest's has `vmlinuz`, `initrd.gz` and a `root.ext4`, which is read-only for the kind
`guest`, and copied and written to for the kind `cloud`. The kind `xen` is a host with a kernel of its own: it has the
tree, `vmlinuz` and `initrd.gz`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vmacro.errors import ConfigurationError, LabError
from vmacro.lab import bootable, mounts, process, repository, zipapps
from vmacro.lab.paths import RECIPES, cache_dir
from vmacro.provisioning import agent_package

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
Report = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """images/NAME/recipe.toml, and the `folder` with the files that go into the image. A recipe may be `as` another
    one, and then says only what differs."""

    name: str
    folder: Path
    kind: str
    suite: str
    packages: tuple[str, ...]
    enable: tuple[str, ...]
    mask: tuple[str, ...]
    modules: tuple[str, ...]
    repository: tuple[str, ...]
    backports: bool
    size_mib: int

    @property
    def init(self) -> Path:
        """What an initrd begins with: its own, or that of guests. No link in the tree: not every way keeps them."""
        own = self.folder / "init"
        return own if own.exists() else RECIPES / "guest/init"

    @property
    def base_key(self) -> str:
        """Names the tree with its packages installed: the slow half of a build."""
        return digest([self.suite, *sorted(self.packages)])

    @property
    def repository_key(self) -> str:
        """Names the folder of packages that the image can install."""
        return digest([self.base_key, *sorted(self.repository), Path(repository.__file__).read_text()])

    @property
    def key(self) -> str:
        """Names the whole image: changes with anything that it is made from."""
        own = {p for p in self.folder.rglob("*") if p.is_file()}
        files = sorted({*own, RECIPES / self.name / "recipe.toml", *([] if self.kind == "host" else [self.init])})
        ours = zipapps.sources() if self.kind == "guest" else []
        parts = [
            f"{p.name}:{p.stat().st_mode:o}:" + p.read_text()
            for p in [*files, *ours, Path(__file__), Path(bootable.__file__)]
        ]
        return digest([self.repository_key, *parts])


@dataclass(frozen=True)
class Image:
    """A recipe's image in the cache, built or not."""

    recipe: Recipe
    folder: Path

    @property
    def built(self) -> bool:
        """Whether it is in the cache."""
        return self.folder.is_dir()

    @property
    def root(self) -> Path:
        """The tree of a host's image."""
        return self.folder / "root"

    @property
    def packages(self) -> Path:
        """The folder of packages that it can install, as apt reads it."""
        return cache_dir() / f"packages-{self.recipe.name}-{self.recipe.repository_key}"


def recipes() -> list[Recipe]:
    """All recipes, by name."""
    return [_load(path.parent) for path in sorted(RECIPES.glob("*/recipe.toml"))]


def image(name: str) -> Image:
    """The image of a recipe, built or not. Raises ConfigurationError if there is no such recipe."""
    if not (RECIPES / name / "recipe.toml").is_file():
        known = ", ".join(r.name for r in recipes())
        raise ConfigurationError(f"image {name!r}: no such recipe", f"known: {known}")
    recipe = _load(RECIPES / name)
    return Image(recipe, cache_dir() / f"{recipe.name}-{recipe.key}")


def build(name: str, report: Report) -> Image:
    """The image, from the cache if nothing that it is made from has changed. Raises LabError."""
    wanted = image(name)
    cache_dir().mkdir(parents=True, exist_ok=True)
    with locked(cache_dir() / f"{name}.lock"):
        if wanted.recipe.repository and not wanted.packages.is_dir():
            _repository(wanted, _base_tree(wanted.recipe, report), report)
        if not wanted.built:
            work = _empty(cache_dir() / f"{name}.part")
            base = _base_tree(wanted.recipe, report)
            report(f"image {name}: adding files and settings")
            _assemble(wanted, base, work)
            work.rename(wanted.folder)
            forget_others(f"{name}-", wanted.folder)
    report(f"image {name}: {wanted.folder.name}")
    return wanted


def _base_tree(recipe: Recipe, report: Report) -> Path:
    base = cache_dir() / f"base-{recipe.name}-{recipe.base_key}"
    if base.is_dir():
        return base
    report(f"image {recipe.name}: installing {len(recipe.packages)} packages of Debian {recipe.suite} (a minute)")
    part = _empty(cache_dir() / f"base-{recipe.name}.part")
    process.run(
        [
            "mmdebstrap",
            "--variant=minbase",
            "--mode=root",
            f"--include={','.join(recipe.packages)}",
            '--aptopt=Apt::Install-Recommends "false"',
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            f"--keyring={KEYRING}",
            recipe.suite,
            part,
            *sources(recipe.suite),
        ],
        timeout_s=1500,
    )
    part.rename(base)
    return base


def _repository(wanted: Image, base: Path, report: Report) -> None:
    recipe = wanted.recipe
    report(f"image {recipe.name}: fetching what its hosts install: {len(recipe.repository)} packages and their needs")
    part = _empty(cache_dir() / f"packages-{recipe.name}.part")
    archives = sources(recipe.suite, recipe.backports)
    repository.build(base, recipe.repository, recipe.suite, recipe.backports, archives, KEYRING, part)
    part.rename(wanted.packages)


def sources(suite: str, backports: bool = False) -> list[str]:
    """sources.list(5) lines for a suite, on the archives that this machine is configured for.

    Raises LabError.
    """
    template = "$(ORIGIN) $(COMPONENT) $(LABEL) $(REPO_URI)"
    found = process.run(["apt-get", "indextargets", "--format", template]).splitlines()
    lines = []
    wanted_suites = [("Debian", suite), ("Debian-Security", f"{suite}-security")]
    for label, name in [*wanted_suites, *([("Debian", f"{suite}-backports")] if backports else [])]:
        wanted = f"Debian main {label} "
        lines += [f"deb {line.removeprefix(wanted)} {name} main" for line in found if line.startswith(wanted)][:1]
    if not lines:
        raise LabError("apt: this machine has no Debian archive", "run `apt-get update`; see sources.list(5)")
    return lines


def _assemble(wanted: Image, base: Path, work: Path) -> None:
    recipe, root = wanted.recipe, work / "root"
    process.run(["cp", "-a", base, root])
    process.run(["cp", "-rT", "--preserve=mode", recipe.folder / "files", root])
    shutil.rmtree(root / "etc/apt/sources.list.d", ignore_errors=True)
    (root / "etc/apt/sources.list.d").mkdir(parents=True, exist_ok=True)
    if recipe.kind == "guest":
        zipapps.build_agent(root / "usr/local/sbin/vmacro-agent.pyz", work, root)
        shutil.copy(agent_package.PARTS / "50-vmacro-mptcp.conf", root / "etc/sysctl.d")
        zipapps.build_responder(root / "usr/local/sbin/vmacro-rtt.pyz", work, root)
    units = root / "etc/systemd/system"
    for unit in recipe.mask:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    for unit in recipe.enable:
        process.run(["chroot", root, "systemctl", "enable", "-q", unit])
    if recipe.repository:
        lines = repository.source_lines(recipe.backports)
        (root / "etc/apt/sources.list").write_text(lines)
    if recipe.kind == "cloud":
        process.run(["cp", "-rT", wanted.packages, root / repository.FOLDER])
    process.run([recipe.folder / "customize.sh", root])
    if recipe.kind == "xen":
        bootable.kernel(root, recipe.init, recipe.modules, work)
        shutil.rmtree(work / "initrd")
    elif recipe.kind != "host":
        bootable.finish(root, recipe.init, recipe.modules, recipe.size_mib, recipe.kind == "cloud", work)
        for leftover in ("root", "initrd", "agent", "rtt"):
            shutil.rmtree(work / leftover, ignore_errors=True)


def _load(folder: Path) -> Recipe:
    own = tomllib.loads((folder / "recipe.toml").read_text())
    base = folder.with_name(own.get("as", folder.name))
    data = tomllib.loads((base / "recipe.toml").read_text()) | own
    return Recipe(
        folder.name,
        base,
        data["kind"],
        data["suite"],
        tuple(data["packages"]),
        tuple(data.get("enable", ())),
        tuple(data.get("mask", ())),
        tuple(data.get("modules", ())),
        tuple(data.get("repository", ())),
        data.get("backports", False),
        data.get("size_mib", 0),
    )


def forget_others(prefix: str, kept: Path) -> None:
    """Remove older builds, except the previous one, on which a lab may still run."""
    builds = [p for p in cache_dir().glob(f"{prefix}*") if p.is_dir() and p != kept]
    for old in sorted(builds, key=lambda p: p.stat().st_mtime)[:-1]:
        mounts.remove_tree(old)


def _empty(path: Path) -> Path:
    mounts.remove_tree(path)
    path.mkdir(parents=True)
    return path


def digest(parts: list[str]) -> str:
    """A short name for a list of texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for a lock on this file, and hold it while this is open."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
