"""`vmacro carry` as its operator sees it: what it waits for, and an end in good order whenever it is told to leave."""

from __future__ import annotations

import json
import signal
import threading

import pytest

from tests.unit.town import Town, Vmacro
from vmacro.drivers.fake import connection

OLD = "10.50.1.97"


@pytest.fixture(autouse=True)
def carried(town: Town, vmacro: Vmacro, monkeypatch: pytest.MonkeyPatch) -> None:
    """g1 has moved, and a connection that cannot follow uses its old address."""
    monkeypatch.setenv("VMACRO_INVENTORY", str(town.file))
    town.fake.guests["g1"].connections.append(connection(0xB2, OLD, willing=False))
    assert vmacro("migrate", "g1", "--to", "berlin").returncode == 0


def when(town: Town, effect: str, number: signal.Signals) -> None:
    """Send a signal to the process at this effect."""
    main = threading.main_thread().ident or 0
    town.at(effect, "g1", lambda: signal.pthread_kill(main, number))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_is_told_to_leave_leaves_without_a_traceback_and_the_next_one_goes_on(
    vmacro: Vmacro, town: Town, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    when(town, "agent.retire", number)
    done = vmacro("carry")
    assert done.returncode == 0 and "leaving in good order" in done.stdout
    said = done.stdout + done.stderr + "".join(capsys.readouterr())
    assert "Traceback" not in said and "DBOS" not in said, said
    assert [leg.address for leg in town.fake.hosts["bucharest"].legs.values()] == [OLD]
    town.fake.guests["g1"].connections.pop()
    done = vmacro("carry")
    assert done.returncode == 0 and "closed, its last connection has ended" in done.stdout
    assert not town.fake.hosts["bucharest"].legs
    assert "nothing is carried" in vmacro("carry").stdout


def test_it_tells_what_it_waits_for(vmacro: Vmacro, town: Town) -> None:
    when(town, "agent.retire", signal.SIGINT)
    done = vmacro("carry")
    assert f"{OLD}: connections of guest g1 still use it" in done.stdout, done.stdout


def test_an_address_that_two_moves_have_carried_is_told_once(vmacro: Vmacro, town: Town) -> None:
    for site in ("bucharest", "berlin"):
        assert vmacro("migrate", "g1", "--to", site).returncode == 0
    rows = json.loads(vmacro("carried", "--json").stdout)
    assert [(row["address"], row["trouble"]) for row in rows if row["address"] == OLD] == [(OLD, "")]


def test_how_a_move_ended_is_the_last_event_that_its_workflow_tells(vmacro: Vmacro) -> None:
    done = vmacro("migrate", "g2", "--to", "berlin", "--json")
    told = [event for line in done.stdout.splitlines() if "kind" in (event := json.loads(line))]
    assert (told[-1]["kind"], told[-1]["data"]["ending"]) == ("ended", "moved"), done.stdout
