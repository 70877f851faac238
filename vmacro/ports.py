"""What the services need of the world. Drivers implement these; drivers/fake.py is the world in memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from vmacro.model.events import Event, Value
from vmacro.model.facts import (
    AgentFacts,
    Arrival,
    Connection,
    CopyProgress,
    CopyStatistics,
    DomainFacts,
    HostFacts,
    NetworkFacts,
)
from vmacro.model.nouns import Host, Policy


class Clock(Protocol):
    def wall_ns(self) -> int: ...

    def monotonic_s(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class Hypervisor(Protocol):
    """One host's. Every method raises HostError (UnreachableError, UntrustedError)."""

    def facts(self) -> HostFacts: ...

    def domain(self, name: str) -> DomainFacts | None: ...

    def network(self, name: str) -> NetworkFacts | None: ...

    def copy(
        self,
        domain: str,
        destination: Host,
        policy: Policy,
        report: Callable[[CopyProgress], None],
        cancelled: Callable[[], bool],
    ) -> None:
        """Migrate live, peer to peer; returns when the guest runs there. Raises CopyError, also where
        `cancelled` became true before that."""

    def statistics(self, domain: str) -> CopyStatistics | None:
        """Of the migration that brought this domain here."""

    def watch(self, domain: str, see: Callable[[str, str], None]) -> AbstractContextManager[None]:
        """Call see(event, detail) for each lifecycle event, with libvirt's names in lower case."""


class Agent(Protocol):
    """The guest's agent. Every method raises AgentError."""

    def status(self) -> AgentFacts: ...

    def connections(self) -> tuple[Connection, ...]: ...

    def consent(self, timeout_ms: int) -> tuple[Connection, ...]:
        """As connections(), after asking those clients whose consent is unknown."""

    def arrive(self, left: str) -> Arrival:
        """Renew DHCP and announce, if that is not done yet; `left` is the address before the move."""

    def retire(self, address: str) -> None:
        """Withdraw an address that the guest had."""


@dataclass(frozen=True)
class World:
    """All ports together. `hypervisor` and `agent` open on demand and may raise as their methods do."""

    hypervisor: Callable[[Host], Hypervisor]
    agent: Callable[[Host, str], AbstractContextManager[Agent]]
    clock: Clock
    publish: Callable[[Event], None]
    cancelled: Callable[[], bool] = lambda: False

    def tell(self, move_id: str, kind: str, text: str, **data: Value) -> None:
        self.publish(Event(move_id, self.clock.wall_ns(), kind, text, data))
