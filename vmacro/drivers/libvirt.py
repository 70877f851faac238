"""A hypervisor host by libvirt: KVM, QEMU without KVM, and Xen alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import libvirt

from guest_agent.protocol import CHANNEL_NAME
from vmacro.drivers import libvirt_xml
from vmacro.drivers.libvirt_connection import Connections, translated
from vmacro.errors import CopyError
from vmacro.model.facts import CopyProgress, CopyStatistics, DomainFacts, HostFacts, NetworkFacts
from vmacro.model.nouns import Host, Policy
from vmacro.planning.convergence import allowed_downtime_ms

POLL_S = 0.25
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
    ) -> None:
        handle = self._lookup(domain)
        if handle is None:
            raise CopyError(f"host {self._host.name}: no domain {domain}")
        migration = _Migration(handle, destination, policy)
        reason = ""
        deadline = time.monotonic() + policy.copy_timeout_s
        migration.start()
        while not migration.wait(POLL_S):
            progress = _progress(handle)
            if progress is not None:
                migration.allow(allowed_downtime_ms(progress.iteration, policy.max_downtime_ms))
                report(progress)
            if not reason and cancelled():
                reason = "it was interrupted"
            if not reason and time.monotonic() > deadline:
                reason = f"it took over {policy.copy_timeout_s:g} s (policy copy_timeout_s)"
            if reason:
                _abort(handle)
        if migration.error is not None:
            text = f"host {self._host.name}: migration of {domain} to {destination.name} failed: "
            raise CopyError(text + (reason or str(migration.error))) from migration.error

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


class _Migration(threading.Thread):
    """virDomainMigrateToURI3 blocks until it is over; this waits for it elsewhere."""

    def __init__(self, domain: Any, destination: Host, policy: Policy) -> None:
        super().__init__(name="migration", daemon=True)
        self._domain, self._destination, self._policy = domain, destination, policy
        self._over = threading.Event()
        self._allowed_ms = 0
        self.error: libvirt.libvirtError | None = None

    def wait(self, seconds: float) -> bool:
        return self._over.wait(seconds)

    def allow(self, downtime_ms: int) -> None:
        """How long a pause QEMU may aim at."""
        if downtime_ms == self._allowed_ms:
            return
        try:
            self._domain.migrateSetMaxDowntime(downtime_ms)
            self._allowed_ms = downtime_ms
        except libvirt.libvirtError:
            pass  # the job is just ending: the migration itself will tell

    def run(self) -> None:
        try:
            self.allow(allowed_downtime_ms(1, self._policy.max_downtime_ms))
            self._domain.migrateToURI3(self._destination.peer_uri, self._parameters(), self._flags())
        except libvirt.libvirtError as error:
            self.error = error
        finally:
            self._over.set()

    def _flags(self) -> int:
        flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
        if self._domain.isPersistent():  # its definition lives where the guest lives
            flags |= libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
        if self._domain.connect().getType() == "QEMU":
            flags |= libvirt.VIR_MIGRATE_TLS
            if self._policy.auto_converge:
                flags |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
        return int(flags)

    def _parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = {libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{self._destination.address}"}
        if self._policy.bandwidth_mib_s:
            parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = self._policy.bandwidth_mib_s
        if self._flags() & libvirt.VIR_MIGRATE_TLS:
            parameters[libvirt.VIR_MIGRATE_PARAM_TLS_DESTINATION] = self._destination.tls_name
        return parameters


def _progress(domain: Any) -> CopyProgress | None:
    """The running job, if libvirt knows of one yet."""
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError:
        return None  # the job is just ending, or the connection is: the migration itself will tell
    if not stats.get("memory_total"):
        return None  # still connecting
    page = stats.get("memory_page_size", 4096)
    return CopyProgress(
        elapsed_ms=int(stats.get("time_elapsed", 0)),
        bytes_total=int(stats["memory_total"]) + int(stats.get("disk_total", 0)),
        bytes_remaining=int(stats.get("memory_remaining", 0)) + int(stats.get("disk_remaining", 0)),
        bytes_sent=int(stats.get("memory_processed", 0)) + int(stats.get("disk_processed", 0)),
        iteration=int(stats.get("memory_iteration", 0)),
        dirty_mib_s=stats.get("memory_dirty_rate", 0) * page / (1 << 20),
        rate_mib_s=stats.get("memory_bps", 0) / (1 << 20),
        throttle_percent=int(stats.get("auto_converge_throttle", 0)),
    )


def _abort(domain: Any) -> None:
    try:
        domain.abortJob()
    except libvirt.libvirtError:
        pass  # no job yet, or no job any more: asked again at the next poll


def _triple(version: int) -> tuple[int, int, int]:
    return version // 1_000_000, version // 1000 % 1000, version % 1000
