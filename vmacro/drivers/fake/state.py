"""What hosts and guests of the world in memory consist of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from vmacro.model.definitions import FILE, Definition, Fit, Need
from vmacro.model.facts import (
    Arrival,
    Capabilities,
    Card,
    Claim,
    Connection,
    CopyStatistics,
    DomainFacts,
    Ended,
    FileFacts,
    FoundLegEnd,
    HostFacts,
    LinkFacts,
    NetworkFacts,
    Pool,
    Subflow,
    Turn,
)
from vmacro.model.nouns import Host
from vmacro.wire import host_verbs
from vmacro.wire.agent_verbs import ABORTED, CLOSED
from vmacro.wire.counting import Began
from vmacro.wire.taken_verbs import TCP, Port, Taken

BASE_BYTES = 64 << 20
QEMU = Capabilities(
    live_migration=True,
    abort=True,
    abort_standing=True,
    bandwidth_cap=True,
    max_downtime=True,
    auto_converge=True,
    encrypted_copy=True,
    progress=True,
    completed_statistics=True,
    local_disks=True,
    agent_channel=True,
    compressed_copy=True,
)
XEN = replace(  # with a host side, which can abort and pace
    QEMU,
    abort_standing=False,
    max_downtime=False,
    auto_converge=False,
    progress=False,
    completed_statistics=False,
    local_disks=False,
    compressed_copy=False,
)
LINKS = LinkFacts(
    "0.1.0",
    ("wireguard", "vxlan"),
    "52:54:00:aa:aa:aa",
    1500,
    1500,
    True,
    wireguard="kernel",
    filters=True,
    guarded=True,
)
KERNEL = "/boot/guests/vmlinuz"
DEFINITION = Definition(
    "/usr/bin/qemu-system-x86_64", "x86_64", needs=(Need(FILE, KERNEL, "kernel", live=True, next=True),)
)
LegKey = tuple[str, str]  # move, address


class Effect(str):
    """A call's name, such as `copy bucharest` or `agent.retire`; `host` and `guest`: whose, '' where nobody's."""

    host: str
    guest: str

    def __new__(cls, name: str, host: str = "", guest: str = "") -> Effect:
        found = super().__new__(cls, name)
        found.host, found.guest = host, guest
        return found


@dataclass
class FakeFetch:
    """A base on its way: `source` is the host that serves it, `bytes` what has come."""

    source: str
    bytes: int = 0


@dataclass
class FakeDisks:
    """`bases`: id by path, '' for one that nobody has frozen; `overlays`: paths; `serving`: to whom, by id; `fetching`:
    by id."""

    bases: dict[str, str] = field(default_factory=dict)
    overlays: set[str] = field(default_factory=set)
    serving: dict[str, str] = field(default_factory=dict)
    fetching: dict[str, FakeFetch] = field(default_factory=dict)


@dataclass
class FakeHost:
    """`arrived`: statistics by domain. `armed`: a domain's legs as they were then. `paused`, `fenced`: domains, since
    the host was armed for them. `leases`: DHCP's, an address by MAC. `used`: the MAC that answers for an address.
    `heard`: the port by which the guests' bridge has heard a MAC. `devices`: those that are no network's bridge.
    `leaving`: where a copy under way goes. `tracking`: its kernel tracks flows of datagrams. `narrow`: the largest
    packets that come back from other hosts. `definitions`: of domains that name more than DEFINITION; `fit`: what its
    libvirt has of a domain's needs; `files`: what is there, by path, besides disks. `autostart`: domains that it starts
    by itself. `taken`: ports and such that somebody has. `dirtied`: how many MiB/s a domain changes, where that is not
    1. `wide`: hosts to which connections begin with a large window, an address by move."""

    facts: HostFacts
    networks: dict[str, NetworkFacts]
    domains: dict[str, DomainFacts] = field(default_factory=dict)
    arrived: dict[str, CopyStatistics] = field(default_factory=dict)
    reachable: bool = True
    legs: dict[LegKey, FoundLegEnd] = field(default_factory=dict)
    armed: dict[str, list[LegKey]] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    fenced: set[str] = field(default_factory=set)
    turned: dict[str, list[Turn]] = field(default_factory=dict)
    leases: dict[str, str] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)
    heard: dict[str, str] = field(default_factory=dict)
    devices: set[str] = field(default_factory=set)
    links: LinkFacts = LINKS
    watchers: list[tuple[str, Callable[[str, str], None]]] = field(default_factory=list)
    leaving: dict[str, str] = field(default_factory=dict)
    disks: FakeDisks = field(default_factory=FakeDisks)
    tracking: bool = True
    narrow: int = 1500
    definitions: dict[str, Definition] = field(default_factory=dict)
    fit: Fit = field(default_factory=Fit)
    files: dict[str, FileFacts] = field(default_factory=lambda: {KERNEL: FileFacts(KERNEL, host_verbs.PLAIN, 9)})
    autostart: set[str] = field(default_factory=set)
    taken: Taken = field(default_factory=lambda: Taken((Port(TCP, 16514),)))  # libvirt itself listens
    dirtied: dict[str, float] = field(default_factory=dict)
    wide: dict[str, str] = field(default_factory=dict)
    pools: tuple[Pool, ...] = (Pool("default", "dir", "/images", 1 << 40, shared=False),)

    def point(self, key: LegKey, to: str) -> None:
        """A home has one route to an address: the leg that is turned into its tunnel takes it from any other."""
        end = self.legs[key]
        if end.side == "home" and to == "tunnel":
            for other, found in self.legs.items():
                if found.side == "home" and found.address == end.address:
                    self.legs[other] = replace(found, points_to="guest")
        self.legs[key] = replace(end, points_to=to)

    def turn(self, name: str, to: str) -> None:
        """All legs of a domain that end here."""
        for key in [k for k, end in self.legs.items() if end.domain == name]:
            self.point(key, to)


@dataclass
class FakeGuest:
    """What is in the guest, wherever it runs; domain and guest have one name. `kept`: its addresses besides the
    present ones; `prepared`: those to come; `public`: what clients know an address as; `until_s`: the end of its claim
    by the world's clock. `watch`: the name of the one under way, `watched`: keys of its connections; `ended`, `missed`:
    what the kernel has told since. `up_s`: when its agent answers, by the world's clock. `endpoints`: those of
    which its kernel makes use for MPTCP. `shy`: it drops all that it has not asked for, pings too.
    `cached_mib`: what its kernel keeps of files."""

    name: str
    mac: str
    number: int
    boot_id: str
    address: str
    connections: list[Connection]
    address6: str = ""
    prepared: tuple[str, str] = ("", "")
    verbs: tuple[str, ...] = (
        *("arrive", "claim", "connections", "count", "endings", "prepare"),
        *("drop", "page", "publish", "retire", "status", "watch"),
    )
    rp_filter: int = 2
    kept: list[str] = field(default_factory=list)
    public: dict[str, str] = field(default_factory=dict)
    last: Arrival | None = None
    answers: bool = True
    claim: Claim | None = None
    until_s: float = float("inf")
    watch: str = ""
    watches: int = 0
    watched: set[str] = field(default_factory=set)
    began: Began = field(default_factory=Began)
    arrived: bool = False
    ended: dict[str, Ended] = field(default_factory=dict)
    missed: bool = False
    up_s: float = 0.0
    endpoints: tuple[str, ...] = ()
    shy: bool = False
    cached_mib: int = 40

    @property
    def present(self) -> tuple[str, ...]:
        return tuple(a for a in (self.address, self.address6) if a)

    def end(self, found: Connection, how: str, heard: bool = False) -> None:
        """A connection ends, and the kernel tells how. `heard`: its client was, since the guest has arrived."""
        self.connections = [c for c in self.connections if c.key != found.key]
        lost = how not in (CLOSED, ABORTED) and self.arrived and not heard
        if self.watch and (lost or found.key in self.watched):
            self.ended[found.key] = Ended(found.key, found.client, how, lost)

    def boot(self, up_s: float) -> None:
        """Off and on again, or the kernel's own reboot: nothing is left of what it had in memory, nor of the agent's
        file, which is there."""
        self.boot_id, self.up_s = f"{self.boot_id}, again", up_s
        self.connections, self.kept, self.prepared, self.public = [], [], ("", ""), {}
        self.last, self.claim, self.until_s, self.arrived = None, None, float("inf"), False
        self.restart_agent()

    def restart_agent(self) -> None:
        """What it has heard is gone; its file knows the rest."""
        self.watch, self.watched, self.began, self.ended, self.missed = "", set(), Began(), {}, False


def host(name: str, site: str = "", number: int = 1) -> Host:
    """A host as an inventory names it; by default its site has its name."""
    uri = f"qemu+tls://{name}/system"
    return Host(name, site or name, uri, uri, f"10.9.0.{number}", name, "front")


def domain(accelerator: str = "kvm", name: str = "web", number: int = 1) -> DomainFacts:
    """A running guest with an agent and no disks."""
    cards, machine = (card(mac_of(number)),), "pc-q35-10.0"
    return DomainFacts(name, f"uuid-{number}", "running", "1", True, accelerator, machine, 256, cards, (), True)


def card(mac: str, network: str = "front", bridge: str = "front0") -> Card:
    """On a network; '' for that: on the bridge alone."""
    kind = "network" if network else "bridge"
    return Card(mac, kind, network, bridge, "virtio", f"vnet{int(mac[-2:], 16)}")


def mac_of(number: int) -> str:
    """The MAC of the guest with this number."""
    return f"52:54:00:00:{number >> 8:02x}:{number & 0xFF:02x}"


def connection(token: int, local: str, willing: bool) -> Connection:
    """With one subflow, from a client at 10.9.0.14."""
    return Connection(token, (Subflow(local, 7000, "10.9.0.14", 40000 + token, False, False, True),), willing)


def fake_host(name: str, site: int, index: int, hosts: int) -> FakeHost:
    """The `index`-th of a site's hosts: they share its subnet, and each leases addresses of its own."""
    facts = HostFacts(name, "QEMU", (10, 0, 0), (11, 3, 0), 8192, QEMU, ("pc-q35-10.0",))
    subnet, size = f"10.50.{site}", 100 // hosts
    first = 10 + index * size
    span = (f"{subnet}.{first}", f"{subnet}.{first + size - 1}")
    network = NetworkFacts("front", True, "front0", False, 0.0, f"{subnet}.0/24", f"{subnet}.1", span, size)
    return FakeHost(facts, {"front": network})
