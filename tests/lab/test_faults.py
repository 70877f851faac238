"""Every part of a move, broken for real; docs/reliability.md has the table. VMACRO_FAULTS=all breaks each at all its
moments, VMACRO_FAULTS_TABLE=FILE keeps rows.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.breaking import IMPATIENT, Fault, Row, chosen, ordeal
from tests.support import Vmacro, without_probers
from vmacro.lab.lab import Lab

pytestmark = pytest.mark.lab


@pytest.fixture
def impatient(vmacro: Vmacro) -> Vmacro:
    return without_probers(vmacro).altered("impatient.toml", lambda t: t.replace("[policy]\n", IMPATIENT))


@pytest.mark.parametrize("fault", chosen(os.environ.get("VMACRO_FAULTS", "")), ids=lambda f: f.title)
def test_nobody_is_lost(lab: Lab, impatient: Vmacro, fault: Fault) -> None:
    held(ordeal(lab, impatient, fault), fault)


def held(row: Row, fault: Fault) -> None:
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
