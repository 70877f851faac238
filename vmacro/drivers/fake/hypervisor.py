"""libvirt of one host, in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from vmacro.drivers.fake.state import DEFINITION, Effect, FakeDisks, FakeHost
from vmacro.errors import CopyError, HostError, TakenError
from vmacro.model.definitions import Definition, Fit
from vmacro.model.facts import (
    ARRIVING,
    LEAVING,
    CopyProgress,
    CopyStatistics,
    Disk,
    DiskCopy,
    DomainFacts,
    HostFacts,
    NetworkFacts,
    Pool,
    Reservation,
)
from vmacro.model.filters import LIVE, Filters
from vmacro.model.nouns import Compression, Host, Policy

if TYPE_CHECKING:
    from vmacro.drivers.fake.world import FakeWorld


class FakeHypervisor:
    """Implements ports.Hypervisor."""

    def __init__(self, world: FakeWorld, name: str) -> None:
        self._world, self._name = world, name

    def facts(self) -> HostFacts:
        with self._host("facts") as host:
            return host.facts

    def domain(self, name: str) -> DomainFacts | None:
        with self._host("domain", name) as host:
            coming = (h for h in self._world.hosts.values() if h.leaving.get(name) == self._name)
            source = next(coming, None)
            if source is not None:
                return replace(source.domains[name], state="paused", reason="for a migration", job=ARRIVING)
            found = host.domains.get(name)
            return replace(found, job=LEAVING) if found is not None and name in host.leaving else found

    def definition(self, name: str) -> Definition | None:
        with self._host("definition", name) as host:
            found, filters = host.definitions.get(name, DEFINITION), self._world.filters.get(name, ())
            found = replace(found, autostart=name in host.autostart, filters=filters)
            return found if name in host.domains else None

    def fit(self, name: str, uuid: str, wanted: Definition) -> Fit:
        """What nobody has said of it, it has."""
        with self._host("fit", name) as host:
            twin = next((d.name for d in host.domains.values() if d.uuid == uuid and d.name != name), "")
            return replace(host.fit, namesake=twin, filters=host.fit.filters or wanted.filters)

    def filters(self, domain: str) -> Filters:
        with self._host("filters", domain) as host:
            if domain not in host.domains:
                raise HostError(f"host {self._name}: no domain {domain}")
            return tuple(found for found in self._world.filters.get(domain, ()) if found.where == LIVE)

    def network(self, name: str) -> NetworkFacts | None:
        with self._host("network") as host:
            return _with_leases(host.networks[name], host.leases) if name in host.networks else None

    def networks(self) -> tuple[str, ...]:
        with self._host("networks") as host:
            return tuple(network.name for network in host.networks.values() if network.active)

    def copy(
        self,
        domain: str,
        destination: Host,
        policy: Policy,
        report: Callable[[CopyProgress], None],
        cancelled: Callable[[], bool],
        disks: tuple[str, ...] = (),
    ) -> None:
        with self._host("copy", domain) as here:
            if domain not in here.domains:
                raise CopyError(f"host {self._name}: no domain {domain}")
            what = f"host {self._name}: migration of {domain} to {destination.name} failed"
            there = self._world.hosts[destination.name]
            if not here.domains[domain].running:
                raise CopyError(f"{what}: domain is not running")
            if domain not in here.leaving:
                if cancelled():
                    raise CopyError(f"{what}: it was interrupted before it began")
                _may_begin(here.domains[domain], there.disks, disks, what)
                here.leaving[domain] = destination.name  # goes on without us, if we die here
        if here.facts.capabilities.progress:
            report(CopyProgress(100, 1 << 28, 1 << 27, 1 << 27, 1, 0.0, 20.0))
        if domain not in here.leaving:
            raise CopyError(f"{what}: domain is not running")
        if cancelled() or not there.reachable:
            del here.leaving[domain]
            why = "it was interrupted" if cancelled() else f"{destination.name} does not answer"
            raise CopyError(f"{what}: {why}")
        self._world.finish_copy(here, domain, policy.compression == Compression.ZSTD)
        self._world.before(Effect("copy.done", self._name, domain))

    def measure(self, domain: str) -> bool:
        with self._host("measure", domain) as host:
            return domain in host.domains

    def dirty_mib_s(self, domain: str) -> float | None:
        with self._host("dirty_mib_s", domain) as host:
            return host.dirtied.get(domain, 1.0) if domain in host.domains else None

    def pools(self) -> tuple[Pool, ...]:
        with self._host("pools") as host:
            return host.pools

    def freeze(self, domain: str, disks: tuple[DiskCopy, ...]) -> None:
        with self._host("freeze", domain) as here:
            if domain not in here.domains:
                raise HostError(f"host {self._name}: no domain {domain}")
            by_target = {d.target: d for d in disks}
            here.disks.overlays |= {d.overlay for d in disks}
            found = here.domains[domain]
            here.domains[domain] = replace(found, disks=tuple(_below(d, by_target.get(d.target)) for d in found.disks))

    def discard(self, domain: str, fenced: bool = False, uuid: str = "") -> None:
        with self._host("discard", domain) as here:
            if domain in here.domains and uuid not in ("", here.domains[domain].uuid):
                return
            if domain in here.domains and here.domains[domain].running and not fenced:
                raise HostError(f"host {self._name}: domain {domain} is running; it stays")
            here.domains.pop(domain, None)
            here.autostart.discard(domain)
            here.fenced.discard(domain)  # its tap has gone

    def set_autostart(self, domain: str) -> None:
        with self._host("set_autostart", domain) as host:
            if domain not in host.domains:
                raise HostError(f"host {self._name}: no domain {domain}")
            host.autostart.add(domain)

    def statistics(self, domain: str) -> CopyStatistics | None:
        with self._host("statistics", domain) as host:
            return host.arrived.get(domain) if domain in host.domains else None

    def reserve(self, network: str, wanted: Reservation) -> None:
        """As virNetworkDefUpdateIPDHCPHost: no two entries with one MAC, name or address."""
        with self._host("reserve") as host:
            what = f"host {self._name}: DHCP reservation of {wanted.told}"
            if network not in host.networks:
                raise HostError(f"{what}: no network {network!r}")
            known = host.networks[network].reserved
            if any((r.address, r.mac) == (wanted.address, wanted.mac) for r in known):
                return
            rival = next((r for r in known if _share_something(r, wanted)), None)
            if rival is not None:
                raise TakenError(f"{what} on network {network}: there is one of {rival.told}")
            _reserved(host, network, (*known, wanted))

    def release(self, network: str, made: Reservation) -> None:
        with self._host("release") as host:
            if network in host.networks:
                known = host.networks[network].reserved
                _reserved(host, network, tuple(r for r in known if r != made))

    @contextmanager
    def watch(self, domain: str, see: Callable[[str, str], None]) -> Iterator[None]:
        with self._host("watch", domain) as host:
            host.watchers.append((domain, see))
        try:
            yield
        finally:
            with self._world.lock:
                host.watchers.remove((domain, see))

    def _host(self, effect: str, guest: str = "") -> AbstractContextManager[FakeHost]:
        return self._world.reached(Effect(f"{effect} {self._name}", self._name, guest), "no answer")


def _may_begin(domain: DomainFacts, there: FakeDisks, disks: tuple[str, ...], what: str) -> None:
    missing = [d.source for d in domain.disks if d.backing and d.source not in there.overlays]
    if missing or len(disks) != len(domain.disks):
        raise CopyError(f"{what}: it lacks {missing}")


def _with_leases(network: NetworkFacts, leases: dict[str, str]) -> NetworkFacts:
    """What libvirt's DHCP server has given away besides; it takes nothing back, as leases are longer than moves."""
    known = set(network.taken)
    fresh = [(a, m) for m, a in leases.items() if (a, m) not in known]
    more = {a for a, _ in fresh} - {a for a, _ in network.taken}
    free = max(0, network.dhcp_free - len(more)) if network.dhcp_free is not None else None
    return replace(network, taken=(*network.taken, *fresh), dhcp_free=free)


def _share_something(one: Reservation, other: Reservation) -> bool:
    pairs = ((one.address, other.address), (one.mac, other.mac), (one.name, other.name))
    return any(mine and mine == theirs for mine, theirs in pairs)


def _reserved(host: FakeHost, network: str, reserved: tuple[Reservation, ...]) -> None:
    found = host.networks[network]
    before, pairs = ([(r.address, r.mac) for r in entries] for entries in (found.reserved, reserved))
    leases = tuple(t for t in found.taken if t not in before)
    free = found.dhcp_free
    if free is not None and found.dhcp_range is not None:  # without a range none is free, and none gets fewer
        free += len(before) - len(pairs)
    host.networks[network] = replace(found, reserved=reserved, taken=(*leases, *pairs), dhcp_free=free)


def _below(disk: Disk, copy: DiskCopy | None) -> Disk:
    if copy is None or disk.source == copy.overlay:
        return disk
    return replace(disk, source=copy.overlay, format="qcow2", backing=copy.base, backing_format=copy.format)
