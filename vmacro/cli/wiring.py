"""The one place that knows which driver stands behind which port."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from pyroute2 import netns

from vmacro import inventory
from vmacro.drivers.agent import ChannelAgents
from vmacro.drivers.host_side import HostSides
from vmacro.drivers.libvirt import LibvirtHypervisor
from vmacro.drivers.libvirt_connection import Connections
from vmacro.drivers.prober import NamespaceProber, SshProber
from vmacro.drivers.ssh import Ssh
from vmacro.drivers.system import SystemClock
from vmacro.errors import ConfigurationError
from vmacro.inventory import Settings
from vmacro.lab import lab
from vmacro.model.events import Event
from vmacro.model.moves import Noted, Outcome, Plan
from vmacro.model.nouns import Guest, Site
from vmacro.planning import planner
from vmacro.ports import World
from vmacro.services import claims, journal
from vmacro.services.archive import Archive

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
    seen = f"labs that are up: {', '.join(up)}" if up else "no lab is up"
    raise ConfigurationError(
        f"no inventory: {SYSTEM_INVENTORY} does not exist, and {seen}", "name one with --inventory"
    )


def load(given: Path | None) -> Settings:
    """Raises ConfigurationError."""
    return inventory.load(find_inventory(given))


def guest_named(settings: Settings, name: str) -> Guest:
    guest = settings.inventory.guest(name)
    if guest is None:
        known = ", ".join(g.name for g in settings.inventory.guests) or "none"
        raise ConfigurationError(f"guest {name!r}: not in {settings.path}", f"known guests: {known}")
    return guest


def site_named(settings: Settings, name: str) -> Site:
    site = settings.inventory.site(name)
    if site is None:
        known = ", ".join(s.name for s in settings.inventory.sites)
        raise ConfigurationError(f"site {name!r}: not in {settings.path}", f"known sites: {known}")
    return site


@contextmanager
def opened(
    settings: Settings,
    publish: Callable[[Event], None] = lambda _event: None,
    cancelled: Callable[[], bool] = lambda: False,
    polite: bool = False,
) -> Iterator[World]:
    """The world, reached from where the inventory says; `polite`: what moves a guest comes first."""
    enter(settings)
    connections = Connections(settings.orchestrator.pki_dir)
    sides = HostSides(ssh(settings))
    try:
        yield World(
            hypervisor=lambda host: LibvirtHypervisor(host, connections),
            agent=ChannelAgents(connections, polite).open,
            host_network=sides.get,
            host_disks=sides.get,
            clock=SystemClock(),
            publish=publish,
            cancelled=cancelled,
        )
    finally:
        sides.close()
        connections.close()


@contextmanager
def interruptible(publish: Callable[[Event], None]) -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM as a question that services ask, so that a move ends in good order."""
    interrupted = threading.Event()

    def on_signal(_number: int, _frame: object) -> None:
        text = "interrupted: leaving in good order, please wait"
        if interrupted.is_set():
            text = "still leaving in good order; whoever kills it now goes on with `vmacro resume`"
        publish(Event("", time.time_ns(), "interrupt", text))
        interrupted.set()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def prober(settings: Settings, guest: Guest) -> NamespaceProber | SshProber | None:
    if guest.probe is None:
        return None
    chosen = settings.probers[guest.probe.prober]
    if chosen.ssh:
        return SshProber(guest.probe.prober, chosen.ssh, ssh(settings))
    return NamespaceProber(chosen.network_namespace)


def ssh(settings: Settings) -> Ssh:
    return Ssh(settings.orchestrator.ssh_key, settings.orchestrator.ssh_known_hosts)


class Runner(Protocol):
    def __call__(self, plan: Plan, attempt: int = 1, inherited: Iterable[Noted] = ()) -> Outcome: ...


@contextmanager
def runner(settings: Settings, world: World) -> Iterator[Runner]:
    """Carries plans out, each step of theirs in the journal first."""
    settings.orchestrator.state_dir.mkdir(parents=True, exist_ok=True)
    executor = f"vmacro-{secrets.token_hex(6)}"
    with journal.explained(settings.database_url), journal.open_journal(settings.database_url, world, executor):
        yield journal.run


@contextmanager
def claimed(settings: Settings, guest: str) -> Iterator[None]:
    """The guest is this process's to move. Raises ClaimedError."""
    with journal.explained(settings.database_url), claims.held(settings.database_url, guest):
        yield


@contextmanager
def carrier(settings: Settings, world: World) -> Iterator[None]:
    """Works on carriages as long as it is open."""
    settings.orchestrator.state_dir.mkdir(parents=True, exist_ok=True)
    with (
        journal.explained(settings.database_url),
        journal.open_journal(settings.database_url, world, journal.CARRIER),
    ):
        yield


@contextmanager
def archive(settings: Settings) -> Iterator[Archive]:
    with journal.explained(settings.database_url):
        opened_archive = Archive(settings.database_url)
        try:
            yield opened_archive
        finally:
            opened_archive.close()


def new_move_id(guest: Guest) -> str:
    return planner.move_id(guest.name, time.strftime("%Y%m%d-%H%M%S"), secrets.token_hex(2))


def enter(settings: Settings) -> None:
    """Before any thread is started: setns(2) moves one thread, and later ones follow it."""
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
