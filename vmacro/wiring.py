"""The one place that knows which driver stands behind which port."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vmacro import inventory
from vmacro.drivers import hooks
from vmacro.drivers.agent import ChannelAgents
from vmacro.drivers.feeds import Files
from vmacro.drivers.host_side import HostSides
from vmacro.drivers.late_ssh import LateSsh
from vmacro.drivers.libvirt.connection import CLOSE_TIMEOUT_S, Connections
from vmacro.drivers.libvirt.hypervisors import hypervisor
from vmacro.drivers.no_names import NoNames
from vmacro.drivers.system import SystemClock, enter_network, side_by_side
from vmacro.drivers.transports import Transports
from vmacro.errors import ConfigurationError
from vmacro.inventory import Settings
from vmacro.lab import paths, seat
from vmacro.model.batches import Maintenance
from vmacro.model.nouns import Guest, Site
from vmacro.planning.handoffs import HANDOFFS, SEAMLESS
from vmacro.planning.request import Request
from vmacro.ports import Claim, World
from vmacro.services import claims, databases
from vmacro.services.archive import Archive
from vmacro.services.checker import Checker, Publish, Tools, Worlds
from vmacro.services.event_log import DatabaseEventLog
from vmacro.services.fleet_tables import FleetTables

if TYPE_CHECKING:
    from vmacro.drivers.dns import DnsNames

Given = TypeVar("Given")
SYSTEM_INVENTORY = Path("/etc/vmacro/inventory.toml")


def find_inventory(given: Path | None) -> Path:
    """What the user named, else the system's, else that of the one lab that is up."""
    if given is not None:
        return given
    if SYSTEM_INVENTORY.exists():
        return SYSTEM_INVENTORY
    up = {name: seat.inventory_file(paths.lab_dir(name)) for name in paths.names()}
    if len(up) == 1:
        return next(iter(up.values()))
    seen = f"several labs are up: {', '.join(up)}" if up else "no lab is up"
    files = ", or ".join(map(str, up.values()))
    hint = f"name one with --inventory, or for all commands in VMACRO_INVENTORY{': ' if files else ''}{files}"
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
    if guest.names and (names := _dns(settings)) is not None:
        names.see_key()
    listed = [(f"hooks.{key}", path) for key in ("before", "after") for path in getattr(written.hooks, key)]
    wrong = [f"{settings.path}: {key}: {path}: {why}" for key, path in listed if (why := hooks.why_not(path))]
    if wrong:
        raise ConfigurationError("\n".join(wrong), "an executable file that nobody but root or you can change")


def _dns(settings: Settings) -> DnsNames | None:
    """None where the inventory has no [dns]; the library is loaded only where it has: it takes its time."""
    found = settings.raw_inventory.dns
    if found is None:
        return None
    from vmacro.drivers.dns import DnsNames

    return DnsNames(str(found.server), found.port, found.key_file)


@contextmanager
def drivers(settings: Settings, polite: bool = False) -> Iterator[Worlds]:
    """What all moves of a process share: SSH sessions, and whose turn it is at a guest's channel. `polite`: what moves
    a guest comes first.

    Connections to libvirt are each world's own: where threads share one, libvirt's client loses wake-ups (see
    drivers/libvirt/migration.py), and libvirtd answers five calls at a time on one (max_client_requests).
    """
    shell = LateSsh(settings.orchestrator.ssh_key, settings.orchestrator.ssh_known_hosts)
    sides, names = HostSides(shell), _dns(settings) or NoNames()
    turns: dict[str, threading.RLock] = {}

    @contextmanager
    def world(publish: Publish, cancelled: Callable[[], bool]) -> Iterator[World]:
        connections, others = (Connections(settings.orchestrator.pki_dir) for _ in range(2))
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
                beside=lambda host: hypervisor(host, others, sides.get),
            )
        finally:
            side_by_side([connections.close, others.close], CLOSE_TIMEOUT_S)

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


def feeds(fetch: bool) -> Files:
    """Files of others; `fetch`: those that are old are fetched again."""
    return Files(fetch)


@contextmanager
def checker(settings: Settings, worlds: Worlds) -> Iterator[Checker]:
    """What stands against moves. Whoever only looks leaves no journal behind."""
    with closing(FleetTables(settings.database_url)) as tables:
        yield Checker(
            Tools(settings.inventory, worlds, partial(archive, settings), partial(maintenance, settings, tables))
        )


def maintenance(settings: Settings, tables: FleetTables) -> tuple[Maintenance, ...]:
    """Hosts and sites that get no guests. Raises ConfigurationError where the database cannot be used."""
    with databases.explained(settings.database_url):
        return tables.maintenance()


@contextmanager
def claimed(settings: Settings, guest: str) -> Iterator[Claim]:
    """The guest is this process's to move. Raises ClaimedError."""
    with of_the_journal(settings, claims.held(settings.database_url, guest)) as claim:
        yield claim


def see_that_nobody_moves(settings: Settings, guest: str) -> None:
    """Raises ClaimedError, which says who does."""
    with databases.explained(settings.database_url, opening=True):
        claims.see_that_nobody_has(settings.database_url, guest)


@contextmanager
def archive(settings: Settings) -> Iterator[Archive]:
    """The journal, to be read. Raises JournalError as it is used."""
    with of_the_journal(settings, _archive(settings)) as opened_archive:
        yield opened_archive


@contextmanager
def _archive(settings: Settings) -> Iterator[Archive]:
    opened_archive = Archive(settings.database_url)
    try:
        yield opened_archive
    finally:
        opened_archive.close()


@contextmanager
def of_the_journal(settings: Settings, opening: AbstractContextManager[Given]) -> Iterator[Given]:
    """What is open, the database's errors in our words."""
    with databases.explained(settings.database_url), ExitStack() as stack:
        with databases.explained(settings.database_url, opening=True):
            given = stack.enter_context(opening)
        yield given


def event_log(settings: Settings, complain: Callable[[str], None]) -> DatabaseEventLog:
    """To be read; and, inside `with`, to be appended to."""
    return DatabaseEventLog(settings.database_url, complain)


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
        enter_network(name)
    except FileNotFoundError:
        raise ConfigurationError(
            f"{settings.path}: orchestrator.network_namespace: no namespace {name!r}", "is the lab up?"
        ) from None
