"""How much of the processors a program of ours gets beside QEMU.

Where the kernel has autogroups, niceness counts among the processes of one session alone, and sessions share by the
niceness of their groups, 0 unless somebody says so (sched(7)). QEMU has a session of its own for each guest, and so has
each unit of systemd and each login by SSH: without their groups' niceness that of processes says nothing there.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_OWN_GROUP = Path("/proc/self/autogroup")


def niceness(nice: int) -> list[str]:
    """Options of systemd-run(1) for a unit that is to run so. A kernel without autogroups is no failure. Not for one
    that may end at once: its start would fail with it, as systemd waits for what sets the group's."""
    group = f"-+/bin/sh -c 'echo {nice} > /proc/${{MAINPID}}/autogroup'"
    return [f"--property=Nice={nice}", f"--property=ExecStartPost={group}"]


def renice(nice: int) -> None:
    """This process and all that it starts, in a session of their own: what was in its session before stays as it was.
    Raises PermissionError where a negative niceness is not allowed."""
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    with contextlib.suppress(PermissionError):  # it leads a session, or a shell's job
        os.setsid()
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # the kernel has none
            _OWN_GROUP.write_text(str(nice))
