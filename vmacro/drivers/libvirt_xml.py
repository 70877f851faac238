"""Facts out of libvirt's XML (formatdomain, formatnetwork, formatcaps). Pure."""

from __future__ import annotations

import ipaddress
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import dataclass

from vmacro.model.facts import Disk, DiskCopy, NetworkFacts, Pool

# Whose volumes other hosts see (formatstorage).
SHARED_POOLS = frozenset({"netfs", "iscsi", "iscsi-direct", "rbd", "gluster", "sheepdog", "vstorage", "mpath"})


@dataclass(frozen=True)
class DomainDescription:
    accelerator: str
    machine: str
    memory_mib: int
    mac: str
    network: str
    disks: tuple[Disk, ...]
    channels: tuple[str, ...]


def domain(text: str) -> DomainDescription:
    root = ElementTree.fromstring(text)
    card = root.find("./devices/interface")
    os_type = root.find("./os/type")
    return DomainDescription(
        accelerator=root.get("type", ""),
        machine=os_type.get("machine", "") if os_type is not None else "",
        memory_mib=_mib(root.find("memory")),
        mac=_attribute(card, "mac", "address"),
        network=_attribute(card, "source", "network"),
        disks=tuple(_disk(d) for d in root.iterfind("./devices/disk") if d.get("device", "disk") == "disk"),
        channels=tuple(_attribute(c, "target", "name") for c in root.iterfind("./devices/channel")),
    )


def network(text: str, active: bool, leases: Iterable[tuple[str, str]]) -> NetworkFacts:
    """`leases` are (address, MAC); reservations are read from the XML."""
    root = ElementTree.fromstring(text)
    bridge = root.find("bridge")
    ip = next((e for e in root.iterfind("ip") if e.get("family", "ipv4") == "ipv4"), None)
    subnet = gateway = ""
    dhcp_range, free = None, None
    reserved: list[tuple[str, str]] = []
    if ip is not None:
        gateway = ip.get("address", "")
        interface = ipaddress.IPv4Interface(f"{gateway}/{ip.get('netmask') or ip.get('prefix', '32')}")
        subnet = str(interface.network)
        reserved = [(h.get("ip", ""), h.get("mac", "")) for h in ip.iterfind("./dhcp/host")]
    taken = tuple(dict.fromkeys([*leases, *reserved]))
    span = ip.find("./dhcp/range") if ip is not None else None
    if span is not None:
        dhcp_range = (span.get("start", ""), span.get("end", ""))
        free = _free(dhcp_range, {address for address, _ in taken})
    return NetworkFacts(
        name=root.findtext("name", ""),
        active=active,
        bridge=bridge.get("name", "") if bridge is not None else "",
        stp=bridge is not None and bridge.get("stp", "on") == "on",
        forward_delay_s=float(bridge.get("delay", "0")) if bridge is not None else 0.0,
        subnet=subnet,
        gateway=gateway,
        dhcp_range=dhcp_range,
        dhcp_free=free,
        taken=taken,
        reserved=tuple(reserved),
        subnet6=_subnet6(root),
        forward=_attribute(root, "forward", "mode") or "isolated",
    )


def _subnet6(root: ElementTree.Element) -> str:
    """Where hosts configure their own addresses (RFC 4862): dnsmasq advertises it as libvirt tells it to."""
    for element in root.iterfind("ip"):
        if element.get("family") == "ipv6":
            return str(ipaddress.IPv6Interface(f"{element.get('address')}/{element.get('prefix', '128')}").network)
    return ""


def machine_types(text: str) -> tuple[str, ...]:
    """Of all guest architectures, aliases too, from the host's capabilities."""
    root = ElementTree.fromstring(text)
    names = {m.text or "" for m in root.iterfind("./guest/arch//machine")}
    names |= {m.get("canonical", "") for m in root.iterfind("./guest/arch//machine")}
    return tuple(sorted(names - {""}))


def _free(dhcp_range: tuple[str, str], taken: set[str]) -> int:
    first, last = (int(ipaddress.IPv4Address(a)) for a in dhcp_range)
    inside = [a for a in taken if first <= int(ipaddress.IPv4Address(a)) <= last]
    return last - first + 1 - len(inside)


def _mib(element: ElementTree.Element | None) -> int:
    """A scaled integer; libvirt itself always says KiB."""
    if element is None:
        return 0
    return int(element.text or "0") * {"KiB": 1, "MiB": 1 << 10, "GiB": 1 << 20}[element.get("unit", "KiB")] >> 10


def _disk(element: ElementTree.Element) -> Disk:
    source = element.find("source")
    where = next(iter(source.attrib.values()), "") if source is not None else ""
    shared = element.get("type") == "network" or element.find("shareable") is not None
    below = element.find("backingStore")
    return Disk(
        _attribute(element, "target", "dev"),
        where,
        element.find("readonly") is None,
        shared,
        element.get("type", "file"),
        _attribute(element, "driver", "type"),
        _attribute(below, "source", "file"),
        _attribute(below, "format", "type"),
    )


def pool(text: str, available_bytes: int) -> Pool:
    """`path` is '' for kinds that have none."""
    root = ElementTree.fromstring(text)
    kind = root.get("type", "")
    return Pool(
        root.findtext("name", ""), kind, root.findtext("target/path", ""), available_bytes, kind in SHARED_POOLS
    )


def snapshot(frozen: Iterable[DiskCopy], others: Iterable[str]) -> str:
    """External ones of some disks, and none of the others (formatsnapshot)."""
    root = ElementTree.Element("domainsnapshot")
    disks = ElementTree.SubElement(root, "disks")
    for copy in frozen:
        disk = ElementTree.SubElement(disks, "disk", name=copy.target, snapshot="external")
        ElementTree.SubElement(disk, "driver", type="qcow2")
        ElementTree.SubElement(disk, "source", file=copy.overlay)
    for target in others:
        ElementTree.SubElement(disks, "disk", name=target, snapshot="no")
    return ElementTree.tostring(root, encoding="unicode")


def _attribute(parent: ElementTree.Element | None, tag: str, name: str) -> str:
    child = parent.find(tag) if parent is not None else None
    return child.get(name, "") if child is not None else ""
