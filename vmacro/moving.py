"""Moves, wired: the durable journal, and what is done on it. Beside wiring.py, which whoever only looks does with: DBOS
alone takes longer to load than a look takes."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from vmacro import private, wiring
from vmacro.drivers.prober import NamespaceProber, SshProber
from vmacro.drivers.ssh import Ssh
from vmacro.errors import VmacroError
from vmacro.inventory import Settings
from vmacro.model.moves import Noted, Outcome, Plan
from vmacro.model.nouns import Guest
from vmacro.planning import planner
from vmacro.ports import EventLog, World
from vmacro.services import claims, databases, journal, retention, workflows
from vmacro.services.checker import Publish, Worlds
from vmacro.services.crew import Crew
from vmacro.services.fleet_tables import FleetTables
from vmacro.services.moves import Moves, Tools

REPORTS = Path("report")
PLAYBOOK_RUNS = "provision"  # in state_dir, a folder for each


def prober(settings: Settings, guest: Guest) -> NamespaceProber | SshProber | None:
    """What measures a guest's round trips while it moves; None where the inventory names nothing."""
    if guest.probe is None:
        return None
    chosen = settings.probers[guest.probe.prober]
    if chosen.ssh:
        way = Ssh(settings.orchestrator.ssh_key, settings.orchestrator.ssh_known_hosts)
        return SshProber(guest.probe.prober, chosen.ssh, way)
    return NamespaceProber(chosen.network_namespace)


@contextmanager
def moves(settings: Settings, worlds: Worlds, log: EventLog, reports: Path = REPORTS) -> Iterator[Moves]:
    """The use cases. The journal is opened for the first move: whoever only looks leaves none behind. `reports`: where
    folders of moves lie, of which old ones are removed."""
    with ExitStack() as stack:
        opening, opened = threading.Lock(), threading.Event()

        def open_journal() -> None:
            with opening:
                if not opened.is_set():
                    stack.callback(
                        lambda: forget_old(settings, reports) if opened.is_set() else None
                    )  # once all has ended
                    executor = f"vmacro-{secrets.token_hex(6)}"
                    stack.enter_context(opened_journal(settings, worlds, executor, lambda _event: None, lambda: False))
                    opened.set()

        tables = stack.enter_context(closing(FleetTables(settings.database_url)))
        yield moves_on(settings, worlds, log, open_journal, tables)


def moves_on(
    settings: Settings, worlds: Worlds, log: EventLog, open_journal: Callable[[], None], tables: FleetTables
) -> Moves:
    """The use cases, on a journal that `open_journal` opens unless it is open."""

    def run(plan: Plan, world: World, attempt: int = 1, inherited: Iterable[Noted] = ()) -> Outcome:
        with databases.explained(settings.database_url):
            return workflows.run(plan, world, attempt, inherited)

    return Moves(
        Tools(
            settings.inventory,
            worlds,
            partial(wiring.archive, settings),
            partial(wiring.maintenance, settings, tables),
            open_journal,
            run,
            partial(wiring.claimed, settings),
            partial(prober, settings),
            new_move_id,
            log,
        )
    )


@contextmanager
def opened_journal(
    settings: Settings,
    worlds: Worlds,
    executor: str,
    publish: Publish,
    cancelled: Callable[[], bool],
    crew: Crew | None = None,
) -> Iterator[None]:
    """What DBOS begins by itself gets a world that publishes there, and ends when `cancelled` says so."""
    with databases.explained(settings.database_url, opening=True):
        private.folder(settings.orchestrator.state_dir)
        url = make_url(settings.database_url)
        if url.drivername == "sqlite":
            private.touch(private.folder(Path(url.database or "").parent) / Path(url.database or "").name)
    at_once = settings.raw_inventory.fleet.moves_per_worker
    opening = journal.open_journal(settings.database_url, lambda: worlds(publish, cancelled), executor, crew, at_once)
    with wiring.of_the_journal(settings, opening):
        yield


@contextmanager
def carrier(settings: Settings, worlds: Worlds, publish: Publish, cancelled: Callable[[], bool]) -> Iterator[None]:
    """Works on carriages as long as it is open, or until `cancelled` says so; the next one goes on with them."""
    leaving = threading.Event()
    with opened_journal(settings, worlds, journal.CARRIER, publish, lambda: leaving.is_set() or cancelled()):
        try:
            yield
        finally:
            leaving.set()


def forget_old(settings: Settings, reports: Path | None = None) -> None:
    """What was written down longer ago than the inventory's keep_days; of reports, those in this folder. What cannot be
    removed is complained of, and tried again the next time."""
    before_s = time.time() - settings.orchestrator.keep_days * 86_400
    complain = logging.getLogger("vmacro").warning
    try:
        retention.of_playbooks(settings.orchestrator.state_dir / PLAYBOOK_RUNS, before_s)
        if reports is not None:
            retention.of_reports(reports, before_s)
        with wiring.archive(settings) as opened_archive, closing(FleetTables(settings.database_url)) as tables:
            retention.of_database(opened_archive, wiring.event_log(settings, complain), tables, before_s)
        claims.forget(settings.database_url, before_s)
    except (VmacroError, OSError, SQLAlchemyError) as error:
        complain("what is older than keep_days cannot be removed: %s", str(error).splitlines()[0])


def new_move_id(guest: Guest) -> str:
    """A name for a move of the guest that begins now."""
    return planner.move_id(guest.name, time.strftime("%Y%m%d-%H%M%S"), secrets.token_hex(2))
