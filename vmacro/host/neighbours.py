"""Does anybody on a bridge use an address already? An ARP probe asks (RFC 5227 section 2.1.1). By which port has the
bridge heard a MAC? Its forwarding table says."""

from __future__ import annotations

import select
import socket
import struct
import time

from pyroute2.iproute.linux import IPRoute

_ARP = struct.Struct(">6s6sHHHBBH6s4s6s4s")
_ETH_P_ARP, _IPV4, _REQUEST, _REPLY = 0x0806, 0x0800, 1, 2
_BROADCAST, _NOBODY = b"\xff" * 6, bytes(6)


def user_of(address: str, bridge: str, patience_s: float = 0.3) -> str:
    """The MAC that answers for an IPv4 address, or ''. Raises OSError."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP)) as sock:
        sock.bind((bridge, _ETH_P_ARP))
        sock.send(probe(address, sock.getsockname()[4]))
        deadline = time.monotonic() + patience_s
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([sock], [], [], left)[0]:
                break
            if found := answer(sock.recv(2048), address):
                return found
    return ""


def ports_of(ip: IPRoute, bridge: str, mac: str) -> list[str]:
    """The bridge's ports by which it has heard a MAC of late, by name; the bridge's own name where the MAC is its own.
    Raises NetlinkError."""
    masters, found = ip.link_lookup(ifname=bridge), []
    for entry in ip.fdb("dump"):
        if entry.get("NDA_LLADDR") == mac and entry.get("NDA_MASTER") in masters:
            found += [str(link.get("IFLA_IFNAME")) for link in ip.get_links(entry["ifindex"])]
    return list(dict.fromkeys(found))


def probe(address: str, mac: bytes) -> bytes:
    """The frame that asks for it, from a card that has no address for the asking. Raises OSError for no address."""
    wanted = socket.inet_aton(address)
    return _ARP.pack(_BROADCAST, mac, _ETH_P_ARP, 1, _IPV4, 6, 4, _REQUEST, mac, bytes(4), _NOBODY, wanted)


def answer(frame: bytes, address: str) -> str:
    """The MAC by a frame that answers for the address, '' by any other."""
    found = answered(frame)
    return found[1] if found is not None and found[0] == address else ""


def answered(frame: bytes) -> tuple[str, str] | None:
    """The IPv4 address that a frame answers for, and the MAC; None where it answers nothing."""
    if len(frame) < _ARP.size:
        return None
    _, _, ethertype, _, protocol, _, _, operation, sender_mac, sender, _, _ = _ARP.unpack_from(frame)
    if (ethertype, protocol, operation) != (_ETH_P_ARP, _IPV4, _REPLY):
        return None
    return socket.inet_ntoa(sender), bytes(sender_mac).hex(":")
