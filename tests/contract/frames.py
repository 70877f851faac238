"""Frames as a guest that may do anything sends them, byte by byte."""

from __future__ import annotations

import ipaddress
import struct

BROADCAST = "ff:ff:ff:ff:ff:ff"
ARP, IPV4, IPV6, VLAN = 0x0806, 0x0800, 0x86DD, 0x8100
UDP, ICMP6 = 17, 58


def ethernet(source: str, target: str, ethertype: int, payload: bytes, vlan: bool = False) -> bytes:
    tag = struct.pack("!HH", VLAN, 7) if vlan else b""
    return mac(target) + mac(source) + tag + struct.pack("!H", ethertype) + payload


def arp(
    source: str, sender: str, address: str, target: str, asked: str, operation: int = 2, vlan: bool = False
) -> bytes:
    """From the card `source`: `sender` has `address`."""
    fields = struct.pack("!HHBBH", 1, IPV4, 6, 4, operation)
    body = fields + mac(sender) + packed(address) + mac(target) + packed(asked)
    return ethernet(source, target, ARP, body, vlan)


def datagram(
    source: str,
    target: str,
    sender: str,
    receiver: str,
    data: bytes,
    ports: tuple[int, int] = (7001, 7000),
    ttl: int = 64,
) -> bytes:
    """UDP of either family."""
    packet = udp(sender, receiver, data, ports, ttl)
    return ethernet(source, target, IPV6 if ":" in sender else IPV4, packet)


def udp(sender: str, receiver: str, data: bytes, ports: tuple[int, int] = (7001, 7000), ttl: int = 64) -> bytes:
    """An IP packet."""
    length = 8 + len(data)
    body = struct.pack("!HHHH", *ports, length, 0) + data
    return ip(sender, receiver, UDP, with_checksum(sender, receiver, UDP, body, 6), ttl)


def ip(sender: str, receiver: str, protocol: int, body: bytes, ttl: int = 64) -> bytes:
    if ":" in sender:
        return struct.pack("!IHBB", 6 << 28, len(body), protocol, ttl) + packed(sender) + packed(receiver) + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, ttl, protocol, 0) + packed(sender) + packed(receiver)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def neighbour(source: str, target: str, sender: str, receiver: str, kind: int, about: str, link: str = "") -> bytes:
    """Neighbour solicitation (135) or advertisement (136), RFC 4861; `link`: the MAC that it claims."""
    flags = 0x60000000 if kind == 136 else 0  # solicited, override
    option = struct.pack("!BB", 2 if kind == 136 else 1, 1) + mac(link) if link else b""
    body = struct.pack("!BBHI", kind, 0, 0, flags) + packed(about) + option
    return icmp6(source, target, sender, receiver, body)


def icmp6(source: str, target: str, sender: str, receiver: str, body: bytes) -> bytes:
    whole = with_checksum(sender, receiver, ICMP6, body, 2)
    return ethernet(source, target, IPV6, ip(sender, receiver, ICMP6, whole, 255))


def router_advertisement(source: str, sender: str, data: bytes) -> bytes:
    """To all nodes (RFC 4861 section 4.2); `data` only marks it."""
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + struct.pack("!BB", 253, 1 + (len(data) + 1) // 8)
    return icmp6(
        source, "33:33:00:00:00:01", sender, "ff02::1", (body + data).ljust(16 + 8 * (1 + (len(data) + 1) // 8), b"\0")
    )


def dhcp(source: str, card: str, kind: int, data: bytes) -> bytes:
    """A client's DISCOVER (1) or RELEASE (7) for `card`, RFC 2131."""
    fixed = struct.pack("!BBBBIHH", 1, 1, 6, 0, 0x766D, 0, 0) + bytes(16) + mac(card).ljust(16, b"\0") + bytes(192)
    options = b"\x63\x82\x53\x63" + bytes([53, 1, kind, 224, len(data)]) + data + b"\xff"
    return datagram(source, BROADCAST, "0.0.0.0", "255.255.255.255", fixed + options, (68, 67))


def with_checksum(sender: str, receiver: str, protocol: int, body: bytes, at: int) -> bytes:
    pseudo = packed(sender) + packed(receiver) + struct.pack("!II", len(body), protocol)
    value = checksum(pseudo + body) or 0xFFFF
    return body[:at] + struct.pack("!H", value) + body[at + 2 :]


def with_sum(body: bytes, at: int) -> bytes:
    """With the checksum of the body alone (ICMP)."""
    return body[:at] + struct.pack("!H", checksum(body)) + body[at + 2 :]


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
