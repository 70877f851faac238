"""What a lab looks like: sites, clients, round trips, bandwidth. One TOML file that users may copy."""

from __future__ import annotations

import collections
import hashlib
import itertools
import tomllib
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from vmacro import config
from vmacro.config import Strict
from vmacro.errors import ConfigurationError
from vmacro.inventory import parts_of
from vmacro.wording import spelled

DEFAULT = Path(__file__).with_name("two-sites.toml")
WAN, OPERATOR = "wan", "operator"
HOST_IMAGES = {13: "host", 12: "debian12"}
XEN_IMAGES, XEN_DEBIAN = {False: "xen12", True: "xen12shadow"}, 12  # by whether it has shadow paging
Kind = Literal["kvm", "xen"]
check_name = spelled(r"[a-z][a-z0-9]{0,11}", "a name has 1 to 12 small letters and digits, and begins with a letter")
Name = Annotated[str, AfterValidator(check_name)]


class RoundTrip(Strict):
    """The delay between two nodes, or all hosts of two sites."""

    between: tuple[str, str] = Field(description="two nodes, or sites, which are all of their hosts")
    ms: float = Field(ge=0, le=2000, description="there and back")


class Wan(Strict):
    """The network between the nodes."""

    bandwidth_mbit: float = Field(default=200, gt=0, description="of each node's link, in Mbit/s")
    jitter_ms: float = Field(default=0, ge=0, description="each way, uniform, order kept")
    loss_percent: float = Field(default=0, ge=0, lt=100, description="of packets")
    anti_spoofing: bool = Field(default=False, description="drop what comes with a source of another node")
    transit: IPv4Network = Field(default=IPv4Network("10.9.0.0/16"), description="of the links between nodes and WAN")
    transit6: IPv6Network = Field(
        default=IPv6Network("fd00:9::/48"), description="the same, where sites have a subnet6"
    )
    round_trips: tuple[RoundTrip, ...] = Field(default=(), description="between nodes; none: as fast as it goes")


class Site(Strict):
    """A site and its hosts."""

    subnet: IPv4Network = Field(description="of its guests")
    hosts: tuple[Name, ...] = Field(
        default=(), description="each routes a part of its subnet; default: one that is named like the site"
    )
    subnet6: IPv6Network | None = Field(
        default=None, description="a /64 for each host; sites with one make the lab dual-stack"
    )
    dhcp_addresses: int = Field(default=100, ge=1, description="how many each of its hosts leases")
    memory_reserve_mib: int = Field(default=64, ge=0, description="of each of its hosts, that no guest may take")
    debian: Literal[12, 13] | None = Field(
        default=None, description="what its hosts run; default: 13, or 12 with Xen, for which there is no image of 13"
    )
    guard: bool = Field(default=True, description="its hosts hold guests to their own addresses")
    plain_tunnel: bool = Field(default=False, description="its hosts say that legs need no encryption")


class Client(Strict):
    """A client at the WAN's edge."""

    accepts_add_addr: int = Field(default=4, ge=0, le=8, description="0: the kernel's default, never joins")
    visit_every_ms: float = Field(
        default=0, ge=0, le=60_000, description="while a guest moves, time from one new connection to the next; 0: none"
    )
    machine: bool = Field(default=False, description="a bare Debian runs there, with SSH, for `provision probes`")


class Guest(Strict):
    """A guest, and where it boots."""

    site: str = Field(description="where it boots, at the first of its hosts")
    memory_mib: int = Field(default=256, ge=160, description="its memory")
    image: Literal["guest", "cloud", "cloud12"] = Field(
        default="guest", description="cloud: as people have them, Debian 13; cloud12: Debian 12"
    )
    manager: Literal["systemd-networkd", "NetworkManager", "ifupdown"] = Field(
        default="systemd-networkd", description="who manages its interface at first, in the image cloud"
    )
    servers: tuple[str, ...] = Field(default=("nginx",), description="that are to speak MPTCP, in the image cloud")
    disk: Literal["qcow2", "raw"] = Field(default="qcow2", description="how it is stored, in the image cloud")
    xen: Literal["pv", "pvh"] = Field(default="pv", description="what it is with Xen")
    agent: bool = Field(default=True, description="false: a guest without one, as before it is provisioned")
    dirty_ballast_mib: int = Field(default=0, ge=0, description="memory that it fills, and changes")
    dirty_mib_s: float = Field(default=0, ge=0, description="how much of that it changes each second")

    @property
    def own_disk(self) -> bool:
        """It has a disk that it writes to, and SSH."""
        return self.image != "guest"


class Topology(Strict):
    """A whole lab, as its TOML file describes it."""

    name: Name = Field(description="of the lab; all that it makes bears it, and two labs need two")
    hypervisor: Kind = Field(default="kvm", description="xen: hosts are VMs under emulation, which boot Xen")
    shadow_paging: bool = Field(
        default=True, description="Xen 4.17.5, which copies PV guests while they run; else 4.17.7"
    )
    wan: Wan = Field(default=Wan(), description="a table, see below; so are those that follow")
    sites: dict[Name, Site] = Field(min_length=1, description="by name")
    clients: dict[Name, Client] = Field(default_factory=dict, description="by name")
    guests: dict[Name, Guest] = Field(default_factory=dict, description="by name")
    linger_s: float = Field(default=0, ge=0, description="policy of its inventory: old addresses take new connections")

    @model_validator(mode="after")
    def _consistent(self) -> Topology:
        problems = [*self._unknown_names(), *self._overlaps(), *self._not_with_xen()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _unknown_names(self) -> list[str]:
        known = {*self.nodes, *self.sites}
        problems = [f"guests.{g}.site: no site {x.site!r}" for g, x in self.guests.items() if x.site not in self.sites]
        for trip in self.wan.round_trips:
            problems += [f"wan.round_trips: no node {n!r}" for n in trip.between if n not in known]
        named = [WAN, *self.nodes, *(name for name, site in self.sites.items() if site.hosts)]
        both = sorted(name for name, times in collections.Counter(named).items() if times > 1)
        return problems + [f"{n!r} names two nodes" for n in both]

    def _not_with_xen(self) -> list[str]:
        if self.hypervisor != "xen":
            return []
        problems = [f"guests.{g}.image: {x.image!r}, and Xen has `guest`" for g, x in self.guests.items() if x.own_disk]
        problems += [f"sites.{n}.subnet6: not with Xen yet" for n, x in self.sites.items() if x.subnet6 is not None]
        sites = [(f"sites.{n}.debian", x.debian) for n, x in self.sites.items()]
        return problems + [f"{key}: {d}, and Xen has 12" for key, d in sites if d not in (None, XEN_DEBIAN)]

    def _overlaps(self) -> list[str]:
        nets = [("wan.transit", self.wan.transit), *((f"sites.{n}.subnet", s.subnet) for n, s in self.sites.items())]
        problems = [
            f"{a} = {x} is occupied: it overlaps {b} = {y}"
            for (a, x), (b, y) in itertools.combinations(nets, 2)
            if x.overlaps(y)
        ]
        for name, host in self.hosts.items():
            wanted = self.sites[host.site].dhcp_addresses
            if wanted > host.subnet.num_addresses - 3:
                problems.append(f"sites.{host.site}.dhcp_addresses = {wanted}: {host.subnet} of {name} is too small")
        return problems

    def hosts_of(self, site: str) -> tuple[str, ...]:
        """The names of a site's hosts."""
        return self.sites[site].hosts or (site,)

    @property
    def hosts(self) -> dict[str, Host]:
        """By name. Raises ValueError where a site's subnets are too small for its hosts."""
        found: dict[str, Host] = {}
        for name, site in self.sites.items():
            names = self.hosts_of(name)
            parts = parts_of(site.subnet, len(names))
            parts6 = _each_64(site.subnet6, len(names))
            found |= {host: Host(name, part, part6) for host, part, part6 in zip(names, parts, parts6, strict=True)}
        return found

    def home(self, guest: str) -> str:
        """The host where a guest boots: the first of its site."""
        return self.hosts_of(self.guests[guest].site)[0]

    def nodes_of(self, name: str) -> tuple[str, ...]:
        """What a round trip speaks of: a node, or all hosts of a site."""
        return self.hosts_of(name) if name in self.sites else (name,)

    @property
    def nodes(self) -> list[str]:
        """All nodes at the WAN's edge."""
        return [OPERATOR, *(host for site in self.sites for host in self.hosts_of(site)), *self.clients]

    @property
    def machines(self) -> list[str]:
        """Nodes where a Debian of its own runs."""
        return [*self.hosts, *(name for name, client in self.clients.items() if client.machine)]

    def image(self, machine: str) -> str:
        """The recipe that it boots from."""
        if machine not in self.hosts:
            return HOST_IMAGES[13]
        debian = self.sites[self.hosts[machine].site].debian
        return XEN_IMAGES[self.shadow_paging] if self.runs_xen(machine) else HOST_IMAGES[debian or 13]

    def guest_image(self, guest: str) -> str:
        """The recipe that a guest boots from."""
        image = self.guests[guest].image
        return f"xen{image}" if self.hypervisor == "xen" else image

    @property
    def as_containers(self) -> Topology:
        """The same, with hosts that are containers: what boots Xen is provisioned as one first, in less time."""
        return self.model_copy(update={"hypervisor": "kvm"})

    def runs_xen(self, machine: str) -> bool:
        """Whether it is a host that boots Xen, hence a VM, with the network of its node but for the address."""
        return self.hypervisor == "xen" and machine in self.hosts

    def uplink(self, node: str) -> Uplink:
        """The /30 between a node and the WAN router."""
        net = list(itertools.islice(self.wan.transit.subnets(new_prefix=30), len(self.nodes)))[self.nodes.index(node)]
        return Uplink(IPv4Interface((net[1], 30)), IPv4Interface((net[2], 30)))

    def uplink6(self, node: str) -> tuple[IPv6Interface, IPv6Interface]:
        """(router, node) of the same link, in a /64 of its own."""
        net = next(itertools.islice(self.wan.transit6.subnets(new_prefix=64), self.nodes.index(node), None))
        return IPv6Interface((net[1], 64)), IPv6Interface((net[2], 64))

    @property
    def dual_stack(self) -> bool:
        """Whether the lab has IPv6."""
        return any(site.subnet6 is not None for site in self.sites.values())

    def prefixes6(self, node: str) -> list[IPv6Network]:
        """Whose source addresses a node's packets carry."""
        host = self.hosts.get(node)
        own = [host.subnet6] if host is not None and host.subnet6 is not None else []
        return [self.uplink6(node)[1].network, *own]

    def prefixes(self, node: str) -> list[IPv4Network]:
        """Whose source addresses a node's packets carry."""
        host = self.hosts.get(node)
        return [self.uplink(node).node.network, *([host.subnet] if host is not None else [])]

    def round_trip_ms(self, one: str, other: str) -> float:
        """The delay asked for between two nodes, there and back; 0 if the topology gives none."""
        for trip in self.wan.round_trips:
            near, far = map(self.nodes_of, trip.between)
            if (one in near and other in far) or (other in near and one in far):
                return trip.ms
        return 0.0

    def mac(self, guest: str) -> str:
        """The MAC of a guest's card, the same whenever the lab is brought up."""
        digest = hashlib.sha256(f"{self.name}/{guest}".encode()).digest()
        return "52:54:00:" + ":".join(f"{b:02x}" for b in digest[:3])

    def host_mac(self, machine: str) -> str:
        """The MAC of a VM's uplink; a container has that of its namespace."""
        return self.mac(f"host {machine}")

    def network_namespace(self, node: str) -> str:
        """Where a node's network is."""
        return f"vmacro-{self.name}-{node}"


@dataclass(frozen=True)
class Host:
    """A host of a site, and what it routes to its guests."""

    site: str
    subnet: IPv4Network
    subnet6: IPv6Network | None


@dataclass(frozen=True)
class Uplink:
    """The two ends of the link between a node and the WAN router."""

    router: IPv4Interface
    node: IPv4Interface


def debian(image: str) -> int:
    """The Debian release of a host's image."""
    known = [*HOST_IMAGES.items(), *((XEN_DEBIAN, name) for name in XEN_IMAGES.values())]
    return next(release for release, name in known if name == image)


def _each_64(subnet: IPv6Network | None, count: int) -> list[IPv6Network | None]:
    """A part for each of so many hosts, in which guests configure their own addresses (RFC 4862)."""
    if subnet is None:
        return [None] * count
    parts = list(itertools.islice(subnet.subnets(new_prefix=64), count))
    if len(parts) < count:
        raise ValueError(f"subnet6 {subnet} has no /64 for each of {count} hosts")
    return [*parts]


def load(path: Path, hypervisor: Kind | None = None) -> Topology:
    """From its TOML file; `hypervisor`, where it is given, completes that. Raises ConfigurationError."""
    shape = config.load(path, Topology, f"copy {DEFAULT}, and change it")
    if hypervisor in (None, shape.hypervisor):
        return shape
    if "hypervisor" in shape.model_fields_set:
        raise ConfigurationError(f"{path}: hypervisor: it says {shape.hypervisor!r}, and {hypervisor!r} is asked for")
    return config.parse({**tomllib.loads(path.read_text()), "hypervisor": hypervisor}, Topology, str(path))
