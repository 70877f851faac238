"""Moves as use cases: what a command line, a queue, a web page or a script asks for. Prints nothing, never exits.

Several moves may be under way in one process, each called from a thread of its own: each has its own world, its own
cancel and its own events.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from vmacro.errors import ClaimedError, ConfigurationError
from vmacro.model.events import Event
from vmacro.model.moves import Ending, Noted, Outcome, Plan
from vmacro.model.nouns import Guest
from vmacro.planning.request import Request
from vmacro.planning.resuming import inherited
from vmacro.ports import Claim, EventLog, World
from vmacro.rtt import recording as recordings
from vmacro.rtt.samples import Recording
from vmacro.services import checker, measured, report, upkeep
from vmacro.services.archive import Record
from vmacro.services.checker import Checker, Publish
from vmacro.services.measured import Prober

Folder = Callable[[str], Path]


class Runner(Protocol):
    """Carries a plan out, each of its steps in the journal first (services/workflows.py)."""

    def __call__(self, plan: Plan, world: World, attempt: int = 1, inherited: Iterable[Noted] = ()) -> Outcome:
        """One attempt, to its end. `inherited`: steps of earlier attempts that it takes over."""


@dataclass(frozen=True)
class Tools(checker.Tools):
    """What moves need besides. `open_journal` does so unless it is open; `claimed` holds a guest, by name, as this
    process's to move, and raises ClaimedError; `prober` is a guest's, None where nothing is measured; `log` is what
    each Control publishes to, among others."""

    open_journal: Callable[[], None]
    run: Runner
    claimed: Callable[[str], AbstractContextManager[Claim]]
    prober: Callable[[Guest], Prober | None]
    new_move_id: Callable[[Guest], str]
    log: EventLog


class Control:
    """One move's events so far, and whether it is to stop. Safe to use from any thread."""

    def __init__(self, show: Publish = lambda _event: None) -> None:
        self._show = show
        self._cancelled = threading.Event()
        self.events: list[Event] = []

    def publish(self, event: Event) -> None:
        """Keep an event, and show it. One that names no move, as an interrupt, is this one's."""
        if not event.move_id:
            event = replace(event, move_id=next((e.move_id for e in self.events), ""))
        self.events.append(event)
        self._show(event)

    def cancel(self) -> None:
        """Have the move end in good order: it rolls back before the copy is over, and goes on to its end afterwards."""
        self._cancelled.set()

    def cancelled(self) -> bool:
        """Whether cancel() was called."""
        return self._cancelled.is_set()


@dataclass(frozen=True)
class Report:
    """A move that has ended. `figures` are those of summary.json in `folder`; `recording` is what its prober measured,
    `recording_trouble` why there is none or it cannot be read. `folder_trouble`: why not all files of the report could
    be written. `events` are the move's own, those of earlier attempts too."""

    plan: Plan
    outcome: Outcome
    figures: dict[str, Any]
    folder: Path
    events: tuple[Event, ...]
    recording: Recording | None = None
    recording_trouble: str = ""
    folder_trouble: str = ""

    @property
    def move_id(self) -> str:
        """The name of the move."""
        return self.plan.move_id


class Moves(Checker):
    """The use cases, on the tools of one process."""

    _tools: Tools

    def __init__(self, tools: Tools) -> None:
        super().__init__(tools)

    def plan(self, request: Request) -> Plan:
        """What a move would do. Changes nothing. Raises PlanRejectedError with all blockers."""
        name = self._tools.new_move_id(request.guest)
        return measured.planned(name, self._tools.inventory, request, self._seen(request))

    def migrate(self, request: Request, control: Control, folder: Folder) -> Report:
        """Claim the guest, see that no other move of it is unfinished, move it, report.

        `folder`: where the report goes, by the move's id. Raises ClaimedError, PlanRejectedError with all blockers,
        JournalError where the guest's last move cannot be read, RolledBackError where it was cancelled before it began:
        nothing was changed then. Raises TakenOverError where another process goes on with it.
        """
        tools, guest = self._tools, request.guest
        with tools.claimed(guest.name) as claim, self._world(control, claim) as world:
            tools.open_journal()
            self._see_that_nothing_is_unfinished(guest.name)
            done = measured.move(
                tools.inventory,
                request,
                world,
                lambda plan: tools.run(plan, world),
                lambda: tools.new_move_id(guest),
                tools.prober(guest),
                folder,
                self._reservations,
                self._past(guest),
            )
        recording, trouble = _readable(done.recording)
        return self._reported(done.plan, done.outcome, folder, recording, done.trouble or trouble)

    def resume(self, move_id: str, control: Control, folder: Folder) -> Report:
        """Go on with a move that was cut off, is incomplete, or left it uncertain where the guest is. One that has
        ended is reported as it ended. Raises ConfigurationError, where the guest has moved again since, too;
        ClaimedError; JournalError."""
        tools = self._tools
        with tools.claimed(self._record(move_id).plan.guest.name) as claim, tools.archive() as archive:
            record = self._record(move_id)
            if record.outcome is not None and not record.outcome.remains:
                figures = report.summary(record.plan, record.outcome, None)
                return Report(record.plan, record.outcome, figures, folder(move_id), ())
            record.see_that_it_is_whole()
            if later := archive.later(record):
                text = f"move {move_id}: guest {record.guest} has moved again since, by {later}; nothing was changed"
                raise ConfigurationError(text, f"vmacro resume {later}, if that has left work; vmacro cleanup")
            tools.open_journal()
            steps = inherited(archive.steps(move_id), record.outcome)
            upkeep.give_up(archive, move_id)
            with self._reservations.held(record.plan), self._world(control, claim) as world:
                outcome = tools.run(record.plan, world, record.attempts + 1, steps)
        return self._reported(record.plan, outcome, folder)

    def abort(self, move_id: str, control: Control, folder: Folder) -> Report:
        """Undo a move that was cut off; past the point of no return, finish it instead. Raises as resume()."""
        control.cancel()
        return self.resume(move_id, control, folder)

    def the_unfinished(self) -> str:
        """The one move that has not ended; where all have, the last one, if that lost connections: there is nothing to
        do for it, which is told. Raises ConfigurationError where there are none, or several."""
        with self._tools.archive() as archive:
            found = [record.plan.move_id for record in archive.unfinished()]
            last = archive.readable(limit=1) if not found else []
            found += [r.plan.move_id for r in last if r.outcome and r.outcome.ending == Ending.WITH_LOSSES]
        if not found:
            raise ConfigurationError("there is nothing to go on with: no move is unfinished", "vmacro history")
        if len(found) > 1:
            raise ConfigurationError(f"which move? {', '.join(found)}", "name it")
        return found[0]

    @contextmanager
    def _world(self, control: Control, claim: Claim) -> Iterator[World]:
        with self._tools.worlds(control.publish, control.cancelled) as world:
            yield replace(world, claim=claim)

    def _reported(
        self, plan: Plan, outcome: Outcome, folder: Folder, recording: Recording | None = None, trouble: str = ""
    ) -> Report:
        target, events = folder(plan.move_id), report.story(self._tools.log, plan.move_id)
        figures, unwritten = report.write(target, plan, outcome, events, recording)
        return Report(plan, outcome, figures, target, tuple(events), recording, trouble, unwritten)

    def _record(self, move_id: str) -> Record:
        with self._tools.archive() as archive:
            record = archive.move(move_id)
        if record is None:
            raise ConfigurationError(f"move {move_id!r}: not in the journal", "`vmacro history` lists them")
        return record

    def _see_that_nothing_is_unfinished(self, guest: str) -> None:
        """A move that never ended, or left it uncertain where the guest is, comes first. Raises ClaimedError;
        JournalError where the guest's last move cannot be read."""
        with self._tools.archive() as archive:
            for record in archive.unfinished(guest):
                move_id, by = record.plan.move_id, record.plan.operator or "somebody"
                began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.began_ms / 1000))
                if record.outcome is None or record.outcome.ending == Ending.UNCERTAIN:
                    how = "has not ended, and nobody works on it" if record.outcome is None else "left it uncertain"
                    text = f"guest {guest}: move {move_id}, begun by {by} at {began}, {how}; nothing was changed"
                    raise ClaimedError(text, f"vmacro resume {move_id}, or vmacro abort {move_id}")


def _readable(recorded: Path | None) -> tuple[Recording | None, str]:
    """The recording, or why it cannot be read: a prober on another machine may have been cut off, or have sent
    anything. That does not change the move's outcome."""
    try:
        return (recordings.read(recorded) if recorded is not None else None), ""
    except (recordings.RecordingError, OSError) as error:
        return None, f"what was measured cannot be read: {error}"
