"""The durable log, on SQLite and on a real PostgreSQL: attempts, what they inherit, and who may work on a guest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import eventually
from tests.unit.faults import Call, Crash, Faults, Logbook
from tests.unit.test_enumeration import stage
from vmacro.errors import AgentError, ClaimedError, CopyError
from vmacro.model.moves import Ending, Noted
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.resuming import inherited
from vmacro.services import claims, journal
from vmacro.services.archive import Archive


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/journal.sqlite"
    return str(request.getfixturevalue("postgres").url)


@pytest.fixture
def archive(database_url: str) -> Iterator[Callable[[], Archive]]:
    opened: list[Archive] = []

    def fresh() -> Archive:
        opened.append(Archive(database_url))
        return opened[-1]

    yield fresh
    for one in opened:
        one.close()


def test_a_move_is_in_the_journal_with_every_phase(database_url: str, archive: Callable[[], Archive]) -> None:
    found = stage(SEAMLESS)
    plan = replace(found.plan, move_id=_fresh())
    with journal.open_journal(database_url, found.fake.world, "test-1"):
        outcome = journal.run(plan)
    assert outcome.ending == Ending.MOVED
    record = archive().move(plan.move_id)
    assert record is not None and record.outcome == outcome and record.plan == plan and not record.unfinished
    steps = archive().steps(plan.move_id)
    assert [s.name for s in steps] == ["survey", "prepare", "copy", "arrive", "settle", "verify", "clean", "carry"]
    assert all(s.error is None and s.ended_ms >= s.began_ms > 0 for s in steps)
    assert [c.address for c in archive().carriages() if c.move_id == plan.move_id] == list(outcome.carried)


@pytest.mark.parametrize("verb", ["claim", "open", "copy", "arrive", "retire", "discard"])
def test_a_killed_process_is_resumed_by_another(database_url: str, archive: Callable[[], Archive], verb: str) -> None:
    """The real thing: a process that dies in the middle of a step, at the same world's expense."""
    found = stage(SEAMLESS)
    plan = replace(found.plan, move_id=_fresh())
    dying = [sys.executable, "-m", "tests.unit.test_journal", verb, database_url, plan.move_id]
    assert subprocess.run(dying, timeout=60).returncode == 9
    record = archive().move(plan.move_id)
    assert record is not None and record.outcome is None
    assert [r.plan.move_id for r in archive().unfinished("web")][:1] == [plan.move_id]

    # What the dead process did to its own memory is done again to ours: a crash at the same call.
    done = Faults()
    done.at, done.strike = _first(verb, writes=True), _crash
    with pytest.raises(Crash):
        Logbook().attempt(plan, done.world(found.fake), done)
    found.after_the_crash()

    steps = inherited(archive().steps(plan.move_id), None)
    archive().give_up(plan.move_id)
    with journal.open_journal(database_url, found.fake.world, "test-2"):
        outcome = journal.run(plan, 2, steps)
    assert outcome.ending == Ending.MOVED, outcome
    assert found.fake.running_at() == ["berlin"]
    again = archive().move(plan.move_id)
    assert again is not None and again.attempts == 2 and again.outcome == outcome
    assert plan.move_id not in [r.plan.move_id for r in archive().unfinished("web")]


def test_errors_come_back_as_what_they_were() -> None:
    for error in (CopyError("a", "b"), AgentError("c", code="claimed"), ClaimedError("d")):
        kept = json.loads(journal.Json().serialize(journal.noted_as_plain(Noted("copy", error=error))))
        back = journal.noted_from(journal.Json().deserialize(json.dumps(kept)))
        assert type(back.error) is type(error) and back.error is not None
        assert (back.error.message, back.error.hint) == (error.message, error.hint)


def test_two_at_once_and_a_holder_that_dies(database_url: str) -> None:
    """Another process has the guest; who and since when is told. The kernel, or the server, takes it back."""
    code = "import sys, time; from vmacro.services import claims\n"
    code += "with claims.held(sys.argv[1], 'web'): print('held', flush=True); time.sleep(600)"
    other = subprocess.Popen([sys.executable, "-c", code, database_url], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        told = rf"guest web: is being moved by {claims.operator()[:24]}.* \(process {other.pid}\) since \d\d:\d\d"
        with pytest.raises(ClaimedError, match=told) as caught, claims.held(database_url, "web"):
            pass
        assert caught.value.exit_code == 3
        with claims.held(database_url, "another"):
            pass
    finally:
        other.kill()
        other.wait()

    def free() -> bool:
        try:
            with claims.held(database_url, "web"):
                return True
        except ClaimedError:
            return False  # PostgreSQL sees the dead session a moment later

    eventually(free, "the claim of a dead process")


_counter = [0]


def _fresh() -> str:
    """Databases outlive tests here; names of moves do not meet."""
    _counter[0] += 1
    return f"web-{os.getpid()}-{_counter[0]}"


def _first(verb: str, writes: bool) -> int:
    """The number of a verb's first call, where writing to the journal counts as one or not."""
    faults = Faults()
    stage(SEAMLESS).attempt(faults)
    counted = [c for c in faults.calls if writes or c.subject != "journal"]
    return next(n for n, c in enumerate(counted) if c.verb == verb)


def _crash(_call: Call) -> None:
    raise Crash


def _die_at(verb: str, database_url: str, move_id: str) -> None:
    """As SIGKILL would: nothing is closed, nothing is flushed."""
    found = stage(SEAMLESS)
    faults = Faults(_first(verb, writes=False), "before", lambda _call: os._exit(9))
    with journal.open_journal(database_url, faults.world(found.fake), "test-dying"):
        journal.run(replace(found.plan, move_id=move_id))


if __name__ == "__main__":
    _die_at(*sys.argv[1:])
