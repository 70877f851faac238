"""Facts out of libvirt's XML (formatdomain, formatnetwork, formatcaps). Pure.

A host may say anything: what is no XML, or out of the bounds of model/facts.py, is a ValueError.
"""

from __future__ import annotations

import ipaddress
import xml.etree.ElementTree as ElementTree
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any

from vmacro.model.domains import MOST_BELOW
from vmacro.model.facts import MOST_CARDS, MOST_DISKS, Card, Disk, DiskCopy, MaybeMac, NetworkFacts, Pool, Reservation
from vmacro.wire import fields
from vmacro.wire.fields import Items, Text

# Whose volumes other hosts see (formatstorage).
SHARED_POOLS = frozenset({"netfs", "iscsi", "iscsi-direct", "rbd", "gluster", "sheepdog", "vstorage", "mpath"})
DISKS = ("disk", "lun")  # what a guest has as a disk; a lun takes its SCSI commands, too
MAX_CHARACTERS = 4 << 20  # libvirt's own bound of a string (VIR_NET_MESSAGE_STRING_MAX)
MOST_DEEP = 16  # of a processor
_UNITS = {"KiB": 1, "MiB": 1 << 10, "GiB": 1 << 20}


@dataclass(frozen=True)
class DomainDescription:
    """What a domain is made of. `channels`: names of its virtio-serial ports. `mirrored`: disks at which a block job
    copies or commits. `reports_free_pages`: see DomainFacts."""

    accelerator: Annotated[str, Text(40)]
    machine: Annotated[str, Text(100)]
    memory_mib: int
    cards: Annotated[tuple[Card, ...], Items(MOST_CARDS)]
    disks: Annotated[tuple[Disk, ...], Items(MOST_DISKS)]
    channels: Annotated[tuple[str, ...], Items(MOST_DISKS)]
    mirrored: Annotated[tuple[Annotated[str, Text(20)], ...], Items(MOST_DISKS)]
    reports_free_pages: bool


def domain(text: str) -> DomainDescription:
    """From formatdomain XML. Raises ValueError."""
    root = parse(text)
    os_type = root.find("./os/type")
    found = {
        "accelerator": root.get("type", ""),
        "machine": os_type.get("machine", "") if os_type is not None else "",
        "memory_mib": memory_mib(root),
        "cards": [_card(c) for c in root.iterfind("./devices/interface")],
        "disks": [_disk(d) for d in root.iterfind("./devices/disk") if d.get("device", "disk") in DISKS],
        "channels": [attribute(c, "target", "name") for c in root.iterfind("./devices/channel")],
        "reports_free_pages": root.find("./devices/memballoon[@freePageReporting='on']") is not None,
        "mirrored": [attribute(m, "target", "dev") for m in root.iterfind("./devices/disk[mirror]")],
    }
    return fields.decode(DomainDescription, found, "domain")


def block_jobs(found: DomainDescription) -> str:
    """In words: '' for none."""
    return f"block job of disk {found.mirrored[0]}" if found.mirrored else ""


def network(text: str, active: bool, leases: Iterable[tuple[object, object]], stored: str = "") -> NetworkFacts:
    """`leases` are (address, MAC); reservations are read from the XML, and from what is `stored` for the network's next
    start, if that is another. Of IPv6, which guests give themselves, neither is kept. Raises ValueError."""
    root = parse(text)
    bridge = root.find("bridge")
    ip = _ip(root)
    serves = ip is not None and _serves(ip)
    reserved = dict.fromkeys([*reservations(text), *(reservations(stored) if stored else ())])
    leased = [(address, _mac(mac)) for address, mac in leases if ":" not in str(address)]
    # libvirt lists leases in another order each time.
    taken = sorted({*leased, *((r.address, r.mac) for r in reserved)}, key=lambda entry: (str(entry[0]), str(entry[1])))
    known = sorted({int(ipaddress.IPv4Address(address)) for address, _ in taken})
    ranges = [(r.get("start", ""), r.get("end", "")) for r in (ip.iterfind("./dhcp/range") if ip is not None else ())]
    dhcp_range = next((r for r in ranges if _free(r, known)), ranges[0] if ranges else None)
    found: dict[str, Any] = {
        "name": root.findtext("name", ""),
        "active": active,
        "bridge": bridge.get("name", "") if bridge is not None else "",
        "stp": bridge is not None and bridge.get("stp", "on") == "on",
        "forward_delay_s": float(bridge.get("delay", "0")) if bridge is not None else 0.0,
        "subnet": _subnet(ip) if ip is not None else "",
        "gateway": ip.get("address", "") if ip is not None else "",
        "dhcp_range": dhcp_range,
        "dhcp_free": _free(dhcp_range, known) if serves else None,
        "taken": taken,
        "reserved": [fields.encode(r) for r in reserved],
        "forward": attribute(root, "forward", "mode") or "isolated",
        "subnet6": _subnet6(root),
    }
    return fields.decode(NetworkFacts, found, "network")


def reservations(text: str) -> tuple[Reservation, ...]:
    """Those of IPv4 in a network's XML, in its order. Raises ValueError."""
    ip = _ip(parse(text))
    hosts = ip.iterfind("./dhcp/host[@ip]") if ip is not None else ()
    found = ({"address": h.get("ip", ""), "mac": h.get("mac", ""), "name": h.get("name", "")} for h in hosts)
    return tuple(fields.decode(Reservation, entry, f"reserved[{n}]") for n, entry in enumerate(found))


def reservation(entry: Reservation) -> str:
    """As an entry of a network's XML."""
    named = {"mac": entry.mac, "name": entry.name, "ip": entry.address}
    drawn = ElementTree.Element("host", {key: value for key, value in named.items() if value})
    return ElementTree.tostring(drawn, encoding="unicode")


def _ip(network: ElementTree.Element) -> ElementTree.Element | None:
    """Of IPv4 the one with DHCP, as there is one at most, and to which libvirt adds reservations, too
    (virNetworkIPDefByIndex); else the first."""
    found = [e for e in network.iterfind("ip") if e.get("family", "ipv4") == "ipv4"]
    return next((e for e in found if _serves(e)), found[0] if found else None)


def _serves(ip: ElementTree.Element) -> bool:
    """Whether DHCP gives its addresses to anybody."""
    return ip.find("./dhcp/range") is not None or ip.find("./dhcp/host") is not None


def _mac(said: object) -> str:
    """'' for none: to DHCP a guest has a card of any kind, of up to 16 bytes (RFC 2131 section 2: htype, hlen)."""
    try:
        found: str = fields.decode_as(MaybeMac, said or "", "mac")
    except fields.FieldError:
        return ""
    return found


def _subnet(ip: ElementTree.Element) -> str:
    mask = ip.get("netmask") or ip.get("prefix", "32")
    return str(ipaddress.IPv4Interface(f"{ip.get('address', '')}/{mask}").network)


def _subnet6(root: ElementTree.Element) -> str:
    """Where hosts configure their own addresses (RFC 4862): dnsmasq advertises it as libvirt tells it to."""
    for element in root.iterfind("ip"):
        if element.get("family") == "ipv6":
            return str(ipaddress.IPv6Interface(f"{element.get('address')}/{element.get('prefix', '128')}").network)
    return ""


def machine_types(text: str) -> tuple[str, ...]:
    """Of all guest architectures, aliases too, from the host's capabilities. Raises ValueError."""
    machines = list(parse(text).iterfind("./guest/arch//machine"))
    names = {m.text or "" for m in machines} | {m.get("canonical", "") for m in machines}
    return tuple(sorted(names - {""}))


def host_uuid(text: str) -> str:
    """From the host's capabilities, '' where they say none. Raises ValueError."""
    return parse(text).findtext("./host/uuid", "").strip()


def security_models(text: str) -> tuple[str, ...]:
    """Of its security drivers (secmodel), from the host's capabilities. Raises ValueError."""
    return tuple(e.text or "" for e in parse(text).iterfind("./host/secmodel/model"))


def host_processor(text: str) -> str:
    """Model, vendor and features of its processors, from the host's capabilities; '' where they say nothing. Raises
    ValueError."""
    told = parse(text).find("./host/cpu")
    if told is None:
        return ""
    bare = ElementTree.Element("cpu")
    bare.extend(e for e in told if e.tag in ("arch", "model", "vendor", "feature"))
    return in_one_line(bare)


def in_one_line(element: ElementTree.Element) -> str:
    """As XML. Raises ValueError for what is nested so deep that writing it would not end well."""
    level = [element]
    for _ in range(MOST_DEEP):
        level = [below for each in level for below in each]
    if level:
        raise ValueError(f"<{element.tag[:40]}> is nested more than {MOST_DEEP} deep")
    bare = deepcopy(element)
    for each in bare.iter():
        each.tail = None
        each.text = (each.text or "").strip() or None
    return ElementTree.tostring(bare, encoding="unicode")


def migrates_live(text: str) -> bool:
    """Of running guests, from the host's capabilities. Raises ValueError."""
    return parse(text).find("./host/migration_features/live") is not None


def _free(dhcp_range: tuple[str, str] | None, taken: list[int]) -> int:
    """`taken` in order. None for a new guest where there is no range: libvirt has dnsmasq serve the reserved cards
    alone (networkDnsmasqConfDHCP: `static`)."""
    if dhcp_range is None:
        return 0
    first, last = (int(ipaddress.IPv4Address(a)) for a in dhcp_range)
    inside = bisect_right(taken, last) - bisect_left(taken, first)
    return last - first + 1 - max(0, inside)


def memory_mib(domain: ElementTree.Element) -> int:
    """A domain's. A scaled integer; libvirt itself always says KiB. Raises ValueError."""
    element = domain.find("memory")
    if element is None:
        return 0
    unit = element.get("unit", "KiB")
    if unit not in _UNITS:
        raise ValueError(f"memory: unit {unit[:40]!r} is unknown")
    return int(element.text or "0") * _UNITS[unit] >> 10


def _card(element: ElementTree.Element) -> dict[str, Any]:
    """Of a network's card libvirt also names the bridge, once it is at it."""
    source = element.find("source")
    named = source.attrib if source is not None else {}
    return {
        "mac": attribute(element, "mac", "address"),
        "kind": element.get("type", ""),
        "network": named.get("network", ""),
        "device": named.get("bridge", "") or named.get("dev", ""),
        "model": attribute(element, "model", "type"),
        "tap": attribute(element, "target", "dev"),
    }


def _disk(element: ElementTree.Element) -> dict[str, Any]:
    source = element.find("source")
    below = element.find("backingStore")
    files = chain(element)
    return {
        "target": attribute(element, "target", "dev"),
        "source": next(iter(source.attrib.values()), "") if source is not None else "",
        "writable": element.find("readonly") is None,
        "shared": element.find("shareable") is not None or _comes_from_afar(element),
        "kind": element.get("type", "file"),
        "format": attribute(element, "driver", "type"),
        "backing": attribute(below, "source", "file"),
        "backing_format": attribute(below, "format", "type"),
        "chain": files[1:],
        "tied": _tied(element),
    }


def _tied(disk: ElementTree.Element) -> str:
    """To what its files by themselves are not the disk, in words: they are copied by their names, and read as they are.
    What a job mirrors it to is not its own yet."""
    found = [below for part in disk if part.tag != "mirror" for below in part.iter()]
    tags = {each.tag for each in found}
    elsewhere = {e.get("type", "file") for e in found if e.tag == "backingStore"} - {"file"}
    if "encryption" in tags:
        return "encrypted, and what is written from then on would not be"
    if "slice" in tags:
        return "a part of its file"
    if "dataStore" in tags:
        return "the table of another file, which has its data"
    return f"built on what is no file ({', '.join(sorted(elsewhere))})" if elsewhere else ""


def _comes_from_afar(disk: ElementTree.Element) -> bool:
    """By network, and not from its host itself, by a socket there or by its loopback."""
    hosts = disk.findall("source/host")
    near = any(h.get("transport") == "unix" or _is_loopback(h.get("name", "")) for h in hosts)
    return disk.get("type") == "network" and not near


def _is_loopback(name: str) -> bool:
    """Whether each host is called so by itself."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower().rstrip(".") in ("localhost", "localhost.localdomain", "ip6-localhost")


def chain(disk: ElementTree.Element) -> list[str]:
    """The files or devices of an image that lie below its own, in their order."""
    stores = disk.find("backingStore")
    found: list[str] = []
    while stores is not None and len(found) < MOST_BELOW:
        found.append(attribute(stores, "source", "file") or attribute(stores, "source", "dev"))
        stores = stores.find("backingStore")
    return [path for path in found if path]


def pool(text: str) -> Pool:
    """`path` is '' for kinds that have none. Raises ValueError."""
    root = parse(text)
    kind = root.get("type", "")
    name, path = root.findtext("name", ""), root.findtext("target/path", "")
    available = int(root.findtext("available", "0"))  # libvirt itself always says bytes
    shared = kind in SHARED_POOLS
    found = {"name": name, "kind": kind, "path": path, "available_bytes": available, "shared": shared}
    return fields.decode(Pool, {**found, "source": _pool_source(root) if shared else ""}, "pool")


def _pool_source(root: ElementTree.Element) -> str:
    """Its servers, and what of them it is (formatstorage). A name that is a path's is written with or without an end
    slash."""
    said = (("host", "name"), ("dir", "path"), ("device", "path"))
    parts = [e.get(name, "").rstrip("/") for tag, name in said for e in root.iterfind(f"source/{tag}")]
    return " ".join(part for part in [*sorted(parts), root.findtext("source/name", "")] if part)


def targets(text: str) -> dict[str, str]:
    """What each of a domain's disks lies in, by its target: floppies and CDs are disks to libvirt, too. Raises
    ValueError."""
    found = [_disk(disk) for disk in parse(text).iterfind("./devices/disk")]
    return {disk["target"]: disk["source"] for disk in found}


def own_targets(text: str) -> list[str]:
    """Of its disks, without floppies and CDs. Raises ValueError."""
    found = (d for d in parse(text).iterfind("./devices/disk") if d.get("device", "disk") in DISKS)
    return [target for disk in found if (target := attribute(disk, "target", "dev"))]


def snapshot(frozen: Iterable[DiskCopy], others: Iterable[str]) -> str:
    """External ones of some disks, and none of the others (formatsnapshot). Of what is not named, libvirt makes one,
    unless it is only read (virDomainSnapshotAlignDisks)."""
    root = ElementTree.Element("domainsnapshot")
    disks = ElementTree.SubElement(root, "disks")
    for copy in frozen:
        disk = ElementTree.SubElement(disks, "disk", name=copy.target, snapshot="external")
        ElementTree.SubElement(disk, "driver", type="qcow2")
        ElementTree.SubElement(disk, "source", file=copy.overlay)
    for target in others:
        ElementTree.SubElement(disks, "disk", name=target, snapshot="no")
    return ElementTree.tostring(root, encoding="unicode")


class _WithoutEntities(ElementTree.TreeBuilder):
    """libvirt declares no document types; a declaration could have entities grow without bound."""

    def doctype(self, name: str, _pubid: str | None, _system: str | None) -> None:
        raise ValueError(f"XML with a document type {name[:40]!r}")


def parse(text: object) -> ElementTree.Element:
    """XML of libvirt's. Raises ValueError."""
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        raise ValueError(f"no XML of at most {MAX_CHARACTERS} characters")
    try:
        return ElementTree.XML(text, ElementTree.XMLParser(target=_WithoutEntities()))
    except (ElementTree.ParseError, UnicodeError) as error:
        raise ValueError(f"broken XML: {error}") from None


def attribute(parent: ElementTree.Element | None, tag: str, name: str) -> str:
    """Of the first element of that tag, '' where there is none."""
    child = parent.find(tag) if parent is not None else None
    return child.get(name, "") if child is not None else ""
