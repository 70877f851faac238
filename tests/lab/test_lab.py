"""The lab is what it says, stays as it is when asked for again, and leaves nothing."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests import labs
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


def traces() -> tuple[set[str], set[str]]:
    """Namespaces and mounts of this machine, but for those of labs that come and go beside this one."""
    others = re.compile(rf"vmacro-({'|'.join([*labs.ORDER, 'layer', 'netem'])})-")
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.splitlines()
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return {n.split(" ")[0] for n in listed if not others.match(n)}, {m for m in mounts if not others.search(m)}


def test_down_leaves_nothing(tmp_path: Path) -> None:
    shape = tmp_path / "tiny.toml"
    shape.write_text(TINY)
    tiny = Lab(topology.load(shape))
    tiny.down()
    before = traces()
    tiny.up(shape, lambda _text: None)
    leader = tiny.host("here").leader
    assert leader is not None and traces()[0] > before[0]
    inside = [p for p in Path("/proc").glob("[0-9]*") if _same_pid_namespace(p, leader.pid)]
    assert len(inside) > 5, "systemd, libvirtd, sshd"
    assert tiny.down() == []
    assert traces() == before
    assert not tiny.folder.exists()
    assert not leader.alive
    assert tiny.down() == [], "down again is fine"


def _same_pid_namespace(process: Path, pid: int) -> bool:
    try:
        return (process / "ns/pid").stat().st_ino == Path(f"/proc/{pid}/ns/pid").stat().st_ino
    except OSError:
        return False
