"""The world in memory, and what its hypervisors do by themselves.

It behaves as the real drivers do as far as services can tell. `before` is called ahead of each effect with its name,
and may raise what a driver would: that is how failures are staged. Several moves may run in it at once, a thread each.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from vmacro.drivers.fake.agent import FakeAgent
from vmacro.drivers.fake.clock import FakeClock
from vmacro.drivers.fake.host_disks import FakeHostDisks
from vmacro.drivers.fake.host_network import FakeHostNetwork
from vmacro.drivers.fake.hypervisor import FakeHypervisor
from vmacro.drivers.fake.names import FakeHooks, FakeNames, FakeZone
from vmacro.drivers.fake.state import Effect, FakeGuest, FakeHost, connection, domain, fake_host, host, mac_of
from vmacro.errors import AgentError, CopyError, UnreachableError
from vmacro.model.batches import Maintenance
from vmacro.model.events import Event
from vmacro.model.facts import CopyStatistics, Disk, Flows, Turn
from vmacro.model.filters import Filter
from vmacro.model.nouns import Guest, Host, Inventory, Policy, Site
from vmacro.ports import World

TWO_SITES: Mapping[str, tuple[str, ...]] = {"bucharest": ("bucharest",), "berlin": ("berlin",)}
BOOT_S = 20.0
_TURNS = {"suspended": "tunnel", "resumed": "guest"}


class FakeWorld:
    """Sites with their hosts, of unique names; guests, all at the first host, with one MPTCP client each that follows.

    No old address lingers, unless its policy is changed. `unheard`: the destination's libvirt dies before it has
    said that the guest runs. `maintenance`: what a journal would say of hosts. `filters`: of domains' cards.
    `dropped`: addresses whose packets something drops.
    """

    def __init__(self, sites: Mapping[str, tuple[str, ...]] = TWO_SITES, guests: tuple[str, ...] = ("web",)) -> None:
        self.clock = FakeClock()
        self.lock = threading.RLock()
        self.interrupted = False
        self.unheard = False
        self.events: list[Event] = []
        self.maintenance: tuple[Maintenance, ...] = ()
        self.filters: dict[str, tuple[Filter, ...]] = {}
        self.dropped: set[str] = set()
        self.flows: dict[str, Flows] = {}  # of datagrams, by address, at each host that tracks them
        self.before: Callable[[Effect], None] = lambda _effect: None
        self.hosts: dict[str, FakeHost] = {}
        nouns = []
        for number, (site, names) in enumerate(sites.items(), 1):
            found = tuple(host(name, site, len(self.hosts) + i) for i, name in enumerate(names, 1))
            self.hosts |= {name: fake_host(name, number, i, len(names)) for i, name in enumerate(names)}
            nouns.append(Site(site, found))
        policy = Policy(linger_s=0.0)
        self.inventory = Inventory(tuple(nouns), tuple(Guest(name, name) for name in guests), policy)
        self.zone, self.hooks = FakeZone(), FakeHooks(self)
        self.home = next(iter(self.hosts))
        self.guests = {name: _guest(name, number) for number, name in enumerate(guests, 1)}
        for guest in self.guests.values():
            self.hosts[self.home].domains[guest.name] = domain(name=guest.name, number=guest.number)
            self.hosts[self.home].leases[guest.mac] = guest.address

    @property
    def guest(self) -> FakeGuest:
        """The first one."""
        return next(iter(self.guests.values()))

    @property
    def now_s(self) -> float:
        return self.clock.now_s

    @property
    def world(self) -> World:
        return World(
            hypervisor=lambda wanted: FakeHypervisor(self, wanted.name),
            agent=self._agent,
            host_network=lambda wanted: FakeHostNetwork(self, wanted.name),
            host_disks=lambda wanted: FakeHostDisks(self, wanted.name),
            clock=self.clock,
            publish=self._published,
            inventory=self.inventory,
            cancelled=lambda: self.interrupted,
            names=FakeNames(self),
            hooks=self.hooks,
        )

    def _published(self, event: Event) -> None:
        """As an event log would: a move's name and something to read, or it is a fault of who tells it."""
        assert isinstance(event.move_id, str) and isinstance(event.text, str), event
        self.events.append(event)

    def give_disk(self, name: str = "web") -> None:
        """The guest gets one of its own, as nobody has moved it yet."""
        here = self.hosts[self.home]
        disk = Disk("vda", f"/images/{name}.qcow2", True, False, "file", "qcow2")
        here.domains[name] = replace(here.domains[name], disks=(disk,))
        here.disks.bases[disk.source] = ""

    def running_at(self, name: str = "web") -> list[str]:
        return [n for n, h in self.hosts.items() if name in h.domains and h.domains[name].running]

    def user_of(self, address: str, at: FakeHost) -> str:
        """The MAC of the guest at a host that answers for an address, or ''."""
        users = (g for g in self.guests.values() if g.name in at.domains and address in (*g.present, *g.kept))
        return next((g.mac for g in users if address not in self.dropped), "")

    def answers(self, address: str) -> bool:
        """Whether a guest, wherever it runs, sends packets back from an address."""
        with_it = (g for g in self.guests.values() if address in (*g.present, *g.kept) and not g.shy)
        return address not in self.dropped and any(self.running_at(g.name) for g in with_it)

    @property
    def addresses(self) -> set[str]:
        """Of the hosts that answer at all."""
        return {host.address for host in self.inventory.hosts if self.hosts[host.name].reachable}

    @contextmanager
    def reached(self, effect: Effect, trouble: str) -> Iterator[FakeHost]:
        """The effect's host, for this thread alone. Raises UnreachableError with `trouble` where it is not."""
        self.before(effect)
        with self.lock:
            found = self.hosts[effect.host]
            if not found.reachable:
                raise UnreachableError(f"host {effect.host}: {trouble}", "is it up?")
            yield found

    def set_running(self, at: str, name: str, running: bool) -> None:
        """As `virsh suspend` and `virsh resume` do."""
        here = self.hosts[at]
        with self.lock:
            here.domains[name] = replace(here.domains[name], state="running" if running else "paused")
        self._happen(here, name, "resumed" if running else "suspended")

    def reboot(self, name: str = "web") -> None:
        """As a guest does by itself, wherever it runs, its agent silent while it boots; a copy under way goes on."""
        guest, (at,) = self.guests[name], self.running_at(name)
        guest.boot(self.now_s + BOOT_S)
        guest.address = self.leased(at, guest)

    def power_off(self, name: str = "web", state: str = "shut off") -> None:
        """As a guest does by itself, wherever it runs: a copy under way fails. `state`: libvirt's word for it then."""
        with self.lock:
            for here in self.hosts.values():
                if name in here.domains and here.domains[name].running:
                    here.domains[name] = replace(here.domains[name], state=state)
                    here.leaving.pop(name, None)
                    here.fenced.discard(name)  # its tap has gone

    def leased(self, at: str, guest: FakeGuest) -> str:
        """What DHCP gives a guest at a host: its reservation, or else the same as ever."""
        here = self.hosts[at]
        network = here.networks["front"]
        reserved = next((r.address for r in network.reserved if r.mac == guest.mac), "")
        found = reserved or network.subnet.removesuffix("0/24") + str(96 + guest.number)
        here.leases[guest.mac] = found
        return found

    def finish_copies(self) -> None:
        """What libvirt does by itself, whoever began it."""
        for here in self.hosts.values():
            for name in list(here.leaving):
                self.finish_copy(here, name)

    def finish_copy(self, here: FakeHost, name: str, compressed: bool = False) -> None:
        there = self.hosts[here.leaving[name]]
        self._happen(here, name, "suspended")
        with self.lock:
            del here.leaving[name]
            moved = here.domains.pop(name)
            here.autostart.discard(name)
            if name in here.definitions:
                there.definitions[name] = here.definitions.pop(name)
            there.domains[name] = moved
            if there.facts.capabilities.completed_statistics:
                there.arrived[name] = CopyStatistics(120, 9000, (50 if compressed else 150) << 20, 2)
        self._happen(there, name, "resumed")
        if self.unheard:  # what the destination did: libvirt resumes its copy at the source
            here.domains[name] = moved
            self._happen(here, name, "resumed")
            text = f"migration of {name} to {there.facts.hostname} failed: client socket is closed"
            raise CopyError(f"host {here.facts.hostname}: {text}")
        here.fenced.discard(name)  # its tap has gone
        self._happen(here, name, "stopped")

    def _happen(self, where: FakeHost, name: str, event: str) -> None:
        """An event of libvirt's: first an armed host acts, then those are told who watch."""
        with self.lock:
            if event in _TURNS and name in where.armed:
                where.turned.setdefault(name, []).append(self._turned(where, name, _TURNS[event]))
            watching = [see for watched, see in where.watchers if watched == name]
        for see in watching:
            see(event, "0")

    def _turned(self, where: FakeHost, name: str, to: str) -> Turn:
        if to == "guest" and name in where.fenced:
            return Turn(to, self.clock.wall_ns(), 0, trouble="libvirt resumed the guest here; it stays fenced")
        for key in where.armed[name]:
            if key in where.legs:
                where.point(key, to)
        if to == "tunnel":
            where.paused.add(name)
            where.fenced |= {name} & where.leaving.keys()
        return Turn(to, self.clock.wall_ns(), 1500)

    @contextmanager
    def _agent(self, wanted: Host, name: str) -> Iterator[FakeAgent]:
        with self.reached(Effect("agent.open", wanted.name, name), "no answer") as here:
            if name not in here.domains or not here.domains[name].running:
                raise AgentError(f"guest {name}: its agent's channel cannot be opened: not on {wanted.name}")
        yield FakeAgent(self, wanted.name, self.guests[name])

    def __getstate__(self) -> dict[str, Any]:
        """Worlds are copied by tests that go on from one in many ways; a lock cannot be."""
        return {k: v for k, v in self.__dict__.items() if k != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.lock = threading.RLock()


def _guest(name: str, number: int) -> FakeGuest:
    address = f"10.50.1.{96 + number}"
    return FakeGuest(
        name, mac_of(number), number, f"boot-{number}", address, [connection(0xA0 + number, address, willing=True)]
    )
