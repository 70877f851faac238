"""The public Python API: what the command line can do with moves, for scripts, queues and services.

    import vmacro.api

    with vmacro.api.open("inventory.toml") as session:
        report = session.migrate("web", "berlin").result()
        print(report.outcome.ending.value)

Nothing here prints or exits. Every failure that a user can meet is a VmacroError, and is raised before anything has
been changed; a move that has begun never raises for what the world does to it, but ends in an Outcome.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, Unpack

from vmacro import crews, moving, private, wiring
from vmacro.crews import Working
from vmacro.errors import ClaimedError, ConfigurationError, PlanRejectedError, RolledBackError, VmacroError
from vmacro.inventory import Settings
from vmacro.model.batches import Batch, Maintenance, PlannedMove, Purpose, Wish
from vmacro.model.events import Event
from vmacro.model.facts import Connection
from vmacro.model.moves import Ending, Finding, Outcome, Plan, StoppedError
from vmacro.model.nouns import PolicyChanges
from vmacro.planning.handoffs import SEAMLESS
from vmacro.ports import World
from vmacro.services import databases, waiting
from vmacro.services.archive import see_that_it_may_name_a_move
from vmacro.services.batches import Batches, BatchProgress
from vmacro.services.checker import Checked, Worlds
from vmacro.services.connections import connections_of
from vmacro.services.event_log import everything
from vmacro.services.moves import Control, Moves, Report
from vmacro.services.overview import HostState, overview

__all__ = [
    "Batch",
    "BatchProgress",
    "BatchRun",
    "Checked",
    "ClaimedError",
    "ConfigurationError",
    "Connection",
    "Ending",
    "Event",
    "Finding",
    "HostState",
    "Maintenance",
    "Move",
    "Outcome",
    "Plan",
    "PlanRejectedError",
    "PlannedMove",
    "PolicyChanges",
    "Purpose",
    "Report",
    "RolledBackError",
    "Session",
    "StoppedError",
    "VmacroError",
    "Wish",
    "open",
]
BATCH_LOOK_S = 0.2


def __dir__() -> list[str]:
    return __all__  # what is used to make it is nobody's business


Result = TypeVar("Result")


class Move:
    """A move under way, in a thread of its own."""

    def __init__(self, control: Control, report: Future[Report]) -> None:
        self._control, self._report = control, report

    def result(self, timeout_s: float | None = None) -> Report:
        """Waits for the end. Raises StoppedError (a PlanRejectedError), ClaimedError and the like where the move never
        began, nothing having been changed; TimeoutError if it still goes on after `timeout_s` seconds, which does not
        stop it."""
        return waiting.until_done(self._report, math.inf if timeout_s is None else timeout_s).result(0)

    def cancel(self) -> None:
        """Have it end in good order, and return at once: rolled back, if the copy is not over yet; else it goes on to
        its end. Other moves are not concerned."""
        self._control.cancel()

    @property
    def done(self) -> bool:
        """Whether the move has ended."""
        return self._report.done()

    @property
    def events(self) -> tuple[Event, ...]:
        """This move's own, so far."""
        return tuple(self._control.events)


class BatchRun:
    """A batch that has begun: workers carry it out, those of other machines too, and the session's own if it works."""

    def __init__(self, batch_id: str, here: Callable[[Callable[[Batches], Any]], Any]) -> None:
        self.batch_id, self._here = batch_id, here

    @property
    def progress(self) -> BatchProgress:
        """How far it is. Raises JournalError."""
        found: BatchProgress = self._here(lambda batches: batches.progress(self.batch_id))
        return found

    @property
    def done(self) -> bool:
        """Whether nothing is left to do. A batch that is paused is not done."""
        return bool(self._here(lambda batches: self.batch_id not in batches.wishes()))

    def result(self, timeout_s: float = math.inf) -> BatchProgress:
        """Waits for the end. Raises TimeoutError if it still goes on after so many seconds, which does not stop it."""
        until = time.monotonic() + timeout_s
        while not self.done:
            if time.monotonic() >= until:
                raise TimeoutError(f"batch {self.batch_id} still goes on")
            time.sleep(BATCH_LOOK_S)
        return self.progress

    def pause(self) -> None:
        """Nothing more begins; what is under way goes on. Raises ConfigurationError where the batch has ended."""
        self._here(lambda batches: batches.want(self.batch_id, Wish.PAUSE))

    def resume(self) -> None:
        """Go on after a pause. Raises ConfigurationError where the batch was aborted, or has ended."""
        self._here(lambda batches: batches.want(self.batch_id, Wish.RUN))

    def abort(self) -> None:
        """Nothing more begins, ever; what is under way is undone where it can be. Raises ConfigurationError where the
        batch has ended."""
        self._here(lambda batches: batches.want(self.batch_id, Wish.ABORT))


class Session:
    """Moves of one inventory, any number of them at once; one session with moves per process. Safe to use from any
    thread. As a context manager it waits for its moves; left by an exception, KeyboardInterrupt for one, it cancels
    them all first, and so it does where KeyboardInterrupt ends the waiting. Once it is closed, all raise VmacroError.

    All work is done in threads of its own: with an inventory that names a network namespace only they enter it.

    One that `works` carries out batches as long as it is open, with all other workers of its journal. As it is closed
    it begins nothing more of them, and waits for what it has under way; a batch that goes on is left to others.
    """

    def __init__(self, settings: Settings, reports: Path = moving.REPORTS, works: bool = False) -> None:
        self._settings, self._reports, self._works = settings, reports, works
        self._working: Working | None = None
        self._stack = ExitStack()
        self._under_way: list[tuple[Future[Any], Control]] = []
        self._beginning, self._closed = threading.Lock(), False
        self._log = wiring.event_log(settings, logging.getLogger("vmacro").warning)
        try:
            self._worlds, self._moves, self._batches = self._here(self._opened)
        except BaseException:
            self._stack.close()
            raise

    def sites(self) -> list[HostState]:
        """All hosts as they are now, and which guests run there; asked side by side. One that did not answer has
        `trouble`, and no guests: nobody knows whether any run there."""
        return self._here(lambda: self._looked(lambda world: overview(self._settings.inventory, world)))

    def check(self, guest: str, to: str, handoff: str = SEAMLESS, **policy: Unpack[PolicyChanges]) -> Checked:
        """Everything that stands against a move to SITE or SITE/HOST, all at once; changes nothing. `policy`: bounds
        instead of the inventory's, as [policy] names them. Raises ConfigurationError."""
        request = wiring.request(self._settings, guest, to, handoff, **policy)
        return self._here(lambda: self._moves.check(request))

    def check_all(
        self, at: str = "", to: str = "", handoff: str = SEAMLESS, **policy: Unpack[PolicyChanges]
    ) -> list[tuple[str, str, Checked]]:
        """check() of all guests, or of those at site `at`, side by side: (guest, site, what stands against it). To SITE
        or SITE/HOST, by default to all sites where they are not. Raises ConfigurationError."""
        if at:
            wiring.site_named(self._settings, at)
        requests = wiring.requests(self._settings, to, handoff, **policy)
        found = self._here(lambda: self._moves.check_all(requests, at))
        return [(request.guest.name, request.destination.name, checked) for request, checked in found]

    def plan(self, guest: str, to: str, handoff: str = SEAMLESS, **policy: Unpack[PolicyChanges]) -> Plan:
        """What such a move would do; changes nothing. Raises ConfigurationError; StoppedError with all findings."""
        request = wiring.request(self._settings, guest, to, handoff, **policy)
        return self._here(lambda: self._moves.plan(request))

    def migrate(self, guest: str, to: str, handoff: str = SEAMLESS, **policy: Unpack[PolicyChanges]) -> Move:
        """Begin to move a running guest, live, to SITE or SITE/HOST, and return at once. Raises ConfigurationError;
        all else Move.result() raises."""
        request = wiring.request(self._settings, guest, to, handoff, **policy)
        if why := private.why_no_folder(self._reports):
            raise ConfigurationError(f"reports {self._reports}: {why}; nothing was contacted", "open(reports=...)")
        return self._begin(lambda control: self._moves.migrate(request, control, self._folder))

    def resume(self, move_id: str = "") -> Move:
        """Go on with a move that was cut off, is incomplete, or left it uncertain where the guest is; by default with
        the one that is unfinished."""
        return self._begin(lambda control: self._moves.resume(self._named(move_id), control, self._folder))

    def abort(self, move_id: str = "") -> Move:
        """Undo a move that was cut off; past the point of no return, finish it instead. By default the one that is
        unfinished. Move.cancel() is for one that this session has begun."""
        return self._begin(lambda control: self._moves.abort(self._named(move_id), control, self._folder))

    def plan_evacuation(self, site: str, to: Sequence[str] = (), deadline_s: float = 0.0) -> Batch:
        """What it takes to empty a site: who moves where, and who stays and why; changes nothing. `to`: SITE or
        SITE/HOST each, by default all other sites; `deadline_s`: in seconds since 1970, 0 for none. Raises
        ConfigurationError."""
        wiring.site_named(self._settings, site)
        return self._of_batches(lambda batches: batches.plan_evacuation(site, to, deadline_s))

    def plan_drain(self, host: str, to: Sequence[str] = (), deadline_s: float = 0.0) -> Batch:
        """As plan_evacuation(), of one host."""
        return self._of_batches(lambda batches: batches.plan_drain(host, to, deadline_s))

    def plan_restore(self, subject: str, deadline_s: float = 0.0) -> Batch:
        """Bring back what was moved away from a site or host. Raises ConfigurationError where nothing was."""
        return self._of_batches(lambda batches: batches.plan_restore(subject, deadline_s))

    def plan_moves(self, subject: str, moves: Sequence[PlannedMove], deadline_s: float = 0.0) -> Batch:
        """A batch of moves that the caller has chosen, to be begun in their order; `subject` says what for. Raises
        ConfigurationError."""
        return self._of_batches(lambda batches: batches.planned(Purpose.FOLLOW, subject, moves, deadline_s))

    def begin(self, batch: Batch) -> BatchRun:
        """Have a batch carried out, and return at once. Raises PlanRejectedError where one of its guests has a move in
        another batch."""
        self._of_batches(lambda batches: batches.begin(batch))
        return BatchRun(batch.batch_id, self._of_batches)

    def batch(self, batch_id: str) -> BatchRun:
        """One that was begun, here or elsewhere. Raises ConfigurationError where there is none."""
        self._of_batches(lambda batches: batches.progress(batch_id))
        return BatchRun(batch_id, self._of_batches)

    def batches(self) -> list[tuple[Batch, Wish]]:
        """The newest ones, and what is wanted of them."""
        return self._of_batches(lambda batches: batches.newest())

    def maintenance(self) -> tuple[Maintenance, ...]:
        """Hosts and sites that get no guests until they are restored."""
        return self._of_batches(lambda batches: batches.maintenance())

    def connections(self, guest: str) -> tuple[Connection, ...]:
        """The guest's connections, and by which subflows they run. Raises ClaimedError while it is being moved: to ask
        its agent then would cut off who moves it; AgentError, HostError."""
        wanted = wiring.guest_named(self._settings, guest)

        def ask() -> tuple[Connection, ...]:
            wiring.see_that_nobody_moves(self._settings, guest)
            return self._looked(
                lambda world: connections_of(self._settings.inventory, wanted, world, every=True).connections
            )

        return self._here(ask)

    def events(self, move_id: str = "", after: int = 0) -> list[tuple[int, Event]]:
        """Events of a move, or of all, oldest first, each with its number, which is above `after`; 100,000 at most.
        Raises ConfigurationError, JournalError."""
        if move_id:
            see_that_it_may_name_a_move(move_id)
        return self._here(lambda: everything(self._log, move_id, after))

    def close(self) -> None:
        """Waits for all moves of this session, and lets go of hosts and journal. Nothing begins any more. Where
        KeyboardInterrupt ends the waiting, all moves are cancelled and waited for first."""
        self._end(cancel=False)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._end(cancel=kind is not None)

    def _opened(self) -> tuple[Worlds, Moves, Batches]:
        enter, settings, log = self._stack.enter_context, self._settings, self._log
        enter(log)
        worlds = enter(wiring.drivers(settings))
        if self._works:
            complain = logging.getLogger("vmacro").warning
            self._working = enter(crews.working(settings, worlds, log, log.append, complain, self._reports))
            moves = self._working.moves
        else:
            moves = enter(moving.moves(settings, worlds, log, self._reports))
        return worlds, moves, enter(crews.batches(settings, moves, log.append))

    def _of_batches(self, ask: Callable[[Batches], Result]) -> Result:
        def asked() -> Result:
            with databases.explained(self._settings.database_url):
                return ask(self._batches)

        return self._here(asked)

    def _end(self, cancel: bool) -> None:
        try:
            with self._beginning:
                self._closed = True
            self._wait(cancel)
        except BaseException:
            self._wait(cancel=True)
            raise
        finally:
            self._stack.close()

    def _wait(self, cancel: bool) -> None:
        """Until all that has begun has ended."""
        for _, control in self._under_way:
            if cancel:
                control.cancel()
        if cancel and self._working is not None:
            self._working.crew.leave()
            self._working.crew.cancel()
        for future, _ in self._under_way:
            waiting.until_done(future)

    def _begin(self, act: Callable[[Control], Report]) -> Move:
        control = Control(self._log.append)
        return Move(control, self._started(lambda: act(control), control))

    def _here(self, act: Callable[[], Result]) -> Result:
        return waiting.until_done(self._started(act, Control())).result()

    def _looked(self, ask: Callable[[World], Result]) -> Result:
        """What is seen of the world as it is now, without a move."""
        with self._worlds(lambda _event: None, lambda: False) as world:
            return ask(world)

    def _started(self, act: Callable[[], Result], control: Control) -> Future[Result]:
        """In a thread that has entered the inventory's network namespace, as all that it starts will have. Raises
        VmacroError once the session is closed."""
        future: Future[Result] = Future()

        def run() -> None:
            try:
                wiring.enter(self._settings)
                future.set_result(act())
            except BaseException as error:
                future.set_exception(error)

        with self._beginning:
            if self._closed:
                raise VmacroError(f"session of {self._settings.path}: it is closed", "vmacro.api.open() opens another")
            self._under_way = [*((f, c) for f, c in self._under_way if not f.done()), (future, control)]
        try:
            threading.Thread(target=run, name="vmacro", daemon=True).start()
        except RuntimeError as error:  # the machine has no thread left, and close() does not wait for this one
            future.set_exception(error)
        return future

    def _named(self, move_id: str) -> str:
        return move_id or self._moves.the_unfinished()

    def _folder(self, move_id: str) -> Path:
        return self._reports / move_id


def open(inventory: Path | str | None = None, reports: Path | str = "report", works: bool = False) -> Session:
    """A session with an inventory: its TOML file, by default the system's or that of the one lab that is up. Reports go
    to a folder per move below `reports`. `works`: it carries out batches, its own and those of others. Contacts no host
    yet. Raises ConfigurationError; with `works` JournalError too."""
    return Session(wiring.load(Path(inventory) if inventory is not None else None), Path(reports), works)
