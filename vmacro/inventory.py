"""The operator's inventory: one TOML file of sites, hosts, guests, probers and bounds."""

from __future__ import annotations

import dataclasses
import itertools
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue, field_validator, model_validator

from vmacro import addresses, config
from vmacro.addresses import DnsName, LibvirtUri, Login, Machine, Plain, PublicAddress, PublicSubnet
from vmacro.config import Strict, shown
from vmacro.errors import ConfigurationError, reason_of
from vmacro.limits import Fleet, Policy
from vmacro.model import nouns
from vmacro.outside import Dns, Hooks, Probe, Prober
from vmacro.pki.names import OPERATOR
from vmacro.wording import spelled

check_name = spelled(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}",
    "a name has 1 to 63 letters, digits, dots, dashes and underscores, and begins with a letter or a digit",
)
Name = Annotated[str, AfterValidator(check_name)]
DATABASE_URL = "VMACRO_DATABASE_URL"  # of the environment
NO_INVENTORY = "`vmacro init FILE` writes a first one, by asking"
DEFAULT_STATE_DIR = Path("/var/lib/vmacro")


class GuestNetwork(Strict):
    """The guests' network of a site with one host, or of one of several hosts, as `vmacro provision hosts` makes it:
    its first address is the host's."""

    subnet: IPv4Network = Field(description="IPv4, of this site alone; its first address is the hosts'")
    dhcp_first: IPv4Address | None = Field(default=None, description="default: the subnet's tenth address")
    dhcp_last: IPv4Address | None = Field(default=None, description="default: the subnet's last one")
    subnet6: IPv6Network | None = Field(default=None, description="a /64, for SLAAC")
    lease_minutes: int = Field(default=60, ge=2, le=525_600, description="how long a DHCP lease is valid")
    guard: bool = Field(default=True, description="hold each guest to its own MAC and addresses")
    public_subnet: PublicSubnet | None = Field(
        default=None, description="as clients elsewhere know it: a 1:1 NAT translates each address; of the same size"
    )

    @model_validator(mode="after")
    def _fits(self) -> GuestNetwork:
        if self.subnet.num_addresses < 8:
            raise ValueError(f"subnet {self.subnet} is too small for guests")
        first, last = self.dhcp_range
        outside = [str(a) for a in (first, last) if a not in self.subnet or a == self.gateway]
        if outside or last < first:
            raise ValueError(f"dhcp {first} to {last} is no range of {self.subnet} without its gateway {self.gateway}")
        if self.public_subnet is not None and self.public_subnet.prefixlen != self.subnet.prefixlen:
            raise ValueError(f"public_subnet {self.public_subnet} is not of the size of {self.subnet}")
        if self.subnet6 is not None and self.subnet6.prefixlen != 64:
            raise ValueError(f"subnet6 {self.subnet6}: SLAAC needs a /64")
        return self

    @property
    def gateway(self) -> IPv4Address:
        """The address that the site's hosts have on this network."""
        return self.subnet[1]

    @property
    def dhcp_range(self) -> tuple[IPv4Address, IPv4Address]:
        """First and last address that DHCP gives out."""
        first = self.subnet[10] if self.subnet.num_addresses > 16 else self.subnet[2]
        return self.dhcp_first or first, self.dhcp_last or self.subnet[-2]


class Site(Strict):
    """A place with a subnet of its own for guests, and the hosts that route it."""

    anti_spoofing: bool = Field(default=False, description="its network drops packets with other sites' sources")
    network: GuestNetwork | None = Field(default=None, description="what to provision; default: leave it alone")
    public: dict[IPv4Address, PublicAddress] = Field(
        default_factory=dict,
        max_length=nouns.MOST_PUBLIC,
        description="as public_subnet, address by address: a guest's = the one that clients elsewhere know it as",
    )


class Host(Strict):
    """A hypervisor host."""

    site: str = Field(description="the site that it stands at")
    uri: LibvirtUri = Field(description="libvirt's URI for this machine, say qemu+tls://host/system")
    peer_uri: LibvirtUri = Field(default="", description="the same for the other hosts; default: uri")
    address: Machine = Field(description="where the other hosts send migration data")
    tls_name: Plain = Field(default="", description="the name in the host's certificate; default: the host's name")
    ssh: Login = Field(default="", description="USER@ADDRESS of its host side, for seamless moves")
    network: Plain = Field(default="front", description="libvirt network that guests attach to")
    memory_reserve_mib: int = Field(default=256, ge=0, description="memory that no guest may take")
    guest_network: GuestNetwork | None = Field(
        default=None, description="the part of the site's subnet that it routes; default: the site's network"
    )
    emulation: bool = Field(default=False, description="guests run without KVM here, and that is meant")
    plain_tunnel: bool = Field(
        default=False, description="legs to hosts that say so, too, are VXLAN: the path between them is private"
    )
    ansible: dict[str, JsonValue] = Field(default_factory=dict, description="further variables for the playbooks")


class Guest(Strict):
    """A virtual machine that may move."""

    domain: Plain = Field(default="", description="libvirt's name for it; default: the guest's name")
    probe: Probe | None = Field(default=None, description="how its round trips are measured; default: not at all")
    ssh: Login = Field(default="", description="USER@ADDRESS, or USER@ where its address is to be asked of its host")
    names: tuple[DnsName, ...] = Field(
        default=(), max_length=nouns.MOST_NAMES, description="names in DNS that follow it; needs [dns]"
    )
    taken_as_reached: tuple[IPv4Address | IPv6Address, ...] = Field(
        default=(),
        max_length=nouns.MOST_ADDRESSES,
        description="its addresses that have no proof to give: a move goes on where hosts hear nobody answer for them",
    )
    interface: Plain = Field(default="", description="the one that migrates; default: that of the default route")
    servers: tuple[str, ...] = Field(default=(), description="systemd units in it that are to speak MPTCP")
    ansible: dict[str, JsonValue] = Field(default_factory=dict, description="further variables for the playbooks")

    @field_validator("ssh")
    @classmethod
    def _names_a_user(cls, ssh: str) -> str:
        if ssh and not ssh.partition("@")[1]:
            raise ValueError("must be USER@ADDRESS, or USER@ where its address is to be asked of its host")
        return ssh


class Orchestrator(Strict):
    """The machine that vmacro runs on."""

    addresses: tuple[str, ...] = Field(
        default=(), description="from where the hosts' libvirt is reached; default: anywhere"
    )
    ca_dir: Path | None = Field(
        default=None,
        description="the authority's folder, where it is ours: vmacro pki; `vmacro init`: ca/ beside the inventory",
    )
    pki_dir: Path | None = Field(
        default=None,
        description="cacert.pem, clientcert.pem, clientkey.pem for qemu+tls; `vmacro init`: pki/ beside it",
    )
    ssh_key: Path | None = Field(default=None, description="private key for the hosts; default: SSH's own")
    ssh_known_hosts: Path | None = Field(default=None, description="default: the system's and the user's")
    database_url: str = Field(default="", description="the journal; default: SQLite in state_dir")
    database_url_file: Path | None = Field(
        default=None, description=f"a file with that URL, not readable by everybody; {DATABASE_URL} comes before both"
    )
    state_dir: Path = Field(default=DEFAULT_STATE_DIR, description="journal, logs of playbooks, locks")
    keep_days: float = Field(
        default=90, ge=1, le=36_500, description="how long moves, events, reports and logs of playbooks are kept"
    )
    network_namespace: str = Field(default="", description="work from here; the lab's operator has one of its own")

    @model_validator(mode="after")
    def _journal_can_be(self) -> Orchestrator:
        """Not as a validator of the one key: what that refuses is shown, and this may have a password in it."""
        if self.database_url and self.database_url_file is not None:
            raise ValueError("database_url and database_url_file: only one of them")
        if self.database_url:
            addresses.check_database(self.database_url)
        return self


class Inventory(Strict):
    """The whole file."""

    orchestrator: Orchestrator = Orchestrator()
    policy: Policy = Policy()
    sites: dict[Name, Site] = Field(min_length=1)
    hosts: dict[Name, Host] = Field(min_length=1)
    guests: dict[Name, Guest] = Field(default_factory=dict)
    probers: dict[Name, Prober] = Field(default_factory=dict)
    dns: Dns | None = None
    hooks: Hooks = Hooks()
    fleet: Fleet = Fleet()

    @model_validator(mode="after")
    def _consistent(self) -> Inventory:
        problems = [*self._names_without_thing(), *self._overlaps(), *self._domains_of_two(), *self._names_of_two()]
        problems += [*self._dns_names(), *self._publics_of_two(), *self._machines_of_two()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def network_of(self, host: str) -> GuestNetwork | None:
        """What a host routes to its guests; None where the inventory leaves that alone."""
        own, site = self.hosts[host].guest_network, self.sites[self.hosts[host].site]
        return own or site.network

    def _overlaps(self) -> list[str]:
        """A guests' subnet must be routed to one host only."""
        nets = [(name, self.network_of(name)) for name, host in self.hosts.items() if host.site in self.sites]
        return [
            f"hosts {a} and {b}: the guests' subnet {x.subnet} of one overlaps {y.subnet} of the other; each routes "
            f"one of its own: hosts.{b}.guest_network"
            for (a, x), (b, y) in itertools.combinations(nets, 2)
            if x is not None and y is not None and x.subnet.overlaps(y.subnet)
        ]

    def _publics_of_two(self) -> list[str]:
        nets = {name: self.network_of(name) for name, host in self.hosts.items() if host.site in self.sites}
        subnets = {name: n.public_subnet for name, n in nets.items() if n is not None and n.public_subnet is not None}
        return addresses.publics_of_two(subnets, {name: site.public for name, site in self.sites.items()})

    def _machines_of_two(self) -> list[str]:
        """One machine under two names has each of its guests twice, and a move from it to itself."""
        keys = ("uri", "address", "ssh")
        said = [(name, key, str(getattr(host, key))) for name, host in self.hosts.items() for key in keys]
        return [
            f"hosts {a} and {b}: both have {key} {shown(x)!r}: hosts.{b}.{key}"
            for (a, key, x), (b, other, y) in itertools.combinations(said, 2)
            if key == other and x and x.lower() == y.lower()
        ]

    def _domains_of_two(self) -> list[str]:
        """Two names for one domain would be claimed, and moved, apart."""
        named = [(name, guest.domain or name) for name, guest in self.guests.items()]
        return [
            f"guests {a} and {b}: both are domain {x!r}: guests.{b}.domain"
            for (a, x), (b, y) in itertools.combinations(named, 2)
            if x == y
        ]

    def _names_of_two(self) -> list[str]:
        """By its name in certificates a host is told from every other, and from the operator."""
        reserved = [f"hosts.{OPERATOR}: is what the operator's own certificate is called"] * (OPERATOR in self.hosts)
        named = [(name, host.tls_name or name) for name, host in self.hosts.items()]
        return reserved + [
            f"hosts {a} and {b}: both are {x!r} in their certificates: hosts.{b}.tls_name"
            for (a, x), (b, y) in itertools.combinations(named, 2)
            if x.lower() == y.lower()
        ]

    def _dns_names(self) -> list[str]:
        """A name follows one guest only, and by somebody."""
        named = [(guest, name) for guest, found in self.guests.items() for name in found.names]
        problems = [f"guests.{guest}.names: there is no [dns]" for guest, _ in named[:1] if self.dns is None]
        return problems + [
            f"guests.{b}.names: {y!r} is one of guest {a}'s already"
            for (a, x), (b, y) in itertools.combinations(named, 2)
            if x == y
        ]

    def _names_without_thing(self) -> list[str]:
        problems = [
            f"hosts.{n}.site: no site {shown(h.site)!r}" for n, h in self.hosts.items() if h.site not in self.sites
        ]
        homes = {h.site for h in self.hosts.values()}
        problems += [f"sites.{name}: has no host" for name in self.sites if name not in homes]
        for name, guest in self.guests.items():
            if guest.probe is not None and guest.probe.from_ not in self.probers:
                problems.append(f"guests.{name}.probe.from: no prober {shown(guest.probe.from_)!r}")
        return problems


@dataclass(frozen=True)
class Settings:
    """An inventory as read: `inventory` is what the model works with, the rest is for wiring and provisioning."""

    path: Path
    inventory: nouns.Inventory
    orchestrator: Orchestrator
    probers: dict[str, Prober]
    raw_inventory: Inventory  # as written, for what provisioning makes of it

    @property
    def database_url(self) -> str:
        """The journal's URL for SQLAlchemy. PostgreSQL is always reached with psycopg, whatever the URL says."""
        given = self.orchestrator.database_url or f"sqlite:///{self.orchestrator.state_dir / 'journal.sqlite'}"
        return addresses.with_psycopg(given)

    def named_folder(self, key: str) -> Path:
        """A folder that `[orchestrator]` must name for this operation. Raises ConfigurationError if it does not."""
        folder: Path | None = getattr(self.orchestrator, key)
        if folder is None:
            hint = f'say {key} = "/etc/vmacro/..." there'
            raise ConfigurationError(f"{self.path}: orchestrator.{key}: is not set", hint)
        return folder


def load(path: Path) -> Settings:
    """Read an inventory. Raises ConfigurationError with everything that is wrong."""
    return settings_of(path, config.load(path, Inventory, NO_INVENTORY))


def settings_of(path: Path, read: Inventory) -> Settings:
    """What was read from there, for all who work with it."""
    hosts = [_host(name, host, read) for name, host in read.hosts.items()]
    sites = tuple(
        nouns.Site(name, tuple(h for h in hosts if h.site == name), _filters_sources(read, name))
        for name, site in read.sites.items()
    )
    guests = tuple(_guest(name, guest) for name, guest in read.guests.items())
    policy = nouns.Policy(**read.policy.model_dump())
    orchestrator = read.orchestrator.model_copy(update={"database_url": _database_url(path, read.orchestrator)})
    return Settings(path, nouns.Inventory(sites, guests, policy, _hooks(read)), orchestrator, read.probers, read)


def adjusted(policy: nouns.Policy, changes: Mapping[str, object]) -> nouns.Policy:
    """A policy as one move changes it, within the same limits. Raises ConfigurationError."""
    checked = config.parse(dataclasses.asdict(policy) | dict(changes), Policy, "policy")
    return nouns.Policy(**checked.model_dump())


def parts_of(subnet: IPv4Network, count: int) -> list[IPv4Network]:
    """A site's subnet, divided equally among so many hosts: the largest equal parts there are. Raises ValueError."""
    return list(subnet.subnets(prefixlen_diff=(count - 1).bit_length()))[:count]


def _database_url(path: Path, orchestrator: Orchestrator) -> str:
    """From the environment, a file or the inventory, in this order. Raises ConfigurationError, which shows no
    password."""
    file, given = orchestrator.database_url_file, os.environ.get(DATABASE_URL, "")
    where = DATABASE_URL if given else f"{path}: orchestrator.database_url_file: {shown(str(file))}"
    if not given and file is not None:
        try:
            if file.stat().st_mode & stat.S_IROTH:
                raise ConfigurationError(f"{where}: everybody can read it", f"chmod 600 {shown(str(file))}")
            given = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{where}: cannot be read: {reason_of(error)}") from None
    elif not given:
        return orchestrator.database_url  # checked with the rest of the inventory
    try:
        addresses.check_database(given)
    except ValueError as error:
        raise ConfigurationError(f"{where}: {error}") from error
    return given


def _filters_sources(read: Inventory, site: str) -> bool:
    """Its network does, or its hosts do."""
    networks = [read.network_of(name) for name, host in read.hosts.items() if host.site == site]
    return read.sites[site].anti_spoofing or any(n is not None and n.guard for n in networks)


def _host(name: str, host: Host, read: Inventory) -> nouns.Host:
    given, network = host.model_dump(), read.network_of(name)
    defaults = {"name": name, "peer_uri": host.peer_uri or host.uri, "tls_name": host.tls_name or name}
    defaults["subnet"] = str(network.subnet) if network is not None else ""
    defaults["public_subnet"] = str(network.public_subnet or "") if network is not None else ""
    given["public"] = tuple((str(a), str(p)) for a, p in read.sites[host.site].public.items())
    given["guard"] = network is not None and network.guard
    defaults["subnet6"] = str(network.subnet6 or "") if network is not None else ""
    fields = {f.name for f in dataclasses.fields(nouns.Host)}
    return nouns.Host(**{k: v for k, v in (given | defaults).items() if k in fields})


def _guest(name: str, guest: Guest) -> nouns.Guest:
    probe = _target(guest.probe) if guest.probe is not None else None
    return nouns.Guest(name, guest.domain or name, probe, guest.names, tuple(map(str, guest.taken_as_reached)))


def _hooks(read: Inventory) -> nouns.Hooks:
    before, after = (tuple(map(str, paths)) for paths in (read.hooks.before, read.hooks.after))
    return nouns.Hooks(before, after, read.hooks.deadline_s, read.hooks.on_failure == "stop")


def _target(probe: Probe) -> nouns.ProbeTarget:
    return nouns.ProbeTarget(
        probe.from_, probe.port, probe.mptcp, probe.interval_ms, probe.address, probe.visit_every_ms
    )
