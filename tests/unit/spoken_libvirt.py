"""The world in memory, spoken as libvirt speaks: by calls and XML. spoken.py has the other parties."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import libvirt

from vmacro.drivers.fake.state import KERNEL
from vmacro.model.definitions import Definition
from vmacro.model.facts import ARRIVING, DomainFacts, NetworkFacts, Pool
from vmacro.model.nouns import Host
from vmacro.wire.names import AGENT_CHANNEL


class Libvirt:
    """Implements connection.Connections and virConnect, as far as the driver reads them. `says` gets a call and what it
    gives, and returns what is given instead."""

    def __init__(self, plain: Any, says: Callable[[str, Any], Any]) -> None:
        self._plain, self._says = plain, says

    def get(self, _host: Host) -> Libvirt:
        return self

    def certificate_days_left(self, _host: Host) -> None:
        return None

    def getMemoryStats(self, _cells: int) -> Any:  # noqa: N802 libvirt's names
        return self._says("getMemoryStats", {"free": self._plain.facts().free_memory_mib << 10})

    def getCapabilities(self) -> Any:  # noqa: N802
        machines = "".join(f"<machine canonical='{m}'>{m}</machine>" for m in self._plain.facts().machine_types)
        live = "<migration_features><live/></migration_features>"
        return self._says(
            "getCapabilities",
            f"<capabilities><host>{live}</host><guest><arch name='x'>{machines}</arch></guest></capabilities>",
        )

    def getHostname(self) -> Any:  # noqa: N802
        return self._says("getHostname", self._plain.facts().hostname)

    def getType(self) -> Any:  # noqa: N802
        return self._says("getType", self._plain.facts().hypervisor)

    def getVersion(self) -> Any:  # noqa: N802
        return self._says("getVersion", _number(self._plain.facts().hypervisor_version))

    def getLibVersion(self) -> Any:  # noqa: N802
        return self._says("getLibVersion", _number(self._plain.facts().libvirt_version))

    def lookupByName(self, name: str) -> Any:  # noqa: N802
        found = self._plain.domain(name)
        if found is None:
            raise error(libvirt.VIR_ERR_NO_DOMAIN)
        return SimpleNamespace(
            name=lambda: name,
            state=lambda: (_state(found.state), 1),
            XMLDesc=lambda _flags=0: self._says(
                "virDomainGetXMLDesc", _domain_xml(found, self._plain.definition(name))
            ),
            snapshotNum=lambda: self._says("virDomainSnapshotNum", 0),
            listAllCheckpoints=lambda: [],
            hasManagedSaveImage=lambda: self._says("virDomainHasManagedSaveImage", 0),
            autostart=lambda: self._says("virDomainGetAutostart", 0),
            blockJobInfo=lambda _disk: self._says("virDomainGetBlockJobInfo", {}),
            UUIDString=lambda: found.uuid,
            isPersistent=lambda: found.persistent,
            startDirtyRateCalc=lambda _seconds: None,
            jobStats=lambda flags=0: self._says("virDomainGetJobStats", self._job(found, flags)),
        )

    def domainListGetStats(self, domains: list[Any], _kind: int) -> Any:  # noqa: N802
        rate = self._plain.dirty_mib_s(domains[0].name())
        measured = {"calc_status": libvirt.VIR_DOMAIN_DIRTYRATE_MEASURED, "megabytes_per_second": int(rate)}
        told = {f"dirtyrate.{name}": value for name, value in measured.items()}
        return [(domains[0], self._says("virConnectGetAllDomainStats", told))]

    def _job(self, found: DomainFacts, flags: int) -> dict[str, int]:
        if not flags:
            if found.job == ARRIVING:
                raise error(libvirt.VIR_ERR_OPERATION_UNSUPPORTED)
            leaves = libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT if found.migrating else 0
            return {"operation": leaves, "type": libvirt.VIR_DOMAIN_JOB_UNBOUNDED if found.migrating else 0}
        known = self._plain.statistics(found.name)
        if known is None:
            return {}
        figures = {"downtime": known.downtime_ms, "time_elapsed": known.elapsed_ms}
        return figures | {"memory_processed": known.bytes_transferred, "memory_iteration": known.iterations}

    def lookupByUUIDString(self, _uuid: str) -> Any:  # noqa: N802
        raise error(libvirt.VIR_ERR_NO_DOMAIN)

    def getDomainCapabilities(self, *_kind: str | None) -> Any:  # noqa: N802
        buses = "<enum name='bus'><value>virtio</value></enum><enum name='diskDevice'><value>disk</value></enum>"
        return self._says(
            "getDomainCapabilities",
            f"<domainCapabilities><devices><disk supported='yes'>{buses}</disk></devices></domainCapabilities>",
        )

    def compareHypervisorCPU(self, *_kind: str | None) -> Any:  # noqa: N802
        return self._says("compareHypervisorCPU", libvirt.VIR_CPU_COMPARE_SUPERSET)

    def nwfilterLookupByName(self, name: str) -> Any:  # noqa: N802
        return SimpleNamespace(XMLDesc=lambda: self._says("virNWFilterGetXMLDesc", f"<filter name='{name}'/>"))

    def getInfo(self) -> Any:  # noqa: N802
        return self._says("getInfo", ["x86_64", 8192, 4, 2000, 1, 1, 4, 1])

    def networkLookupByName(self, name: str) -> Any:  # noqa: N802
        found = self._plain.network(name)
        if found is None:
            raise error(libvirt.VIR_ERR_NO_NETWORK)
        pairs = {(r.address, r.mac) for r in found.reserved}
        leases = [{"ipaddr": a, "mac": m, "iface": "x"} for a, m in found.taken if (a, m) not in pairs]
        return SimpleNamespace(
            isActive=lambda: found.active,
            isPersistent=lambda: True,
            DHCPLeases=lambda: self._says("virNetworkGetDHCPLeases", leases),
            XMLDesc=lambda _flags=0: self._says("virNetworkGetXMLDesc", _network_xml(found)),
        )

    def listAllNetworks(self, _flags: int) -> Any:  # noqa: N802
        def named(name: str) -> Any:
            return SimpleNamespace(name=lambda: self._says("virNetworkGetName", name))

        return [named(name) for name in self._plain.networks()]

    def listAllStoragePools(self, _flags: int) -> Any:  # noqa: N802
        def pool(found: Pool) -> Any:
            return SimpleNamespace(
                XMLDesc=lambda: self._says("virStoragePoolGetXMLDesc", _pool_xml(found)),
            )

        return [pool(found) for found in self._plain.pools()]


def _number(version: tuple[int, int, int]) -> int:
    return version[0] * 1_000_000 + version[1] * 1000 + version[2]


def _state(word: str) -> int:
    words = {"running": libvirt.VIR_DOMAIN_RUNNING, "paused": libvirt.VIR_DOMAIN_PAUSED}
    return int(words.get(word, libvirt.VIR_DOMAIN_SHUTOFF))


def error(code: int) -> libvirt.libvirtError:
    error = libvirt.libvirtError("not there")
    error.err = (code, 0, "not there", 0, "", "", "", 0, 0)
    return error


def _element(parent: ElementTree.Element | None, tag: str, text: str = "", **attributes: str) -> ElementTree.Element:
    made = ElementTree.Element(tag, attributes) if parent is None else ElementTree.SubElement(parent, tag, attributes)
    made.text = text
    return made


def _domain_xml(found: DomainFacts, definition: Definition | None) -> str:
    root = _element(None, "domain", type=found.accelerator)
    _element(root, "name", found.name)
    _element(root, "memory", str(found.memory_mib), unit="MiB")
    system = _element(root, "os")
    _element(system, "type", "hvm", arch="x86_64", machine=found.machine)
    _element(system, "kernel", KERNEL)
    devices = _element(root, "devices")
    _element(devices, "emulator", definition.emulator if definition is not None else "")
    for disk in found.disks:
        drawn = _element(devices, "disk", type=disk.kind, device="disk")
        _element(drawn, "driver", name="qemu", type=disk.format)
        _element(drawn, "source", file=disk.source)
        _element(drawn, "target", dev=disk.target)
        if disk.backing:
            below = _element(drawn, "backingStore", type="file")
            _element(below, "format", type=disk.backing_format)
            _element(below, "source", file=disk.backing)
    for card in found.cards:
        drawn = _element(devices, "interface", type=card.kind)
        _element(drawn, "mac", address=card.mac)
        named = {"network": card.network} if card.network else {}
        _element(drawn, "source", bridge=card.device, **named)
        _element(drawn, "target", dev=card.tap)
        _element(drawn, "model", type=card.model)
    if found.has_agent_channel:
        _element(_element(devices, "channel", type="unix"), "target", type="virtio", name=AGENT_CHANNEL)
    return ElementTree.tostring(root, encoding="unicode")


def _network_xml(found: NetworkFacts) -> str:
    root = _element(None, "network")
    _element(root, "name", found.name)
    _element(root, "forward", mode=found.forward)
    _element(root, "bridge", name=found.bridge, stp="on" if found.stp else "off", delay=str(found.forward_delay_s))
    ip = _element(root, "ip", address=found.gateway, prefix=found.subnet.rpartition("/")[2])
    if found.dhcp_free is not None:
        dhcp = _element(ip, "dhcp")
        if found.dhcp_range is not None:
            _element(dhcp, "range", start=found.dhcp_range[0], end=found.dhcp_range[1])
        for entry in found.reserved:
            _element(dhcp, "host", mac=entry.mac, name=entry.name, ip=entry.address)
    if found.subnet6:
        gateway, _, prefix = found.subnet6.partition("/")
        _element(root, "ip", family="ipv6", address=f"{gateway}1", prefix=prefix)
    return ElementTree.tostring(root, encoding="unicode")


def _pool_xml(found: Pool) -> str:
    root = _element(None, "pool", type=found.kind)
    _element(root, "name", found.name)
    _element(root, "available", str(found.available_bytes), unit="bytes")
    _element(_element(root, "target"), "path", found.path)
    return ElementTree.tostring(root, encoding="unicode")
