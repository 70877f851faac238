"""What was seen at hosts and in guests. Facts hold no judgement; planning does. Bounds of what others say are declared
here and in `wire`, and nothing that exceeds them gets further than the driver that heard it (wire.fields.decode).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from vmacro.model.copies import CopyProgress as CopyProgress
from vmacro.model.copies import CopyStatistics as CopyStatistics
from vmacro.model.copies import PastCopy as PastCopy
from vmacro.model.definitions import Definition, Fit
from vmacro.model.domains import ARRIVING as ARRIVING
from vmacro.model.domains import CRASHED as CRASHED
from vmacro.model.domains import LEAVING as LEAVING
from vmacro.model.domains import MOST_CARDS as MOST_CARDS
from vmacro.model.domains import MOST_DISKS as MOST_DISKS
from vmacro.model.domains import PV as PV
from vmacro.model.domains import SHUT_OFF as SHUT_OFF
from vmacro.model.domains import SUSPENDED as SUSPENDED
from vmacro.model.domains import Card as Card
from vmacro.model.domains import Disk as Disk
from vmacro.model.domains import DomainFacts as DomainFacts
from vmacro.model.domains import Mac as Mac
from vmacro.model.domains import MaybeMac as MaybeMac
from vmacro.model.domains import Name as _Name
from vmacro.model.domains import Path as _Path
from vmacro.model.domains import Word as _Word
from vmacro.model.names import NameView
from vmacro.model.nouns import Host, Subnet
from vmacro.wire import host_verbs, names
from vmacro.wire.agent_verbs import Arrival as Arrival
from vmacro.wire.agent_verbs import Beyond as Beyond
from vmacro.wire.agent_verbs import Claim as Claim
from vmacro.wire.agent_verbs import Connection as Connection
from vmacro.wire.agent_verbs import CountArgs as CountArgs
from vmacro.wire.agent_verbs import Counts as Counts
from vmacro.wire.agent_verbs import Ended as Ended
from vmacro.wire.agent_verbs import Endings as Endings
from vmacro.wire.agent_verbs import Subflow as Subflow
from vmacro.wire.fields import Address, Choice, Items, Matches, Number, Said, Text, Word
from vmacro.wire.host_verbs import BaseFacts as BaseFacts
from vmacro.wire.host_verbs import Fetching as Fetching
from vmacro.wire.host_verbs import FileFacts as FileFacts
from vmacro.wire.host_verbs import Flows as Flows
from vmacro.wire.host_verbs import FoundLegEnd as FoundLegEnd
from vmacro.wire.host_verbs import Heard as Heard
from vmacro.wire.host_verbs import LinkFacts as LinkFacts
from vmacro.wire.host_verbs import MacUser as MacUser
from vmacro.wire.host_verbs import Offer as Offer
from vmacro.wire.host_verbs import Reach as Reach
from vmacro.wire.host_verbs import Tracked as Tracked
from vmacro.wire.host_verbs import Turn as Turn
from vmacro.wire.taken_verbs import Taken as Taken
from vmacro.wire.way_verbs import WideWay as WideWay

IpAddress = Annotated[str, Address()]
MaybeAddress = Annotated[str, Address(optional=True)]
_Address4 = Annotated[str, Address(version=4)]
_Version = tuple[int, int, int]
_Bytes = Annotated[int, Number(0, 1 << 62)]
# As interfaces are called: neither a way up nor an option.
_Interface = Annotated[str, Matches("(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,14})?", "an interface's name")]
MOST_LEASES = 1 << 16
MOST_NETWORKS = 4096
NetworkNames = Annotated[tuple[_Name, ...], Items(MOST_NETWORKS)]


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a host's hypervisor can do, as it says or as its driver knows; never assumed.

    live_migration: of a running guest to another host. abort: a migration that runs can be ended, and the guest goes
    on at the source; abort_standing: also while the guest stands still for the last of it. bandwidth_cap, max_downtime,
    auto_converge: it heeds these of a migration's policy.
    encrypted_copy: it sends memory and disks by TLS. progress: it tells how much of a migration is left.
    completed_statistics: it keeps the figures of one that has ended. local_disks: it freezes a running guest's disks
    and sends what was written since. agent_channel: it gives a guest's agent a byte stream that needs no network.
    compressed_copy: it sends, and receives, memory compressed by zstd.
    """

    live_migration: bool
    abort: bool
    abort_standing: bool
    bandwidth_cap: bool
    max_downtime: bool
    auto_converge: bool
    encrypted_copy: bool
    progress: bool
    completed_statistics: bool
    local_disks: bool
    agent_channel: bool
    compressed_copy: bool


@dataclass(frozen=True)
class HostFacts:
    """`hypervisor` is virConnectGetType's word; versions are libvirt's triples. `certificate_days_left`: of the one
    that libvirt shows, None where that is not known. `reserved_mib`: of the free memory, for guests that are on their
    way here. `uuid`: by which its libvirt tells it from other hosts, '' where it says none; `processor`: what
    it says of its processors, as XML. `shadow_paging`: of a host of Xen, whether it has that, without which no PV guest
    is copied while it runs; None where nobody knows, or it is none. `security_models`: of the drivers by which its
    libvirt confines guests, none where it does not say."""

    hostname: Annotated[str, Said(253)]
    hypervisor: _Word
    hypervisor_version: _Version
    libvirt_version: _Version
    free_memory_mib: int
    capabilities: Capabilities
    machine_types: Annotated[tuple[Annotated[str, Text(100)], ...], Items(10_000)] = ()
    certificate_days_left: Annotated[float, Number(-1e6, 1e6)] | None = None
    reserved_mib: int = 0
    uuid: _Word = ""
    processor: Annotated[str, Text(1 << 16)] = ""
    shadow_paging: bool | None = None
    security_models: Annotated[tuple[_Word, ...], Items()] = ()

    @property
    def available_mib(self) -> int:
        """Memory that is free and that nobody else counts on."""
        return self.free_memory_mib - self.reserved_mib


@dataclass(frozen=True)
class Pool:
    """A libvirt storage pool that is active; `shared`: other hosts may see the same volumes, by its kind. `source`: of
    a shared one, where it comes from; those that do if theirs is the same."""

    name: _Name
    kind: _Word
    path: _Path
    available_bytes: _Bytes
    shared: bool
    source: Annotated[str, Said(1000)] = ""


@dataclass(frozen=True)
class DiskCopy:
    """One disk of a guest as it moves: `base` is frozen, `overlay` is what the guest has written since; both have the
    same paths at every host, and share `id`. `format` is the base's."""

    id: Annotated[str, Matches("[a-z0-9]{4,32}", "a disk's id")]
    target: _Word
    base: _Path
    format: Annotated[str, Choice(host_verbs.FORMATS)]

    @property
    def overlay(self) -> str:
        """Its path, which follows from the base's, so that every host knows it."""
        return names.overlay(self.base, self.id)


@dataclass(frozen=True)
class Reservation:
    """What DHCP keeps an IPv4 address for: an entry <host mac= name= ip=/> of a network (formatnetwork). One without
    `mac` is for whoever says that this is its name. model/marks.py says whose an entry is."""

    address: _Address4
    mac: MaybeMac = ""
    name: Annotated[str, Said(255)] = ""

    @property
    def told(self) -> str:
        """For people."""
        card = f" for {self.mac}" if self.mac else ""
        return f"{self.address}{card}" + (f" ({self.name})" if self.name else "")


@dataclass(frozen=True)
class NetworkFacts:
    """A libvirt network. `dhcp_free` counts addresses that a new guest could get; None: no DHCP here. One that has
    reservations alone, and no range, serves just these cards (dnsmasq's `static`): 0 are free. `dhcp_range`: of
    several, the first that has one left. `taken` are leases and reservations as (address, MAC), `reserved` these
    alone; all of IPv4. '' stands for a bridge, subnet, gateway or MAC that there is none of."""

    name: _Name
    active: bool
    bridge: _Interface
    stp: bool
    forward_delay_s: float
    subnet: Subnet
    gateway: Annotated[str, Address(optional=True, version=4)]
    dhcp_range: tuple[_Address4, _Address4] | None
    dhcp_free: int | None
    taken: Annotated[tuple[tuple[_Address4, MaybeMac], ...], Items(MOST_LEASES)] = ()
    reserved: Annotated[tuple[Reservation, ...], Items(MOST_LEASES)] = ()
    forward: _Word = "open"
    subnet6: Subnet = ""

    def address_of(self, mac: str) -> str:
        """The address leased to or reserved for a card, or ''."""
        return next((a for a, m in self.taken if m == mac), "")


@dataclass(frozen=True)
class AgentFacts:
    """`address` is '' while the guest has no lease, `address6` where it has no IPv6; `extra_addresses` are those that
    it keeps besides. `claim` is None while nobody moves the guest. `rp_filter` is the kernel's reverse-path filter on
    its interface: 0 off, 1 strict, 2 loose. `interface` is the one that it looks after, and `mac` that one's, in lower
    case. `endpoints`: addresses of which its kernel makes use for MPTCP; none where its agent is older."""

    version: str
    boot_id: str
    kernel: str
    hostname: str
    uptime_s: float
    mac: str
    address: str
    gateway: str
    address6: str = ""
    extra_addresses: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    rp_filter: int = 0
    claim: Claim | None = None
    interface: str = ""
    endpoints: tuple[str, ...] = ()

    @property
    def claimed(self) -> tuple[str, ...]:
        """All addresses that the agent says the guest has, each once."""
        return tuple(a for a in dict.fromkeys((self.address, self.address6, *self.extra_addresses)) if a)


@dataclass(frozen=True)
class Watched:
    """The connections that a watch of this name began with; '' where the guest cannot tell how connections end."""

    name: str
    connections: tuple[Connection, ...]


@dataclass(frozen=True)
class Leg:
    """One address of a guest, tunnelled between `home`, whose site routes it, and `away`, where the guest is. `subnet`
    is that of the guests at home, in the address's family.

    The two ends name it by move and address.
    """

    move_id: Annotated[str, Word()]
    domain: _Name
    mac: Mac
    address: IpAddress
    kind: Annotated[str, Word(16)]
    home: Host
    away: Host
    home_bridge: _Interface
    away_bridge: _Interface
    subnet: Subnet = ""


@dataclass(frozen=True)
class HomedAddress:
    """An address that the guest has, and the host whose site routes it."""

    address: IpAddress
    home: Host


@dataclass(frozen=True)
class Lingering:
    """An old address that takes new connections until then, in seconds since 1970, whoever uses it; 0.0: as long as a
    name may lead there."""

    address: IpAddress
    until_s: Annotated[float, Number()]


@dataclass(frozen=True)
class Past:
    """What moves of this journal have made for a guest: all `legs` that they ever planned, and the old addresses that
    are `carried` for it now, of which some are `lingering`. `copies`: its last ones that arrived, newest first."""

    legs: tuple[Leg, ...] = ()
    carried: tuple[HomedAddress, ...] = ()
    lingering: tuple[Lingering, ...] = ()
    copies: tuple[PastCopy, ...] = ()


NO_PAST = Past()


class Leaving(StrEnum):
    """What a host knows of a guest that was to leave it. `stayed`: it has not paused for its move since the host was
    armed. `fenced`: it has paused, and has had no network since. `unknown`: the host was not armed."""

    STAYED = host_verbs.STAYED
    FENCED = host_verbs.FENCED
    UNKNOWN = host_verbs.UNKNOWN


@dataclass(frozen=True)
class HostView:
    """One host as the survey found it; `trouble` and `links_trouble` say why facts are missing. `supported` is False
    where it answered, and no driver is for what it runs. `probed`: the address that `links.used_by` is about, '' where
    none was asked about. `plain_tunnel` and `guard` are the inventory's word (nouns.Host). `tracked`: datagrams of the
    guest's addresses, None where nobody asked, or was answered. `networks`: the names of all libvirt networks that are
    active. `paths`: what comes back from hosts of other sites, asked by packets that may not be fragmented. `fit`: what
    it has for the guest's domain, by its libvirt, and `fit_trouble` why nobody knows; `files`: what it has at the paths
    that the domain names, None where no host side was asked, and `files_trouble` why not; `taken`: of what the
    domain takes of its host, what is in use, and `taken_trouble` likewise. `dirty_mib_s`: how fast the guest changes
    its memory here, None where that was not measured. `closed`: why it gets no guests (it, or its site, is in
    maintenance)."""

    host: str
    site: str
    facts: HostFacts | None = None
    domain: DomainFacts | None = None
    network: NetworkFacts | None = None
    trouble: str = ""
    trouble_hint: str = ""
    supported: bool = True
    links: LinkFacts | None = None
    probed: str = ""
    links_trouble: str = ""
    links_hint: str = ""
    pools: tuple[Pool, ...] = ()
    bases: tuple[tuple[DiskCopy, BaseFacts], ...] = ()
    plain_tunnel: bool = False
    guard: bool = False
    tracked: Tracked | None = None
    networks: NetworkNames = ()
    paths: tuple[Heard, ...] = ()
    fit: Fit | None = None
    fit_trouble: str = ""
    files: tuple[FileFacts, ...] | None = None
    files_trouble: str = ""
    taken: Taken | None = None
    taken_trouble: str = ""
    dirty_mib_s: float | None = None
    closed: str = ""

    def file(self, path: str) -> FileFacts | None:
        """What is there at a path; None where nobody has looked."""
        return next((file for file in self.files or () if file.path == path), None)


@dataclass(frozen=True)
class Survey:
    """All that is known before a move, taken without changing anything. `hosts` are the inventory's, of which `views`
    tells what was seen; `past` is what the journal knows, `names` what the name server has of the guest's. `unasked`:
    why its clients could not be asked. `definition`: what the guest's domain names on its host, None where that was not
    read, and `definition_trouble` why. What the agent says of addresses is a guest's word."""

    views: tuple[HostView, ...]
    agent: AgentFacts | None = None
    agent_trouble: str = ""
    agent_hint: str = ""
    connections: tuple[Connection, ...] = ()
    unasked: str = ""
    hosts: tuple[Host, ...] = ()
    past: Past = NO_PAST
    names: tuple[NameView, ...] = ()
    definition: Definition | None = None
    definition_trouble: str = ""

    def view(self, host: str) -> HostView:
        """What was seen of one host of the inventory."""
        return next(v for v in self.views if v.host == host)

    @property
    def flows(self) -> tuple[Flows, ...]:
        """Of those addresses of the guest that have datagrams: the most that a host knows of. An address's home sees
        all of them."""
        every = [flows for v in self.views if v.tracked is not None for flows in v.tracked.flows if flows.any]
        found = {flows.address: flows for flows in sorted(every, key=lambda f: f.udp + f.icmp)}
        return tuple(found[address] for address in sorted(found))

    @property
    def running_at(self) -> tuple[HostView, ...]:
        """The hosts on which the guest is active, paused or not. While it migrates, that which it has not left yet."""
        active = [(v, v.domain) for v in self.views if v.domain is not None and v.domain.active]
        return tuple(v for v, d in active if d.migrating) or tuple(v for v, _ in active)


@dataclass(frozen=True)
class HookEnd:
    """How an executable ended: its exit status, -N for signal N; `late`: at its deadline. `said`: the beginning of what
    it wrote."""

    code: int
    took_ms: int
    said: str
    late: bool = False
