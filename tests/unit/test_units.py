"""Which part of the processors a program of ours gets: by its own niceness and its group's (sched(7), autogroup)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vmacro.host import units

NICE = min(19, os.nice(0) + 2)  # anybody may yield
RENICED = f"""
import os
from pathlib import Path
from vmacro.host import units
units.renice({NICE})
group = Path("/proc/self/autogroup").read_text().split() if Path("/proc/self/autogroup").exists() else []
print(os.getsid(0) == os.getpid(), os.nice(0), *group)
"""
HAS_GROUPS = Path("/proc/self/autogroup").exists()
OWN_GROUP = Path("/proc/self/autogroup").read_text().split() if HAS_GROUPS else []
AS_ROOT = os.geteuid() == 0  # others may change a group every 0.1 s (proc_sched_autogroup_set_nice)


def reniced(**how: object) -> list[str]:
    done = subprocess.run([sys.executable, "-c", RENICED], stdout=subprocess.PIPE, text=True, check=True, **how)  # type: ignore[call-overload]
    return str(done.stdout).split()


@pytest.mark.parametrize("how", [{}, {"start_new_session": True}], ids=["in another's session", "in its own"])
def test_its_niceness_counts_beside_other_sessions(how: dict[str, object]) -> None:
    leads, nice, *group = reniced(**how)
    assert (leads, nice) == ("True", str(NICE))
    if HAS_GROUPS and AS_ROOT:
        assert group[1:] == ["nice", str(NICE)] and group[0] != OWN_GROUP[0]


def test_the_session_of_a_shell_stays_as_it_is() -> None:
    """A job of a shell leads a group of processes, and so can have no session of its own (setsid(2))."""
    leads, nice, *group = reniced(process_group=0)
    assert (leads, nice, group) == ("False", str(NICE), OWN_GROUP)


@pytest.mark.skipif(AS_ROOT, reason="root may")
def test_who_may_not_go_first_is_told() -> None:
    with pytest.raises(PermissionError):
        units.renice(-15)


def test_a_units_group_is_as_nice_as_the_unit() -> None:
    nice, group = units.niceness(-10)
    assert nice == "--property=Nice=-10"
    # Without sandbox and beside any failure; `${MAINPID}` is systemd's to fill in (systemd.service(5)).
    assert group == "--property=ExecStartPost=-+/bin/sh -c 'echo -10 > /proc/${MAINPID}/autogroup'"
