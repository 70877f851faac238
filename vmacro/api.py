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
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, Unpack

from vmacro import wiring
from vmacro.errors import ClaimedError, ConfigurationError, PlanRejectedError, RolledBackError, VmacroError
from vmacro.inventory import Settings
from vmacro.model.events import Event
from vmacro.model.facts import Connection
from vmacro.model.moves import Ending, Finding, Outcome, Plan
from vmacro.model.nouns import PolicyChanges
from vmacro.planning.handoffs import SEAMLESS
from vmacro.ports import World
from vmacro.services import waiting
from vmacro.services.archive import see_that_it_may_name_a_move
from vmacro.services.event_log import everything
from vmacro.services.moves import Checked, Control, Moves, Report, Worlds
from vmacro.services.survey import HostState, connections_of, overview

__all__ = [
    "Checked",
    "ClaimedError",
    "ConfigurationError",
    "Connection",
    "Ending",
    "Event",
    "Finding",
    "HostState",
    "Move",
    "Outcome",
    "Plan",
    "PlanRejectedError",
    "PolicyChanges",
    "Report",
    "RolledBackError",
    "Session",
    "VmacroError",
    "open",
]

Result = TypeVar("Result")


class Move:
    """A move under way, in a thread of its own."""

    def __init__(self, control: Control, report: Future[Report]) -> None:
        self._control, self._report = control, report

    def result(self, timeout_s: float | None = None) -> Report:
        """Waits for the end. Raises PlanRejectedError, ClaimedError and the like where the move never began, nothing
        having been changed; TimeoutError if it still goes on after `timeout_s` seconds, which does not stop it."""
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


class Session:
    """Moves of one inventory, any number of them at once; one session with moves per process. Safe to use from any
    thread. As a context manager it waits for its moves; left by an exception, KeyboardInterrupt for one, it cancels
    them all first, and so it does where KeyboardInterrupt ends the waiting. Once it is closed, all raise VmacroError.

    All work is done in threads of its own: with an inventory that names a network namespace only they enter it.
    """

    def __init__(self, settings: Settings, reports: Path = wiring.REPORTS) -> None:
        self._settings, self._reports = settings, reports
        self._stack = ExitStack()
        self._under_way: list[tuple[Future[Any], Control]] = []
        self._beginning, self._closed = threading.Lock(), False
        self._log = wiring.event_log(settings, logging.getLogger("vmacro").warning)
        self._worlds, self._moves = self._here(self._opened)

    def sites(self) -> list[HostState]:
        """All hosts as they are now, and which guests run there; asked side by side."""
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
        """What such a move would do; changes nothing. Raises ConfigurationError, PlanRejectedError."""
        request = wiring.request(self._settings, guest, to, handoff, **policy)
        return self._here(lambda: self._moves.plan(request))

    def migrate(self, guest: str, to: str, handoff: str = SEAMLESS, **policy: Unpack[PolicyChanges]) -> Move:
        """Begin to move a running guest, live, to SITE or SITE/HOST, and return at once. Raises ConfigurationError;
        all else Move.result() raises."""
        request = wiring.request(self._settings, guest, to, handoff, **policy)
        return self._begin(lambda control: self._moves.migrate(request, control, self._folder))

    def resume(self, move_id: str = "") -> Move:
        """Go on with a move that was cut off, is incomplete, or left it uncertain where the guest is; by default with
        the one that is unfinished."""
        return self._begin(lambda control: self._moves.resume(self._named(move_id), control, self._folder))

    def abort(self, move_id: str = "") -> Move:
        """Undo a move that was cut off; past the point of no return, finish it instead. By default the one that is
        unfinished. Move.cancel() is for one that this session has begun."""
        return self._begin(lambda control: self._moves.abort(self._named(move_id), control, self._folder))

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

    def _opened(self) -> tuple[Worlds, Moves]:
        self._stack.enter_context(self._log)
        worlds = self._stack.enter_context(wiring.drivers(self._settings))
        return worlds, self._stack.enter_context(wiring.moves(self._settings, worlds, self._log, self._reports))

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


def open(inventory: Path | str | None = None, reports: Path | str = "report") -> Session:
    """A session with an inventory: its TOML file, by default the system's or that of the one lab that is up. Reports go
    to a folder per move below `reports`. Contacts nobody yet. Raises ConfigurationError."""
    return Session(wiring.load(Path(inventory) if inventory is not None else None), Path(reports))
