"""What a domain takes of its host, so that nobody else there may have it: ports at which its graphics and consoles
listen, the names of its cards' taps, its number by vsock; out of libvirt's XML (formatdomain). Pure."""

from __future__ import annotations

import ipaddress
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

from vmacro.drivers.libvirt.xml import attribute
from vmacro.model.definitions import CID, FILE, PORT, TAP, Need
from vmacro.wire.host_verbs import LONGEST_DEVICE
from vmacro.wire.taken_verbs import PROTOCOLS, TCP

_CONSOLES = ("serial", "parallel", "console", "channel", "redirdev", "smartcard", "rng/backend")
# Of these beginnings libvirt makes up names by itself, anew at each host (VIR_NET_GENERATED_*_PREFIX, libxl's vif).
_MADE_UP = ("vnet", "macvtap", "macvlan", "vif")
_CARDS = ("network", "bridge", "direct")
_VSOCK = "/dev/vhost-vsock"


def of(root: ElementTree.Element) -> Iterator[Need]:
    """What another host may have given to somebody else; what libvirt chooses anew there is left out."""
    yield from _ports(root)
    for card in root.iterfind("devices/interface"):
        name = attribute(card, "target", "dev")
        fits = name and len(name) <= LONGEST_DEVICE and not name.startswith(_MADE_UP)
        if fits and card.get("type") in _CARDS:
            yield Need(TAP, name, f"card {attribute(card, 'mac', 'address')}")
    for vsock in root.iterfind("devices/vsock"):
        yield Need(FILE, _VSOCK, "vsock")
        cid = vsock.find("cid")
        if cid is not None and cid.get("auto") != "yes" and cid.get("address"):
            yield Need(CID, cid.get("address", ""), "vsock")


def _ports(root: ElementTree.Element) -> Iterator[Need]:
    """Of graphics libvirt keeps a list by numbers, wherever they listen (virPortAllocatorSetUsed). A websocket's is not
    told from one that it has chosen."""
    for graphics in root.iterfind("devices/graphics"):
        if graphics.get("autoport") != "yes":
            for name in ("port", "tlsPort"):
                yield from _port(TCP, graphics.get(name, ""), "", graphics.get("type", "graphics").upper())
    for path in _CONSOLES:
        for element in root.iterfind(f"devices/{path}"):
            for source in element.iterfind("source[@mode='bind']"):
                what = path.partition("/")[0]
                yield from _port(element.get("type", ""), source.get("service", ""), source.get("host", ""), what)


def _port(protocol: str, number: str, address: str, what: str) -> Iterator[Need]:
    if protocol in PROTOCOLS and number.isascii() and number.isdigit() and 0 < int(number[:6]) < 1 << 16:
        yield Need(PORT, f"{protocol}/{int(number[:6])}/{_at(address)}", what)


def _at(address: str) -> str:
    """As hosts are asked; '' for all addresses, and for a name, of which nobody knows what it is there, as for an
    address with a zone (which names a device)."""
    try:
        found = ipaddress.ip_address("127.0.0.1" if address == "localhost" else address)
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or found
    return "" if found.is_unspecified or "%" in str(found) else str(found)
