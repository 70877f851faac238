"""What hosts install: this package's wheel, and the wheels that its host side imports; built once per version, without
an index, and known to hosts by their hashes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from vmacro.errors import ProvisioningError
from vmacro.provisioning import lock

HOST_SIDE_NEEDS = ("pyroute2",)  # and libvirt-python, from the distribution: it must fit the distribution's libvirt
SOURCE = Path(__file__).resolve().parents[2]
FETCHED = Path(sys.prefix) / "share/vmacro/wheels"  # by `make setup`


def built() -> list[Path]:
    """The wheels, from the cache if nothing has changed. Raises ProvisioningError."""
    folder = cache("wheels") / digest([*_everything(), SOURCE / "pyproject.toml"])
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            _build(Path(work))
            Path(work).chmod(0o755)
            try:
                Path(work).rename(folder)
            except OSError:
                pass  # another process was faster
            else:
                Path(work).mkdir()
    found = sorted(folder.glob("*.whl"))
    _check(found)
    return found


def _check(wheels: Iterable[Path]) -> None:
    """Hosts know our own wheel by a hash that is made of what lies in the cache: it must be what our sources are.
    Raises ProvisioningError."""
    by_name = {wheel.name.split("-")[0]: wheel for wheel in wheels}
    hint = "remove its folder, and find out who has changed it"
    if by_name.keys() != {"vmacro", *HOST_SIDE_NEEDS}:
        raise ProvisioningError(f"wheels in the cache: {', '.join(by_name) or 'none'}, and others were built", hint)
    scripts = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]["scripts"]
    with zipfile.ZipFile(by_name["vmacro"]) as archive:
        for name in archive.namelist():
            package, _, rest = name.partition("/")
            if rest == "entry_points.txt" and package.endswith(".dist-info"):
                lines = {line.strip() for line in archive.read(name).decode().splitlines()} - {"", "[console_scripts]"}
                same = lines == {f"{script} = {where}" for script, where in scripts.items()}
            elif package in ("vmacro", "guest_agent") and ".." not in rest:
                same = (SOURCE / name).is_file() and archive.read(name) == (SOURCE / name).read_bytes()
            else:
                same = package.endswith(".dist-info")
            if not same:
                raise ProvisioningError(f"{by_name['vmacro']}: {name} is not what this vmacro has", hint)


def requirements(wheels: Iterable[Path]) -> str:
    """What `pip install --require-hashes -r` on a host takes: of others' wheels what the lock file says, of our own
    what was built here. Raises OSError."""
    names = {wheel.name.split("-")[0]: wheel for wheel in wheels}
    ours = {name: wheel for name, wheel in names.items() if name not in HOST_SIDE_NEEDS}
    own = (f"{n}=={w.name.split('-')[1]} --hash=sha256:{_sha256(w.read_bytes())}\n" for n, w in ours.items())
    return lock.of(*(name for name in names if name in HOST_SIDE_NEEDS)) + "".join(own)


def fetch() -> None:
    """Bring what hosts need from the index, by its hashes, so that built() needs none. Raises ProvisioningError."""
    FETCHED.mkdir(parents=True, exist_ok=True)
    _download(FETCHED)


def _build(target: Path) -> None:
    _download(target, *(("--no-index", f"--find-links={FETCHED}") if FETCHED.is_dir() else ()))
    if not (SOURCE / "pyproject.toml").exists():
        raise ProvisioningError(
            f"vmacro in {SOURCE}: is no checkout, so its wheel cannot be built", "run vmacro from a checkout"
        )
    if (there := metadata.version("setuptools")) != lock.version("setuptools"):
        text = f"setuptools {there} is installed, and requirements.lock has {lock.version('setuptools')}"
        raise ProvisioningError(f"vmacro's wheel cannot be built: {text}", "make setup")
    with tempfile.TemporaryDirectory() as copy:  # setuptools writes beside what it builds
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(SOURCE / name, copy)
        for package in ("vmacro", "guest_agent"):
            shutil.copytree(SOURCE / package, Path(copy) / package, ignore=shutil.ignore_patterns("__pycache__"))
        # By the setuptools that is installed: pip would fetch another, whose hash nobody knows.
        _pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(target), copy)


def _download(target: Path, *options: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as wanted:
        wanted.write(lock.of(*HOST_SIDE_NEEDS))
        wanted.flush()
        words = ("--require-hashes", "--no-deps", "--only-binary=:all:", "-d", str(target), "-r", wanted.name)
        _pip("download", *words, *options)


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env={**os.environ, "SOURCE_DATE_EPOCH": "315532800"}
    )
    if done.returncode != 0:
        hint = "`make setup` fetches what hosts need; without it this machine must reach its index"
        raise ProvisioningError(f"pip {words[0]}: {done.stderr.strip()[-800:]}", hint)


def host_side_digest() -> str:
    """Names what the host side is made of. Wheels that differ only in other parts of vmacro do the same on a host."""
    ours = [p for package in ("host", "wire") for p in (SOURCE / "vmacro" / package).glob("*.py")]
    return digest([*ours, SOURCE / "pyproject.toml"])


def _everything() -> list[Path]:
    """All that a wheel may have, its data (*.toml) too: a wheel with old data is no wheel of this vmacro."""
    kinds = ("*.py", "*.toml")
    return [p for package in ("vmacro", "guest_agent") for kind in kinds for p in (SOURCE / package).rglob(kind)]


def digest(files: list[Path]) -> str:
    """Names the contents of these files, and the versions of what the host side needs."""
    parts = [f"{name} {metadata.version(name)} {lock.of(name)}" for name in HOST_SIDE_NEEDS]
    parts += [f"{p.relative_to(SOURCE)}\0{p.read_text()}" for p in sorted(files) if p.exists()]
    return _sha256("\0".join(parts).encode())[:12]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def cache(kind: str) -> Path:
    """The folder for one kind of things that are built here."""
    return Path(os.environ.get("VMACRO_CACHE", "/var/cache/vmacro")) / kind
