"""What one worker does with a try: whether it is still wanted, what it goes on with, and what became of it. Moves are
fakes here; test_batches.py has whole ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from tests.unit.ledger import Ledger, fleet_tables
from tests.unit.test_enumeration import stage
from vmacro.errors import JournalError, PlanRejectedError, RolledBackError, TakenOverError, VmacroError
from vmacro.model.batch_events import TryBegan, TryEnded
from vmacro.model.batches import Batch, Became, PlannedMove, Purpose, Try, Wish
from vmacro.model.copies import CopyStatistics
from vmacro.model.events import Event
from vmacro.model.moves import Ending, Outcome, Plan
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request
from vmacro.services import crew
from vmacro.services.archive import Archive
from vmacro.services.crew import Crew, Means
from vmacro.services.fleet_tables import FleetTables
from vmacro.services.moves import Control, Folder, Report

PLAN = replace(stage(SEAMLESS).plan, move_id="web-20261127-120000-0001")
ENDS = PLAN.source.name, PLAN.source.site, PLAN.destination.name, PLAN.destination.site
MOVE = PlannedMove("web", *ENDS, 256.0, 2.0, 10.0)
BATCH = Batch("evacuate-bucharest-1", Purpose.EVACUATE, "bucharest", (MOVE,), made_s=1.0)
TRIED = Try(BATCH.batch_id, 0, 2, 1.0, 0.0, MOVE)
MOVED = Outcome(Ending.MOVED, "why", "what next", CopyStatistics(120, 9000, 150 << 20, 2), wall_s=12.5)
AWAY = OperationalError("select", {}, psycopg.OperationalError("the connection is bad"))


@dataclass
class Moves:
    """In place of services.moves.Moves: what it is asked, and what it says."""

    says: Outcome | Exception = MOVED
    asked: list[tuple[str, object]] = field(default_factory=list)
    meanwhile: Any = None
    figures: dict[str, Any] = field(default_factory=dict)

    def migrate(self, request: Request, control: Control, folder: Folder) -> Report:
        return self._done("migrate", request, control, folder)

    def resume(self, move_id: str, control: Control, folder: Folder) -> Report:
        return self._done("resume", move_id, control, folder)

    def _done(self, verb: str, what: object, control: Control, folder: Folder) -> Report:
        self.asked.append((verb, what))
        if self.meanwhile is not None:
            self.meanwhile(control)
        if isinstance(self.says, Exception):
            raise self.says
        return Report(PLAN, self.says, self.figures, folder(PLAN.move_id), ())


@dataclass
class Work:
    """A crew, and all that it is given and does."""

    ledger: Ledger
    tables: FleetTables
    moves: Moves = field(default_factory=Moves)
    seen: list[Event] = field(default_factory=list)
    watched: list[tuple[object, ...]] = field(default_factory=list)
    lookings: int = 0

    def __post_init__(self) -> None:
        watch: Any = SimpleNamespace(
            began=lambda tried: self.watched.append((tried,)),
            ended=lambda tried, became: self.watched.append((tried, became)),
        )
        moves: Any = self.moves
        request: Any = lambda move, operator: (move, operator)  # noqa: E731
        self.crew = Crew(Means("worker-7", self.tables, moves, self.archive, request, Path, self.seen.append, (watch,)))

    @contextmanager
    def archive(self) -> Iterator[Archive]:
        with closing(self.ledger.archive()) as found:
            yield found

    def made(self, outcome: Outcome | None, **of_plan: Any) -> Plan:
        """A move of the guest's, which a try at this move of the batch has begun."""
        plan = replace(PLAN, **{"operator": f"batch {BATCH.batch_id}-0+1", **of_plan})
        self.ledger.attempt(plan, outcome)
        return plan


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    ledger = Ledger(tmp_path)
    with closing(fleet_tables(ledger)) as tables:
        tables.add(BATCH)
        yield Work(ledger, tables)


def test_a_try_is_a_move_of_its_own_and_all_of_it_is_told(work: Work) -> None:
    became = work.crew.carry_out(TRIED)
    assert work.moves.asked == [("migrate", (MOVE, f"batch {TRIED.name}"))]
    assert became == Became(Ending.MOVED, "why", "what next", PLAN.move_id, 120, 150.0, 12.5, "worker-7")  # no prober
    assert work.watched == [(TRIED,), (TRIED, became)]
    common = "web", ENDS[0], ENDS[2], ENDS[1], ENDS[3], 2, "worker-7"
    assert [event.what for event in work.seen] == [
        TryBegan(*common),
        TryEnded(*common, "moved", PLAN.move_id, "why", 120),
    ]
    assert {event.move_id for event in work.seen} == {BATCH.batch_id} and work.crew.under_way == 0
    assert all(abs(event.wall_ns - time.time_ns()) < 60e9 for event in work.seen)


def test_what_users_felt_is_told_beside_how_long_the_guest_stood_still(work: Work) -> None:
    work.moves.figures = {"outage_ms": 640.8}
    became = work.crew.carry_out(TRIED)
    assert (became.downtime_ms, became.outage_ms) == (120, 640.8)
    ended = work.seen[-1].what
    assert isinstance(ended, TryEnded) and (ended.guest_downtime_ms, ended.outage_ms) == (120, 640.8)


def test_what_was_not_copied_has_no_figures(work: Work) -> None:
    work.moves.says = Outcome(Ending.ROLLED_BACK)
    became = work.crew.carry_out(TRIED)
    assert became == Became(Ending.ROLLED_BACK, move_id=PLAN.move_id, worker="worker-7", again=True)


@pytest.mark.parametrize(
    ("ending", "again"),
    [
        (Ending.MOVED, False),
        (Ending.ROLLED_BACK, True),
        (Ending.INCOMPLETE, True),
        (Ending.WITH_LOSSES, False),
        (Ending.UNCERTAIN, False),
    ],
)
def test_what_was_rolled_back_or_left_work_may_be_tried_again(work: Work, ending: Ending, again: bool) -> None:
    work.moves.says = Outcome(ending)
    became = work.crew.carry_out(TRIED)
    assert (became.again, became.put_off) == (again, False)


def test_what_somebody_cancelled_is_not_tried_again(work: Work) -> None:
    work.moves.says, work.moves.meanwhile = Outcome(Ending.ROLLED_BACK), Control.cancel
    became = work.crew.carry_out(TRIED)
    assert (became.ending, became.again, became.put_off) == (Ending.ROLLED_BACK, False, False)


@pytest.mark.parametrize(("ending", "put_off"), [(Ending.ROLLED_BACK, True), (Ending.MOVED, False)])
def test_what_is_undone_as_its_worker_leaves_counts_as_no_try(work: Work, ending: Ending, put_off: bool) -> None:
    work.moves.says, work.moves.meanwhile = Outcome(ending), lambda _control: work.crew.cancel()
    assert work.crew.carry_out(TRIED).put_off is put_off
    assert work.crew.leaving


@pytest.mark.parametrize(
    ("error", "put_off"),
    [
        (PlanRejectedError("no room", "make some"), False),
        (RolledBackError("it was cancelled"), True),
        (TakenOverError("another has it"), True),
        (JournalError("the journal is odd"), False),
    ],
)
def test_a_move_that_never_began_is_told_by_why(work: Work, error: VmacroError, put_off: bool) -> None:
    work.moves.says = error
    became = work.crew.carry_out(TRIED)
    assert became == Became(None, error.message, error.hint, worker="worker-7", put_off=put_off, again=True)
    ended = work.seen[-1].what
    assert isinstance(ended, TryEnded) and ended.ending == ("put off" if put_off else "refused")


def test_a_try_that_failed_as_the_database_was_away_is_none(work: Work) -> None:
    error = JournalError("the journal cannot be written")
    error.__cause__ = AWAY
    work.moves.says = error
    assert work.crew.carry_out(TRIED).put_off


def test_what_was_refused_after_somebody_cancelled_it_is_not_tried_again(work: Work) -> None:
    work.moves.says, work.moves.meanwhile = PlanRejectedError("no"), Control.cancel
    assert not work.crew.carry_out(TRIED).again


def test_words_of_an_event_are_one_line_and_bounded(work: Work) -> None:
    work.moves.says = PlanRejectedError("first\n  second " + "x" * 2000)
    became = work.crew.carry_out(TRIED)
    ended = work.seen[-1].what
    assert isinstance(ended, TryEnded) and ended.reason == f"first second {'x' * 987}" and len(became.reason) > 1000


# Whether it is wanted


def put_off(work: Work, tried: Try = TRIED) -> str:
    became = work.crew.carry_out(tried)
    assert became == Became(None, became.reason, put_off=True, worker="worker-7")
    assert not work.moves.asked and not work.seen and not work.watched
    return became.reason


@pytest.mark.parametrize(
    ("wish", "why"),
    [(Wish.PAUSE, "its batch is to pause"), (Wish.ABORT, "its batch is to abort"), (Wish.ENDED, "its batch has ended")],
)
def test_what_nobody_wants_any_more_is_not_begun(work: Work, wish: Wish, why: str) -> None:
    work.tables.want(BATCH.batch_id, wish)
    assert put_off(work) == why


def test_a_try_of_a_batch_that_there_is_not_is_not_begun(work: Work) -> None:
    assert put_off(work, replace(TRIED, batch_id="nobody")) == "its batch has ended"


def test_after_its_deadline_it_is_not_begun(work: Work) -> None:
    assert put_off(work, replace(TRIED, deadline_s=time.time() - 1)) == "its deadline has passed"
    assert work.crew.carry_out(replace(TRIED, deadline_s=time.time() + 60)).moved


def test_who_leaves_keeps_it_for_a_moment_and_gives_it_back(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(crew, "time", SimpleNamespace(sleep=slept.append))
    work.crew.leave()
    assert put_off(work) == "its worker was leaving" and slept == [crew.LINGER_S]


def test_a_database_that_is_away_puts_it_off_and_one_that_is_odd_ends_it(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = [AWAY, JournalError("odd")]

    def wishes() -> dict[str, Wish]:
        raise errors.pop(0)

    monkeypatch.setattr(work.tables, "wishes", wishes)
    assert "the connection is bad" in put_off(work)
    with pytest.raises(JournalError, match="odd"):
        work.crew.carry_out(TRIED)


# What it goes on with


@pytest.mark.parametrize("outcome", [None, Outcome(Ending.INCOMPLETE, remains=True), MOVED])
@pytest.mark.parametrize("wish", [Wish.RUN, Wish.ABORT])
def test_what_an_earlier_try_has_begun_is_gone_on_with_whatever_is_wanted(
    work: Work, outcome: Outcome | None, wish: Wish
) -> None:
    """Or has ended, by somebody else."""
    plan = work.made(outcome)
    work.tables.want(BATCH.batch_id, wish)
    assert work.crew.carry_out(replace(TRIED, deadline_s=1.0)).moved
    assert work.moves.asked == [("resume", plan.move_id)]


def test_what_an_earlier_try_has_rolled_back_begins_anew(work: Work) -> None:
    work.made(Outcome(Ending.ROLLED_BACK))
    work.crew.carry_out(TRIED)
    assert [verb for verb, _ in work.moves.asked] == ["migrate"]


def test_what_this_try_has_rolled_back_is_told_and_not_begun_anew(work: Work) -> None:
    """Its worker died between the move's end and the try's."""
    plan = work.made(Outcome(Ending.ROLLED_BACK), operator=f"batch {TRIED.name}")
    work.crew.carry_out(TRIED)
    assert work.moves.asked == [("resume", plan.move_id)]


@pytest.mark.parametrize(
    "other",
    [
        {"operator": "ada@desk"},
        {"operator": f"batch {BATCH.batch_id}-1+1"},
        {"operator": f"batch {BATCH.batch_id}-01+1"},
        {"source": replace(PLAN.source, name="elsewhere")},
        {"destination": replace(PLAN.destination, name="elsewhere")},
        {"destination": replace(PLAN.destination, site="elsewhere")},
        {"source": replace(PLAN.source, site="elsewhere")},
    ],
)
def test_what_others_have_begun_is_not_gone_on_with(work: Work, other: dict[str, Any]) -> None:
    work.made(None, **other)
    work.crew.carry_out(TRIED)
    assert [verb for verb, _ in work.moves.asked] == ["migrate"]


# While it is under way


def test_what_is_under_way_is_cancelled_once_its_batch_is_aborted(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "LOOK_EVERY_S", 0.001)
    stopped, cancelled = threading.Event(), threading.Event()
    wishes: list[object] = [OperationalError("select", {}, Exception("gone")), JournalError("odd"), {}, {}]
    asked = iter([*wishes, {BATCH.batch_id: Wish.PAUSE}, {BATCH.batch_id: Wish.ABORT}])

    def ask() -> object:
        what = next(asked, {BATCH.batch_id: Wish.ABORT})
        if isinstance(what, Exception):
            raise what
        return what

    def until_cancelled(control: Control) -> None:
        assert work.crew.under_way == 1
        monkeypatch.setattr(work.tables, "wishes", ask)
        for _ in range(5000):
            if control.cancelled():
                cancelled.set()
                return
            time.sleep(0.002)

    work.moves.says, work.moves.meanwhile = Outcome(Ending.ROLLED_BACK), until_cancelled
    heeding = threading.Thread(target=work.crew.heed, args=(stopped,))
    heeding.start()
    try:
        became = work.crew.carry_out(TRIED)
    finally:
        stopped.set()
        heeding.join(30)
    assert cancelled.is_set() and not became.put_off and next(asked, None) is None and not heeding.is_alive()


def test_where_nothing_is_under_way_the_database_is_not_asked(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([False, False, True])
    stopped: Any = SimpleNamespace(wait=lambda seconds: seconds == crew.LOOK_EVERY_S and next(looks))
    monkeypatch.setattr(work.tables, "wishes", lambda: pytest.fail("it was asked"))
    work.crew.heed(stopped)
    assert next(looks, None) is None


def test_to_leave_cancels_nothing_and_to_cancel_leaves(work: Work) -> None:
    seen: list[tuple[bool, bool]] = []

    def leave_then_cancel(control: Control) -> None:
        work.crew.leave()
        seen.append((control.cancelled(), work.crew.leaving))
        work.crew.cancel()
        seen.append((control.cancelled(), work.crew.leaving))

    work.moves.meanwhile = leave_then_cancel
    assert not work.crew.leaving
    work.crew.carry_out(TRIED)
    assert seen == [(False, True), (True, True)]
