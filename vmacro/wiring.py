"""The one place that knows which driver stands behind which port."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import netns
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from vmacro import inventory, private
from vmacro.drivers import dns, hooks
from vmacro.drivers.agent import ChannelAgents
from vmacro.drivers.feeds import Files
from vmacro.drivers.host_side import HostSides
from vmacro.drivers.libvirt.connection import Connections
from vmacro.drivers.libvirt.hypervisors import hypervisor
from vmacro.drivers.prober import NamespaceProber, SshProber
from vmacro.drivers.ssh import Ssh
from vmacro.drivers.system import SystemClock, side_by_side
from vmacro.drivers.transports import Transports
from vmacro.errors import ConfigurationError, VmacroError
from vmacro.inventory import Settings
from vmacro.lab import lab
from vmacro.model.batches import Maintenance
from vmacro.model.moves import Noted, Outcome, Plan
from vmacro.model.nouns import Guest, Site
from vmacro.planning import planner
from vmacro.planning.handoffs import HANDOFFS, SEAMLESS
from vmacro.planning.request import Request
from vmacro.ports import Claim, EventLog, Names, World
from vmacro.services import claims, journal, retention, workflows
from vmacro.services.archive import Archive
from vmacro.services.crew import Crew
from vmacro.services.event_log import DatabaseEventLog
from vmacro.services.fleet_tables import FleetTables
from vmacro.services.moves import Moves, Publish, Tools, Worlds

Given = TypeVar("Given")
REPORTS = Path("report")
PLAYBOOK_RUNS = "provision"  # in state_dir, a folder for each
SYSTEM_INVENTORY = Path("/etc/vmacro/inventory.toml")


def find_inventory(given: Path | None) -> Path:
    """What the user named, else the system's, else that of the one lab that is up."""
    if given is not None:
        return given
    if SYSTEM_INVENTORY.exists():
        return SYSTEM_INVENTORY
    up = lab.names()
    if len(up) == 1:
        return lab.Lab.running(up[0]).inventory_file
    seen = f"several labs are up: {', '.join(up)}" if up else "no lab is up"
    files = ", or ".join(str(lab.Lab.running(name).inventory_file) for name in up)
    hint = f"name one with --inventory{': ' if files else ''}{files}"
    raise ConfigurationError(f"no inventory: {SYSTEM_INVENTORY} does not exist, and {seen}", hint)


def load(given: Path | None) -> Settings:
    """Raises ConfigurationError."""
    return inventory.load(find_inventory(given))


def guest_named(settings: Settings, name: str) -> Guest:
    """Raises ConfigurationError."""
    guest = settings.inventory.guest(name)
    if guest is None:
        known = ", ".join(g.name for g in settings.inventory.guests) or "none"
        raise ConfigurationError(f"guest {name!r}: not in {settings.path}", f"known guests: {known}")
    return guest


def destination_named(settings: Settings, name: str) -> tuple[Site, str]:
    """SITE, or SITE/HOST; the host is '' where any of the site's will do. Raises ConfigurationError."""
    site_name, slash, host = name.partition("/")
    site = site_named(settings, site_name)
    if slash and host not in [h.name for h in site.hosts]:
        known = ", ".join(h.name for h in site.hosts)
        raise ConfigurationError(f"host {host!r}: none of site {site.name} in {settings.path}", f"known hosts: {known}")
    return site, host


def request(settings: Settings, guest: str, to: str, handoff: str = SEAMLESS, **bounds: Any) -> Request:
    """A guest by name, to SITE or SITE/HOST; `bounds` replace those of the inventory's policy. Raises
    ConfigurationError."""
    wanted, (site, host) = guest_named(settings, guest), destination_named(settings, to)
    if handoff not in HANDOFFS:
        raise ConfigurationError(f"handoff {handoff!r}: unknown", f"known: {', '.join(HANDOFFS)}")
    _see_that_files_can_be_used(settings, wanted)
    policy = inventory.adjusted(settings.inventory.policy, bounds)
    return Request(wanted, site, handoff, policy, claims.operator(), host=host)


def requests(settings: Settings, to: str = "", handoff: str = SEAMLESS, **bounds: Any) -> list[Request]:
    """As request(), of all guests of the inventory: to SITE or SITE/HOST, or each to all sites. Raises
    ConfigurationError."""
    wanted = [to] if to else [site.name for site in settings.inventory.sites]
    guests = settings.inventory.guests
    return [request(settings, guest.name, place, handoff, **bounds) for guest in guests for place in wanted]


def site_named(settings: Settings, name: str) -> Site:
    """Raises ConfigurationError."""
    site = settings.inventory.site(name)
    if site is None:
        known = ", ".join(s.name for s in settings.inventory.sites)
        raise ConfigurationError(f"site {name!r}: not in {settings.path}", f"known sites: {known}")
    return site


def _see_that_files_can_be_used(settings: Settings, guest: Guest) -> None:
    """The key and the executables that a move would use, before anything is contacted. Raises ConfigurationError, with
    all that is wrong with the executables."""
    written = settings.raw_inventory
    if guest.names and written.dns is not None:
        dns.read_key(written.dns.key_file)
    listed = [(f"hooks.{key}", path) for key in ("before", "after") for path in getattr(written.hooks, key)]
    wrong = [f"{settings.path}: {key}: {path}: {why}" for key, path in listed if (why := hooks.why_not(path))]
    if wrong:
        raise ConfigurationError("\n".join(wrong), "an executable file that nobody but root or you can change")


def _names(settings: Settings) -> Names:
    found = settings.raw_inventory.dns
    return dns.DnsNames(str(found.server), found.port, found.key_file) if found is not None else dns.NoNames()


@contextmanager
def drivers(settings: Settings, polite: bool = False) -> Iterator[Worlds]:
    """What all moves of a process share: SSH sessions, and whose turn it is at a guest's channel. `polite`: what moves
    a guest comes first.

    Connections to libvirt are each world's own: where threads share one, libvirt's client loses wake-ups (see
    drivers/libvirt/migration.py), and libvirtd answers five calls at a time on one (max_client_requests).
    """
    shell = ssh(settings)
    sides, names = HostSides(shell), _names(settings)
    turns: dict[str, threading.RLock] = {}

    @contextmanager
    def world(publish: Publish, cancelled: Callable[[], bool]) -> Iterator[World]:
        connections = Connections(settings.orchestrator.pki_dir)
        try:
            yield World(
                hypervisor=lambda host: hypervisor(host, connections, sides.get),
                agent=ChannelAgents(Transports(connections, shell, polite, turns)).open,
                host_network=sides.get,
                host_disks=sides.get,
                clock=SystemClock(),
                publish=publish,
                inventory=settings.inventory,
                cancelled=cancelled,
                side_by_side=side_by_side,
                names=names,
                hooks=hooks.Executables(),
            )
        finally:
            connections.close()

    try:
        yield world
    finally:
        sides.close()


@contextmanager
def opened(settings: Settings) -> Iterator[World]:
    """A world to look at, reached from where the inventory says."""
    enter(settings)
    with drivers(settings) as worlds, worlds(lambda _event: None, lambda: False) as world:
        yield world


def prober(settings: Settings, guest: Guest) -> NamespaceProber | SshProber | None:
    """What measures a guest's round trips while it moves; None where the inventory names nothing."""
    if guest.probe is None:
        return None
    chosen = settings.probers[guest.probe.prober]
    if chosen.ssh:
        return SshProber(guest.probe.prober, chosen.ssh, ssh(settings))
    return NamespaceProber(chosen.network_namespace)


def feeds(fetch: bool) -> Files:
    """Files of others; `fetch`: those that are old are fetched again."""
    return Files(fetch)


def ssh(settings: Settings) -> Ssh:
    """SSH with the inventory's key and known hosts."""
    return Ssh(settings.orchestrator.ssh_key, settings.orchestrator.ssh_known_hosts)


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

    def maintenance() -> tuple[Maintenance, ...]:
        with journal.explained(settings.database_url):
            return tables.maintenance()

    def run(plan: Plan, world: World, attempt: int = 1, inherited: Iterable[Noted] = ()) -> Outcome:
        with journal.explained(settings.database_url):
            return workflows.run(plan, world, attempt, inherited)

    return Moves(
        Tools(
            settings.inventory,
            worlds,
            open_journal,
            run,
            partial(claimed, settings),
            partial(archive, settings),
            partial(prober, settings),
            new_move_id,
            log,
            maintenance,
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
    with journal.explained(settings.database_url, opening=True):
        private.folder(settings.orchestrator.state_dir)
        url = make_url(settings.database_url)
        if url.drivername == "sqlite":
            private.touch(private.folder(Path(url.database or "").parent) / Path(url.database or "").name)
    at_once = settings.raw_inventory.fleet.moves_per_worker
    opening = journal.open_journal(settings.database_url, lambda: worlds(publish, cancelled), executor, crew, at_once)
    with _of_the_journal(settings, opening):
        yield


@contextmanager
def claimed(settings: Settings, guest: str) -> Iterator[Claim]:
    """The guest is this process's to move. Raises ClaimedError."""
    with _of_the_journal(settings, claims.held(settings.database_url, guest)) as claim:
        yield claim


def see_that_nobody_moves(settings: Settings, guest: str) -> None:
    """Raises ClaimedError, which says who does."""
    with journal.explained(settings.database_url, opening=True):
        claims.see_that_nobody_has(settings.database_url, guest)


@contextmanager
def carrier(settings: Settings, worlds: Worlds, publish: Publish, cancelled: Callable[[], bool]) -> Iterator[None]:
    """Works on carriages as long as it is open, or until `cancelled` says so; the next one goes on with them."""
    leaving = threading.Event()
    with opened_journal(settings, worlds, journal.CARRIER, publish, lambda: leaving.is_set() or cancelled()):
        try:
            yield
        finally:
            leaving.set()


@contextmanager
def archive(settings: Settings) -> Iterator[Archive]:
    """The journal, to be read. Raises JournalError as it is used."""
    with _of_the_journal(settings, _archive(settings)) as opened_archive:
        yield opened_archive


@contextmanager
def _archive(settings: Settings) -> Iterator[Archive]:
    opened_archive = Archive(settings.database_url)
    try:
        yield opened_archive
    finally:
        opened_archive.close()


@contextmanager
def _of_the_journal(settings: Settings, opening: AbstractContextManager[Given]) -> Iterator[Given]:
    """What is open, the database's errors in our words."""
    with journal.explained(settings.database_url), ExitStack() as stack:
        with journal.explained(settings.database_url, opening=True):
            given = stack.enter_context(opening)
        yield given


def event_log(settings: Settings, complain: Callable[[str], None]) -> DatabaseEventLog:
    """To be read; and, inside `with`, to be appended to."""
    return DatabaseEventLog(settings.database_url, complain)


def forget_old(settings: Settings, reports: Path | None = None) -> None:
    """What was written down longer ago than the inventory's keep_days; of reports, those in this folder. What cannot be
    removed is complained of, and tried again the next time."""
    before_s = time.time() - settings.orchestrator.keep_days * 86_400
    complain = logging.getLogger("vmacro").warning
    try:
        retention.of_playbooks(settings.orchestrator.state_dir / PLAYBOOK_RUNS, before_s)
        if reports is not None:
            retention.of_reports(reports, before_s)
        with archive(settings) as opened_archive, closing(FleetTables(settings.database_url)) as tables:
            retention.of_database(opened_archive, event_log(settings, complain), tables, before_s)
        claims.forget(settings.database_url, before_s)
    except (VmacroError, OSError, SQLAlchemyError) as error:
        complain("what is older than keep_days cannot be removed: %s", str(error).splitlines()[0])


def new_move_id(guest: Guest) -> str:
    """A name for a move of the guest that begins now."""
    return planner.move_id(guest.name, time.strftime("%Y%m%d-%H%M%S"), secrets.token_hex(2))


def enter(settings: Settings) -> None:
    """Work from the network namespace that the inventory names: setns(2) moves the calling thread, and threads that
    it starts later follow it. Raises ConfigurationError."""
    name = settings.orchestrator.network_namespace
    if not name:
        return
    if os.geteuid() != 0:
        raise ConfigurationError(
            f"{settings.path}: orchestrator.network_namespace: entering {name!r} needs root", "run it with sudo"
        )
    try:
        netns.setns(name, flags=0)
    except FileNotFoundError:
        raise ConfigurationError(
            f"{settings.path}: orchestrator.network_namespace: no namespace {name!r}", "is the lab up?"
        ) from None
