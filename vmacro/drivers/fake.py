"""The world in memory: hosts, a guest with an agent, clients. Certified by tests/contract.

It behaves as the real drivers do as far as services can tell. `before` is called ahead of each
effect with its name, and may raise what a driver would: that is how failures are staged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from vmacro.drivers.fake_agent import FakeAgent, FakeGuest, connection
from vmacro.drivers.fake_disks import FakeDisks, FakeHostDisks, frozen
from vmacro.errors import AgentError, CopyError, HostError, UnreachableError
from vmacro.model.events import Event
from vmacro.model.facts import (
    CopyProgress,
    CopyStatistics,
    Disk,
    DiskCopy,
    DomainFacts,
    HostFacts,
    Leaving,
    Leg,
    LegEnd,
    LinkFacts,
    NetworkFacts,
    Offer,
    Pool,
    Turn,
)
from vmacro.model.nouns import Guest, Host, Inventory, Policy, Site
from vmacro.ports import World


def host(name: str) -> Host:
    uri = f"qemu+tls://{name}/system"
    return Host(name, name, uri, uri, f"10.9.0.{len(name)}", name, "front")


_LINKS = LinkFacts("0.1.0", ("vxlan",), "52:54:00:aa:aa:aa", 1500, 1500, True)


@dataclass
class FakeHost:
    facts: HostFacts
    networks: dict[str, NetworkFacts]
    domains: dict[str, DomainFacts] = field(default_factory=dict)
    arrived: dict[str, CopyStatistics] = field(default_factory=dict)
    reachable: bool = True
    legs: dict[tuple[str, str], LegEnd] = field(default_factory=dict)
    armed: set[str] = field(default_factory=set)
    turned: list[Turn] = field(default_factory=list)
    used: dict[str, str] = field(default_factory=dict)
    links: LinkFacts = _LINKS
    watchers: list[tuple[str, Callable[[str, str], None]]] = field(default_factory=list)
    leaving: dict[str, str] = field(default_factory=dict)
    fenced: set[str] = field(default_factory=set)
    disks: FakeDisks = field(default_factory=FakeDisks)
    pools: tuple[Pool, ...] = (Pool("default", "dir", "/images", 1 << 40, shared=False),)


class FakeWorld:
    """Two sites, bucharest and berlin; guest `web` at the first, with one MPTCP client that follows."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.interrupted = False
        self.unheard = False  # whether the destination's libvirt dies before it has said that the guest runs
        self.events: list[Event] = []
        self.before: Callable[[str], None] = lambda _effect: None
        self.hosts = {"bucharest": _fake_host("bucharest", 1), "berlin": _fake_host("berlin", 2)}
        self.guest = FakeGuest("boot-1", "10.50.1.97", [connection(0xA1, "10.50.1.97", willing=True)])
        self.hosts["bucharest"].domains["web"] = domain()
        sites = tuple(Site(name, (host(name),)) for name in self.hosts)
        self.inventory = Inventory(sites, (Guest("web", "web"),), Policy())

    @property
    def world(self) -> World:
        return World(
            hypervisor=lambda wanted: FakeHypervisor(self, wanted),
            agent=self._agent,
            host_network=lambda wanted: FakeHostNetwork(self, wanted.name),
            host_disks=self._host_disks,
            clock=self,
            publish=self.events.append,
            cancelled=lambda: self.interrupted,
        )

    def give_disk(self) -> None:
        """The guest gets one of its own, as nobody has moved it yet."""
        here = self.hosts["bucharest"]
        disk = Disk("vda", "/images/web.qcow2", True, False, "file", "qcow2")
        here.domains["web"] = replace(here.domains["web"], disks=(disk,))
        here.disks.bases[disk.source] = ""

    def _host_disks(self, wanted: Host) -> FakeHostDisks:
        found = self.hosts[wanted.name]

        def effect(name: str) -> None:
            self.before(f"{name} {wanted.name}")
            if not found.reachable:
                raise UnreachableError(f"host {wanted.name}: no SSH", "is sshd up?")

        return FakeHostDisks(found.disks, wanted.name, effect)

    def running_at(self) -> list[str]:
        return [n for n, h in self.hosts.items() if "web" in h.domains and h.domains["web"].running]

    def finish_copies(self) -> None:
        """What libvirt does by itself, whoever began it."""
        for here in self.hosts.values():
            for domain, name in here.leaving.items():
                there = self.hosts[name]
                self._happen(here, domain, "suspended")
                moved = here.domains.pop(domain)
                there.domains[domain] = moved
                there.arrived[domain] = CopyStatistics(120, 9000, 150 << 20, 2)
                self._happen(there, domain, "resumed")
                if self.unheard:  # what the destination did: libvirt resumes its copy at the source
                    here.domains[domain] = moved
                    self._happen(here, domain, "resumed")
                else:
                    here.fenced.discard(domain)
                    self._happen(here, domain, "stopped")
            here.leaving.clear()
            if self.unheard:
                raise CopyError("host bucharest: migration of web to berlin failed: client socket is closed")

    def _happen(self, where: FakeHost, domain: str, event: str) -> None:
        to = {"suspended": "tunnel", "resumed": "guest"}.get(event)
        if to is not None and domain in where.armed and domain not in where.fenced:
            turn(where, domain, to)
            where.turned.append(Turn(to, self.wall_ns(), 1500))
            where.fenced |= {domain} if event == "suspended" else set()
        for watched, see in list(where.watchers):
            if watched == domain:
                see(event, "0")

    # Clock
    def wall_ns(self) -> int:
        return int(self.now_s * 1e9)

    def monotonic_s(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    @contextmanager
    def _agent(self, wanted: Host, name: str) -> Iterator[FakeAgent]:
        self.before("agent.open")
        found = self.hosts[wanted.name].domains.get(name)
        if found is None or not found.running:
            raise AgentError(f"guest {name}: its agent's channel cannot be opened: not on {wanted.name}")
        yield FakeAgent(self, wanted.name)


class FakeHypervisor:
    """Implements ports.Hypervisor."""

    def __init__(self, world: FakeWorld, wanted: Host) -> None:
        self._world, self._name = world, wanted.name

    def facts(self) -> HostFacts:
        return self._host("facts").facts

    def domain(self, name: str) -> DomainFacts | None:
        host = self._host("domain")
        found = host.domains.get(name)
        return replace(found, migrating=name in host.leaving) if found is not None else None

    def network(self, name: str) -> NetworkFacts | None:
        return self._host("network").networks.get(name)

    def copy(
        self,
        domain: str,
        destination: Host,
        policy: Policy,
        report: Callable[[CopyProgress], None],
        cancelled: Callable[[], bool],
        disks: tuple[str, ...] = (),
    ) -> None:
        here = self._host("copy")
        if domain not in here.domains:
            raise CopyError(f"host {self._name}: no domain {domain}")
        there = self._world.hosts[destination.name]
        missing = [d.source for d in here.domains[domain].disks if d.backing and d.source not in there.disks.overlays]
        if missing or len(disks) != len(here.domains[domain].disks):
            raise CopyError(f"host {self._name}: migration of {domain} failed: {destination.name} lacks {missing}")
        here.leaving[domain] = destination.name  # goes on without us, if we die here
        report(CopyProgress(100, 1 << 28, 1 << 27, 1 << 27, 1, 0.0, 20.0))
        if cancelled() or not there.reachable:
            del here.leaving[domain]
            why = "it was interrupted" if cancelled() else f"{destination.name} does not answer"
            raise CopyError(f"host {self._name}: migration of {domain} failed: {why}")
        self._world.finish_copies()
        self._world.before("copy.done")

    def pools(self) -> tuple[Pool, ...]:
        return self._host("pools").pools

    def freeze(self, domain: str, disks: tuple[DiskCopy, ...]) -> None:
        here = self._host("freeze")
        here.domains[domain] = frozen(here.domains[domain], disks, here.disks)

    def discard(self, domain: str, fenced: bool = False) -> None:
        here = self._host("discard")
        if domain in here.domains and here.domains[domain].running and not fenced:
            raise HostError(f"host {self._name}: domain {domain} runs")
        here.domains.pop(domain, None)

    def statistics(self, domain: str) -> CopyStatistics | None:
        return self._host("statistics").arrived.get(domain)

    def reserve(self, network: str, mac: str, address: str) -> None:
        self._reservations("reserve", network, lambda kept: [*(r for r in kept if r != (address, mac)), (address, mac)])

    def release(self, network: str, mac: str, address: str) -> None:
        self._reservations("release", network, lambda kept: [r for r in kept if r != (address, mac)])

    def _reservations(
        self, effect: str, network: str, change: Callable[[list[tuple[str, str]]], list[tuple[str, str]]]
    ) -> None:
        host = self._host(effect)
        found = host.networks[network]
        reserved = tuple(change(list(found.reserved)))
        leases = tuple(t for t in found.taken if t not in found.reserved)
        host.networks[network] = replace(found, reserved=reserved, taken=(*leases, *reserved))

    @contextmanager
    def watch(self, domain: str, see: Callable[[str, str], None]) -> Iterator[None]:
        watchers = self._host("watch").watchers
        watchers.append((domain, see))
        try:
            yield
        finally:
            watchers.remove((domain, see))

    def _host(self, effect: str) -> FakeHost:
        self._world.before(f"{effect} {self._name}")
        found = self._world.hosts[self._name]
        if not found.reachable:
            raise UnreachableError(f"host {self._name}: no answer", "is it up?")
        return found


class FakeHostNetwork:
    """Implements ports.HostNetwork."""

    def __init__(self, world: FakeWorld, name: str) -> None:
        self._world, self._name = world, name

    def facts(self, bridge: str, peer: str, probe: str) -> LinkFacts:
        host = self._host("facts")
        return replace(host.links, used_by=host.used.get(probe, ""), legs=tuple(host.legs.values()))

    def open(self, leg: Leg) -> Offer:
        side = "home" if leg.home.name == self._name else "away"
        bridge, peer = (leg.home_bridge, leg.away) if side == "home" else (leg.away_bridge, leg.home)
        end = LegEnd(
            side, leg.kind, leg.move_id, leg.domain, leg.address, leg.mac, bridge, peer.address, points_to="guest"
        )
        self._host("open").legs.setdefault((leg.move_id, leg.address), end)
        return Offer()

    def join(self, leg: Leg, far: Offer) -> None:
        self._host("join")

    def arm(self, domain: str) -> None:
        self._host("arm").armed.add(domain)

    def turned(self) -> tuple[Turn, ...]:
        host = self._host("turned")
        told, host.turned = tuple(host.turned), []
        return told

    def turn(self, domain: str, to_guest: bool) -> None:
        host = self._host("turn")
        turn(host, domain, "guest" if to_guest else "tunnel")
        if to_guest:
            host.fenced.discard(domain)

    def leaving(self, domain: str) -> Leaving:
        host = self._host("leaving")
        if domain in host.fenced:
            return Leaving.FENCED
        return Leaving.STAYED if domain in host.armed else Leaving.UNKNOWN

    def point(self, leg: Leg, to_guest: bool) -> None:
        legs, key = self._host("point").legs, (leg.move_id, leg.address)
        if key not in legs:
            raise HostError(f"host {self._name}: its side refused 'point': no such leg")
        legs[key] = replace(legs[key], points_to="guest" if to_guest else "tunnel")

    def close(self, move_id: str, address: str = "") -> None:
        host = self._host("close")
        host.legs = {k: e for k, e in host.legs.items() if k[0] != move_id or address not in ("", k[1])}

    def _host(self, effect: str) -> FakeHost:
        self._world.before(f"link.{effect} {self._name}")
        found = self._world.hosts[self._name]
        if not found.reachable:
            raise UnreachableError(f"host {self._name}: no SSH", "is sshd up?")
        return found


def turn(host: FakeHost, domain: str, to: str) -> None:
    """All the domain's legs that end there."""
    host.legs = {k: replace(e, points_to=to) if e.domain == domain else e for k, e in host.legs.items()}


def domain(accelerator: str = "kvm") -> DomainFacts:
    return DomainFacts(
        "web", "uuid-1", "running", "1", True, accelerator, "pc-q35-10.0", 256, "52:54:00:00:00:01", "front", (), True
    )


def _fake_host(name: str, number: int) -> FakeHost:
    facts = HostFacts(name, "QEMU", (10, 0, 0), (11, 3, 0), 8192, ("pc-q35-10.0",))
    subnet = f"10.50.{number}"
    span = (f"{subnet}.10", f"{subnet}.109")
    network = NetworkFacts("front", True, "front0", False, 0.0, f"{subnet}.0/24", f"{subnet}.1", span, 100)
    return FakeHost(facts, {"front": network})
