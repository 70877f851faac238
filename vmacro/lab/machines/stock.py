"""A VM that boots Debian's stock kernel under emulation, carries out one command, and is gone.

It has no network and nothing of its own on disk: it is for what needs another kernel than this machine's. QEMU is that
of the lab's hosts, in their tree.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from vmacro.errors import LabError
from vmacro.lab import accelerator, images, preparation, process
from vmacro.lab.images import Report
from vmacro.lab.paths import cache_dir

MEMORY_MIB = 2048
# By the Python that the packages are for, which is this machine's and has to be the VM's.
RECIPES = {(3, 11): "stock12", (3, 13): "stock"}
_ENDED = re.compile(r"^ended with status (\d+)", re.MULTILINE)


def run(command: str, checkout: Path, packages: Path, timeout_s: float, report: Report) -> tuple[int, str]:
    """A shell command in the folder `checkout`, with Python's `packages`; both are copied. Returns its exit status and
    what the console says. Raises LabError where it does not end in time."""
    recipe = RECIPES.get(sys.version_info[:2])
    if recipe is None:
        raise LabError(f"Python {sys.version_info[0]}.{sys.version_info[1]}: no image of a VM has it")
    image = images.build(recipe, report)
    trees = preparation.installed(images.build("host", report), report).layers
    with tempfile.TemporaryDirectory(dir=cache_dir()) as work:
        for name in ("vmlinuz", "initrd.gz", "root.ext4"):
            Path(work, name).hardlink_to(image.folder / name)
        _disk(packages, Path(work, "packages.ext4"), "packages")
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(checkout, copy, dirs_exist_ok=True, symlinks=True)
            Path(copy, "command").write_text(command + "\n")
            _disk(Path(copy), Path(work, "checkout.ext4"), "checkout")
        report(f"a VM with the kernel of image {recipe}, under emulation")
        return _booted(trees, Path(work), timeout_s)


def _disk(folder: Path, file: Path, label: str) -> None:
    size_mib = sum(f.lstat().st_size + 4096 for f in folder.rglob("*")) // (1 << 20)
    size = f"{size_mib * 5 // 4 + 32}M"
    process.run(["mke2fs", "-q", "-t", "ext4", "-L", label, "-O", "^has_journal", "-d", folder, file, size])


def _booted(trees: tuple[Path, ...], work: Path, timeout_s: float) -> tuple[int, str]:
    words = "console=ttyS0 quiet panic=-1 init=/usr/local/sbin/run-tests"
    disks = [f"file=/mnt/{name}.ext4,if=virtio,format=raw,readonly=on" for name in ("root", "packages", "checkout")]
    qemu = [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MIB)),
        *("-display", "none", "-nodefaults", "-no-reboot", "-serial", "stdio", "-device", "virtio-rng-pci"),
        *("-kernel", "/mnt/vmlinuz", "-initrd", "/mnt/initrd.gz", "-append", words),
        *(word for disk in disks for word in ("-drive", disk)),
    ]
    console = work / "console.log"
    with tempfile.TemporaryDirectory() as mount, console.open("wb") as out:
        command = accelerator.entered(trees, work, Path(mount), qemu)
        try:
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise LabError(f"the VM has not ended after {timeout_s:g} s: {_end(console)}") from None
    ended = _ENDED.search(console.read_text(errors="replace"))
    if ended is None:
        raise LabError(f"the VM ended by itself: {_end(console)}")
    return int(ended[1]), console.read_text(errors="replace")


def _end(console: Path) -> str:
    return console.read_text(errors="replace")[-3000:]
