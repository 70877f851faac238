"""What one worker does with a batch: tries at its moves, each of them the use case of services/moves.py.

Prints nothing. Its worker's name is claimed as long as it works, so that others see that it lives (services/leader.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from vmacro.errors import JournalError, RolledBackError, TakenOverError, VmacroError, reason_of
from vmacro.model.batch_events import TryBegan, TryEnded
from vmacro.model.batches import Became, PlannedMove, Try, Wish
from vmacro.model.events import Event
from vmacro.model.moves import Ending
from vmacro.planning.request import Request
from vmacro.services import journal
from vmacro.services.archive import Archive, Record
from vmacro.services.checker import Publish
from vmacro.services.fleet_tables import FleetTables
from vmacro.services.moves import Control, Folder, Moves, Report

LOOK_EVERY_S = 0.5  # whether somebody wants a batch aborted
LINGER_S = 2.0  # who leaves keeps a try for this long, so that others take it first the next time
_AGAIN = (Ending.ROLLED_BACK, Ending.INCOMPLETE)


class Watches(Protocol):
    """Told of what a crew does, for metrics."""

    def began(self, tried: Try) -> None:
        """A try has begun."""

    def ended(self, tried: Try, became: Became) -> None:
        """And has ended."""


@dataclass(frozen=True)
class Means:
    """What a crew works with. `request` makes a move's request of its plan and its operator's name; `publish` tells
    the event log, among others."""

    name: str
    tables: FleetTables
    moves: Moves
    archive: Callable[[], AbstractContextManager[Archive]]
    request: Callable[[PlannedMove, str], Request]
    folder: Folder
    publish: Publish
    watches: tuple[Watches, ...] = ()


class Crew:
    """Moves of batches that are under way in this process. Safe to use from any thread."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._lock = threading.Lock()
        self._under_way: dict[str, tuple[Try, Control]] = {}
        self._leaving = threading.Event()

    @property
    def under_way(self) -> int:
        """How many."""
        with self._lock:
            return len(self._under_way)

    @property
    def leaving(self) -> bool:
        """Whether it begins nothing more."""
        return self._leaving.is_set()

    def leave(self) -> None:
        """Begin nothing more; what is under way goes on."""
        self._leaving.set()

    def cancel(self) -> None:
        """Leave, and have what is under way end in good order: undone where it can be, for others to try again; else
        finished."""
        self.leave()
        with self._lock:
            controls = [control for _, control in self._under_way.values()]
        for control in controls:
            control.cancel()

    def heed(self, stopped: threading.Event) -> None:
        """Cancel moves of batches that somebody aborts, until `stopped`. A database that cannot be asked aborts
        nothing."""
        while not stopped.wait(LOOK_EVERY_S):
            with self._lock:
                mine = [*self._under_way.values()]
            if not mine:
                continue
            try:
                wishes = self._means.tables.wishes()
            except (SQLAlchemyError, VmacroError):
                continue
            for tried, control in mine:
                if wishes.get(tried.batch_id) == Wish.ABORT:
                    control.cancel()

    def carry_out(self, tried: Try) -> Became:
        """One try, to its end, whatever happens to it. A worker that had begun it may have died: what the journal has
        of it is gone on with. Raises SQLAlchemyError, JournalError where the journal cannot be used at all."""
        if self._leaving.is_set():
            time.sleep(LINGER_S)
            return Became(None, "its worker was leaving", put_off=True, worker=self._means.name)
        try:
            why = self._unwanted(tried)
        except (SQLAlchemyError, JournalError) as error:
            if not journal.was_cut_off(error):
                raise
            why = reason_of(error)
        if why:
            return Became(None, why, put_off=True, worker=self._means.name)
        control = Control(self._means.publish)
        with self._known(tried, control):
            self._tell(tried, TryBegan(*_common(tried), tried.attempt, self._means.name))
            for watch in self._means.watches:
                watch.began(tried)
            became = self._tried(tried, control)
            reason = " ".join(became.reason.split())[:1000]
            ended = became.text, became.move_id, reason, became.downtime_ms, became.outage_ms
            self._tell(tried, TryEnded(*_common(tried), tried.attempt, self._means.name, *ended))
            for watch in self._means.watches:
                watch.ended(tried, became)
        return became

    def _unwanted(self, tried: Try) -> str:
        """Why it is not to begin any more; ''. What another worker had begun goes on, whatever is wanted of the
        batch."""
        wish = self._means.tables.wishes().get(tried.batch_id, Wish.ENDED)
        if self._begun(tried):
            return ""
        if wish != Wish.RUN:
            return f"its batch is to {wish.value}" if wish != Wish.ENDED else "its batch has ended"
        if tried.deadline_s and time.time() > tried.deadline_s:
            return "its deadline has passed"
        return ""

    def _begun(self, tried: Try) -> str:
        """The move that this try is to go on with: one that it has begun, by a worker that died, or that an earlier try
        has left work of, or that somebody else has brought to its end meanwhile; ''."""
        with self._means.archive() as archive:
            last = archive.last(tried.move.guest)
        if last is None or not _is_of(last, tried):
            return ""
        rolled_back = last.outcome is not None and last.outcome.ending == Ending.ROLLED_BACK
        is_mine = last.plan.operator == _operator(tried)
        return last.move_id if is_mine or last.unfinished or not rolled_back else ""

    def _tried(self, tried: Try, control: Control) -> Became:
        """The move itself; where it never began, nothing was changed."""
        try:
            return self._of(self._moved(tried, control), control)
        except VmacroError as error:
            # Cancelled before anything began; or it says nothing of the guest. What is tried next waits until this is
            # written down, hence for the database.
            no_try = isinstance(error, (RolledBackError, TakenOverError)) or journal.was_cut_off(error)
            again, name = not control.cancelled(), self._means.name
            return Became(None, error.message, error.hint, worker=name, put_off=no_try, again=again)

    def _moved(self, tried: Try, control: Control) -> Report:
        if move_id := self._begun(tried):
            return self._means.moves.resume(move_id, control, self._means.folder)
        request = self._means.request(tried.move, _operator(tried))
        return self._means.moves.migrate(request, control, self._means.folder)

    def _of(self, report: Report, control: Control) -> Became:
        outcome, statistics = report.outcome, report.outcome.statistics
        return Became(
            outcome.ending,
            outcome.reason,
            outcome.hint,
            report.move_id,
            outcome.downtime_ms,
            round(statistics.bytes_transferred / (1 << 20), 1) if statistics is not None else 0.0,
            outcome.wall_s,
            self._means.name,
            again=outcome.ending in _AGAIN and not control.cancelled(),
            put_off=outcome.ending == Ending.ROLLED_BACK and control.cancelled() and self._leaving.is_set(),
            outage_ms=report.figures.get("outage_ms"),
        )

    @contextmanager
    def _known(self, tried: Try, control: Control) -> Iterator[None]:
        with self._lock:
            self._under_way[tried.name] = tried, control
        try:
            yield
        finally:
            with self._lock:
                self._under_way.pop(tried.name, None)

    def _tell(self, tried: Try, what: TryBegan | TryEnded) -> None:
        self._means.publish(Event(tried.batch_id, time.time_ns(), what))


def _operator(tried: Try) -> str:
    """As whose a try's move is known."""
    return f"batch {tried.name}"


def _is_of(record: Record, tried: Try) -> bool:
    """Whether a move is one that a try at this move of the batch has begun: its operator is what a name says, which
    anybody may call himself."""
    plan, move = record.plan, tried.move
    planned = move.source, move.source_site, move.destination, move.destination_site
    made = plan.source.name, plan.source.site, plan.destination.name, plan.destination.site
    return plan.operator.startswith(f"batch {tried.batch_id}-{tried.number}+") and made == planned


def _common(tried: Try) -> tuple[str, str, str, str, str]:
    move = tried.move
    return move.guest, move.source, move.destination, move.source_site, move.destination_site
