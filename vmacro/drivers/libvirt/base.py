"""What all hypervisors that libvirt drives have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import libvirt

from vmacro.addresses import check_libvirt
from vmacro.drivers.libvirt import definition, dhcp, dirtying, filters, fit, xml
from vmacro.drivers.libvirt.connection import Connections, translated, understood
from vmacro.drivers.libvirt.migration import Order, migrate, statistics
from vmacro.drivers.libvirt.states import job, reason_word, state_word
from vmacro.errors import CopyError, HostError
from vmacro.model.definitions import Definition, Fit
from vmacro.model.facts import (
    ARRIVING,
    Capabilities,
    CopyProgress,
    CopyStatistics,
    DiskCopy,
    DomainFacts,
    HostFacts,
    NetworkFacts,
    NetworkNames,
    Pool,
    Reservation,
)
from vmacro.model.filters import Filters
from vmacro.model.nouns import Host, Policy
from vmacro.wire import fields
from vmacro.wire.names import AGENT_CHANNEL

Version = tuple[int, int, int]
# Of a driver without block jobs, a domain that has ended, a disk that has gone.
_NO_JOB = (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_INVALID_ARG)


class LibvirtHypervisor:
    """Implements ports.Hypervisor for any hypervisor. `known`: what one can do in every version, as its own class
    knows. `undefining`: flags with which it forgets a domain, and no more."""

    known: ClassVar[Capabilities]
    undefining: ClassVar[int] = libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM

    def __init__(self, host: Host, connections: Connections) -> None:
        self._host = host
        self._connections = connections

    @property
    def _connection(self) -> Any:
        return self._connections.get(self._host)

    def able(self, libvirt_version: Version, version: Version) -> Capabilities:
        """What one of these versions can do."""
        return self.known

    def _versions(self) -> tuple[Version, Version]:
        """libvirt's, and the hypervisor's."""
        connection = self._connection
        return _triple(connection.getLibVersion()), _triple(connection.getVersion())

    def facts(self) -> HostFacts:
        connection = self._connection
        with ThreadPoolExecutor(1) as beside, understood(self._host.name, "cannot be surveyed"):
            days = beside.submit(self._connections.certificate_days_left, self._host)  # by a connection of its own
            told = connection.getCapabilities()
            versions = self._versions()
            able = self.able(*versions)
            live = able.live_migration and xml.migrates_live(told)
            found = {
                "hostname": connection.getHostname(),
                "hypervisor": connection.getType(),
                "hypervisor_version": versions[1],
                "libvirt_version": versions[0],
                "free_memory_mib": self.free_memory_mib(connection),
                "capabilities": fields.encode(replace(able, live_migration=live)),
                "machine_types": xml.machine_types(told),
                "certificate_days_left": days.result(),
                "uuid": xml.host_uuid(told),
                "processor": xml.host_processor(told),
                "security_models": xml.security_models(told),
            }
            return fields.decode(HostFacts, found, "facts")

    @staticmethod
    def abort() -> Callable[[Any], None]:
        """What ends one migration of a domain. It raises libvirtError."""
        return lambda domain: domain.abortJob()

    @staticmethod
    def job(domain: Any) -> str:
        """What libvirt is at work on with a domain. Raises libvirtError."""
        return job(domain)

    @staticmethod
    def has_agent_channel(described: xml.DomainDescription) -> bool:
        """Whether the guest's agent can be spoken to."""
        return AGENT_CHANNEL in described.channels

    @staticmethod
    def free_memory_mib(connection: Any) -> int:
        """For further guests. Raises libvirtError."""
        memory = connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
        return sum(int(memory.get(k, 0)) for k in ("free", "buffers", "cached")) // 1024

    def domain(self, name: str) -> DomainFacts | None:
        domain = self._lookup(name)
        if domain is None:
            return None
        with understood(self._host.name, f"domain {name} cannot be described"):
            state, reason = domain.state()
            described = xml.domain(domain.XMLDesc())
            return DomainFacts(
                name=name,
                uuid=domain.UUIDString(),
                state=state_word(state),
                reason=reason_word(state, reason),
                persistent=bool(domain.isPersistent()),
                accelerator=described.accelerator,
                machine=described.machine,
                memory_mib=described.memory_mib,
                cards=described.cards,
                disks=described.disks,
                has_agent_channel=self.has_agent_channel(described),
                job=self.job(domain) or xml.block_jobs(described),
                reports_free_pages=described.reports_free_pages,
            )

    def definition(self, name: str) -> Definition | None:
        domain = self._lookup(name)
        if domain is None:
            return None
        with understood(self._host.name, f"the definition of domain {name} cannot be read"):
            persistent = bool(domain.isPersistent())
            live = domain.XMLDesc()
            stored = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) if persistent else ""
            return definition.definition(
                live,
                stored,
                filters=[fields.encode(held) for held in filters.of(live, stored, self._filter_xml)],
                snapshots=_none_without_support(domain.snapshotNum),
                checkpoints=_none_without_support(lambda: len(domain.listAllCheckpoints())),
                saved=bool(domain.hasManagedSaveImage()),
                block_jobs=_block_jobs(domain, live),
                autostart=bool(domain.autostart()) if persistent else False,
            )

    def fit(self, name: str, uuid: str, wanted: Definition) -> Fit:
        connection = self._connection
        with understood(self._host.name, f"it cannot be asked for what domain {name} needs"):
            return fit.fit(connection, name, uuid, wanted, self._filter_xml)

    def filters(self, domain: str) -> Filters:
        handle = self._lookup(domain)
        if handle is None:
            raise HostError(f"host {self._host.name}: no domain {domain}")
        with understood(self._host.name, f"the filters of domain {domain} cannot be read"):
            return filters.of(handle.XMLDesc(), "", self._filter_xml)

    def network(self, name: str) -> NetworkFacts | None:
        network = self._network(name)
        if network is None:
            return None
        with understood(self._host.name, f"network {name} cannot be described"):
            active = bool(network.isActive())
            leases = [(x.get("ipaddr"), x.get("mac")) for x in (network.DHCPLeases() if active else [])]
            return xml.network(network.XMLDesc(), active, leases, dhcp.stored(network))

    def networks(self) -> tuple[str, ...]:
        connection = self._connection
        with understood(self._host.name, "networks cannot be listed"):
            found = connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE)
            names: tuple[str, ...] = fields.decode_as(NetworkNames, [n.name() for n in found], "networks")
            return names

    def copy(
        self,
        domain: str,
        destination: Host,
        policy: Policy,
        report: Callable[[CopyProgress], None],
        cancelled: Callable[[], bool],
        disks: tuple[str, ...] = (),
    ) -> None:
        with translated(self._host.name, "its version cannot be asked for"):
            able = self.able(*self._versions())
        order = Order(destination, policy, disks, able, abort=self.abort())
        self.carry_out(domain, order, report, cancelled)

    def carry_out(
        self, domain: str, order: Order, report: Callable[[CopyProgress], None], cancelled: Callable[[], bool]
    ) -> None:
        """As copy()."""
        handle = self._lookup(domain)
        if handle is None:
            raise CopyError(f"host {self._host.name}: no domain {domain}")
        try:
            check_libvirt(order.destination.peer_uri)  # root at this host opens it
        except ValueError as error:
            raise CopyError(f"host {order.destination.name}: its peer_uri {error}") from error
        with translated(self._host.name, f"domain {domain} cannot be asked whether it migrates"):
            connect = partial(self._connections.another, self._host)
            migrate(self._host.name, handle, connect, order, report, cancelled)

    def measure(self, domain: str) -> bool:
        handle = self._lookup(domain)
        if handle is None:
            return False
        with translated(self._host.name, f"domain {domain} cannot be asked how much it writes"):
            return dirtying.measure(handle)

    def dirty_mib_s(self, domain: str) -> float | None:
        handle = self._lookup(domain)
        if handle is None:
            return None
        with understood(self._host.name, f"domain {domain} cannot be asked how much it writes"):
            return dirtying.mib_s(self._connection, handle)

    def pools(self) -> tuple[Pool, ...]:
        connection = self._connection
        with understood(self._host.name, "storage pools cannot be described"):
            found = connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
            return tuple(xml.pool(p.XMLDesc()) for p in found)

    def freeze(self, domain: str, disks: tuple[DiskCopy, ...]) -> None:
        """virDomainSnapshotCreateXML, external and without metadata: the present file becomes the base, and the guest
        writes to an overlay from now on."""
        handle = self._lookup(domain)
        if handle is None:
            raise HostError(f"host {self._host.name}: no domain {domain}")
        with understood(self._host.name, f"domain {domain} cannot be described"):
            now = xml.targets(handle.XMLDesc())
        due = [d for d in disks if now.get(d.target) != d.overlay]
        if not due:
            return
        others = set(now) - {d.target for d in due}
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
        with translated(self._host.name, f"disks of domain {domain} cannot be frozen"):
            snapshot = xml.snapshot(due, sorted(others))
            handle.snapshotCreateXML(snapshot, flags | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC)

    def discard(self, domain: str, fenced: bool = False, uuid: str = "") -> None:
        """virDomainDestroy and virDomainUndefineFlags, of a domain that stands still or reaches nobody."""
        handle = self._lookup(domain)
        if handle is None:
            return
        with translated(self._host.name, f"remains of domain {domain} cannot be removed"):
            if uuid and handle.UUIDString().lower() != uuid.lower():
                return
            if self.job(handle) == ARRIVING:
                raise HostError(f"host {self._host.name}: domain {domain} is on its way here; it stays")
            state, _ = handle.state()
            if state not in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_SHUTOFF) and not fenced:
                raise HostError(f"host {self._host.name}: domain {domain} is {state_word(state)}; it stays")
            persistent = bool(handle.isPersistent())
            if state != libvirt.VIR_DOMAIN_SHUTOFF:
                handle.destroy()
            if persistent:
                handle.undefineFlags(self.undefining)

    def set_autostart(self, domain: str) -> None:
        handle = self._lookup(domain)
        if handle is None:
            raise HostError(f"host {self._host.name}: no domain {domain}")
        with translated(self._host.name, f"domain {domain} cannot be marked for autostart"):
            handle.setAutostart(1)

    def statistics(self, domain: str) -> CopyStatistics | None:
        handle = self._lookup(domain)
        if handle is None or not self.known.completed_statistics:
            return None
        with understood(self._host.name, f"no job statistics of {domain}"):
            stats = handle.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
            return statistics(stats) if "downtime" in stats else None

    def reserve(self, network: str, wanted: Reservation) -> None:
        found = self._network(network)
        if found is None:
            what = f"DHCP reservation of {wanted.told}: no network {network!r}"
            raise HostError(f"host {self._host.name}: {what}", "is it defined? virsh net-list --all")
        dhcp.reserve(self._host.name, found, wanted)

    def release(self, network: str, made: Reservation) -> None:
        found = self._network(network)
        if found is not None:
            dhcp.release(self._host.name, found, made)

    @contextmanager
    def watch(self, domain: str, see: Callable[[str, str], None]) -> Iterator[None]:
        def seen(name: str, event: str, detail: str) -> None:
            if name == domain:
                see(event, detail)

        with ExitStack() as watching:
            with translated(self._host.name, "cannot watch events"):
                watching.enter_context(self._connections.events(self._host).watched(seen))
            yield

    def _filter_xml(self, name: str) -> str:
        """'' where there is none, or this libvirt has no filters at all."""
        try:
            return str(self._connection.nwfilterLookupByName(name).XMLDesc())
        except libvirt.libvirtError as error:
            if error.get_error_code() in (libvirt.VIR_ERR_NO_NWFILTER, libvirt.VIR_ERR_NO_SUPPORT):
                return ""
            raise

    def _network(self, name: str) -> Any | None:
        connection = self._connection
        with translated(self._host.name, f"network {name} cannot be looked up"):
            try:
                return connection.networkLookupByName(name)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
                    return None
                raise

    def _lookup(self, name: str) -> Any | None:
        connection = self._connection
        with translated(self._host.name, f"domain {name} cannot be looked up"):
            try:
                return connection.lookupByName(name)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return None
                raise


def _none_without_support(count: Callable[[], int]) -> int:
    """Of what libvirt's driver knows nothing, there is nothing. Raises libvirtError."""
    try:
        return int(count())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return 0
        raise


def _block_jobs(domain: Any, live: str) -> list[str]:
    """The disks at which one works, of kinds of which the XML says nothing, too. Raises libvirtError, ValueError."""
    found = []
    for target in xml.own_targets(live):
        try:
            if domain.blockJobInfo(target):
                found.append(target)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in _NO_JOB:
                raise
    return found


def _triple(version: int) -> Version:
    return version // 1_000_000, version // 1000 % 1000, version % 1000
