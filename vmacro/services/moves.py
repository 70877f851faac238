"""Moves as use cases: what a command line, a queue, a web page or a script asks for. Prints nothing, never exits.

Several moves may be under way in one process, each called from a thread of its own: each has its own world, its own
cancel and its own events.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from vmacro.errors import ClaimedError, ConfigurationError
from vmacro.model.batches import Maintenance
from vmacro.model.events import Event
from vmacro.model.facts import Past, Survey
from vmacro.model.moves import Ending, Finding, Noted, Outcome, Plan
from vmacro.model.nouns import Guest, Inventory
from vmacro.planning import checks, compression, forecast, seamless
from vmacro.planning.request import Request, may_be_of
from vmacro.planning.resuming import inherited
from vmacro.ports import Claim, EventLog, World
from vmacro.rtt import recording as recordings
from vmacro.rtt.samples import Recording
from vmacro.services import measured, report, waiting
from vmacro.services.archive import Archive, Record
from vmacro.services.measured import Prober
from vmacro.services.reservations import Reservations

Part = TypeVar("Part")
Publish = Callable[[Event], None]
Folder = Callable[[str], Path]
LOOKED_AT_ONCE = 8  # guests, each by connections of its own: a libvirtd greets 20 at a time (max_anonymous_clients)


class Worlds(Protocol):
    """Opens a world for one move, on what all moves of the process share."""

    def __call__(self, publish: Publish, cancelled: Callable[[], bool]) -> AbstractContextManager[World]:
        """The world is closed with the context."""


class Runner(Protocol):
    """Carries a plan out, each of its steps in the journal first (services/workflows.py)."""

    def __call__(self, plan: Plan, world: World, attempt: int = 1, inherited: Iterable[Noted] = ()) -> Outcome:
        """One attempt, to its end. `inherited`: steps of earlier attempts that it takes over."""


@dataclass(frozen=True)
class Tools:
    """What moves need of the process that they run in. `open_journal` does so unless it is open; `claimed` holds a
    guest, by name, as this process's to move, and raises ClaimedError; `prober` is a guest's, None where nothing is
    measured; `log` is what each Control publishes to, among others; `maintenance`: the hosts that get no guests."""

    inventory: Inventory
    worlds: Worlds
    open_journal: Callable[[], None]
    run: Runner
    claimed: Callable[[str], AbstractContextManager[Claim]]
    archive: Callable[[], AbstractContextManager[Archive]]
    prober: Callable[[Guest], Prober | None]
    new_move_id: Callable[[Guest], str]
    log: EventLog
    maintenance: Callable[[], tuple[Maintenance, ...]] = tuple


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
class Checked:
    """What stands against a move, blockers first; `host` is where it would go, and `because` says why there. `legs`:
    by which tunnels, and why; '' where it would use none. `datagrams`: which flows of them there are, and what will
    become of them; '' where there are none. `copy`: whether it is compressed, and why; `forecast`: what it will send
    and take, '' where nobody can tell."""

    host: str
    because: str
    findings: tuple[Finding, ...]
    legs: str = ""
    datagrams: str = ""
    copy: str = ""
    forecast: str = ""

    @property
    def blocked(self) -> bool:
        """Whether a finding stops the move."""
        return bool(checks.blockers(self.findings))


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


class Moves:
    """The use cases, on the tools of one process."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._reservations = Reservations(tools.maintenance)

    def check(self, request: Request) -> Checked:
        """Everything that stands against a move, all at once. Changes nothing."""
        return _checked(request, self._seen(request))

    def check_all(self, requests: Iterable[Request], at: str = "") -> list[tuple[Request, Checked]]:
        """check() of many requests of one handoff, guests side by side, each of them looked at once. Left out are those
        of guests that are not of site `at`, if one is named, and those to the one site where the guest runs already."""
        by_guest: dict[Guest, list[Request]] = {}
        for request in requests:
            by_guest.setdefault(request.guest, []).append(request)
        surveys = self.look_at(wanted[0] for wanted in by_guest.values())
        return [
            (request, _checked(request, seen))
            for wanted, (_, seen) in zip(by_guest.values(), surveys, strict=True)
            for request in wanted
            if not at or may_be_of(at, seen)
            if request.destination.name != at and {view.site for view in seen.running_at} != {request.destination.name}
        ]

    def look_at(self, requests: Iterable[Request]) -> list[tuple[Request, Survey]]:
        """What there is to know of each guest before a move, guests side by side. Changes nothing."""
        wanted, pool, same = [*requests], ThreadPoolExecutor(LOOKED_AT_ONCE), _Same()
        try:
            with self._tools.archive() as archive:  # one for all: each would open a connection of its own
                looking = [pool.submit(lambda asked: same.of(self._seen(asked, archive)), r) for r in wanted]
                return [(r, waiting.until_done(found).result()) for r, found in zip(wanted, looking, strict=True)]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

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
            archive.give_up(move_id)
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

    def _seen(self, request: Request, archive: Archive | None = None) -> Survey:
        """As it is now, less what moves under way count on."""
        past = archive.past(request.guest) if archive is not None else self._past(request.guest)
        with self._tools.worlds(_nobody, _never) as world:
            return measured.look(self._tools.inventory, request, world, True, self._reservations.counted, past)

    def _past(self, guest: Guest) -> Past:
        with self._tools.archive() as archive:
            return archive.past(guest)

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


class _Same:
    """Thousands of surveys have the same to say of hosts, with all their leases: what is equal is kept once."""

    def __init__(self) -> None:
        self._known: dict[object, Any] = {}

    def of(self, survey: Survey) -> Survey:
        """The same survey. Safe to use from any thread."""
        views = (
            replace(v, facts=self._once(v.facts), network=self._once(v.network), pools=self._once(v.pools))
            for v in survey.views
        )
        return replace(survey, views=tuple(views))

    def _once(self, found: Part) -> Part:
        same: Part = self._known.setdefault(found, found)
        return same


def _checked(request: Request, seen: Survey) -> Checked:
    placed = checks.place(request, seen)
    legs, told = seamless.tunnel_between(placed, seen), seamless.datagrams_told(placed, seen)
    chosen, expected = compression.between(placed, seen), None
    if chosen is not None:
        expected = forecast.forecast(placed, seen, chosen.method)
    copy = f"{chosen.method}: {chosen.because}" if chosen is not None else ""
    found = tuple(checks.check(placed, seen))
    if any(finding.code == "already-there" for finding in found):
        legs, told, copy, expected = "", "", "", None  # there is nothing to copy or carry
    return Checked(placed.host, placed.because, found, legs, told, copy, expected.text if expected else "")


def _readable(recorded: Path | None) -> tuple[Recording | None, str]:
    """The recording, or why it cannot be read: a prober on another machine may have been cut off, or have sent
    anything. That does not change the move's outcome."""
    try:
        return (recordings.read(recorded) if recorded is not None else None), ""
    except (recordings.RecordingError, OSError) as error:
        return None, f"what was measured cannot be read: {error}"


def _nobody(_event: Event) -> None:
    pass  # looking publishes nothing


def _never() -> bool:
    return False
