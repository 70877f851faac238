"""What an operator's inventory speaks of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Host:
    """A hypervisor host. `uri` is libvirt's for us, `peer_uri` for the other hosts; `address` is where
    they send migration data; `tls_name` is the name in its certificate; `ssh`, if any, is USER@ADDRESS of
    its host side."""

    name: str
    site: str
    uri: str
    peer_uri: str
    address: str
    tls_name: str
    network: str
    memory_reserve_mib: int = 0
    ssh: str = ""


@dataclass(frozen=True)
class Site:
    """One place with its own guest subnet, and the hosts that route it. `anti_spoofing`: its network drops
    packets with sources that are not its own (RFC 2827). `subnet`: its guests', '' where the inventory says nothing."""

    name: str
    hosts: tuple[Host, ...]
    anti_spoofing: bool = False
    subnet: str = ""


@dataclass(frozen=True)
class ProbeTarget:
    """Where and from which prober a guest's round trips are measured while it moves. `address` is the name that
    clients use, empty for whatever address the guest has."""

    prober: str
    port: int = 7000
    mptcp: bool = True
    interval_ms: float = 10.0
    address: str = ""


@dataclass(frozen=True)
class Guest:
    name: str
    domain: str
    probe: ProbeTarget | None = None


@dataclass(frozen=True)
class Policy:
    """Bounds of a move. `bandwidth_mib_s` 0 means as fast as the link goes; QEMU aims at a pause of
    `max_downtime_ms`, one that lasts `downtime_limit_ms` is given up; `phase_timeout_s` bounds each phase besides
    the waiting that has a bound of its own, `move_timeout_s` all up to the guest's arrival. Connections that cannot
    follow are carried for `carry_deadline_s` at most. `remove_source_disks`: a guest's own disks do not stay behind
    once it was seen to be well elsewhere."""

    bandwidth_mib_s: int = 0
    max_downtime_ms: int = 300
    copy_timeout_s: float = 600.0
    arrival_timeout_s: float = 60.0
    settle_timeout_s: float = 30.0
    auto_converge: bool = True
    allow_connection_loss: bool = False
    consent_timeout_ms: int = 1500
    join_timeout_s: float = 3.0
    carry_deadline_s: float = 86_400.0
    downtime_limit_ms: int = 10_000
    phase_timeout_s: float = 90.0
    move_timeout_s: float = 3600.0
    remove_source_disks: bool = False


@dataclass(frozen=True)
class Inventory:
    sites: tuple[Site, ...]
    guests: tuple[Guest, ...]
    policy: Policy

    @property
    def hosts(self) -> tuple[Host, ...]:
        return tuple(h for s in self.sites for h in s.hosts)

    def site(self, name: str) -> Site | None:
        return next((s for s in self.sites if s.name == name), None)

    def host(self, name: str) -> Host | None:
        return next((h for h in self.hosts if h.name == name), None)

    def guest(self, name: str) -> Guest | None:
        return next((g for g in self.guests if g.name == name), None)
