"""What an operator's inventory speaks of. Its bounds hold for what a journal says of it; an inventory has its own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, TypedDict

from vmacro.wire.fields import Address, Items, Number, Text, Word

_Name = Annotated[str, Word()]
_Machine = Annotated[str, Text(253)]
Subnet = Annotated[str, Text(50)]
_Uri = Annotated[str, Text(2000)]
_Milliseconds = Annotated[int, Number(0, 600_000)]
_Address = Annotated[str, Address()]
MOST_PUBLIC = 4096
_Seconds = Annotated[float, Number(0, 366 * 86_400)]
MOST_NAMES = MOST_ADDRESSES = 16  # of a guest


class Compression(StrEnum):
    """Of the memory that a copy sends; auto: as its link is (planning/compression.py)."""

    AUTO = "auto"
    OFF = "off"
    ZSTD = "zstd"


XEN_STARTING_S = 45.0
MOST_JOIN_S = 60.0  # that a move waits for its guest's clients, as long as they come


@dataclass(frozen=True)
class Host:
    """A machine that runs guests. `uri` is how the orchestrator reaches its libvirt, `peer_uri` how the other hosts do;
    `address` is where they send migration data; `tls_name` is the name in its certificate; `network` is the libvirt
    network that guests attach to; `ssh` is USER@ADDRESS of its host side, '' where it has none; `subnet` and `subnet6`
    are those of its guests, '' where the inventory says nothing. `plain_tunnel`: its path to other hosts that say so is
    private, and legs between them need no encryption. `guard`: it holds its guests to their own addresses.
    Clients elsewhere know those in its `subnet` as the ones at the same places of `public_subnet`, or as
    the pairs of `public` say."""

    name: _Name
    site: _Name
    uri: _Uri
    peer_uri: _Uri
    address: _Machine
    tls_name: _Machine
    network: _Machine
    memory_reserve_mib: int = 0
    ssh: _Uri = ""
    subnet: Subnet = ""
    subnet6: Subnet = ""
    plain_tunnel: bool = False
    guard: bool = False
    public_subnet: Subnet = ""
    public: Annotated[tuple[tuple[_Address, _Address], ...], Items(MOST_PUBLIC)] = ()

    @property
    def starting_s(self) -> float:
        """How long its host side may take to start, before its first answer. Xen's first domain often has one
        processor, and gets less of that the more its guests ask of it."""
        return XEN_STARTING_S if self.uri.startswith("xen") else 0.0


@dataclass(frozen=True)
class Site:
    """One place with its own guest subnet, and the hosts that each route it, or a part of it. `anti_spoofing`: its
    network drops packets with sources that are not its own (RFC 2827)."""

    name: str
    hosts: tuple[Host, ...]
    anti_spoofing: bool = False


@dataclass(frozen=True)
class ProbeTarget:
    """Where and from which prober a guest's round trips are measured while it moves. `address` is the name that
    clients use, empty for whatever address the guest has. `visit_every_ms`: from one new connection to the next; 0 for
    none."""

    prober: _Name
    port: Annotated[int, Number(1, 65_535)] = 7000
    mptcp: bool = True
    interval_ms: Annotated[float, Number(1, 60_000)] = 10.0
    address: _Machine = ""
    visit_every_ms: Annotated[float, Number(0, 60_000)] = 0.0


@dataclass(frozen=True)
class Guest:
    """A virtual machine that may move; `domain` is libvirt's name for it. `names` are those in DNS that lead to it, and
    follow it. `taken_as_reached`: addresses of which its operator knows better than the hosts that ask for them."""

    name: _Name
    domain: _Machine
    probe: ProbeTarget | None = None
    names: Annotated[tuple[_Machine, ...], Items(MOST_NAMES)] = ()
    taken_as_reached: Annotated[tuple[_Address, ...], Items(MOST_ADDRESSES)] = ()


@dataclass(frozen=True)
class Policy:
    """Bounds of a move, with their defaults. The end of a name is its unit: MiB/s, milliseconds, seconds. What each one
    means, and its limits, stand where users give them: limits.Policy, and docs/reference.md made from it."""

    bandwidth_mib_s: Annotated[int, Number(0, 1 << 20)] = 0
    max_downtime_ms: _Milliseconds = 300
    copy_timeout_s: _Seconds = 600.0
    arrival_timeout_s: _Seconds = 60.0
    settle_timeout_s: _Seconds = 30.0
    auto_converge: bool = True
    allow_connection_loss: bool = False
    allow_standstill: bool = False
    consent_timeout_ms: _Milliseconds = 1500
    join_timeout_s: _Seconds = 3.0
    carry_deadline_s: _Seconds = 86_400.0
    downtime_limit_ms: _Milliseconds = 10_000
    phase_timeout_s: _Seconds = 90.0
    move_timeout_s: _Seconds = 3600.0
    remove_source_disks: bool = False
    linger_s: _Seconds | None = None
    compression: Compression = Compression.OFF
    drop_page_cache: bool = False

    @property
    def claim_s(self) -> float:
        """How long a move's claim on its guest lasts at most. If the orchestrator is lost, the agent then withdraws
        what was announced for the move."""
        return self.move_timeout_s + self.arrival_timeout_s + self.settle_timeout_s + self.phase_timeout_s


class PolicyChanges(TypedDict, total=False):
    """Those bounds of a policy that one move changes, by name."""

    bandwidth_mib_s: int
    max_downtime_ms: int
    copy_timeout_s: float
    arrival_timeout_s: float
    settle_timeout_s: float
    auto_converge: bool
    allow_connection_loss: bool
    allow_standstill: bool
    consent_timeout_ms: int
    join_timeout_s: float
    carry_deadline_s: float
    downtime_limit_ms: int
    phase_timeout_s: float
    move_timeout_s: float
    remove_source_disks: bool
    linger_s: float | None
    compression: Compression
    drop_page_cache: bool


@dataclass(frozen=True)
class Hooks:
    """Executables of the operator's own, by path, that run before a move and after the guest's arrival. `deadline_s`
    holds for each; `strict`: one that fails before stops the move, one that fails after leaves work. They are never
    part of a plan: what the journal says is not run."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    deadline_s: float = 10.0
    strict: bool = True


@dataclass(frozen=True)
class Inventory:
    """All sites with their hosts, and all guests. Lookups return None where there is no such name."""

    sites: tuple[Site, ...]
    guests: tuple[Guest, ...]
    policy: Policy
    hooks: Hooks = Hooks()

    @property
    def hosts(self) -> tuple[Host, ...]:
        """Those of all sites."""
        return tuple(h for s in self.sites for h in s.hosts)

    def site(self, name: str) -> Site | None:
        """By its name."""
        return next((s for s in self.sites if s.name == name), None)

    def host(self, name: str) -> Host | None:
        """By its name, whatever its site."""
        return next((h for h in self.hosts if h.name == name), None)

    def guest(self, name: str) -> Guest | None:
        """By the inventory's name for it, not libvirt's."""
        return next((g for g in self.guests if g.name == name), None)
