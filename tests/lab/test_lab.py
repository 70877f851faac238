"""The lab is what it says, stays as it is when asked for again, and leaves nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import TOPOLOGY, Vmacro
from vmacro.lab import topology
from vmacro.lab.lab import Lab

pytestmark = pytest.mark.lab

TINY = """
name = "tiny"
[wan]
transit = "10.29.0.0/16"
round_trips = [{ between = ["here", "there"], ms = 10 }]
[sites.here]
subnet = "10.70.1.0/24"
[clients.there]
"""


def test_round_trips_are_as_asked(lab: Lab) -> None:
    status = lab.status()
    assert status.delay_by in ("netem", "forwarder") and status.accelerator in ("kvm", "qemu")
    assert len(status.measured) == len(lab.topology.wan.round_trips)
    for trip in status.measured:
        assert trip.median_ms >= trip.asked_ms - 0.05, "never too fast"
        assert trip.error_ms < 5, f"{trip} on a machine that may be busy"


def test_up_again_changes_nothing(lab: Lab) -> None:
    leaders = [lab.host(s).leader for s in lab.topology.sites]
    boots = [boot_of(lab, name) for name in ("web", "busy")]
    lab.up(TOPOLOGY, lambda _text: None)
    assert [lab.host(s).leader for s in lab.topology.sites] == leaders
    assert [boot_of(lab, name) for name in ("web", "busy")] == boots


def boot_of(lab: Lab, guest: str) -> str:
    agent = lab.guest(guest).agent
    assert agent is not None
    return agent.boot_id


def test_shells(lab: Lab, vmacro: Vmacro) -> None:
    shell = ("lab", "shell", "--lab", "test")
    assert vmacro(*shell, "berlin", "hostname").stdout.strip() == "berlin"
    assert "10.19.0." in vmacro(*shell, "client", "ip", "--", "-4", "addr").stdout
    unknown = vmacro(*shell, "atlantis")
    assert unknown.returncode == 2 and "node 'atlantis'" in unknown.stderr


NAME = "vmacro-tiny-"


def traces(lab: Lab) -> list[str]:
    """Namespaces and mounts of it on this machine: whatever a lab makes carries its name, or lies in its folder. What
    has other names comes and goes beside it."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split()
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return [n for n in listed if n.startswith(NAME)] + [m for m in mounts if NAME in m or str(lab.folder) in m]


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[tuple[Lab, Path]]:
    """A lab that is not up yet, and its topology."""
    shape = tmp_path / "tiny.toml"
    shape.write_text(TINY)
    found = Lab(topology.load(shape))
    found.down()
    yield found, shape
    found.down()


def test_down_leaves_nothing(tiny: tuple[Lab, Path]) -> None:
    lab, shape = tiny
    assert traces(lab) == []
    lab.up(shape, lambda _text: None)
    leader = lab.host("here").leader
    assert leader is not None and len(traces(lab)) >= len(lab.topology.nodes)
    inside = [p for p in Path("/proc").glob("[0-9]*") if _same_pid_namespace(p, leader.pid)]
    assert len(inside) > 5, "systemd, libvirtd, sshd"
    assert lab.down() == []
    assert traces(lab) == []
    assert not lab.folder.exists()
    assert not leader.alive
    assert lab.down() == [], "down again is fine"


def _same_pid_namespace(process: Path, pid: int) -> bool:
    try:
        return (process / "ns/pid").stat().st_ino == Path(f"/proc/{pid}/ns/pid").stat().st_ino
    except OSError:
        return False
