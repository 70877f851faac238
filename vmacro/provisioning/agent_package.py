"""The guest agent as people install it: one zipapp, and a Debian package around it.

The zipapp has the parts of pyroute2 that the agent uses, under an empty `pyroute2/__init__.py`: the real one imports
the whole library, which takes 3 s of a guest's boot under emulation.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import tempfile
from pathlib import Path

import pyroute2

import guest_agent
import vmacro
from vmacro import wire
from vmacro.errors import ProvisioningError
from vmacro.provisioning import wheels
from vmacro.provisioning import zipapp as zipapps

AGENT = Path(guest_agent.__file__).parent
PARTS = AGENT / "package"
VMACRO, WIRE = Path(vmacro.__file__), Path(wire.__file__).parent  # all that the agent has of vmacro
# The largest parts of pyroute2 that the agent never imports.
UNUSED = ("ndb", "ipdb", "plan9", "bsd", "inotify", "nftables", "cli", "fixtures", "decoder", "ansible")


def built() -> Path:
    """The Debian package, from the cache if nothing has changed. Raises ProvisioningError."""
    version = f"{guest_agent.__version__}+{wheels.digest(sources())}"
    package = wheels.cache("agent") / f"vmacro-agent_{version}_all.deb"
    if not package.exists():
        package.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=package.parent) as work:
            _build(Path(work), version).replace(package)
    return package


def zipapp() -> Path:
    """The agent's zipapp alone, the same as in the package."""
    package = built()
    alone = package.with_suffix(".pyz")
    if not alone.exists():
        with tempfile.TemporaryDirectory(dir=alone.parent) as work:
            _zipapp(Path(work)).replace(alone)
    return alone


def tree(target: Path) -> None:
    """Everything in the zipapp except `__main__.py`."""
    zipapps.copy(AGENT, target / "guest_agent", skip=("package",))
    zipapps.copy(WIRE, target / "vmacro/wire")
    shutil.copyfile(VMACRO, target / "vmacro/__init__.py")
    zipapps.copy(Path(pyroute2.__file__).parent, target / "pyroute2", skip=UNUSED)
    (target / "pyroute2/__init__.py").write_text("")


def sources() -> list[Path]:
    """The files of ours that the package is made from, for the caches' keys."""
    ours = [*sorted(AGENT.glob("*.py")), *sorted(PARTS.iterdir()), VMACRO, *sorted(WIRE.glob("*.py"))]
    return [*ours, Path(__file__), Path(zipapps.__file__)]


def _zipapp(work: Path) -> Path:
    tree(work / "tree")
    return zipapps.pack(work / "tree", "guest_agent.__main__", work / "vmacro-agent.pyz")


def _build(work: Path, version: str) -> Path:
    root = work / "root"
    _install(_zipapp(work), root / "usr/lib/vmacro/vmacro-agent.pyz", 0o755)
    _install(PARTS / "vmacro-agent.service", root / "usr/lib/systemd/system/vmacro-agent.service")
    _install(PARTS / "50-vmacro-mptcp.conf", root / "usr/lib/sysctl.d/50-vmacro-mptcp.conf")
    (root / "usr/sbin").mkdir()
    (root / "usr/sbin/vmacro-agent").symlink_to("../lib/vmacro/vmacro-agent.pyz")
    _copyright(root / "usr/share/doc/vmacro-agent")
    for name in ("postinst", "prerm"):
        _install(PARTS / name, root / "DEBIAN" / name, 0o755)
    (root / "DEBIAN/control").write_text((PARTS / "control").read_text().format(version=version))
    target = work / "agent.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(root), str(target)]
    try:
        subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
    except FileNotFoundError as error:
        raise ProvisioningError(
            "dpkg-deb: is not installed, so the agent's package cannot be built", "install dpkg"
        ) from error
    except subprocess.CalledProcessError as error:
        raise ProvisioningError(f"dpkg-deb: {error.stderr.strip()}") from error
    return target


def _copyright(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "copyright").write_text((wheels.SOURCE / "LICENSE").read_text())
    with gzip.GzipFile(folder / "changelog.gz", "wb", mtime=0) as packed:
        packed.write((wheels.SOURCE / "CHANGELOG.md").read_bytes())


def _install(source: Path, target: Path, mode: int = 0o644) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.parent.chmod(0o755)
    shutil.copyfile(source, target)
    target.chmod(mode)
