"""Which moves of all batches begin, and when: decided by one worker at a time, so that no limit is passed by however
many workers. Whoever leads may die at any moment: all that it knows is in the database, and the next one reads it.

DBOS's queues have limits of their own, but not one for each of the two hosts of a move, for their link and for all at
once. So its queue has nothing in it but what may begin now; it gives that to workers, and back where one dies.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from sqlalchemy.exc import SQLAlchemyError

from vmacro.errors import ClaimedError, ConfigurationError, JournalError, VmacroError, reason_of
from vmacro.model.batch_events import BatchChanged
from vmacro.model.batches import Batch, Became, Limits, Try, Wish
from vmacro.model.events import Event
from vmacro.planning.dispatch import Load, Waiting
from vmacro.services import claims, journal, workflows
from vmacro.services.checker import Publish
from vmacro.services.fleet_tables import FleetTables
from vmacro.services.journal_json import decoded
from vmacro.services.journal_rows import TRY, WAITING, Rows, WorkflowRow

LEADER = "leader"
LOOK_EVERY_S = 0.2
LIVES_EVERY_S = 2.0  # how often it is looked whether workers live
ELECTION_EVERY_S = 1.0
LEAVING_EVERY_S = 3.0  # how often one that leaves sees what has ended, where nobody else leads


@dataclass(frozen=True)
class Tally:
    """What became of the moves of a batch so far: by the number of each, of its last try; `attempts` counts those that
    count, `names` is how many there were, `ended_s` when the last one ended, in seconds since 1970, 0 where that is not
    known."""

    last: dict[int, Became] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    names: dict[int, int] = field(default_factory=dict)
    ended_s: dict[int, float] = field(default_factory=dict)

    def note(self, tried: Try, became: Became, ended_s: float = 0.0) -> None:
        """A try has ended."""
        self.ended_s[tried.number] = ended_s
        self.names[tried.number] = max(self.names.get(tried.number, 0), tried.attempt)
        if not became.put_off:
            self.attempts[tried.number] = self.attempts.get(tried.number, 0) + 1
        self.last[tried.number] = became


class Open:
    """A batch that is being carried out."""

    def __init__(
        self, batch: Batch, tally: Tally, limits: Limits, under_way: Iterable[int], now_s: float = 0.0
    ) -> None:
        self.batch, self.tally, self._limits = batch, tally, limits
        self.begun = {*under_way}
        left = {n: m for n, m in enumerate(batch.moves) if n not in self.begun and self._may_begin(n)}
        due = {n: min(self._due_s(n), now_s + limits.retry_after_s) for n in left}
        self.waiting = Waiting({n: move for n, move in left.items() if due[n] <= now_s})
        self.later = [(due_s, n) for n, due_s in due.items() if due_s > now_s]

    def ended(self, tried: Try, became: Became, now_s: float) -> None:
        """A try has ended: it is over for its move, or it waits for the next. One at a move that the batch does not
        have is nobody's of us."""
        self.begun.discard(tried.number)
        if tried.number >= len(self.batch.moves):
            return
        self.tally.note(tried, became)
        if self._may_begin(tried.number):
            self.later.append((now_s + (0 if became.put_off else self._limits.retry_after_s), tried.number))

    def next_tries(self, load: Load, now_s: float) -> list[Try]:
        """Those that begin now."""
        for due in [item for item in self.later if item[0] <= now_s]:
            self.later.remove(due)
            self.waiting.back(due[1], self.batch.moves[due[1]])
        numbers = self.waiting.take(load, self._limits)
        self.begun.update(numbers)
        return [self._try(number) for number in numbers]

    @property
    def is_over(self) -> bool:
        """Whether nothing is left of it."""
        return not (self.begun or self.later or len(self.waiting))

    @property
    def text(self) -> str:
        """How far it is."""
        moved = sum(became.moved for became in self.tally.last.values())
        rest = len(self.batch.moves) - moved
        return f"{moved} of {len(self.batch.moves)} guests moved{f', {rest} not' if rest else ''}"

    def _may_begin(self, number: int) -> bool:
        last = self.tally.last.get(number)
        if last is None or last.put_off:
            return True
        return last.again and self.tally.attempts.get(number, 0) < self._limits.tries

    def _due_s(self, number: int) -> float:
        """When its next try may begin, whoever leads by then."""
        last = self.tally.last.get(number)
        return 0.0 if last is None or last.put_off else self.tally.ended_s[number] + self._limits.retry_after_s

    def _try(self, number: int) -> Try:
        batch, attempt = self.batch, self.tally.names.get(number, 0) + 1
        return Try(batch.batch_id, number, attempt, batch.made_s, batch.deadline_s, batch.moves[number])


class Leader:
    """`limits` hold for all batches together. `complain` is told once of each kind of trouble. Who is `leaving` leaves
    it to others, and begins nothing: it would give moves to itself again and again, as long as its last one takes."""

    def __init__(
        self,
        database_url: str,
        tables: FleetTables,
        rows: Rows,
        limits: Limits,
        publish: Publish,
        complain: Callable[[str], None],
        leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        self._leaving = leaving
        self._url, self._tables, self._rows, self._limits = database_url, tables, rows, limits
        self._publish, self._complain = publish, complain
        self._complained: set[str] = set()
        self._open: dict[str, Open] = {}
        self._watched: dict[str, Try] = {}
        self._looked_s = 0.0
        self.leads = False

    @property
    def waiting(self) -> int:
        """How many moves of batches have not begun, as far as this leader knows."""
        return sum(len(found.waiting) + len(found.later) for found in [*self._open.values()])

    def run(self, stopped: threading.Event) -> None:
        """Lead whenever nobody else does, until `stopped`."""
        while not stopped.is_set():
            try:
                with claims.held(self._url, LEADER, claims.WORKERS) as claim:
                    self._lead(stopped, claim)
            except ClaimedError:
                pass  # another worker leads
            except (SQLAlchemyError, VmacroError) as error:
                self._tell_once(f"batches: {reason_of(error)}; trying again")
            finally:
                self.leads = False
            stopped.wait(LEAVING_EVERY_S if self._leaving() else ELECTION_EVERY_S)

    def _lead(self, stopped: threading.Event, claim: claims.Held) -> None:
        self._open, self._watched, self.leads = {}, {}, True
        while not stopped.is_set():
            claim.check()
            self.look()
            if self._leaving():
                return
            stopped.wait(LOOK_EVERY_S)

    def look(self) -> None:
        """Once: what has ended, what may begin. Raises SQLAlchemyError, VmacroError."""
        wishes, now_s = self._tables.wishes(), time.time()
        if not wishes and not self._watched:
            self._open.clear()
            return
        rows = [*self._rows.workflows(TRY, statuses=WAITING)]
        under_way = {row.name: tried for row in rows if (tried := self._tried(row)) is not None}
        for batch_id in wishes.keys() - self._open.keys():
            try:
                self._take_up(batch_id, under_way.values())
            except (JournalError, ConfigurationError) as error:
                self._tell_once(f"batches: {error.message}; it is left alone")
        self._see_what_ended(under_way, now_s)
        self._take_from_the_dead(rows)
        if not self._leaving():
            self._begin(under_way, wishes, now_s)
        self._end(wishes, now_s)

    def _take_up(self, batch_id: str, under_way: Iterable[Try]) -> None:
        """A batch that this leader has not seen yet: another one may have begun it."""
        batch, _ = self._tables.batch(batch_id)
        mine = {tried.number: tried for tried in under_way if tried.batch_id == batch_id}
        names = {tried.name for tried in mine.values()}
        tally = tally_of(self._rows, batch_id, names)
        for tried in mine.values():
            tally.names[tried.number] = max(tally.names.get(tried.number, 0), tried.attempt)
        self._open[batch_id] = Open(batch, tally, self._limits, mine, time.time())

    def _see_what_ended(self, under_way: dict[str, Try], now_s: float) -> None:
        gone = self._watched.keys() - under_way.keys()
        found = {row.name: became(row) for row in self._rows.these(TRY, gone)}
        for name in gone:
            tried = self._watched[name]
            if tried.batch_id in self._open:
                no_row = Became(None, "its row has gone from the journal", again=True)
                self._open[tried.batch_id].ended(tried, found.get(name, no_row), now_s)
        self._watched = dict(under_way)

    def _take_from_the_dead(self, rows: list[WorkflowRow]) -> None:
        if time.monotonic() - self._looked_s < LIVES_EVERY_S:
            return
        self._looked_s = time.monotonic()
        for executor in {row.executor for row in rows if row.status == "PENDING" and row.executor}:
            if not claims.is_held(self._url, executor, claims.WORKERS):
                for row in rows:
                    if row.executor == executor and row.status == "PENDING":
                        journal.take_from(executor, row.name)

    def _goes_on(self, batch_id: str, wishes: dict[str, Wish], now_s: float) -> bool:
        found = self._open.get(batch_id)
        late = found is not None and 0 < found.batch.deadline_s < now_s
        return wishes.get(batch_id) == Wish.RUN and not late

    def _begin(self, under_way: dict[str, Try], wishes: dict[str, Wish], now_s: float) -> None:
        load = Load.of(tried.move for tried in under_way.values())
        for batch_id, found in self._open.items():
            if self._goes_on(batch_id, wishes, now_s):
                for tried in found.next_tries(load, now_s):
                    workflows.submit(tried)
                    self._watched[tried.name] = tried

    def _end(self, wishes: dict[str, Wish], now_s: float) -> None:
        for batch_id, found in [*self._open.items()]:
            over = found.is_over or not (found.begun or wishes.get(batch_id) == Wish.PAUSE)
            if over and (found.is_over or not self._goes_on(batch_id, wishes, now_s)):
                self._tables.want(batch_id, Wish.ENDED)
                self._publish(Event(batch_id, time.time_ns(), BatchChanged("ended", found.text)))
                del self._open[batch_id]

    def _tried(self, row: WorkflowRow) -> Try | None:
        try:
            return try_of(row)
        except JournalError as error:
            self._tell_once(f"batches: {error.message}; it is left alone")
            return None

    def _tell_once(self, text: str) -> None:
        if text not in self._complained and len(self._complained) < 100:
            self._complained.add(text)
            self._complain(text)


def try_of(row: WorkflowRow) -> Try:
    """What a row of the queue is about. Raises JournalError."""
    inputs = row.inputs.loaded(f"try {row.name[:100]}")
    arguments = inputs.get("args") if isinstance(inputs, dict) else None
    if not isinstance(arguments, list) or not arguments:
        raise JournalError(f"try {row.name[:100]} cannot be read: it lacks the arguments of a workflow")
    tried: Try = decoded(Try, arguments[0], f"try {row.name[:100]}")
    if tried.name != row.name:
        raise JournalError(f"try {row.name[:100]} cannot be read: it is {tried.name}")
    return tried


def tries_of(rows: Iterable[WorkflowRow]) -> list[Try]:
    """Those of them that can be read: nobody of us has written the others."""
    found = []
    for row in rows:
        with suppress(JournalError):
            found.append(try_of(row))
    return found


def became(row: WorkflowRow) -> Became:
    """What became of a try that has ended. One whose row says nothing that can be read has failed: a further one
    looks where the guest is."""
    try:
        found: Became = decoded(Became, row.output.loaded(f"try {row.name[:100]}"), f"try {row.name[:100]}")
    except JournalError as error:
        return Became(None, f"{error.message} ({row.status})", again=True)
    return found


def tally_of(rows: Rows, batch_id: str, but: set[str] | frozenset[str] = frozenset()) -> Tally:
    """What became of a batch's moves so far, as the journal has it; `but` tries that are under way."""
    tally = Tally()
    every = [row for row in rows.workflows(TRY, prefix=f"{batch_id}-") if row.name not in but]
    for row in reversed(every):  # oldest first
        if row.status not in WAITING:
            try:
                tally.note(try_of(row), became(row), row.ended_ms / 1000)
            except JournalError:
                continue  # nobody of us has written it
    return tally
