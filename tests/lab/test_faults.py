"""Every part of a move, broken for real; docs/reliability.md has the table. `make test` breaks each at its most telling
moment, `make test-all` at all of them; VMACRO_FAULTS_TABLE=FILE keeps rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.breaking import COMPRESSED, ENDS, FAULTS, IMPATIENT, Fault, Row, compressing, ordeal, telling
from tests.support import Vmacro, lab_of_topology, site_of, without_probers
from vmacro.lab.lab import Lab

pytestmark = pytest.mark.lab
TOPOLOGY = Path(__file__).with_name("faults.toml")
COMPRESSED_WITHIN_S = 300.0  # of the row: with `resume`, and all that it checks; uncompressed some 100
OTHER_MOMENT = pytest.mark.slow("the same fault as one that `make test` has, at another moment")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of_topology(TOPOLOGY) as found:
        yield found


@pytest.fixture
def impatient(vmacro: Vmacro) -> Vmacro:
    return without_probers(vmacro).altered("impatient.toml", lambda t: t.replace("[policy]\n", IMPATIENT))


@pytest.mark.parametrize(
    "fault",
    [pytest.param(f, id=f.title, marks=[] if telling(f) else [OTHER_MOMENT]) for f in FAULTS],
)
def test_nobody_is_lost(lab: Lab, impatient: Vmacro, fault: Fault) -> None:
    held(ordeal(lab, impatient, fault), fault)


@pytest.mark.parametrize(
    "fault",
    [pytest.param(f, id=f.title, marks=[] if f == COMPRESSED[0] else [OTHER_MOMENT]) for f in COMPRESSED],
)
def test_nobody_is_lost_where_memory_is_compressed(lab: Lab, vmacro: Vmacro, fault: Fault) -> None:
    """Its QEMU stayed `cancelling` for a quarter of an hour, and so did the move."""
    row = ordeal(lab, without_probers(vmacro).altered("compressing.toml", compressing), fault)
    held(row, fault)
    assert row.seconds < COMPRESSED_WITHIN_S, row


@pytest.mark.slow("each of them has the guest boot once more")
@pytest.mark.parametrize(
    ("fault", "at", "then", "said"),
    [
        (ENDS[0], "source", (), "it is shut off at {home}, since it was shut off before it had left"),
        (ENDS[1], "destination", (5,), "the guest rebooted during the move"),
    ],
    ids=[fault.title for fault in ENDS],
)
def test_a_guest_that_ends_in_the_copy_is_no_doubt(
    lab: Lab, impatient: Vmacro, fault: Fault, at: str, then: tuple[int, ...], said: str
) -> None:
    """Whoever was connected is not any more. Of the rest nothing is left, and it is said where the guest is."""
    home = site_of(lab, "web")
    row = ordeal(lab, impatient, fault, kinds=())
    noted(row)
    assert (row.code, row.at, row.then, row.left) == (*fault.exits, at, then, ()), row
    assert said.format(home=home) in row.said, row.said


def noted(row: Row) -> None:
    """For the table of docs/reliability.md."""
    table = os.environ.get("VMACRO_FAULTS_TABLE")
    if table:
        with Path(table).open("a") as out:
            out.write(json.dumps(asdict(row)) + "\n")


def held(row: Row, fault: Fault) -> None:
    """What docs/reliability.md promises of each."""
    noted(row)
    assert row.code in fault.exits, row
    assert row.runs_at in ("bucharest", "berlin"), row
    assert row.lost == (), row
    assert row.left == (), row
    assert all(code in (0, 4) for code in row.then[-1:]), row
