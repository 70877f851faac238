"""Every part of a move, broken for real; docs/reliability.md has the table. VMACRO_FAULTS_TABLE=FILE keeps rows."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from tests import breaking
from tests.breaking import IMPATIENT, Fault, ordeal
from tests.support import Vmacro, without_probers
from vmacro.lab.lab import Lab

pytestmark = pytest.mark.lab
CUT = (-9,)
FAULTS = [
    *(Fault("orchestrator killed", phase, breaking.killed, CUT) for phase in ("survey", "prepare", "copy", "copying")),
    *(
        Fault("orchestrator killed", phase, breaking.killed, CUT)
        for phase in ("switched", "arrive", "settle", "verify", "clean")
    ),
    Fault("Ctrl-C twice", "copying", breaking.interrupted_twice, (4,)),
    Fault("source's libvirtd killed", "copying", breaking.libvirtd_killed("home"), (0, 4, 5, 6)),
    Fault("source's libvirtd killed", "switched", breaking.libvirtd_killed("home"), (0, 5, 6)),
    Fault("destination's libvirtd killed", "copying", breaking.libvirtd_killed("away"), (0, 4, 5, 6)),
    Fault("destination's libvirtd killed", "switched", breaking.libvirtd_killed("away"), (0, 4, 5, 6)),
    Fault("destination's QEMU killed", "copying", breaking.destination_qemu_killed, (4,)),
    Fault("destination out of memory", "prepare", breaking.destination_without_memory, (4,)),
    *(Fault("WAN cut for 5 s", phase, breaking.wan_cut(5), (0,)) for phase in ("prepare", "copying", "arrive")),
    *(
        Fault("WAN cut", phase, breaking.wan_cut(None), (4, 5, 6))
        for phase in ("prepare", "copying", "arrive", "clean")
    ),
    Fault("SSH sessions cut", "copying", breaking.ssh_cut, (0,)),
    Fault("DHCP dead at the destination", "copying", breaking.dhcp_dead, (5,)),
    Fault("agent killed", "prepare", breaking.agent_signalled("KILL"), (0, 4)),
    Fault("agent killed", "copying", breaking.agent_signalled("KILL"), (0,)),
    Fault("agent killed", "settle", breaking.agent_signalled("KILL"), (0, 5)),
    Fault("agent's channel silent", "copying", breaking.agent_signalled("STOP", "CONT"), (5,)),
]


@pytest.fixture
def impatient(vmacro: Vmacro) -> Vmacro:
    return without_probers(vmacro).altered("impatient.toml", lambda t: t.replace("[policy]\n", IMPATIENT))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.title)
def test_nobody_is_lost(lab: Lab, impatient: Vmacro, fault: Fault) -> None:
    held(ordeal(lab, impatient, fault), fault)


def held(row: breaking.Row, fault: Fault) -> None:
    """What docs/reliability.md promises of each."""
    table = os.environ.get("VMACRO_FAULTS_TABLE")
    if table:
        with Path(table).open("a") as out:
            out.write(json.dumps(asdict(row)) + "\n")
    assert row.code in fault.exits, row
    assert row.runs_at in ("bucharest", "berlin"), row
    assert row.lost == (), row
    assert row.left == (), row
    assert all(code in (0, 4) for code in row.then[-1:]), row
