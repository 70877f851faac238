"""Batches and workers, wired: what plans and commands batches, and what carries them out. Beside wiring.py."""

from __future__ import annotations

import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pyroute2 import IPRoute
from sqlalchemy import make_url

from vmacro import moving, wiring
from vmacro.errors import ClaimedError, TakenOverError
from vmacro.inventory import Settings
from vmacro.model.batches import PlannedMove
from vmacro.planning.request import Request
from vmacro.ports import EventLog
from vmacro.services import claims, databases
from vmacro.services.batches import Batches, Ourselves, Tools
from vmacro.services.checker import Publish, Worlds
from vmacro.services.crew import Crew, Means, Watches
from vmacro.services.fleet_tables import FleetTables
from vmacro.services.journal_rows import Rows
from vmacro.services.leader import Leader
from vmacro.services.moves import Moves

_MACHINE = Path("/sys/class/dmi/id/product_uuid")
JOIN_S = 30.0
LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Working:
    """A process that works on batches, as long as this is open, and `stopped` is not set. `name` is its worker's."""

    name: str
    crew: Crew
    leader: Leader
    moves: Moves
    stopped: threading.Event


@contextmanager
def batches(settings: Settings, moves: Moves, publish: Publish) -> Iterator[Batches]:
    """The use cases of batches. Raises ConfigurationError where the database cannot be used, then and later."""
    tables = FleetTables(settings.database_url)
    try:
        with databases.explained(settings.database_url):
            yield Batches(
                Tools(
                    settings.inventory,
                    settings.raw_inventory.fleet.limits,
                    moves,
                    tables,
                    partial(_rows, settings),
                    partial(wiring.archive, settings),
                    partial(wiring.request, settings),
                    publish,
                    claims.operator(),
                    ourselves(),
                    partial(_alone, settings),
                    lambda: (time.strftime("%Y%m%d-%H%M%S"), secrets.token_hex(2)),
                )
            )
    finally:
        tables.close()


@contextmanager
def working(
    settings: Settings,
    worlds: Worlds,
    log: EventLog,
    publish: Publish,
    complain: Callable[[str], None],
    reports: Path = moving.REPORTS,
    watches: tuple[Watches, ...] = (),
) -> Iterator[Working]:
    """Works on batches, and leads if nobody else does. At its end it begins nothing more, and waits for what is under
    way; so, too, once others have taken it for dead. Raises ConfigurationError, JournalError."""
    name, over = _new_name(), threading.Event()
    with ExitStack() as stack:
        stack.callback(moving.forget_old, settings, reports)  # once all has ended
        tables = FleetTables(settings.database_url)
        stack.callback(tables.close)
        moves = moving.moves_on(settings, worlds, log, lambda: None, tables)
        archive = partial(wiring.archive, settings)
        means = Means(name, tables, moves, archive, partial(_request, settings), _folders(reports), publish, watches)
        crew = Crew(means)
        claim = stack.enter_context(claims.held(settings.database_url, name, claims.WORKERS))
        stack.callback(_forget, settings, name)
        opening = moving.opened_journal(settings, worlds, name, lambda _event: None, lambda: False, crew)
        stack.enter_context(opening)
        rows = stack.enter_context(_rows(settings))
        limits = settings.raw_inventory.fleet.limits
        leader = Leader(settings.database_url, tables, rows, limits, publish, complain, lambda: crew.leaving)

        def see_that_we_live(stopped: threading.Event) -> None:
            """Who was cut off from the database for long has lost its moves to others: a new worker may begin anew."""
            while not stopped.wait(LOOK_EVERY_S):
                try:
                    claim.see()
                except TakenOverError as error:
                    complain(error.message)
                    crew.leave()
                    over.set()
                    return

        stack.enter_context(_threads(settings, leader.run, crew.heed, see_that_we_live))
        try:
            yield Working(name, crew, leader, moves, over)
        finally:
            crew.leave()
            while crew.under_way:
                time.sleep(0.1)


def ourselves() -> Ourselves:
    """What would tell the guest that we run in, if we do: only root may read the machine's UUID."""
    uuid, addresses = "", frozenset[str]()
    with suppress(OSError, UnicodeError):
        uuid = _MACHINE.read_text().strip()
    with suppress(OSError), IPRoute() as routes:
        found = (dict(answer["attrs"]).get("IFA_ADDRESS", "") for answer in routes.get_addr())
        addresses = frozenset(a for a in found if a and not a.startswith(("127.", "::1", "fe80:")))
    return Ourselves(uuid, addresses)


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Of two who begin a batch at once, the second one sees what the first has begun. Raises ClaimedError where
    somebody takes too long."""
    until_s = time.monotonic() + JOIN_S
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(claims.held(settings.database_url, "begins", claims.WORKERS))
                break
            except ClaimedError:
                if time.monotonic() > until_s:
                    raise
        yield


@contextmanager
def _rows(settings: Settings) -> Iterator[Rows]:
    rows = Rows(make_url(settings.database_url))
    try:
        yield rows
    finally:
        rows.close()


@contextmanager
def _threads(settings: Settings, *acts: Callable[[threading.Event], None]) -> Iterator[None]:
    """Each in a thread of its own, until this is left."""
    stopped = threading.Event()
    threads = [threading.Thread(target=act, args=(stopped,), daemon=True) for act in acts]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join(JOIN_S)


def _request(settings: Settings, move: PlannedMove, operator: str) -> Request:
    request = wiring.request(settings, move.guest, f"{move.destination_site}/{move.destination}")
    return replace(request, operator=operator, because=move.because, source=move.source)


def _folders(reports: Path) -> Callable[[str], Path]:
    return lambda move_id: reports / move_id


def _new_name() -> str:
    machine = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:24]
    return f"worker-{machine}-{os.getpid()}-{secrets.token_hex(2)}"


def _forget(settings: Settings, name: str) -> None:
    """The file of a claim that nobody needs any more; PostgreSQL keeps none."""
    url = make_url(settings.database_url)
    if url.drivername.startswith("sqlite"):
        with suppress(OSError):
            (Path(url.database or "").parent / claims.WORKERS / f"{name}.lock").unlink()
