"""What the services need of the world. Drivers implement these; drivers/fake is the world in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar

from vmacro.fleet.feeds import Feed, FeedText, Format
from vmacro.model.definitions import Definition, Fit
from vmacro.model.events import Event, What
from vmacro.model.facts import (
    AgentFacts,
    Arrival,
    BaseFacts,
    Connection,
    CopyProgress,
    CopyStatistics,
    CountArgs,
    Counts,
    DiskCopy,
    DomainFacts,
    Endings,
    Fetching,
    FileFacts,
    Heard,
    HookEnd,
    HostFacts,
    Leaving,
    Leg,
    LinkFacts,
    NetworkFacts,
    Offer,
    Pool,
    Reach,
    Reservation,
    Tracked,
    Turn,
    Watched,
)
from vmacro.model.filters import Filters
from vmacro.model.names import NameFacts
from vmacro.model.nouns import Host, Inventory, Policy
from vmacro.wire.taken_verbs import Taken, Taking

Result = TypeVar("Result")


class Clock(Protocol):
    """Time, so that tests need not wait for it."""

    def wall_ns(self) -> int:
        """CLOCK_REALTIME: what people and other machines call now. It may jump."""

    def monotonic_s(self) -> float:
        """CLOCK_MONOTONIC, for deadlines."""

    def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""


class Feeds(Protocol):
    """Files of others, fetched where a policy says from where."""

    def read(
        self, name: str, feed: Feed, format: Format, begin: datetime, end: datetime, see: Callable[[FeedText], object]
    ) -> FeedText:
        """One of them; `name` is for messages, the times are those that are wanted. What was fetched takes the place of
        the file only if `see` raises no SignalError. Raises SignalError."""


class Hypervisor(Protocol):
    """The hypervisor of one host. Every method raises HostError (UnreachableError, UntrustedError)."""

    def facts(self) -> HostFacts:
        """What the host is, and what it has."""

    def domain(self, name: str) -> DomainFacts | None:
        """A domain, running or not; None if the host does not know it."""

    def definition(self, name: str) -> Definition | None:
        """What a domain names on its host, and what libvirt keeps beside it; None if the host does not know it."""

    def fit(self, name: str, uuid: str, wanted: Definition) -> Fit:
        """What this host's libvirt has of what a domain needs that may come here."""

    def filters(self, domain: str) -> Filters:
        """What the network filters of a running domain's cards hold them to, by this host's filters as they are now.
        Raises HostError if there is no such domain."""

    def network(self, name: str) -> NetworkFacts | None:
        """A virtual network; None if there is none of this name."""

    def networks(self) -> tuple[str, ...]:
        """The names of all virtual networks that are active."""

    def copy(
        self,
        domain: str,
        destination: Host,
        policy: Policy,
        report: Callable[[CopyProgress], None],
        cancelled: Callable[[], bool],
        disks: tuple[str, ...] = (),
    ) -> None:
        """Migrate live, peer to peer; return when the guest runs there. `disks`: targets whose overlays move with it.
        If a migration is under way already, begun by an orchestrator that is gone, that one is followed instead. Raises
        CopyError if it fails, or if `cancelled` becomes true before its end."""

    def measure(self, domain: str) -> bool:
        """Begin to measure how fast a running domain changes its memory. False where that cannot be, or is done."""

    def dirty_mib_s(self, domain: str) -> float | None:
        """What measure() has found a second later, in whole MiB/s; waited for. None where that takes too long."""

    def pools(self) -> tuple[Pool, ...]:
        """All active storage pools."""

    def freeze(self, domain: str, disks: tuple[DiskCopy, ...]) -> None:
        """Have the guest write to overlays from now on; its bases are frozen. Idempotent."""

    def discard(self, domain: str, fenced: bool = False, uuid: str = "") -> None:
        """Remove the paused remains that a migration has left here of a domain that runs elsewhere. One of another
        UUID is none of it, and stays; '': any. Raises HostError if it runs here, unless it is known to be fenced.
        Idempotent."""

    def set_autostart(self, domain: str) -> None:
        """Have the host start a persistent domain whenever it starts itself. Raises HostError if there is none.
        Idempotent."""

    def statistics(self, domain: str) -> CopyStatistics | None:
        """Figures of the migration that brought this domain here; None if libvirt has none any more."""

    def reserve(self, network: str, wanted: Reservation) -> None:
        """Reserve an address in DHCP, at once and until release(). One for the same card and address is left as it is,
        whatever its name. Raises HostError if there is no such network, TakenError if address, MAC or name has another
        reservation: of two that ask at once, one gets it. Idempotent."""

    def release(self, network: str, made: Reservation) -> None:
        """Remove the reservation that is the same in all: address, MAC and name. Idempotent."""

    def watch(self, domain: str, see: Callable[[str, str], None]) -> AbstractContextManager[None]:
        """Call see(event, detail) for each lifecycle event, with libvirt's names in lower case."""


class HostNetwork(Protocol):
    """Legs, turns, fences of a host, by its host side. All may be repeated, and raise HostError (UnknownVerbError)."""

    def facts(self, bridge: str, peer: str, probe: str, mac: str = "", devices: tuple[str, ...] = ()) -> LinkFacts:
        """Of a host's links. `bridge`: of its guests' network; `peer`: the other host's address, for the path's MTU;
        `probe`, `mac`: who on the bridge has them, '' for neither; `devices`: whether they exist."""

    def open(self, leg: Leg) -> Offer:
        """Open this host's end of a leg. Returns what the other end must know."""

    def join(self, leg: Leg, far: Offer) -> None:
        """Tell this host's end what the other end has offered."""

    def arm(self, domain: str) -> None:
        """From now on, as long as the session lasts, the host turns the domain's legs by its own libvirt's events."""

    def widen(self, move_id: str, peer: str) -> None:
        """Until narrow(), connections to another host, by its address, begin with a large window, so that a pause is
        not spent on TCP's slow start."""

    def narrow(self, move_id: str) -> None:
        """Take back what was widened for a move."""

    def turned(self, domain: str) -> tuple[Turn, ...]:
        """Turns of a domain's legs since the last call, oldest first."""

    def turn(self, domain: str, to_guest: bool) -> None:
        """Turn all legs of a domain that end here, to the guest, whose fence is lifted then, or into the tunnels."""

    def leaving(self, domain: str) -> Leaving:
        """What became of a domain that was to leave. An armed host fences it as it pauses for its move, against a
        libvirt that resumes it although it runs elsewhere."""

    def point(self, leg: Leg, to_guest: bool) -> None:
        """Turn one leg, to the guest or into its tunnel."""

    def close(self, move_id: str, address: str = "") -> None:
        """Close all legs of a move that end here, or only the one for an address."""

    def flows(self, addresses: tuple[str, ...]) -> Tracked:
        """Flows of datagrams from and to addresses of a guest, MOST_ASKED at most, as the host's kernel tracks them."""

    def taken(self, wanted: Taking) -> Taken:
        """Of what a guest would take of the host, what is in use there already."""

    def reach(self, asked: Reach) -> tuple[Heard, ...]:
        """Send packets to addresses, and tell who has answered since they were first asked for under that name. Returns
        at once: ask again for what comes later."""


class HostDisks(Protocol):
    """Disks of guests on one host, by its host side. Every method raises HostError as HostNetwork's do."""

    def files(self, paths: tuple[str, ...]) -> tuple[FileFacts, ...]:
        """What is at each of these paths; those that nobody could look at are left out."""

    def look(self, disk: DiskCopy) -> BaseFacts:
        """What this host has of a disk."""

    def serve(self, disk: DiskCopy, reader: Host) -> int:
        """Let one other host read its base, until stop(). Returns the TCP port."""

    def fetch(self, disk: DiskCopy, source: Host, port: int, bytes_s: int) -> None:
        """Begin to copy its base from a host that serves it. `bytes_s`: limit in bytes per second; 0: none."""

    def fetched(self, disk: DiskCopy) -> Fetching:
        """How far fetch() has come."""

    def create_overlay(self, disk: DiskCopy) -> None:
        """Make an empty overlay for a guest that is about to arrive. Raises HostError if the overlay is in use."""

    def stop(self, disk: DiskCopy, drop_overlay: bool = False) -> None:
        """End serving and fetching here. An incomplete base is removed, a complete one is kept."""

    def remove(self, disk: DiskCopy) -> None:
        """Remove base and overlay of a guest that has left."""


class AgentStream(Protocol):
    """Bytes to and from a guest's agent. Deadlines are times of time.monotonic(); whatever a guest sends or does not
    send, no call lasts longer than its own."""

    def send(self, data: bytes, deadline_s: float) -> None:
        """Send all of it. Raises TimeoutError at the deadline, AgentError if the stream broke."""

    def recv(self, deadline_s: float) -> bytes:
        """Receive what has come, at least one byte. Raises TimeoutError at the deadline, AgentError if the stream
        ended."""


class AgentTransport(Protocol):
    """A way to guests' agents that uses no network of the guests."""

    def open(self, host: Host, domain: str) -> AbstractContextManager[AgentStream]:
        """A stream of its own, closed with the context. Raises AgentError, HostError."""


class Agent(Protocol):
    """The guest's agent. Every method raises AgentError."""

    def status(self) -> AgentFacts:
        """What the agent knows of its guest."""

    def claim(self, move_id: str, by: str, seconds: float) -> None:
        """Claim the guest for a move, until release() or for so many seconds. Raises AgentError (code claimed) while
        another move has it. If the guest has not moved when the claim ends, what was announced for the move is
        withdrawn."""

    def release(self, move_id: str) -> None:
        """End a move's claim. Another move's claim stays. Idempotent."""

    def connections(self) -> tuple[Connection, ...]:
        """Connections to the guest's servers, each with its subflows."""

    def all_connections(self) -> tuple[Connection, ...]:
        """As connections(), by pages: all of one moment, 65,536 at most. Agents of older vmacros do not know this
        (AgentError, code bad-verb)."""

    def consent(self, timeout_ms: int) -> tuple[Connection, ...]:
        """As connections(), after trying out whether the clients join an announced address, if that is not known.
        Raises AgentError: no-lease, full, or claimed as long as a move has the guest."""

    def watch(self) -> Watched:
        """As connections(), and from now on the guest's kernel is listened to: endings() tells what becomes of them. A
        watch that is under way goes on, of these connections too."""

    def endings(self) -> Endings:
        """How connections have ended since the watch began that is under way: of those watched all, of younger ones
        those that the move may have ended."""

    def count(self, args: CountArgs) -> Counts:
        """How many connections there are, and what became of those watched, without telling of each: see
        CountArgs."""

    def prepare(self, address: str, address6: str = "") -> None:
        """Take the new addresses, too, and announce them as backup, so that clients join while the guest is at the
        source."""

    def arrive(self, left: str) -> Arrival:
        """Ask DHCP at the new site and announce the new address, unless done already. `left`: the address before the
        move."""

    def retire(self, address: str, force: bool = False) -> bool:
        """Withdraw an address from connections that also use the present one. True: no connection needs it any more,
        and it is gone. False: it stays, for connections that cannot follow; `force` cuts these."""

    def drop_page_cache(self) -> int:
        """Have the guest's kernel forget what it keeps of files that are as its disk has them. Returns how many MiB of
        its memory are free besides. An older agent does not know this (code bad-verb)."""

    def publish(self, address: str, public: str) -> None:
        """From now on announce `public` in the place of an address: what clients know it as. Idempotent."""


class Names(Protocol):
    """The authoritative name server of guests' names. Every method raises NamesError; ConfigurationError where there is
    no server, or its key cannot be used."""

    def look(self, name: str) -> NameFacts:
        """What it has for a name; nothing, where it has no such name. Raises NamesError also for a name that leads to
        another one."""

    def replace(self, seen: NameFacts, wanted: tuple[str, ...]) -> bool:
        """Set a name's A and AAAA to the `wanted` addresses, with the TTLs that were `seen`, at once and only if they
        are still what was seen. False: somebody else has changed them, and nothing was done. With what was seen as
        `wanted` it changes nothing, and raises as any other change would."""


class Hooks(Protocol):
    """The operator's own executables."""

    def run(self, path: str, told: str, deadline_s: float) -> HookEnd:
        """Run one, with `told` on its standard input and nothing of our environment, until it has ended; at the
        deadline it is ended, with all of its process group. Raises HookError where it cannot be run, or may not be,
        since others could write to it."""


class EventLog(Protocol):
    """All events of all moves, written as they happen and never changed. Several processes append to one log."""

    def append(self, event: Event) -> None:
        """Add an event. Returns at once, and raises nothing if the event cannot be written. May be called from any
        thread, and from a signal handler."""

    def read(self, move_id: str = "", after: int = 0) -> list[tuple[int, Event]]:
        """Those of a move, or all, in the order in which they were written, each with its number; only those whose
        number is larger than `after`, and of many the first ones (event_log.MOST_READ). Raises JournalError."""


class Claim(Protocol):
    """That something is this process's alone, such as a guest to move."""

    def still(self) -> None:
        """Wait until that is sure. Raises TakenOverError once another process has had it."""

    def see(self) -> None:
        """Raises TakenOverError where that is known already; asks nobody."""


class Unshared:
    """Implements Claim for what nobody can take."""

    def still(self) -> None:
        """See Claim."""

    def see(self) -> None:
        """See Claim."""


class SideBySide(Protocol):
    """Asks several parties independently of each other."""

    def __call__(self, questions: Sequence[Callable[[], Result]], within_s: float) -> list[Result | None]:
        """The answers, in the order of the questions; None where one took longer than `within_s` seconds.
        Raises what a question raised."""


def one_by_one(questions: Sequence[Callable[[], Result]], within_s: float) -> list[Result | None]:
    """Implements SideBySide where the order of effects must not depend on threads; each answer is in time."""
    return [ask() for ask in questions]


@dataclass(frozen=True)
class World:
    """All ports together, and the `inventory` that says which hosts and guests there are. Those to hosts and guests
    open on demand, which may raise what their methods raise. `claim`: on the guest that is moved."""

    hypervisor: Callable[[Host], Hypervisor]
    agent: Callable[[Host, str], AbstractContextManager[Agent]]
    host_network: Callable[[Host], HostNetwork]
    host_disks: Callable[[Host], HostDisks]
    clock: Clock
    publish: Callable[[Event], None]
    inventory: Inventory
    cancelled: Callable[[], bool] = lambda: False
    side_by_side: SideBySide = one_by_one
    names: Names = field(kw_only=True)
    hooks: Hooks = field(kw_only=True)
    claim: Claim = field(default=Unshared(), kw_only=True)
    beside: Callable[[Host], Hypervisor] | None = field(default=None, kw_only=True)

    def hypervisor_beside(self, host: Host) -> Hypervisor:
        """By a connection of its own, for what is asked meanwhile: no two threads share one (drivers/libvirt)."""
        return (self.beside or self.hypervisor)(host)

    def tell(self, move_id: str, what: What) -> None:
        """Publish what has just happened; '' where it concerns no move."""
        self.publish(Event(move_id, self.clock.wall_ns(), what))
