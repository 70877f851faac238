"""Which moves of batches begin, and when, decided by one leader: on rows written by hand, with nobody at work."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy.exc import OperationalError

from tests.unit.ledger import Ledger, fleet_tables
from vmacro.errors import ClaimedError, ConfigurationError, JournalError
from vmacro.model.batch_events import BatchChanged
from vmacro.model.batches import Batch, Became, Limits, PlannedMove, Purpose, Try, Wish
from vmacro.model.events import Event
from vmacro.model.moves import Ending
from vmacro.planning.dispatch import Load
from vmacro.services import claims, journal, leader, workflows
from vmacro.services.fleet_tables import FleetTables
from vmacro.services.journal_json import encoded
from vmacro.services.journal_rows import TRY
from vmacro.services.leader import LEADER, Leader, Open, Tally, became, tally_of, tries_of, try_of

MOVES = tuple(PlannedMove(f"g{n}", f"a{n}", "x", f"b{n}", "y", 256.0, 2.0, 10.0) for n in range(4))
BATCH = Batch("evacuate-x-1", Purpose.EVACUATE, "x", MOVES, made_s=5.0, deadline_s=0.0)
LIMITS = Limits(tries=2, retry_after_s=30.0)
MOVED, FAILED = Became(Ending.MOVED), Became(Ending.ROLLED_BACK, again=True)
REFUSED, PUT_OFF = Became(None), Became(None, put_off=True)


def tried(number: int, attempt: int = 1, batch: Batch = BATCH) -> Try:
    return Try(batch.batch_id, number, attempt, batch.made_s, batch.deadline_s, batch.moves[number])


def names(tries: list[Try]) -> list[str]:
    return [each.name for each in tries]


# What became of a batch so far


def test_what_became_of_tries_is_counted_but_for_those_that_were_put_off() -> None:
    tally = Tally()
    for attempt, what, ended_s in ((1, FAILED, 10.0), (3, PUT_OFF, 20.0), (2, MOVED, 30.0)):
        tally.note(tried(0, attempt), what, ended_s)
    tally.note(tried(1), PUT_OFF)
    assert (tally.last, tally.attempts) == ({0: MOVED, 1: PUT_OFF}, {0: 2})
    assert (tally.names, tally.ended_s) == ({0: 3, 1: 1}, {0: 30.0, 1: 0.0})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def test_a_batch_is_counted_by_the_journals_rows(ledger: Ledger) -> None:
    ledger.tried(tried(0), FAILED, at_ms=(1, 10_000))
    ledger.tried(tried(0, 2), MOVED, at_ms=(20, 30_000))
    ledger.tried(tried(1), None)
    ledger.tried(tried(2), FAILED, at_ms=(5, 6))
    ledger.tried(tried(3), None, "ENQUEUED")
    other = replace(BATCH, batch_id="evacuate-x-10")
    ledger.tried(tried(0, 9, other), MOVED)
    ledger.workflow(TRY, f"{BATCH.batch_id}-9+9", {"no": "try"}, output={})
    tally = tally_of(ledger.rows(), BATCH.batch_id, {tried(2).name})
    assert (tally.last, tally.attempts, tally.names, tally.ended_s) == ({0: MOVED}, {0: 2}, {0: 2}, {0: 30.0})
    assert tally_of(ledger.rows(), BATCH.batch_id).last == {0: MOVED, 2: FAILED}


def test_a_row_is_a_try_by_its_arguments_and_its_name(ledger: Ledger) -> None:
    ledger.tried(tried(0))
    ledger.workflow(TRY, "another-0+1", encoded(tried(1)), status="PENDING")
    ledger.workflow(TRY, "bare", status="PENDING")
    ledger.workflow(TRY, "odd", encoded(tried(1)) | {"number": -1}, status="PENDING")
    rows = {row.name: row for row in ledger.rows().workflows(TRY)}
    assert try_of(rows[tried(0).name]) == tried(0) and names(tries_of(rows.values())) == [tried(0).name]
    for name, why in (
        ("another-0+1", f"it is {tried(1).name}"),
        ("bare", "it lacks the arguments of a workflow"),
        ("odd", "number: must be "),
    ):
        with pytest.raises(JournalError, match=rf"\Atry {re.escape(name)} cannot be read: .*{re.escape(why)}"):
            try_of(rows[name])


def test_a_try_whose_end_cannot_be_read_has_failed_and_may_be_tried_again(ledger: Ledger) -> None:
    ledger.tried(tried(0), FAILED)
    ledger.workflow(TRY, "odd-1+1", status="ERROR", output={"ending": "x"})
    rows = {row.name: row for row in ledger.rows().workflows(TRY)}
    assert became(rows[tried(0).name]) == FAILED
    odd = became(rows["odd-1+1"])
    assert (odd.ending, odd.again, odd.put_off) == (None, True, False)
    assert odd.reason.startswith("try odd-1+1 cannot be read: ") and odd.reason.endswith(" (ERROR)")


# One batch


def opened(tally: Tally | None = None, under_way: tuple[int, ...] = (), now_s: float = 0.0) -> Open:
    return Open(BATCH, tally or Tally(), LIMITS, under_way, now_s)


def test_all_begin_at_once_but_those_under_way_and_those_that_have_ended() -> None:
    tally = Tally()
    tally.note(tried(0), MOVED)
    tally.note(tried(3), PUT_OFF, 99.0)
    found = opened(tally, (1,), 50.0)
    assert names(found.next_tries(Load(), 50.0)) == [tried(2).name, tried(3, 2).name], "what was put off is due at once"
    assert found.begun == {1, 2, 3} and not found.is_over


def test_each_try_has_all_that_its_worker_must_know() -> None:
    batch = replace(BATCH, made_s=7.0, deadline_s=8.0)
    (first, *_) = Open(batch, Tally(), LIMITS, ()).next_tries(Load(), 0.0)
    assert first == Try(batch.batch_id, 0, 1, 7.0, 8.0, MOVES[0])


def test_what_has_failed_waits_and_is_tried_as_often_as_may_be() -> None:
    found = opened()
    found.next_tries(Load(), 100.0)
    for number in (1, 2, 3):
        found.ended(tried(number), MOVED, 100.0)
    found.ended(tried(0), FAILED, 100.0)
    assert not found.begun and not found.is_over
    assert found.next_tries(Load(), 129.9) == [] and names(found.next_tries(Load(), 130.0)) == [tried(0, 2).name]
    found.ended(tried(0, 2), FAILED, 140.0)
    assert found.is_over and found.tally.attempts[0] == 2
    assert found.text == "3 of 4 guests moved, 1 not"


def test_what_was_put_off_begins_as_soon_as_may_be_and_counts_as_no_try() -> None:
    found = opened()
    found.next_tries(Load(), 100.0)
    for attempt in (1, 2, 3):
        found.ended(tried(0, attempt), PUT_OFF, 100.0)
        assert names(found.next_tries(Load(), 100.0)) == [tried(0, attempt + 1).name]
    assert found.tally.attempts == {}


@pytest.mark.parametrize("what", [MOVED, REFUSED, Became(Ending.UNCERTAIN)])
def test_what_no_other_try_would_help_is_over(what: Became) -> None:
    found = opened(under_way=(0, 1, 2, 3))
    found.ended(tried(0), what, 1.0)
    assert found.next_tries(Load(), 1e9) == [] and found.begun == {1, 2, 3} and not found.is_over


def test_limits_count_what_other_batches_have_under_way() -> None:
    found = opened()
    load = Load.of([replace(MOVES[0], destination="elsewhere"), replace(MOVES[0], destination="else")])
    assert names(found.next_tries(load, 0.0)) == [tried(1).name, tried(2).name], "a0 is busy, the link has room for 4"


def test_once_all_have_moved_nobody_has_not() -> None:
    tally = Tally()
    for number in range(4):
        tally.note(tried(number), MOVED)
    found = opened(tally)
    assert found.is_over and found.text == "4 of 4 guests moved"


def test_a_new_leader_waits_as_long_as_the_last_one_would_have() -> None:
    tally = Tally()
    tally.note(tried(0), FAILED, 90.0)
    found = opened(tally, (1, 2, 3), 100.0)
    assert found.next_tries(Load(), 119.9) == [] and not found.is_over
    assert names(found.next_tries(Load(), 120.0)) == [tried(0, 2).name]


# All batches


@dataclass
class Post:
    """What a leader is given, and what it does: nobody takes what it has submitted but the test."""

    ledger: Ledger
    tables: FleetTables
    submitted: list[Try] = field(default_factory=list)
    taken: list[tuple[str, str]] = field(default_factory=list)
    alive: set[str] = field(default_factory=lambda: {"worker-1"})
    seen: list[Event] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    leaving: bool = False
    now_s: float = 1000.0

    def leader(self, limits: Limits = LIMITS) -> Leader:
        return Leader(
            self.ledger.url,
            self.tables,
            self.ledger.rows(),
            limits,
            self.seen.append,
            self.complaints.append,
            lambda: self.leaving,
        )

    def states(self) -> list[tuple[str, str, str]]:
        return [(e.move_id, e.what.state, e.what.detail) for e in self.seen if isinstance(e.what, BatchChanged)]

    def end(self, number: int, what: Became, attempt: int = 1) -> None:
        """A worker has taken and ended it."""
        self.ledger.write("DELETE FROM workflow_status WHERE workflow_uuid = ?", tried(number, attempt).name)
        self.ledger.write("DELETE FROM workflow_input WHERE workflow_uuid = ?", tried(number, attempt).name)
        self.ledger.tried(tried(number, attempt), what, at_ms=(1, int(self.now_s * 1000)))


@pytest.fixture
def post(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    made = Post(ledger, fleet_tables(ledger))

    def submit(wanted: Try) -> None:
        made.submitted.append(wanted)
        ledger.tried(wanted, None, "ENQUEUED", executor="")

    def is_held(url: str, name: str, kind: str) -> bool:
        assert (url, kind) == (ledger.url, "workers")
        return name in made.alive

    monkeypatch.setattr(workflows, "submit", submit)
    monkeypatch.setattr(journal, "take_from", lambda *words: made.taken.append(words))
    monkeypatch.setattr(claims, "is_held", is_held)
    clock = SimpleNamespace(time=lambda: made.now_s, time_ns=lambda: int(made.now_s * 1e9), monotonic=time.monotonic)
    monkeypatch.setattr(leader, "time", clock)
    yield made
    made.tables.close()


def test_a_batch_is_carried_out_from_its_first_try_to_its_end(post: Post) -> None:
    post.tables.add(BATCH)
    leads = post.leader(replace(LIMITS, in_all=2))
    leads.look()
    assert names(post.submitted) == [tried(0).name, tried(1).name] and leads.waiting == 2
    leads.look()
    assert len(post.submitted) == 2, "nothing has ended"
    post.end(0, MOVED)
    post.end(1, FAILED)
    leads.look()
    assert names(post.submitted[2:]) == [tried(2).name, tried(3).name] and leads.waiting == 1
    post.end(2, MOVED)
    post.end(3, REFUSED)
    leads.look()
    assert len(post.submitted) == 4 and post.seen == []
    post.now_s += 30
    leads.look()
    assert names(post.submitted[4:]) == [tried(1, 2).name]
    post.end(1, MOVED, 2)
    leads.look()
    assert post.states() == [(BATCH.batch_id, "ended", "3 of 4 guests moved, 1 not")]
    assert post.tables.wishes() == {} and leads.waiting == 0 and post.complaints == []


def test_a_new_leader_goes_on_where_the_last_one_was(post: Post) -> None:
    post.tables.add(BATCH)
    post.leader(replace(LIMITS, in_all=2)).look()
    post.end(0, MOVED)
    leads = post.leader(replace(LIMITS, in_all=2))
    leads.look()
    assert names(post.submitted) == [tried(0).name, tried(1).name, tried(2).name]


def test_a_try_that_is_under_way_is_no_name_for_another(post: Post) -> None:
    """A leader that takes over sees the second try of a move whose first was put off: the next one is the third."""
    post.tables.add(replace(BATCH, moves=MOVES[:1]))
    post.ledger.tried(tried(0), PUT_OFF, at_ms=(1, 1))
    post.ledger.tried(tried(0, 2))
    leads = post.leader()
    leads.look()
    assert post.submitted == []
    post.end(0, PUT_OFF, 2)
    leads.look()
    assert names(post.submitted) == [tried(0, 3).name]


def test_what_has_gone_from_the_journal_is_tried_again(post: Post) -> None:
    post.tables.add(replace(BATCH, moves=MOVES[:1]))
    leads = post.leader(replace(LIMITS, retry_after_s=0.0))
    leads.look()
    post.ledger.write("DELETE FROM workflow_status")
    post.ledger.write("DELETE FROM workflow_input")
    leads.look()
    assert names(post.submitted) == [tried(0).name, tried(0, 2).name]


@pytest.mark.parametrize(("wish", "ends"), [(Wish.PAUSE, False), (Wish.ABORT, True)])
def test_nothing_begins_of_a_batch_that_is_to_pause_or_end(post: Post, wish: Wish, ends: bool) -> None:
    post.tables.add(BATCH)
    leads = post.leader(replace(LIMITS, in_all=1))
    leads.look()
    post.tables.want(BATCH.batch_id, wish)
    leads.look()
    assert post.states() == [], "one of its moves is under way"
    post.end(0, MOVED)
    leads.look()
    leads.look()
    assert len(post.submitted) == 1
    assert post.states() == ([(BATCH.batch_id, "ended", "1 of 4 guests moved, 3 not")] if ends else [])
    assert post.tables.wishes() == ({} if ends else {BATCH.batch_id: wish})


def test_once_a_pause_is_over_it_goes_on(post: Post) -> None:
    post.tables.add(BATCH)
    post.tables.want(BATCH.batch_id, Wish.PAUSE)
    leads = post.leader()
    leads.look()
    post.tables.want(BATCH.batch_id, Wish.RUN)
    leads.look()
    assert len(post.submitted) == 4


@pytest.mark.parametrize(("deadline_s", "begun"), [(1000.0, 4), (999.9, 0), (0.0, 4)])
def test_after_its_deadline_nothing_begins_and_it_ends(post: Post, deadline_s: float, begun: int) -> None:
    post.tables.add(replace(BATCH, deadline_s=deadline_s))
    post.leader().look()
    assert len(post.submitted) == begun and bool(post.states()) is (begun == 0)


def test_limits_hold_for_all_batches_together(post: Post) -> None:
    other = replace(BATCH, batch_id="drain-a-1", subject="a", made_s=4.0, moves=MOVES[:1])
    post.tables.add(BATCH)
    post.tables.add(other)
    post.leader(replace(LIMITS, per_host=1)).look()
    begun = [each.move.guest for each in post.submitted]
    assert sorted(begun) == ["g0", "g1", "g2", "g3"], "both have g0's hosts: one of them waits"


def test_who_is_dead_loses_what_it_had_to_others(post: Post) -> None:
    post.tables.add(BATCH)
    for number, (worker, status) in enumerate(
        (("worker-1", "PENDING"), ("dead", "PENDING"), ("dead", "ENQUEUED"), ("", "PENDING"))
    ):
        post.ledger.tried(tried(number), None, status, executor=worker)
    leads = post.leader()
    leads.look()
    assert post.taken == [("dead", tried(1).name)]
    leads.look()
    assert len(post.taken) == 1, "nor is it looked each time whether workers live"


def test_who_leaves_begins_nothing_and_sees_what_has_ended(post: Post) -> None:
    post.tables.add(BATCH)
    leads = post.leader(replace(LIMITS, in_all=1))
    leads.look()
    post.leaving = True
    post.end(0, MOVED)
    post.tables.want(BATCH.batch_id, Wish.ABORT)
    leads.look()
    assert len(post.submitted) == 1 and len(post.states()) == 1


def test_what_nobody_can_read_is_left_alone_and_told_once(post: Post) -> None:
    post.tables.add(BATCH)
    post.tables.add(replace(BATCH, batch_id="odd-1"))
    post.ledger.write("UPDATE vmacro_batches SET plan = '[]' WHERE batch_id = 'odd-1'")
    post.ledger.workflow(TRY, "odd-2", status="PENDING")
    leads = post.leader()
    leads.look()
    leads.look()
    assert len(post.submitted) == 4
    (row, batch) = post.complaints
    assert row == "batches: try odd-2 cannot be read: it lacks the arguments of a workflow; it is left alone"
    assert batch.startswith("batches: batch odd-1 cannot be read: ") and batch.endswith("; it is left alone")


def test_not_more_is_told_than_anybody_reads(post: Post) -> None:
    leads = post.leader()
    for number in range(150):
        leads._tell_once(f"trouble {number}")
    assert len(post.complaints) == 100


def test_where_there_is_nothing_to_do_nothing_is_asked(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    leads = post.leader()

    def nobody_asks(*_: object, **__: object) -> None:
        raise AssertionError("the queue is read")

    monkeypatch.setattr(leads._rows, "workflows", nobody_asks)
    leads.look()
    assert leads.waiting == 0


# Who leads


@dataclass
class Claim:
    """Implements claims.Held, as long as it is `kept`."""

    checks: list[str]
    lost_after: int = 1000

    def see(self) -> None:
        raise AssertionError("nobody asks so")

    def check(self) -> None:
        self.checks.append("checked")
        if len(self.checks) > self.lost_after:
            raise JournalError("the database was away")


@dataclass
class Election:
    """Claims as the test has them: who asks gets what is next, and the leader is stopped once there is nothing more."""

    outcomes: list[Claim | Exception]
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    waits: list[float] = field(default_factory=list)

    @contextmanager
    def held(self, *words: str) -> Iterator[Claim]:
        self.asked.append((words[0], words[1], words[2]))
        what = self.outcomes.pop(0)
        if isinstance(what, Exception):
            raise what
        yield what

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        if not self.outcomes:
            self.stopped.set()
        return True


@pytest.fixture
def elect(post: Post, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Election]:
    def elected(*outcomes: Claim | Exception) -> Election:
        made = Election([*outcomes])
        monkeypatch.setattr(claims, "held", made.held)
        monkeypatch.setattr(made.stopped, "wait", made.wait)
        return made

    return elected


def test_who_leads_asks_first_whether_it_still_does_and_tries_again_where_not(
    post: Post, elect: Callable[..., Election]
) -> None:
    post.tables.add(BATCH)
    claim = Claim([], lost_after=2)
    election = elect(ClaimedError("another leads"), claim, OperationalError("select", {}, Exception("gone")))
    leads = post.leader()
    leads.run(election.stopped)
    assert election.asked == [(post.ledger.url, LEADER, "workers")] * 3 and len(claim.checks) == 3
    election_s, look_s = leader.ELECTION_EVERY_S, leader.LOOK_EVERY_S
    assert election.waits == [election_s, look_s, look_s, election_s, election_s]
    assert len(post.complaints) == 2 and not leads.leads and len(post.submitted) == 4
    assert post.complaints[0] == "batches: the database was away; trying again"


def test_who_leaves_leads_no_longer_than_one_look(post: Post, elect: Callable[..., Election]) -> None:
    post.leaving = True
    claim = Claim([])
    election = elect(claim)
    leads = post.leader()
    leads.run(election.stopped)
    assert len(claim.checks) == 1 and election.waits == [leader.LEAVING_EVERY_S] and post.complaints == []


def test_who_leads_says_so_while_it_does(post: Post, elect: Callable[..., Election]) -> None:
    said: list[bool] = []
    election = elect(Claim([]))
    leads = post.leader()
    looked = leads.look

    def look() -> None:
        said.append(leads.leads)
        looked()

    leads.look = look  # type: ignore[method-assign]
    leads.run(election.stopped)
    assert said == [True] and not leads.leads


def test_a_batch_that_is_gone_is_told(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at all and that at one."""
    post.tables.add(BATCH)

    def gone(_name: str) -> tuple[Batch, Wish]:
        raise ConfigurationError("batch evacuate-x-1: there is none")

    monkeypatch.setattr(post.tables, "batch", gone)
    post.leader().look()
    assert post.complaints == ["batches: batch evacuate-x-1: there is none; it is left alone"]
