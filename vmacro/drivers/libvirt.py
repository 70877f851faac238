"""A hypervisor host by libvirt: KVM, QEMU without KVM, and Xen alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import libvirt

from guest_agent.protocol import CHANNEL_NAME
from vmacro.drivers import libvirt_xml
from vmacro.drivers.libvirt_connection import Connections, translated
from vmacro.drivers.libvirt_migration import migrate, under_way
from vmacro.errors import CopyError, HostError
from vmacro.model.facts import CopyProgress, CopyStatistics, DiskCopy, DomainFacts, HostFacts, NetworkFacts, Pool
from vmacro.model.nouns import Host, Policy

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
}
_EVENTS = {
    libvirt.VIR_DOMAIN_EVENT_DEFINED: "defined",
    libvirt.VIR_DOMAIN_EVENT_UNDEFINED: "undefined",
    libvirt.VIR_DOMAIN_EVENT_STARTED: "started",
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: "suspended",
    libvirt.VIR_DOMAIN_EVENT_RESUMED: "resumed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED: "stopped",
    libvirt.VIR_DOMAIN_EVENT_SHUTDOWN: "shutdown",
    libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED: "pmsuspended",
    libvirt.VIR_DOMAIN_EVENT_CRASHED: "crashed",
}


class LibvirtHypervisor:
    """Implements ports.Hypervisor."""

    def __init__(self, host: Host, connections: Connections) -> None:
        self._host = host
        self._connections = connections

    @property
    def _connection(self) -> Any:
        return self._connections.get(self._host)

    def facts(self) -> HostFacts:
        connection = self._connection
        with translated(self._host.name, "cannot be surveyed"):
            memory = connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
            free_kib = sum(memory.get(k, 0) for k in ("free", "buffers", "cached"))
            return HostFacts(
                hostname=connection.getHostname(),
                hypervisor=connection.getType(),
                hypervisor_version=_triple(connection.getVersion()),
                libvirt_version=_triple(connection.getLibVersion()),
                free_memory_mib=free_kib // 1024,
                machine_types=libvirt_xml.machine_types(connection.getCapabilities()),
                certificate_days_left=self._connections.certificate_days_left(self._host),
            )

    def domain(self, name: str) -> DomainFacts | None:
        domain = self._lookup(name)
        if domain is None:
            return None
        with translated(self._host.name, f"domain {name} cannot be described"):
            state, reason = domain.state()
            described = libvirt_xml.domain(domain.XMLDesc())
            return DomainFacts(
                name=name,
                uuid=domain.UUIDString(),
                state=_STATES.get(state, "other"),  # type: ignore[arg-type]
                reason=str(reason),
                persistent=bool(domain.isPersistent()),
                accelerator=described.accelerator,
                machine=described.machine,
                memory_mib=described.memory_mib,
                mac=described.mac,
                network=described.network,
                disks=described.disks,
                has_agent_channel=CHANNEL_NAME in described.channels,
                migrating=under_way(domain),
            )

    def network(self, name: str) -> NetworkFacts | None:
        connection = self._connection
        with translated(self._host.name, f"network {name} cannot be described"):
            try:
                network = connection.networkLookupByName(name)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
                    return None
                raise
            active = bool(network.isActive())
            leases = network.DHCPLeases() if active else []
            return libvirt_xml.network(network.XMLDesc(), active, [(x["ipaddr"], x["mac"]) for x in leases])

    def copy(
        self,
        domain: str,
        destination: Host,
        policy: Policy,
        report: Callable[[CopyProgress], None],
        cancelled: Callable[[], bool],
        disks: tuple[str, ...] = (),
    ) -> None:
        handle = self._lookup(domain)
        if handle is None:
            raise CopyError(f"host {self._host.name}: no domain {domain}")
        with translated(self._host.name, f"domain {domain} cannot be asked whether it migrates"):
            connect = partial(self._connections.another, self._host)
            migrate(self._host.name, handle, connect, destination, policy, report, cancelled, disks)

    def pools(self) -> tuple[Pool, ...]:
        connection = self._connection
        with translated(self._host.name, "storage pools cannot be described"):
            found = connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
            return tuple(libvirt_xml.pool(p.XMLDesc(), int(p.info()[3])) for p in found)

    def freeze(self, domain: str, disks: tuple[DiskCopy, ...]) -> None:
        """virDomainSnapshotCreateXML, external and without metadata: the base is what was, an overlay what comes."""
        handle, seen = self._lookup(domain), self.domain(domain)
        if handle is None or seen is None:
            raise HostError(f"host {self._host.name}: no domain {domain}")
        now = {d.target: d.source for d in seen.disks}
        due = [d for d in disks if now.get(d.target) != d.overlay]
        if not due:
            return
        others = set(now) - {d.target for d in due}
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
        with translated(self._host.name, f"disks of domain {domain} cannot be frozen"):
            xml = libvirt_xml.snapshot(due, sorted(others))
            handle.snapshotCreateXML(xml, flags | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC)

    def discard(self, domain: str, fenced: bool = False) -> None:
        """virDomainDestroy and virDomainUndefineFlags, of a domain that stands still or reaches nobody."""
        handle = self._lookup(domain)
        if handle is None:
            return
        with translated(self._host.name, f"remains of domain {domain} cannot be removed"):
            state, _ = handle.state()
            if state not in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_SHUTOFF) and not fenced:
                raise HostError(f"host {self._host.name}: domain {domain} is {_STATES.get(state, state)}; it stays")
            persistent = bool(handle.isPersistent())
            if state != libvirt.VIR_DOMAIN_SHUTOFF:
                handle.destroy()
            if persistent:
                handle.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)

    def statistics(self, domain: str) -> CopyStatistics | None:
        handle = self._lookup(domain)
        if handle is None:
            return None
        with translated(self._host.name, f"no job statistics of {domain}"):
            stats = handle.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
        if "downtime" not in stats:
            return None
        return CopyStatistics(
            downtime_ms=int(stats["downtime"]),
            elapsed_ms=int(stats.get("time_elapsed", 0)),
            bytes_transferred=int(stats.get("memory_processed", 0)) + int(stats.get("disk_processed", 0)),
            iterations=int(stats.get("memory_iteration", 0)),
        )

    def reserve(self, network: str, mac: str, address: str) -> None:
        found = self.network(network)
        if found is not None and (address, mac) not in found.reserved:
            self._update_dhcp_hosts(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, mac, address)

    def release(self, network: str, mac: str, address: str) -> None:
        found = self.network(network)
        if found is not None and (address, mac) in found.reserved:
            self._update_dhcp_hosts(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, mac, address)

    def _update_dhcp_hosts(self, network: str, command: int, mac: str, address: str) -> None:
        with translated(self._host.name, f"DHCP reservation of {address} for {mac} on network {network}"):
            handle = self._connection.networkLookupByName(network)
            where = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE | libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
            section = libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST
            handle.update(command, section, -1, f"<host mac='{mac}' ip='{address}'/>", where)

    @contextmanager
    def watch(self, domain: str, see: Callable[[str, str], None]) -> Iterator[None]:
        connection = self._connection

        def on_event(_connection: Any, dom: Any, event: int, detail: int, _opaque: Any) -> None:
            if dom.name() == domain:
                see(_EVENTS.get(event, str(event)), str(detail))

        with translated(self._host.name, "cannot watch events"):
            number = connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, on_event, None)
        try:
            yield
        finally:
            try:
                connection.domainEventDeregisterAny(number)
            except libvirt.libvirtError:
                pass  # the connection is gone, and the watch with it

    def _lookup(self, name: str) -> Any | None:
        connection = self._connection
        with translated(self._host.name, f"domain {name} cannot be looked up"):
            try:
                return connection.lookupByName(name)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return None
                raise


def _triple(version: int) -> tuple[int, int, int]:
    return version // 1_000_000, version // 1000 % 1000, version % 1000
