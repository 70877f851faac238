"""The programs that go into a guest's image, each one file: its agent and RTT responder.

Byte code for the guest's Python lies beside the source, since zip files have no __pycache__.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from vmacro.lab import process
from vmacro.lab.paths import CHECKOUT
from vmacro.provisioning import agent_package, zipapp


def build_agent(target: Path, work: Path, guest_root: Path) -> None:
    """The agent, with byte code made by the Python in `guest_root`."""
    tree = _fresh(work / "agent")
    agent_package.tree(tree)
    _pack(tree, "guest_agent.__main__", target, guest_root)


def build_responder(target: Path, work: Path, guest_root: Path) -> None:
    """The RTT responder, with byte code made by the Python in `guest_root`."""
    tree = _fresh(work / "rtt")
    (tree / "vmacro/rtt").mkdir(parents=True)
    for name in ("__init__.py", "rtt/__init__.py", "rtt/wire.py", "rtt/responder.py", "rtt/zipapp_main.py"):
        shutil.copy(CHECKOUT / "vmacro" / name, tree / "vmacro" / name)
    _pack(tree, "vmacro.rtt.zipapp_main", target, guest_root)


def sources() -> list[Path]:
    """The files of ours that end up in a guest's image, for the cache's key."""
    rtt = [CHECKOUT / "vmacro/rtt" / n for n in ("wire.py", "responder.py", "zipapp_main.py")]
    return [*agent_package.sources(), *rtt, Path(__file__)]


def _pack(tree: Path, module: str, target: Path, guest_root: Path) -> None:
    _compile_with_the_guests_python(tree, guest_root)
    target.parent.mkdir(parents=True, exist_ok=True)
    zipapp.pack(tree, module, target)


def _compile_with_the_guests_python(tree: Path, guest_root: Path) -> None:
    inside = guest_root / "tmp/vmacro-build"
    shutil.copytree(tree, inside)
    try:
        # Unchecked: in the zip file sources have no times that byte code could be compared with.
        compiler = ["python3", "-m", "compileall", "-q", "-b", "--invalidation-mode", "unchecked-hash"]
        process.run(["chroot", guest_root, *compiler, "-s", "/tmp/vmacro-build", "/tmp/vmacro-build"])
        for compiled in inside.rglob("*.pyc"):
            shutil.copy(compiled, tree / compiled.relative_to(inside))
    finally:
        shutil.rmtree(inside)


def _fresh(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
