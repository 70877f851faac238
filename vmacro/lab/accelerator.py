"""Finds out whether KVM works. /dev/kvm proves nothing: with some machines' no stock kernel boots."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vmacro.lab.paths import cache_dir

KVM, TCG, XEN = "kvm", "qemu", "xen"
TRIAL_S = 8.0
_ENTER = """
mount -t overlay overlay -o "lowerdir=$1" "$3"
mount --bind /dev "$3/dev"
mount --bind "$2" "$3/mnt"
root=$3
shift 3
exec chroot "$root" "$@"
"""


def choose(host_trees: Sequence[Path], guest_images: Path) -> str:
    """libvirt's domain type for guests on this machine. Tried once per kernel, processor and image."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return TCG
    tried = {"kernel": platform.release(), "processor": _processor(), "image": guest_images.name}
    saved = cache_dir() / "accelerator.json"
    if saved.exists():
        known = json.loads(saved.read_text())
        if known.get("tried") == tried:
            return str(known["accelerator"])
    accelerator = KVM if _boots_under_kvm(host_trees, guest_images) else TCG
    saved.write_text(json.dumps({"tried": tried, "accelerator": accelerator}))
    return accelerator


def entered(trees: Sequence[Path], folder: Path, mount: Path, command: Sequence[str]) -> list[str]:
    """The command in the tree of a host, its layers from the uppermost on, which sees `folder` at /mnt. `mount`: an
    empty folder, where the tree is put together for as long as that lasts."""
    enter = ["unshare", "--mount", "--propagation=private", "sh", "-e", "-c", _ENTER, "entered"]
    return [*enter, ":".join(map(str, trees)), str(folder), str(mount), *command]


def _boots_under_kvm(host_trees: Sequence[Path], guest_images: Path) -> bool:
    """Boot the guest's kernel alone. If KVM works it gets as far as a panic, since it has no root file system."""
    qemu = [
        *("qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", "192", "-display", "none", "-nodefaults"),
        *("-no-reboot", "-serial", "stdio", "-kernel", "/mnt/vmlinuz", "-append", "console=ttyS0 panic=-1"),
    ]
    with tempfile.TemporaryDirectory() as mount:
        try:
            done = subprocess.run(
                entered(host_trees, guest_images, Path(mount), qemu),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TRIAL_S,
            )
            output = done.stdout
        except subprocess.TimeoutExpired as error:
            output = error.stdout or b""
    return b"Unable to mount root fs" in output


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
