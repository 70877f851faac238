"""The durable log, on SQLite and on a real PostgreSQL: attempts, what they inherit, and who may work on a guest."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import sqlalchemy
from sqlalchemy import make_url
from sqlalchemy.pool import NullPool

from tests.hostile import HOSTILE
from tests.support import eventually
from tests.unit.faults import Call, Crash, Faults, Logbook
from tests.unit.test_enumeration import stage
from vmacro.errors import ClaimedError, ConfigurationError, JournalError
from vmacro.model.moves import Ending, Outcome, Plan
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.resuming import inherited
from vmacro.ports import World
from vmacro.services import claims, database_claims, journal, journal_json, migrate, upkeep, workflows
from vmacro.services.archive import Archive

# Processes of their own, from one that has imported everything already: starting a Python takes a second.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])


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
    with journal.open_journal(database_url, _no_world, "test-1"):
        outcome = workflows.run(plan, found.fake.world)
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
    dying = FORKS.Process(target=_die_at, args=(verb, database_url, plan.move_id))
    dying.start()
    dying.join(60)
    assert dying.exitcode == 9
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
    upkeep.give_up(archive(), plan.move_id)
    with journal.open_journal(database_url, _no_world, "test-2"):
        outcome = workflows.run(plan, found.fake.world, 2, steps)
    assert outcome.ending == Ending.MOVED, outcome
    assert found.fake.running_at() == ["berlin"]
    again = archive().move(plan.move_id)
    assert again is not None and again.attempts == 2 and again.outcome == outcome
    assert plan.move_id not in [r.plan.move_id for r in archive().unfinished("web")]


def test_an_address_left_in_use_is_carried_by_a_process_that_makes_its_world(database_url: str) -> None:
    """DBOS begins the carriage by itself; it gets a world of its own, which is closed with it."""
    found, made, closed = stage(SEAMLESS), threading.Event(), threading.Event()
    plan = replace(found.plan, move_id=_fresh())
    with journal.open_journal(database_url, _no_world, "test-1"):
        (carried,) = workflows.run(plan, found.fake.world).carried

    @contextmanager
    def make() -> Iterator[World]:
        made.set()
        yield found.fake.world
        closed.set()

    found.fake.guest.connections = [c for c in found.fake.guest.connections if not c.reaches(carried)]
    with journal.open_journal(database_url, make, journal.CARRIER):
        assert made.wait(60) and closed.wait(60)
    assert not any(host.legs for host in found.fake.hosts.values())


def test_an_address_that_an_older_vmacro_left_in_use_is_carried_by_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DBOS begins what was left to its own version alone: else legs would stay for ever after each upgrade."""
    found, ended, sqlite = stage(SEAMLESS), threading.Event(), f"sqlite:///{tmp_path}/journal.sqlite"
    monkeypatch.setattr(journal, "__version__", "0.0.9", raising=False)
    with journal.open_journal(sqlite, _no_world, "test-1"):
        (carried,) = workflows.run(replace(found.plan, move_id=_fresh()), found.fake.world).carried

    @contextmanager
    def make() -> Iterator[World]:
        yield found.fake.world
        ended.set()

    found.fake.guest.connections = [c for c in found.fake.guest.connections if not c.reaches(carried)]
    monkeypatch.setattr(journal, "__version__", "99.0", raising=False)
    with journal.open_journal(sqlite, make, journal.CARRIER):
        assert ended.wait(20)
    assert not any(host.legs for host in found.fake.hosts.values())


def test_a_move_of_an_older_vmacro_is_listed_and_not_touched(
    database_url: str, archive: Callable[[], Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its plan says `leads` where ours says `new_legs`: to go on with it would lose its legs."""
    found, outcome = stage(SEAMLESS), Outcome(Ending.UNCERTAIN, remains=True)
    plan = replace(found.plan, move_id=_fresh())
    renamed = {"new_legs": "leads", "old_legs": "trail", "earlier_legs": "standing", "addresses": "held"}

    def as_before(value: Any) -> Any:
        plain = journal_json.encoded(value)
        return {renamed.get(k, k): v for k, v in plain.items()} if isinstance(value, Plan) else plain

    monkeypatch.setattr(workflows, "encoded", as_before)
    monkeypatch.setattr(migrate, "run_move", lambda *_, **__: outcome)
    with journal.open_journal(database_url, _no_world, "test-1"):
        workflows.run(plan, found.fake.world)
    record = archive().move(plan.move_id)
    assert record is not None and record.older and record.unfinished
    assert plan.move_id in [r.move_id for r in archive().moves()]
    with pytest.raises(JournalError, match="written by an older vmacro") as caught:
        record.see_that_it_is_whole()
    assert "finish it with that one" in caught.value.hint


def test_a_plan_of_this_vmacro_is_whole(database_url: str, archive: Callable[[], Archive]) -> None:
    found = stage(SEAMLESS)
    plan = replace(found.plan, move_id=_fresh())
    with journal.open_journal(database_url, _no_world, "test-1"):
        workflows.run(plan, found.fake.world)
    record = archive().move(plan.move_id)
    assert record is not None and not record.older
    record.see_that_it_is_whole()


def test_who_only_looks_refuses_no_move(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the lock for a moment; here until the move has tried once."""
    with claims.held(database_url, "web"):
        pass
    looking, began = ExitStack(), threading.Event()
    looking.enter_context(_looks(database_url))
    monkeypatch.setattr(claims, "PATIENCE_S", 60)  # PostgreSQL sees that a session has ended a moment later

    def claim() -> None:
        began.set()
        with claims.held(database_url, "web"):
            pass

    with looking, ThreadPoolExecutor(1) as beside:
        claiming = beside.submit(claim)
        assert began.wait(60)
        with pytest.raises(TimeoutError):
            claiming.result(timeout=1)
        looking.close()
        claiming.result(timeout=60)


@contextmanager
def _looks(database_url: str) -> Iterator[None]:
    """As see_that_nobody_has(), which lets go at once."""
    url = make_url(database_url)
    if not database_url.startswith("sqlite"):
        looking = sqlalchemy.create_engine(url, poolclass=NullPool)
        with looking.connect() as session:
            key = database_claims.key_of("vmacro web")
            session.execute(sqlalchemy.text("SELECT pg_advisory_lock_shared(:key)"), {"key": key})
            yield
        return
    with claims._lock_file(url, "web").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def test_a_lock_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """As root nothing is forbidden, but a file can be in the way."""
    (tmp_path / "guests").write_text("in the way")
    url = f"sqlite:///{tmp_path}/journal.sqlite"
    with (
        pytest.raises(ConfigurationError, match=r"guest web: its lock .*: Not a directory") as caught,
        claims.held(url, "web"),
    ):
        pass
    assert "state_dir" in caught.value.hint
    with pytest.raises(ConfigurationError, match="File name too long"):
        claims.see_that_nobody_has(f"sqlite:///{tmp_path}/{'x' * 300}/journal.sqlite", "web")


@pytest.mark.parametrize("place", ["by", "pid", "since", ""])
@pytest.mark.parametrize("odd", HOSTILE, ids=lambda odd: ascii(odd)[:20])
def test_a_holder_that_says_anything_of_itself(tmp_path: Path, place: str, odd: object) -> None:
    """Whoever reaches the journal may take the lock, and write into it what it likes."""
    url, said = f"sqlite:///{tmp_path}/journal.sqlite", {"by": "me@here", "pid": 7, "since": "12:00:00"}
    lock = claims._lock_file(make_url(url), "web")
    lock.parent.mkdir()
    lock.write_bytes(json.dumps(said | {place: odd} if place else odd).encode(errors="replace"))
    with lock.open() as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(ClaimedError, match="is being moved by") as told:
            claims.see_that_nobody_has(url, "web")
    assert told.value.message.isprintable() and len(told.value.message) < 400


def test_an_operator_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (KeyError("uid"), OSError("no user")):
        monkeypatch.setattr("getpass.getuser", Mock(side_effect=error))
        assert claims.operator().startswith(f"{os.getuid()}@")


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
        with pytest.raises(ClaimedError, match=told):
            claims.see_that_nobody_has(database_url, "web")
        claims.see_that_nobody_has(database_url, "another")
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
    with journal.open_journal(database_url, _no_world, "test-dying"):
        workflows.run(replace(found.plan, move_id=move_id), faults.world(found.fake))


def _no_world() -> AbstractContextManager[World]:
    raise AssertionError("nobody begins a workflow but the test")
