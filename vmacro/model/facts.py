"""What was seen at hosts and in guests. Facts hold no judgement; planning does."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from vmacro.model.nouns import Host


@dataclass(frozen=True)
class HostFacts:
    """`hypervisor` is QEMU or Xen; versions are libvirt's triples. `certificate_days_left`: of the one that libvirt
    shows, None where that is not known."""

    hostname: str
    hypervisor: str
    hypervisor_version: tuple[int, int, int]
    libvirt_version: tuple[int, int, int]
    free_memory_mib: int
    machine_types: tuple[str, ...] = ()
    certificate_days_left: float | None = None


@dataclass(frozen=True)
class Disk:
    """`kind` is libvirt's: file, block, network or volume; `backing`: the file below, '' where there is none.
    `shared`: declared so, or by network."""

    target: str
    source: str
    writable: bool
    shared: bool
    kind: str = "file"
    format: str = ""
    backing: str = ""
    backing_format: str = ""


@dataclass(frozen=True)
class Pool:
    """A libvirt storage pool that is active; `shared`: other hosts see the same volumes, by its kind."""

    name: str
    kind: str
    path: str
    available_bytes: int
    shared: bool


@dataclass(frozen=True)
class DiskCopy:
    """One disk of a guest as it moves: `base` is frozen, `overlay` is what the guest has written since; both have the
    same paths at every host, and share `id`. `format` is the base's."""

    id: str
    target: str
    base: str
    format: str

    @property
    def overlay(self) -> str:
        return f"{self.base}.vmacro-{self.id}"


@dataclass(frozen=True)
class BaseFacts:
    """A disk's base as one host has it: `same`, the very one, untouched since it was frozen. `bytes` it takes up."""

    exists: bool
    same: bool
    overlay: bool
    bytes: int


@dataclass(frozen=True)
class Fetching:
    """How far the copy of a base is. `trouble`: how it failed."""

    done: bool
    bytes: int
    trouble: str = ""


@dataclass(frozen=True)
class DomainFacts:
    """`accelerator` is libvirt's domain type: kvm, qemu (TCG) or xen. Sizes in MiB. `migrating`: a copy of it to
    elsewhere is under way."""

    name: str
    uuid: str
    state: Literal["running", "paused", "shut off", "other"]
    reason: str
    persistent: bool
    accelerator: str
    machine: str
    memory_mib: int
    mac: str
    network: str
    disks: tuple[Disk, ...]
    has_agent_channel: bool
    migrating: bool = False

    @property
    def running(self) -> bool:
        return self.state == "running"


@dataclass(frozen=True)
class NetworkFacts:
    """A libvirt network. `dhcp_free` counts addresses that a new guest could get; None: no DHCP here. `taken`
    are leases and reservations, `reserved` these alone, as (address, MAC)."""

    name: str
    active: bool
    bridge: str
    stp: bool
    forward_delay_s: float
    subnet: str
    gateway: str
    dhcp_range: tuple[str, str] | None
    dhcp_free: int | None
    taken: tuple[tuple[str, str], ...] = ()
    reserved: tuple[tuple[str, str], ...] = ()
    forward: str = "open"
    subnet6: str = ""

    def address_of(self, mac: str) -> str:
        """The address leased to or reserved for a card, or ''."""
        return next((a for a, m in self.taken if m.lower() == mac.lower()), "")


@dataclass(frozen=True)
class Claim:
    """Who moves a guest, as its agent has it: the move, USER@MACHINE, and for how long already."""

    move: str
    by: str
    age_s: float


@dataclass(frozen=True)
class AgentFacts:
    """`address` is '' while the guest has no lease, `address6` where it has no IPv6; `held` are the addresses it
    keeps besides. `claim` is None while nobody moves the guest. `rp_filter` is the kernel's reverse-path filter on
    its interface: 0 off, 1 strict, 2 loose."""

    version: str
    boot_id: str
    kernel: str
    hostname: str
    uptime_s: float
    mac: str
    address: str
    gateway: str
    address6: str = ""
    held: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    rp_filter: int = 0
    claim: Claim | None = None


@dataclass(frozen=True)
class Subflow:
    """`bytes`: acknowledged and received so far (tcp_info)."""

    local: str
    local_port: int
    remote: str
    remote_port: int
    joined: bool
    backup: bool
    established: bool
    bytes: int = 0

    @property
    def client(self) -> str:
        return f"{self.remote}:{self.remote_port}"


@dataclass(frozen=True)
class Connection:
    """A connection of the guest. `token` is the guest's MPTCP token, 0 for plain TCP; `willing` is None
    while nobody knows whether its client joins addresses that are announced to it."""

    token: int
    subflows: tuple[Subflow, ...]
    willing: bool | None

    @property
    def mptcp(self) -> bool:
        return self.token != 0

    @property
    def key(self) -> str:
        """What names it before and after a move."""
        return f"{self.token:#010x}" if self.token else f"tcp {self.subflows[0].client}"

    @property
    def client(self) -> str:
        """The client's side of the oldest subflow that is left."""
        return min(self.subflows, key=lambda s: s.joined).client

    def reaches(self, *addresses: str) -> bool:
        return any(s.local in addresses and s.established for s in self.subflows)


@dataclass(frozen=True)
class Arrival:
    """What the agent did at the new site."""

    seen_by: str
    old: str
    new: str
    gateway: str
    endpoint_id: int
    lease_ms: int
    total_ms: int
    old6: str = ""
    new6: str = ""

    @property
    def present(self) -> tuple[str, ...]:
        """The guest's addresses at the new site."""
        return tuple(a for a in (self.new, self.new6) if a)


@dataclass(frozen=True)
class CopyProgress:
    """A look at a running copy. Bytes; `dirty_mib_s` 0 where unknown; `warning`: what an operator should know."""

    elapsed_ms: int
    bytes_total: int
    bytes_remaining: int
    bytes_sent: int
    iteration: int
    dirty_mib_s: float
    rate_mib_s: float
    throttle_percent: int = 0
    warning: str = ""


@dataclass(frozen=True)
class CopyStatistics:
    """libvirt's VIR_DOMAIN_JOB_STATS_COMPLETED at the destination; downtime is the guest's own pause."""

    downtime_ms: int
    elapsed_ms: int
    bytes_transferred: int
    iterations: int


@dataclass(frozen=True)
class Leg:
    """One address of a guest, tunnelled between `home`, whose site routes it, and `away`, where the guest is.

    The two ends name it by move and address.
    """

    move_id: str
    domain: str
    mac: str
    address: str
    kind: str
    home: Host
    away: Host
    home_bridge: str
    away_bridge: str


@dataclass(frozen=True)
class LegEnd:
    """One end of a leg as found on a host; `side` is home or away, `points_to` guest or tunnel."""

    side: str
    kind: str
    move: str
    domain: str
    address: str
    mac: str
    bridge: str
    peer: str
    points_to: str


@dataclass(frozen=True)
class LinkFacts:
    """What a host's own side says. MTUs in bytes, of the guests' bridge and of the way to the other host;
    `used_by` is the MAC that answers for the address asked about; `knows_itself`: its own name has an address there."""

    version: str
    tunnels: tuple[str, ...]
    bridge_mac: str
    bridge_mtu: int
    path_mtu: int
    forwarding: bool
    used_by: str = ""
    legs: tuple[LegEnd, ...] = ()
    knows_itself: bool = True


@dataclass(frozen=True)
class Turn:
    """A host turned a guest's legs by an event: when, how long that took, how many packets were sent on
    that had come too late for the guest, and what went wrong, if anything."""

    to: str
    wall_ns: int
    took_us: int
    rescued: int = 0
    trouble: str = ""


class Leaving(StrEnum):
    """What a host knows of a guest that was to leave it: `stayed`, since it has not paused for that since the host
    was armed; `fenced`, having paused, without a network since; `unknown` where it was not listening."""

    STAYED = "stayed"
    FENCED = "fenced"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Offer:
    """What one end of a tunnel must know of the other; empty where nothing."""

    public_key: str = ""
    port: int = 0


@dataclass(frozen=True)
class HostView:
    """One host as the survey found it; `trouble` and `links_trouble` say why facts are missing."""

    host: str
    site: str
    facts: HostFacts | None = None
    domain: DomainFacts | None = None
    network: NetworkFacts | None = None
    trouble: str = ""
    trouble_hint: str = ""
    links: LinkFacts | None = None
    links_trouble: str = ""
    links_hint: str = ""
    pools: tuple[Pool, ...] = ()
    bases: tuple[tuple[DiskCopy, BaseFacts], ...] = ()


@dataclass(frozen=True)
class Survey:
    """All that is known before a move, taken without changing anything."""

    views: tuple[HostView, ...]
    agent: AgentFacts | None = None
    agent_trouble: str = ""
    agent_hint: str = ""
    connections: tuple[Connection, ...] = ()

    def view(self, host: str) -> HostView:
        return next(v for v in self.views if v.host == host)

    @property
    def running_at(self) -> tuple[HostView, ...]:
        return tuple(v for v in self.views if v.domain is not None and v.domain.state in ("running", "paused"))
