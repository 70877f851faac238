"""Trees in which a build that was killed may have left /proc, /sys and /dev of this machine mounted."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from vmacro.errors import LabError
from vmacro.lab import process

MOUNTS = Path("/proc/self/mounts")


def remove_tree(folder: Path) -> None:
    """Remove a folder, where it exists, with all that is in it; but nothing of what is mounted in it: that is unmounted
    first, the deepest mount first. Raises LabError, with nothing removed, if something stays mounted."""
    folder = folder.resolve()
    mounted = mounted_in(folder)
    for point in mounted:  # a shared one would be unmounted, with what is below, where it was bound from too
        process.run(["mount", "--make-private", point])
    for point in mounted:
        process.run(["umount", point])
    if left := mounted_in(folder):
        raise LabError(f"{folder}: not removed: {left[0]} stays mounted", "see who uses it, and unmount it")
    shutil.rmtree(folder, ignore_errors=True)


def mounted_in(folder: Path) -> list[Path]:
    """Mount points in a folder, or the folder itself, the deepest first; one that is mounted over comes twice."""
    fields = (line.split(" ") for line in os.fsdecode(MOUNTS.read_bytes()).splitlines())
    points = [Path(_unescaped(field[1])) for field in fields]
    inside = [p for p in reversed(points) if p == folder or folder in p.parents]
    return sorted(inside, key=lambda p: -len(p.parts))


def _unescaped(field: str) -> str:
    """Spaces, tabs, newlines and backslashes are octal there: proc_pid_mounts(5), getmntent(3)."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)
