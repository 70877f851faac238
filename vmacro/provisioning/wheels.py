"""What hosts install of us: this package's wheel, and those that its host side imports; built once a version."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from vmacro.errors import ProvisioningError

HOST_SIDE_NEEDS = ("pyroute2",)  # and libvirt-python, which is the distribution's: it must fit its libvirt
SOURCE = Path(__file__).resolve().parents[2]


def built() -> list[Path]:
    """The wheels, from the cache where nothing has changed. Raises ProvisioningError."""
    folder = cache("wheels") / digest([*_everything(), SOURCE / "pyproject.toml"])
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            _build(Path(work))
            Path(work).chmod(0o755)
            try:
                Path(work).rename(folder)
            except OSError:
                pass  # somebody else was faster
            else:
                Path(work).mkdir()
    return sorted(folder.glob("*.whl"))


def _build(target: Path) -> None:
    pinned = [f"{name}=={metadata.version(name)}" for name in HOST_SIDE_NEEDS]
    _pip("download", "--no-deps", "--only-binary=:all:", "-d", str(target), *pinned)
    if not (SOURCE / "pyproject.toml").exists():
        raise ProvisioningError(
            f"vmacro in {SOURCE}: is no checkout, so its wheel cannot be built", "run vmacro from a checkout"
        )
    with tempfile.TemporaryDirectory() as copy:  # setuptools writes beside what it builds
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(SOURCE / name, copy)
        for package in ("vmacro", "guest_agent"):
            shutil.copytree(SOURCE / package, Path(copy) / package, ignore=shutil.ignore_patterns("__pycache__"))
        _pip("wheel", "--no-deps", "-w", str(target), copy)


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "SOURCE_DATE_EPOCH": "315532800"})
    if done.returncode != 0:
        raise ProvisioningError(f"pip {words[0]}: {done.stderr.strip()[-800:]}", "does this machine reach its index?")


def host_side_digest() -> str:
    """What the host side is made of: a wheel that differs elsewhere only does the same on a host."""
    ours = [*(SOURCE / "vmacro/host").glob("*.py"), SOURCE / "guest_agent/protocol.py", SOURCE / "pyproject.toml"]
    return digest(ours)


def _everything() -> list[Path]:
    return [p for package in ("vmacro", "guest_agent") for p in (SOURCE / package).rglob("*.py")]


def digest(files: list[Path]) -> str:
    parts = [f"{name} {metadata.version(name)}" for name in HOST_SIDE_NEEDS]
    parts += [f"{p.relative_to(SOURCE)}\0{p.read_text()}" for p in sorted(files) if p.exists()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def cache(kind: str) -> Path:
    """Where what we build of one kind is kept."""
    return Path(os.environ.get("VMACRO_CACHE", "/var/cache/vmacro")) / kind
