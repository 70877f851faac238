"""The operator's inventory: one TOML file of sites, hosts, guests, probers and bounds."""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator, model_validator

from vmacro import config
from vmacro.config import Strict
from vmacro.errors import ConfigurationError
from vmacro.model import nouns

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
DEFAULT_STATE_DIR = Path("/var/lib/vmacro")


class SiteNetwork(Strict):
    """The guests' network of a site, as `vmacro provision hosts` makes it: its first address is the hosts'."""

    subnet: IPv4Network
    dhcp_first: IPv4Address | None = Field(default=None, description="default: the subnet's tenth address")
    dhcp_last: IPv4Address | None = Field(default=None, description="default: the subnet's last one")
    subnet6: IPv6Network | None = Field(default=None, description="a /64, for SLAAC")
    lease_minutes: int = Field(default=60, ge=2)

    @model_validator(mode="after")
    def _fits(self) -> SiteNetwork:
        if self.subnet.num_addresses < 8:
            raise ValueError(f"subnet {self.subnet} is too small for guests")
        first, last = self.dhcp_range
        outside = [str(a) for a in (first, last) if a not in self.subnet or a == self.gateway]
        if outside or last < first:
            raise ValueError(f"dhcp {first} to {last} is no range of {self.subnet} without its gateway {self.gateway}")
        if self.subnet6 is not None and self.subnet6.prefixlen != 64:
            raise ValueError(f"subnet6 {self.subnet6}: SLAAC needs a /64")
        return self

    @property
    def gateway(self) -> IPv4Address:
        return self.subnet[1]

    @property
    def dhcp_range(self) -> tuple[IPv4Address, IPv4Address]:
        first = self.subnet[10] if self.subnet.num_addresses > 16 else self.subnet[2]
        return self.dhcp_first or first, self.dhcp_last or self.subnet[-2]


class Site(Strict):
    anti_spoofing: bool = Field(default=False, description="its network drops packets with other sites' sources")
    network: SiteNetwork | None = Field(default=None, description="what to provision; default: leave it alone")


class Host(Strict):
    site: str
    uri: str = Field(description="libvirt's URI for this machine, say qemu+tls://host/system")
    peer_uri: str = Field(default="", description="the same for the other hosts; default: uri")
    address: str = Field(description="where the other hosts send migration data")
    tls_name: str = Field(default="", description="the name in the host's certificate; default: the host's name")
    ssh: str = Field(default="", description="USER@ADDRESS of its host side, for seamless moves")
    network: str = Field(default="front", description="libvirt network that guests attach to")
    memory_reserve_mib: int = Field(default=256, ge=0)
    emulation: bool = Field(default=False, description="guests run without KVM here, and that is meant")
    ansible: dict[str, JsonValue] = Field(default_factory=dict, description="further variables for the playbooks")

    @field_validator("uri")
    @classmethod
    def _is_remote_and_encrypted(cls, uri: str) -> str:
        parts = urlsplit(uri)
        driver, _, transport = parts.scheme.partition("+")
        if driver not in ("qemu", "xen"):
            raise ValueError("must begin with qemu+ or xen+")
        if transport not in ("tls", "ssh", "libssh", "libssh2") or not parts.hostname:
            raise ValueError("must be encrypted and name a host: qemu+tls://HOST/system or qemu+ssh://HOST/system")
        return uri


class Probe(Strict):
    """`from` is a keyword of Python's, not of TOML's."""

    from_: str = Field(alias="from")
    address: str = Field(default="", description="the name that clients use; default: the guest's address")
    port: int = Field(default=7000, ge=1, le=65535)
    mptcp: bool = True
    interval_ms: float = Field(default=10.0, ge=1, le=60_000)


class Guest(Strict):
    domain: str = Field(default="", description="libvirt's name for it; default: the guest's name")
    probe: Probe | None = None
    ssh: str = Field(default="", description="USER@ADDRESS, or USER@ where its address is to be asked of its host")
    interface: str = Field(default="", description="the one that migrates; default: that of the default route")
    servers: tuple[str, ...] = Field(default=(), description="systemd units in it that are to speak MPTCP")
    ansible: dict[str, JsonValue] = Field(default_factory=dict, description="further variables for the playbooks")

    @field_validator("ssh")
    @classmethod
    def _names_a_user(cls, ssh: str) -> str:
        if ssh and not ssh.partition("@")[1]:
            raise ValueError("must be USER@ADDRESS, or USER@ where its address is to be asked of its host")
        return ssh


class Prober(Strict):
    """What measures as a client would: a machine that SSH reaches, or a network namespace of this one."""

    ssh: str = Field(default="", description="USER@ADDRESS of the machine")
    network_namespace: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,255}$")
    ansible: dict[str, JsonValue] = Field(default_factory=dict, description="further variables for the playbooks")

    @model_validator(mode="after")
    def _is_somewhere(self) -> Prober:
        if bool(self.ssh) == bool(self.network_namespace):
            raise ValueError('needs either ssh = "USER@ADDRESS" or network_namespace')
        if self.ssh and not all(self.ssh.rpartition("@")):
            raise ValueError(f"ssh = {self.ssh!r}: must be USER@ADDRESS")
        return self


class Policy(Strict):
    bandwidth_mib_s: int = Field(default=0, ge=0)
    max_downtime_ms: int = Field(default=300, ge=1, le=60_000)
    copy_timeout_s: float = Field(default=600, gt=0)
    arrival_timeout_s: float = Field(default=60, gt=0)
    settle_timeout_s: float = Field(default=30, gt=0)
    auto_converge: bool = True
    allow_connection_loss: bool = False
    consent_timeout_ms: int = Field(default=1500, ge=1, le=10_000)
    join_timeout_s: float = Field(default=3, ge=0, le=60)
    carry_deadline_s: float = Field(default=86_400, ge=0)
    downtime_limit_ms: int = Field(default=10_000, ge=100, le=600_000)
    phase_timeout_s: float = Field(default=90, gt=0)
    move_timeout_s: float = Field(default=3600, gt=0)
    remove_source_disks: bool = False


class Orchestrator(Strict):
    addresses: tuple[str, ...] = Field(default=(), description="whence we reach the hosts' libvirt; default: anywhere")
    ca_dir: Path | None = Field(default=None, description="the authority's folder, where it is ours: vmacro pki")
    pki_dir: Path | None = Field(default=None, description="cacert.pem, clientcert.pem, clientkey.pem for qemu+tls")
    ssh_key: Path | None = Field(default=None, description="private key for the hosts; default: SSH's own")
    ssh_known_hosts: Path | None = Field(default=None, description="default: the system's and the user's")
    database_url: str = Field(default="", description="the journal; default: SQLite in state_dir")
    state_dir: Path = DEFAULT_STATE_DIR
    network_namespace: str = Field(default="", description="work from here; the lab's operator has one of its own")


class Inventory(Strict):
    orchestrator: Orchestrator = Orchestrator()
    policy: Policy = Policy()
    sites: dict[Name, Site] = Field(min_length=1)
    hosts: dict[Name, Host] = Field(min_length=1)
    guests: dict[Name, Guest] = Field(default_factory=dict)
    probers: dict[Name, Prober] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Inventory:
        problems = [*self._names_without_thing(), *self._overlaps()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _overlaps(self) -> list[str]:
        nets = [(n, s.network.subnet) for n, s in self.sites.items() if s.network is not None]
        return [
            f"sites.{a}.network.subnet = {x} overlaps that of {b} = {y}: guests could not tell the sites apart"
            for (a, x), (b, y) in itertools.combinations(nets, 2)
            if x.overlaps(y)
        ]

    def _names_without_thing(self) -> list[str]:
        problems = [f"hosts.{n}.site: no site {h.site!r}" for n, h in self.hosts.items() if h.site not in self.sites]
        homes = {h.site for h in self.hosts.values()}
        problems += [f"sites.{name}: has no host" for name in self.sites if name not in homes]
        for name, guest in self.guests.items():
            if guest.probe is not None and guest.probe.from_ not in self.probers:
                problems.append(f"guests.{name}.probe.from: no prober {guest.probe.from_!r}")
        return problems


@dataclass(frozen=True)
class Settings:
    """An inventory, read: what the model speaks of, and what only the wiring needs."""

    path: Path
    inventory: nouns.Inventory
    orchestrator: Orchestrator
    probers: dict[str, Prober]
    read: Inventory  # as written, for what provisioning makes of it

    @property
    def database_url(self) -> str:
        """As SQLAlchemy takes it; PostgreSQL by psycopg, whatever the URL says."""
        given = self.orchestrator.database_url or f"sqlite:///{self.orchestrator.state_dir / 'journal.sqlite'}"
        return re.sub(r"^postgres(ql)?(\+\w+)?:", "postgresql+psycopg:", given)

    def named_folder(self, key: str) -> Path:
        """A folder of orchestrator's that an operation cannot do without. Raises ConfigurationError."""
        folder: Path | None = getattr(self.orchestrator, key)
        if folder is None:
            hint = f'say {key} = "/etc/vmacro/..." there'
            raise ConfigurationError(f"{self.path}: orchestrator.{key}: is not set", hint)
        return folder


def load(path: Path) -> Settings:
    """Raises ConfigurationError with everything that is wrong."""
    read = config.load(path, Inventory)
    hosts = [_host(name, host) for name, host in read.hosts.items()]
    sites = tuple(
        nouns.Site(
            name,
            tuple(h for h in hosts if h.site == name),
            site.anti_spoofing,
            str(site.network.subnet) if site.network is not None else "",
        )
        for name, site in read.sites.items()
    )
    guests = tuple(_guest(name, guest) for name, guest in read.guests.items())
    policy = nouns.Policy(**read.policy.model_dump())
    return Settings(path, nouns.Inventory(sites, guests, policy), read.orchestrator, read.probers, read)


def _host(name: str, host: Host) -> nouns.Host:
    given = host.model_dump()
    defaults = {"name": name, "peer_uri": host.peer_uri or host.uri, "tls_name": host.tls_name or name}
    fields = {f.name for f in dataclasses.fields(nouns.Host)}
    return nouns.Host(**{k: v for k, v in (given | defaults).items() if k in fields})


def _guest(name: str, guest: Guest) -> nouns.Guest:
    return nouns.Guest(name, guest.domain or name, _target(guest.probe) if guest.probe is not None else None)


def _target(probe: Probe) -> nouns.ProbeTarget:
    return nouns.ProbeTarget(probe.from_, probe.port, probe.mptcp, probe.interval_ms, probe.address)
