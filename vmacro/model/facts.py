"""What was seen at hosts and in guests. Facts hold no judgement; planning does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class HostFacts:
    """`hypervisor` is QEMU or Xen; versions are libvirt's triples."""

    hostname: str
    hypervisor: str
    hypervisor_version: tuple[int, int, int]
    libvirt_version: tuple[int, int, int]
    free_memory_mib: int
    machine_types: tuple[str, ...] = ()


@dataclass(frozen=True)
class Disk:
    target: str
    source: str
    writable: bool
    shared: bool


@dataclass(frozen=True)
class DomainFacts:
    """`accelerator` is libvirt's domain type: kvm, qemu (TCG) or xen. Sizes in MiB."""

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

    @property
    def running(self) -> bool:
        return self.state == "running"


@dataclass(frozen=True)
class NetworkFacts:
    """A libvirt network. `dhcp_free` counts addresses that a new guest could get; None: no DHCP here."""

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

    def address_of(self, mac: str) -> str:
        """The address leased to or reserved for a card, or ''."""
        return next((a for a, m in self.taken if m.lower() == mac.lower()), "")


@dataclass(frozen=True)
class AgentFacts:
    """`address` is '' while the guest has no lease."""

    version: str
    boot_id: str
    kernel: str
    hostname: str
    uptime_s: float
    mac: str
    address: str
    gateway: str


@dataclass(frozen=True)
class Subflow:
    local: str
    local_port: int
    remote: str
    remote_port: int
    joined: bool
    backup: bool
    established: bool

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

    def reaches(self, address: str) -> bool:
        return any(s.local == address and s.established for s in self.subflows)


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


@dataclass(frozen=True)
class CopyProgress:
    """A look at a running copy. Bytes; `dirty_mib_s` 0 where unknown."""

    elapsed_ms: int
    bytes_total: int
    bytes_remaining: int
    bytes_sent: int
    iteration: int
    dirty_mib_s: float
    rate_mib_s: float
    throttle_percent: int = 0


@dataclass(frozen=True)
class CopyStatistics:
    """libvirt's VIR_DOMAIN_JOB_STATS_COMPLETED at the destination; downtime is the guest's own pause."""

    downtime_ms: int
    elapsed_ms: int
    bytes_transferred: int
    iterations: int


@dataclass(frozen=True)
class HostView:
    """One host as the survey found it; `trouble` says why there are no facts."""

    host: str
    site: str
    facts: HostFacts | None = None
    domain: DomainFacts | None = None
    network: NetworkFacts | None = None
    trouble: str = ""
    trouble_hint: str = ""


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
