"""Rows that a stranger changes while their workflow is executed, by DBOS itself: it is executed once, to its end, and
nobody waits for what never comes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from dbos._dbos import _get_dbos_instance

from tests.support import eventually
from tests.unit.test_enumeration import Stage, hosts_are_sound, stage
from tests.unit.test_strange_rows import Stranger, no_world
from tests.unit.test_strange_rows import sqlite as sqlite  # a fixture
from vmacro.drivers.fake.state import Effect
from vmacro.model.moves import Carriage, Ending, Outcome
from vmacro.planning.handoffs import SEAMLESS
from vmacro.ports import World
from vmacro.services import carry, journal, journal_json, migrate, workflows
from vmacro.services.archive import Archive, Record

MOMENTS = ("agent.claim", "copy bucharest", "agent.arrive", "agent.release")  # of prepare, copy, arrive, clean
PUT_BACK = "UPDATE dbos.workflow_status SET status = 'ENQUEUED', queue_name = '{}' WHERE workflow_uuid = :id"
IN_OUR_QUEUE = PUT_BACK.format("_dbos_internal_queue")
CHANGES = {
    "another owner": "UPDATE dbos.workflow_status SET owner_xid = 'x' WHERE workflow_uuid = :id",
    "cancelled": "UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE workflow_uuid = :id",
    "ended": "UPDATE dbos.workflow_status SET status = 'SUCCESS' WHERE workflow_uuid = :id",
    "in nobody's queue": PUT_BACK.format("x"),
    "gone": "DELETE FROM dbos.workflow_status WHERE workflow_uuid = :id",
}


def executions(id: str) -> int:
    """How many DBOS has begun here that have not ended."""
    return len(_get_dbos_instance()._active_workflows_set._m.get(id, ()))


def at(found: Stage, moment: str, act: Any) -> None:
    """Once, before this effect of the move."""
    done = threading.Event()

    def before(coming: Effect) -> None:
        if coming == moment and not done.is_set():
            done.set()
            act()

    found.fake.before = before


def moved(url: str, found: Stage) -> Outcome:
    with journal.open_journal(url, no_world, "test-1"):
        return workflows.run(found.plan, found.fake.world)


@pytest.mark.parametrize(("moment", "forget"), [*zip(MOMENTS, [False, True] * 2, strict=True)])
def test_a_row_put_back_begins_no_second_move(
    sqlite: str, moment: str, forget: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not its steps are deleted, too."""
    found, run_move, begun = stage(SEAMLESS), migrate.run_move, []

    def counted(*words: Any, **named: Any) -> Outcome:
        begun.append(threading.get_ident())
        return run_move(*words, **named)

    def put_back() -> None:
        stranger = Stranger(sqlite)
        if forget:
            stranger.write("DELETE FROM dbos.operation_outputs WHERE workflow_uuid = :id", id="web-1")
        stranger.write(IN_OUR_QUEUE, id="web-1")
        eventually(lambda: executions("web-1") == 2, "DBOS, to take it from its queue")

    monkeypatch.setattr(migrate, "run_move", counted)
    at(found, moment, put_back)
    found.book.outcome = moved(sqlite, found)
    assert len(begun) == 1
    ended_well(found)
    with closing(Archive(sqlite)) as archive:
        record = archive.move("web-1")
    assert isinstance(record, Record) and record.unfinished


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_move_whose_row_is_changed_ends_all_the_same(
    sqlite: str, change: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one of its endings, hosts are clean, and nobody waits for a row that nobody writes."""
    monkeypatch.setattr(journal, "PARKED_S", 0.5)
    found = stage(SEAMLESS)
    at(found, moment, lambda: Stranger(sqlite).write(CHANGES[change], id="web-1"))
    found.book.outcome = moved(sqlite, found)
    ended_well(found)
    assert found.book.outcome.remains and "web-1" in found.book.outcome.reason


def ended_well(found: Stage) -> None:
    assert found.book.outcome is not None
    assert found.book.outcome.ending in (Ending.MOVED, Ending.INCOMPLETE, Ending.ROLLED_BACK)
    hosts_are_sound(found, "")


def test_a_carriage_put_back_goes_on_after_the_first_and_not_beside_it(
    sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, together, most = stage(SEAMLESS), [0], [0]
    (carriage,) = carry.carriages(found.plan, Outcome(Ending.MOVED, carried=(found.plan.address,)), 0.0)
    first, seen = threading.Event(), []

    def carried(what: Carriage, _world: World, steps: journal.Steps) -> str:
        together[0] += 1
        most[0] = max(most[0], together[0])
        seen.append(what)
        try:
            if len(seen) == 1:
                assert first.wait(60)
                steps.step("watch", str, lambda: "needed")
        finally:
            together[0] -= 1
        return "closed"

    @contextmanager
    def make() -> Iterator[World]:
        yield found.fake.world

    monkeypatch.setattr(journal, "PARKED_S", 0.5)
    monkeypatch.setattr(carry, "run_carriage", carried)
    with journal.open_journal(sqlite, make, journal.CARRIER):
        journal.enqueue(workflows._carry, "carry-x", journal_json.encoded(carriage))
        eventually(lambda: len(seen) == 1, "the carriage's begin")
        Stranger(sqlite).write(PUT_BACK.format(journal.CARRIAGES), id="carry-x")
        eventually(lambda: executions("carry-x") == 2, "DBOS, to take it from its queue")
        first.set()
        eventually(lambda: len(seen) == 2 and executions("carry-x") == 0, "the end of both")
    assert most == [1]
    assert Stranger(sqlite).read("workflow_output", "output", "carry-x") == "closed"


def test_a_session_has_moves_of_its_own_only(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a row that is put back after its move has ended nothing becomes, nor in the next session of the process."""
    found, begun = stage(SEAMLESS), []

    def run_move(*_: Any, **__: Any) -> Outcome:
        begun.append(1)
        return Outcome(Ending.MOVED)

    monkeypatch.setattr(migrate, "run_move", run_move)
    with journal.open_journal(sqlite, no_world, "test-1"):
        workflows.run(found.plan, found.fake.world)
        Stranger(sqlite).write(IN_OUR_QUEUE, id="web-1")
        eventually(lambda: status(sqlite) == "ERROR", "its refusal")
        Stranger(sqlite).write("UPDATE dbos.workflow_status SET status = 'PENDING' WHERE workflow_uuid = 'web-1'")
    with journal.open_journal(sqlite, no_world, "test-1"):
        eventually(lambda: status(sqlite) == "ERROR", "its refusal")
    assert begun == [1]


def status(url: str) -> str:
    return str(Stranger(url).value("SELECT status FROM dbos.workflow_status WHERE workflow_uuid = 'web-1'"))
