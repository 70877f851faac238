"""A world in memory with thousands of guests, whose copies take time on links that they share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

from vmacro.drivers.fake.clock import FakeClock
from vmacro.drivers.fake.state import Effect, FakeGuest, FakeHost
from vmacro.drivers.fake.world import FakeWorld
from vmacro.model.events import Event
from vmacro.model.facts import NetworkFacts
from vmacro.ports import World

QUANTUM_S = 0.01
MEMORY_MIB = 1 << 22  # of each host


class Wire:
    """What is between two sites: it carries one thing at a time, in turns, so that those who share it share its speed.
    `busy_s` is how long it has carried something."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self.busy_s = 0.0
        self.began_s = self.ended_s = 0.0

    def carry(self, seconds: float) -> None:
        """Something that takes so long if nobody else is there."""
        left = seconds
        while left > 0:
            with self._turn:
                began = time.monotonic()
                self.began_s = self.began_s or began
                time.sleep(min(QUANTUM_S, left))
                self.ended_s = time.monotonic()
                took = self.ended_s - began
                self.busy_s += took
            left -= took

    @property
    def use(self) -> float:
        """Which share of the time it was busy, from the first to the last that it carried."""
        return self.busy_s / (self.ended_s - self.began_s) if self.ended_s > self.began_s else 0.0


class WideWorld(FakeWorld):
    """Guests are spread over all hosts of the first site; each host has a subnet of its own, of 65,536 addresses. A
    guest's copy keeps the wire between its sites busy for `copy_s`."""

    def __init__(self, sites: Mapping[str, tuple[str, ...]], guests: tuple[str, ...], copy_s: float = 0.0) -> None:
        super().__init__(sites, guests)
        self._copy_s = copy_s
        self._site_of = {host.name: host.site for host in self.inventory.hosts}
        self.wires: dict[tuple[str, ...], Wire] = {}
        for number, (name, host) in enumerate(self.hosts.items()):
            host.networks["front"] = _network(host.networks["front"], number)
            host.facts = replace(host.facts, free_memory_mib=MEMORY_MIB)
            self._base(name)
        self._spread(next(iter(sites.values())))
        self.before = self._wait_for_the_wire

    @contextmanager
    def drivers(self, _settings: object, polite: bool = False) -> Iterator[object]:
        """Instead of wiring.drivers()."""
        yield self.opened

    @contextmanager
    def opened(self, publish: Callable[[Event], None], cancelled: Callable[[], bool]) -> Iterator[World]:
        """A world of its own for each move, with its own clock: waiting is no other's."""
        yield replace(self.world, publish=publish, cancelled=cancelled, clock=FakeClock())

    def user_of(self, address: str, at: FakeHost) -> str:
        """See FakeWorld; asked of thousands."""
        users = (self.guests[name] for name in at.domains)
        return next((g.mac for g in users if address in (*g.present, *g.kept)), "")

    def answers(self, address: str) -> bool:
        """See FakeWorld."""
        number = int(IPv4Address(address)) & 0xFFFF
        found = (g for g in self.guests.values() if g.number == number - 256)
        return any(address in (*g.present, *g.kept) for g in found) or super().answers(address)

    def leased(self, at: str, guest: FakeGuest) -> str:
        """See FakeWorld."""
        network = self.hosts[at].networks["front"]
        reserved = next((r.address for r in network.reserved if r.mac == guest.mac), "")
        found = reserved or str(IPv4Address(self._base(at) + 256 + guest.number))
        self.hosts[at].leases[guest.mac] = found
        return found

    def _base(self, host: str) -> int:
        return int(IPv4Address(self.hosts[host].networks["front"].subnet.partition("/")[0]))

    def _spread(self, homes: tuple[str, ...]) -> None:
        first = self.hosts[homes[0]]
        domains = dict(first.domains)
        first.domains.clear()
        first.leases.clear()
        for number, (name, found) in enumerate(domains.items()):
            guest, home = self.guests[name], homes[number % len(homes)]
            self.hosts[home].domains[name] = found
            before, guest.address = guest.address, ""
            guest.address = self.leased(home, guest)
            guest.connections = [_at(c, before, guest.address) for c in guest.connections]

    def _wait_for_the_wire(self, effect: Effect) -> None:
        if not effect.startswith("copy ") or not self._copy_s:
            return
        here = self.hosts[effect.host]
        ends = {leg.address.partition("/")[0]: leg for leg in here.legs.values() if leg.domain == effect.guest}
        peers = {leg.peer for leg in ends.values()}
        there = next((h for h in self.inventory.hosts if h.address in peers), None)
        pair = tuple(sorted({self._site_of[effect.host], there.site if there is not None else ""}))
        with self.lock:
            wire = self.wires.setdefault(pair, Wire())
        wire.carry(self._copy_s)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a world whose threads wait for wires cannot be copied")


def _network(found: NetworkFacts, number: int) -> NetworkFacts:
    base = f"10.{60 + number}"
    span = (f"{base}.1.0", f"{base}.250.255")
    return replace(found, subnet=f"{base}.0.0/16", gateway=f"{base}.0.1", dhcp_range=span, dhcp_free=250 * 256)


def _at(connection: Any, before: str, after: str) -> Any:
    moved = (replace(s, local=after) if s.local == before else s for s in connection.subflows)
    return replace(connection, subflows=tuple(moved))


def inventory_text(world: FakeWorld, state_dir: str, more: str = "") -> str:
    """A file that names all of it."""
    lines = ["[orchestrator]", f'state_dir = "{state_dir}"', "[policy]", "linger_s = 0", more]
    lines += [f"[guests.{guest.name}]" for guest in world.inventory.guests]
    for site in world.inventory.sites:
        lines += [f"[sites.{site.name}]"]
        for host in site.hosts:
            lines += [f"[hosts.{host.name}]", f'site = "{site.name}"', f'address = "{host.address}"']
            lines += [f'uri = "qemu+tls://{host.name}/system"']
    return "\n".join(lines) + "\n"
