"""KVM where it works. /dev/kvm proves nothing: some machines have one that boots no stock kernel."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vmacro.lab.paths import cache_dir

KVM, TCG = "kvm", "qemu"
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
    """libvirt's domain type for guests here. Tried once for a kernel, a processor and an image."""
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


def _boots_under_kvm(host_trees: Sequence[Path], guest_images: Path) -> bool:
    """Boot the guest's kernel with nothing else: it panics for want of a root, if it gets so far."""
    qemu = [
        *("qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", "192", "-display", "none", "-nodefaults"),
        *("-no-reboot", "-serial", "stdio", "-kernel", "/mnt/vmlinuz", "-append", "console=ttyS0 panic=-1"),
    ]
    enter = ["unshare", "--mount", "--propagation=private", "sh", "-e", "-c", _ENTER, "trial"]
    with tempfile.TemporaryDirectory() as mount:
        try:
            done = subprocess.run(
                [*enter, ":".join(map(str, host_trees)), str(guest_images), mount, *qemu],
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
