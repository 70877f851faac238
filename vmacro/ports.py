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
    BaseFacts,
    Connection,
    CopyProgress,
    CopyStatistics,
    DiskCopy,
    DomainFacts,
    Fetching,
    HostFacts,
    Leaving,
    Leg,
    LinkFacts,
    NetworkFacts,
    Offer,
    Pool,
    Turn,
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
        disks: tuple[str, ...] = (),
    ) -> None:
        """Migrate live, peer to peer; returns when the guest runs there. `disks`: targets whose overlays go along.
        A migration that is under way already, begun by somebody who is gone, is followed instead. Raises CopyError,
        also where `cancelled` became true before that."""

    def pools(self) -> tuple[Pool, ...]: ...

    def freeze(self, domain: str, disks: tuple[DiskCopy, ...]) -> None:
        """Have the guest write to overlays from now on, and its bases frozen. Idempotent."""

    def discard(self, domain: str, fenced: bool = False) -> None:
        """Remove the paused remains that a migration left here of a domain that runs elsewhere. Raises HostError
        where it runs, unless it is known to be fenced. Idempotent."""

    def statistics(self, domain: str) -> CopyStatistics | None:
        """Of the migration that brought this domain here."""

    def reserve(self, network: str, mac: str, address: str) -> None:
        """A DHCP reservation, at once and for good. Idempotent."""

    def release(self, network: str, mac: str, address: str) -> None:
        """Undo reserve(). Idempotent."""

    def watch(self, domain: str, see: Callable[[str, str], None]) -> AbstractContextManager[None]:
        """Call see(event, detail) for each lifecycle event, with libvirt's names in lower case."""


class HostNetwork(Protocol):
    """The host side of one host. Every method raises HostError; all but facts may be repeated."""

    def facts(self, bridge: str, peer: str, probe: str) -> LinkFacts:
        """`probe`: an address of which to find out who uses it, or ''."""

    def open(self, leg: Leg) -> Offer:
        """This host's end of a leg."""

    def join(self, leg: Leg, far: Offer) -> None: ...

    def arm(self, domain: str) -> None:
        """From now on the host turns the domain's legs by its own libvirt's events, while this is open."""

    def turned(self) -> tuple[Turn, ...]:
        """What events did since the last question."""

    def turn(self, domain: str, to_guest: bool) -> None:
        """All legs of a domain that end here; to the guest, its fence is gone as well."""

    def leaving(self, domain: str) -> Leaving:
        """What became of a domain that was to leave. An armed host cuts it off as it pauses for that, so that it
        harms nobody if libvirt resumes it though it runs elsewhere."""

    def point(self, leg: Leg, to_guest: bool) -> None: ...

    def close(self, move_id: str, address: str = "") -> None:
        """All legs of a move that end here, or its one of an address."""


class HostDisks(Protocol):
    """Disks of guests on one host. Every method raises HostError and may be repeated."""

    def look(self, disk: DiskCopy) -> BaseFacts: ...

    def serve(self, disk: DiskCopy) -> int:
        """Let the other hosts read its base, until stop(); returns the port."""

    def fetch(self, disk: DiskCopy, source: Host, port: int, bytes_s: int) -> None:
        """Begin to copy its base from a host that serves it, at so many bytes a second at most (0: any)."""

    def fetched(self, disk: DiskCopy) -> Fetching: ...

    def lay(self, disk: DiskCopy) -> None:
        """A fresh overlay for a guest that is about to come. Raises HostError where somebody has it open."""

    def stop(self, disk: DiskCopy, drop_overlay: bool = False) -> None:
        """End what runs for it here; what is half done is removed, a whole base stays."""

    def remove(self, disk: DiskCopy) -> None:
        """All of it, where the guest is no more."""


class Agent(Protocol):
    """The guest's agent. Every method raises AgentError."""

    def status(self) -> AgentFacts: ...

    def claim(self, move_id: str, by: str, seconds: float) -> None:
        """Have the guest for a move, until release() or for so long. Raises AgentError (code claimed) while another
        move has it. What was announced for a move ends with its claim, if the guest never came."""

    def release(self, move_id: str) -> None:
        """Idempotent; another move's claim stays."""

    def connections(self) -> tuple[Connection, ...]: ...

    def consent(self, timeout_ms: int) -> tuple[Connection, ...]:
        """As connections(), after asking those clients whose consent is unknown."""

    def prepare(self, address: str, address6: str = "") -> None:
        """Answer for the addresses to come, and announce them as backup: clients join while the guest is at home."""

    def arrive(self, left: str) -> Arrival:
        """Renew DHCP and announce, if that is not done yet; `left` is the address before the move."""

    def retire(self, address: str, force: bool = False) -> bool:
        """Withdraw an address from connections that use the present one too. True: nobody needs it any more,
        and it is gone. False: it stays, for connections that cannot follow; `force` cuts them."""


@dataclass(frozen=True)
class World:
    """All ports together; what reaches hosts and guests opens on demand, and may raise as its methods do."""

    hypervisor: Callable[[Host], Hypervisor]
    agent: Callable[[Host, str], AbstractContextManager[Agent]]
    host_network: Callable[[Host], HostNetwork]
    host_disks: Callable[[Host], HostDisks]
    clock: Clock
    publish: Callable[[Event], None]
    cancelled: Callable[[], bool] = lambda: False

    def tell(self, move_id: str, kind: str, text: str, **data: Value) -> None:
        self.publish(Event(move_id, self.clock.wall_ns(), kind, text, data))
