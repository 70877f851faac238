"""Several workers on one journal, each a process: never over the limits, and nothing lost where one is killed."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from tests import postgres as postgres_server
from tests.fleet_worker import world
from tests.support import eventually
from vmacro import crews, moving, wiring
from vmacro.drivers.fake.wide import inventory_text
from vmacro.inventory import Settings
from vmacro.model.batch_events import TryBegan, TryEnded
from vmacro.model.batches import Batch
from vmacro.model.events import Event
from vmacro.services import batch_report
from vmacro.services.batches import Batches, BatchProgress
from vmacro.services.event_log import DatabaseEventLog, everything

PATIENCE_S = 120.0
AWAY_S = 12.0  # more than others leave one that was cut off (GRACE_S)
GUESTS = 12
LIMITS = "[fleet]\nmoves_per_host = 2\nmoves_per_link = 3\nmoves_in_all = 4\nmoves_per_worker = 3\nretry_after_s = 0"
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(params=["postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    made = world(GUESTS)
    monkeypatch.setattr(wiring, "drivers", made.drivers)
    text = inventory_text(made, f"{tmp_path}/state", LIMITS)
    if request.param == "postgres":
        server: postgres_server.Server = request.getfixturevalue("postgres")
        text = text.replace("[orchestrator]", f'[orchestrator]\ndatabase_url = "{server.url}"')
    (tmp_path / "inventory.toml").write_text(text)
    return wiring.load(tmp_path / "inventory.toml")


@pytest.fixture
def start(settings: Settings) -> Iterator[Start]:
    """Workers; those that still work end with the test."""
    with ExitStack() as stack:

        def begin(copy_s: float = 0.2, hangs: str = "") -> subprocess.Popen[str]:
            words = [str(settings.path), str(GUESTS), str(copy_s), *([hangs] if hangs else [])]
            command = [sys.executable, "-m", "tests.fleet_worker", *words]
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            return process

        yield begin


@contextmanager
def planning(settings: Settings) -> Iterator[tuple[Batches, DatabaseEventLog]]:
    """A process that works on nothing."""
    with ExitStack() as stack:
        log = stack.enter_context(wiring.event_log(settings, print))
        moves = stack.enter_context(moving.moves(settings, stack.enter_context(wiring.drivers(settings)), log))
        yield stack.enter_context(crews.batches(settings, moves, log.append)), log


def ended(batches: Batches, batch: Batch) -> BatchProgress:
    eventually(lambda: batch.batch_id not in batches.wishes(), "the end", within_s=PATIENCE_S)
    return batches.progress(batch.batch_id)


def events(log: DatabaseEventLog, batch: Batch) -> list[Event]:
    return [event for _, event in everything(log, batch.batch_id)]


def test_two_workers_share_the_work_and_keep_the_limits(settings: Settings, start: Start) -> None:
    with planning(settings) as (batches, log):
        batch = batches.plan_evacuation("bucharest")
        workers = [start() for _ in range(2)]
        for worker in workers:
            assert worker.stdout is not None and worker.stdout.readline().startswith("worker-")
        batches.begin(batch)
        progress = ended(batches, batch)
        seen = events(log, batch)
    assert progress.moved == GUESTS
    most = batch_report.peaks(batch_report.bars(seen))
    assert most.host <= 2 and most.link <= 3 and 2 <= most.in_all <= 4, most
    assert len({e.what.worker for e in seen if isinstance(e.what, TryEnded)}) == 2, "both worked"
    assert [worker.communicate("", timeout=60) and worker.returncode for worker in workers] == [0, 0]


@pytest.mark.parametrize("settings", ["postgres", "sqlite"], indirect=True)
def test_what_a_killed_worker_had_begun_is_gone_on_with(settings: Settings, start: Start) -> None:
    """It is killed in the copy of g3, as it leads: another one leads then, goes on with that move, and does the rest,
    with no more at once than may be."""
    with planning(settings) as (batches, log):
        batch = batches.plan_evacuation("bucharest")
        doomed, (*_, (before, _)) = start(hangs="g3"), [(0, None), *everything(log)]
        batches.begin(batch)

        def is_copying() -> bool:
            copies = [e for _, e in log.read("", before) if e.kind == "phase.begin" and e.text == "copy"]
            return any(e.move_id.startswith("g3-") for e in copies)

        eventually(is_copying, "the copy of g3", every_s=0.2, within_s=PATIENCE_S)
        doomed.kill()
        doomed.wait()
        start()
        progress = ended(batches, batch)
        seen = events(log, batch)
    assert progress.moved == GUESTS, progress.tally
    begun = [e.what for e in seen if isinstance(e.what, TryBegan) and e.what.guest == "g3"]
    assert [what.attempt for what in begun] == [1, 1], "it is the same try"
    assert begun[0].worker != begun[1].worker
    (number,) = [n for n, move in enumerate(batch.moves) if move.guest == "g3"]
    with wiring.archive(settings) as archive:
        record = archive.move(progress.tally.last[number].move_id)
    assert record is not None and record.attempts == 2, "the move that was begun was gone on with"
    most = batch_report.peaks(batch_report.bars(seen))
    assert most.host <= 2 and most.link <= 3 and most.in_all <= 4, most


def end_sessions(server: postgres_server.Server) -> None:
    """All of them, by somebody who may."""
    engine = sqlalchemy.create_engine(server.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    others = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    with engine.connect() as session:
        session.execute(sqlalchemy.text(f"SELECT pg_terminate_backend(pid) {others}"))


CUTS: dict[str, Callable[[postgres_server.Server], None]] = {
    "restarted": postgres_server.Server.restart,
    "away": lambda server: server.be_away(AWAY_S),
    "sessions ended": end_sessions,
}


@pytest.mark.parametrize("how", CUTS)
def test_workers_that_are_cut_off_from_the_database_go_on_and_nobody_beside_them(
    settings: Settings, start: Start, how: str, postgres: postgres_server.Server
) -> None:
    """In the middle of a batch, while both have moves under way: no move has a second attempt, none is refused, and
    none is done twice."""
    with planning(settings) as (batches, log):
        batch = batches.plan_evacuation("bucharest")
        workers = [start(copy_s=1.0) for _ in range(2)]
        for worker in workers:
            assert worker.stdout is not None and worker.stdout.readline().startswith("worker-")
        batches.begin(batch)

        def both_work() -> bool:
            begun = [e.what for e in events(log, batch) if isinstance(e.what, (TryBegan, TryEnded))]
            busy = Counter(what.worker for what in begun if isinstance(what, TryBegan))
            busy.subtract(what.worker for what in begun if isinstance(what, TryEnded))
            return sum(count > 0 for count in busy.values()) == 2

        eventually(both_work, "moves at both", every_s=0.2, within_s=PATIENCE_S)
        CUTS[how](postgres)
        eventually(lambda: is_over(batches, batch), "the end", every_s=1.0, within_s=3 * PATIENCE_S)
        progress = batches.progress(batch.batch_id)
    assert progress.moved == GUESTS, progress.tally
    moves = {became.move_id for became in progress.tally.last.values()}
    with wiring.archive(settings) as archive:
        records = [archive.move(move_id) for move_id in moves]
    assert [r.attempts for r in records if r is not None] == [1] * GUESTS
    assert {worker.poll() for worker in workers} == {None}, "both are there still"


def is_over(batches: Batches, batch: Batch) -> bool:
    try:
        return batch.batch_id not in batches.wishes()
    except SQLAlchemyError:
        return False  # it is away
