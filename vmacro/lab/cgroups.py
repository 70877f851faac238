"""A cgroup for each machine, at the root of each hierarchy that systemd uses.

systemd-nspawn puts what it starts below the cgroup in which it runs itself (--keep-unit). In the same one, machines
would share `payload/system.slice/libvirtd.service`: when one of them stops its libvirt, its systemd removes the cgroup
in which another is about to start its own («Failed to spawn executor: No such file or directory», result «resources»).
"""

from __future__ import annotations

import time
from pathlib import Path

from vmacro.errors import LabError

MOUNTS = Path("/proc/self/mounts")
GONE_WITHIN_S = 10.0


def make(name: str) -> list[Path]:
    """One in each hierarchy; whoever starts a machine writes its pid to their cgroup.procs. Idempotent. Raises
    LabError."""
    found = [root / name for root in _roots()]
    for folder in found:
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise LabError(f"cgroup {folder}: cannot be made: {error.strerror}", "machines need one each") from error
    return found


def remove(name: str) -> None:
    """With all below, once what ran in it has ended. What is still in use stays: existing() tells."""
    deadline = time.monotonic() + GONE_WITHIN_S
    left = [root / name for root in _roots()]
    while (left := [folder for folder in left if not _removed(folder)]) and time.monotonic() < deadline:
        time.sleep(0.05)


def existing(lab: str) -> list[Path]:
    """Those of a lab: its own prefix, and then one word."""
    prefix = f"vmacro-{lab}-"
    found = (path for root in _roots() for path in root.glob(f"{prefix}*"))
    return sorted(path for path in found if "-" not in path.name.removeprefix(prefix))


def _roots() -> list[Path]:
    """Where cgroup2, and version 1's hierarchy of systemd's own, are mounted (cgroups(7))."""
    mounts = (line.split() for line in MOUNTS.read_text().splitlines())
    return [
        Path(where)
        for _, where, kind, options, *_ in mounts
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(","))
    ]


def _removed(folder: Path) -> bool:
    """Whether it is gone now. A cgroup is removed by rmdir, those below it first."""
    try:
        for path in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
            path.rmdir()
        folder.rmdir()
    except FileNotFoundError:
        return not folder.exists()
    except OSError:
        return False
    return True
