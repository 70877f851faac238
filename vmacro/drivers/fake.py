"""The world in memory: hosts, a guest with an agent, clients. Certified by tests/contract.

It behaves as the real drivers do as far as services can tell. `before` is called ahead of each
effect with its name, and may raise what a driver would: that is how failures are staged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from vmacro.errors import AgentError, CopyError, UnreachableError
from vmacro.model.events import Event
from vmacro.model.facts import (
    AgentFacts,
    Arrival,
    Connection,
    CopyProgress,
    CopyStatistics,
    DomainFacts,
    HostFacts,
    NetworkFacts,
    Subflow,
)
from vmacro.model.nouns import Guest, Host, Inventory, Policy, Site
from vmacro.ports import World


def host(name: str) -> Host:
    uri = f"qemu+tls://{name}/system"
    return Host(name, name, uri, uri, f"10.9.0.{len(name)}", name, "front")


@dataclass
class FakeHost:
    facts: HostFacts
    networks: dict[str, NetworkFacts]
    domains: dict[str, DomainFacts] = field(default_factory=dict)
    arrived: dict[str, CopyStatistics] = field(default_factory=dict)
    reachable: bool = True
    watchers: list[tuple[str, Callable[[str, str], None]]] = field(default_factory=list)


@dataclass
class FakeGuest:
    """What is in the guest, wherever it runs."""

    boot_id: str
    address: str
    connections: list[Connection]
    kept: list[str] = field(default_factory=list)
    last: Arrival | None = None
    answers: bool = True


class FakeWorld:
    """Two sites, bucharest and berlin; guest `web` at the first, with one MPTCP client that follows."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.interrupted = False
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
            clock=self,
            publish=self.events.append,
            cancelled=lambda: self.interrupted,
        )

    def running_at(self) -> list[str]:
        return [n for n, h in self.hosts.items() if "web" in h.domains and h.domains["web"].running]

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
        return self._host("domain").domains.get(name)

    def network(self, name: str) -> NetworkFacts | None:
        return self._host("network").networks.get(name)

    def copy(
        self,
        domain: str,
        destination: Host,
        policy: Policy,
        report: Callable[[CopyProgress], None],
        cancelled: Callable[[], bool],
    ) -> None:
        here = self._host("copy")
        if domain not in here.domains:
            raise CopyError(f"host {self._name}: no domain {domain}")
        there = self._world.hosts[destination.name]
        report(CopyProgress(100, 1 << 28, 1 << 27, 1 << 27, 1, 0.0, 20.0))
        if cancelled():
            raise CopyError(f"host {self._name}: migration of {domain} failed: it was interrupted")
        if not there.reachable:
            raise CopyError(f"host {self._name}: migration of {domain} failed: {destination.name} does not answer")
        self._tell(here, domain, "suspended")
        there.domains[domain] = here.domains.pop(domain)
        there.arrived[domain] = CopyStatistics(120, 9000, 150 << 20, 2)
        self._tell(there, domain, "resumed")
        self._tell(here, domain, "stopped")
        self._world.before("copy.done")

    def statistics(self, domain: str) -> CopyStatistics | None:
        return self._host("statistics").arrived.get(domain)

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

    def _tell(self, where: FakeHost, domain: str, event: str) -> None:
        for watched, see in list(where.watchers):
            if watched == domain:
                see(event, "0")


class FakeAgent:
    """Implements ports.Agent."""

    def __init__(self, world: FakeWorld, place: str) -> None:
        self._world, self._place = world, place

    def status(self) -> AgentFacts:
        guest = self._guest("status")
        return AgentFacts("0.1.0", guest.boot_id, "6.12", "web", 60.0, "52:54:00:00:00:01", guest.address, "10.50.1.1")

    def connections(self) -> tuple[Connection, ...]:
        return tuple(self._guest("connections").connections)

    def consent(self, timeout_ms: int) -> tuple[Connection, ...]:
        return tuple(self._guest("consent").connections)

    def arrive(self, left: str) -> Arrival:
        guest = self._guest("arrive")
        if guest.last is not None and (guest.last.old, guest.last.new) == (left, guest.address):
            return guest.last
        new = {"bucharest": "10.50.1.97", "berlin": "10.50.2.97"}[self._place]
        guest.last = Arrival("channel", guest.address, new, new.rpartition(".")[0] + ".1", 2, 300, 400)
        if new != guest.address:
            guest.kept.append(guest.address)
            guest.address = new
            guest.connections = [_joined(c, new) if c.willing else c for c in guest.connections]
        return guest.last

    def retire(self, address: str) -> None:
        guest = self._guest("retire")
        guest.kept = [a for a in guest.kept if a != address]
        guest.connections = [
            replace(c, subflows=tuple(s for s in c.subflows if s.local != address) or c.subflows)
            for c in guest.connections
        ]

    def _guest(self, verb: str) -> FakeGuest:
        self._world.before(f"agent.{verb}")
        if not self._world.guest.answers:
            self._world.sleep(5)
            raise AgentError("guest web: its agent does not answer")
        return self._world.guest


def connection(token: int, local: str, willing: bool) -> Connection:
    """With one subflow, from a client at 10.9.0.14."""
    return Connection(token, (Subflow(local, 7000, "10.9.0.14", 40000 + token, False, False, True),), willing)


def domain(accelerator: str = "kvm") -> DomainFacts:
    return DomainFacts(
        "web", "uuid-1", "running", "1", True, accelerator, "pc-q35-10.0", 256, "52:54:00:00:00:01", "front", (), True
    )


def _joined(found: Connection, address: str) -> Connection:
    first = found.subflows[0]
    return replace(found, subflows=(*found.subflows, replace(first, local=address, joined=True)))


def _fake_host(name: str, number: int) -> FakeHost:
    facts = HostFacts(name, "QEMU", (10, 0, 0), (11, 3, 0), 8192, ("pc-q35-10.0",))
    subnet = f"10.50.{number}"
    span = (f"{subnet}.10", f"{subnet}.109")
    network = NetworkFacts("front", True, "front0", False, 0.0, f"{subnet}.0/24", f"{subnet}.1", span, 100)
    return FakeHost(facts, {"front": network})
