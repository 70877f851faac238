"""Packets that came too late for a guest: for whom they are, and how they go into a tunnel."""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import replace

import pytest

from vmacro.host import rescue
from vmacro.host.legs import LegEnd

HEADER = struct.pack("=BBHHHH", 1, 0, 66, 1400, 34, 16)  # virtio_net_hdr: a checksum from byte 34 on
MACS = bytes(range(12))
FROM4, TO4 = "192.0.2.1", "198.51.100.2"
FROM6, TO6 = "2001:db8::1", "2001:db8::2"
LEG = LegEnd("home", "vxlan", "web-1", "web", TO4, "52:54:00:00:00:01", "front0", "10.9.0.6")


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def ipv4() -> bytes:
    return b"\x45" + bytes(11) + packed(FROM4) + packed(TO4) + b"payload"


def ipv6() -> bytes:
    return b"\x60" + bytes(7) + packed(FROM6) + packed(TO6) + b"payload"


def frame(ethertype: int, packet: bytes) -> bytes:
    return HEADER + MACS + struct.pack("!H", ethertype) + packet


@pytest.mark.parametrize(
    ("ethertype", "packet", "expected"),
    [
        (0x0800, ipv4(), packed(TO4)),
        (0x86DD, ipv6(), packed(TO6)),
        (0x0806, ipv4(), b""),
        (0x8100, ipv4(), b""),
        (0x0800, b"", b""),
    ],
)
def test_a_frame_is_for_its_destination_address(ethertype: int, packet: bytes, expected: bytes) -> None:
    assert rescue._target(frame(ethertype, packet)) == expected


def test_into_vxlan_goes_the_frame_from_end_to_end_of_the_tunnel() -> None:
    sent = rescue._for_tunnel(frame(0x0800, ipv4()), LEG)
    far, near = (bytes.fromhex(LEG.hardware_address(side).replace(":", "")) for side in ("away", "home"))
    assert sent == HEADER + far + near + b"\x08\x00" + ipv4()


def test_into_wireguard_goes_the_packet_and_its_offsets_count_from_there() -> None:
    leg = replace(LEG, kind="wireguard")
    sent = rescue._for_tunnel(frame(0x0800, ipv4()), leg)
    assert sent == struct.pack("=BBHHHH", 1, 0, 66 - 14, 1400, 34 - 14, 16) + ipv4()
    nothing_to_do = bytes(10) + MACS + b"\x08\x00" + ipv4()
    assert rescue._for_tunnel(nothing_to_do, leg) == bytes(10) + ipv4()


def test_the_two_ends_of_a_tunnel_have_a_mac_each() -> None:
    home, away = LEG.hardware_address("home"), LEG.hardware_address("away")
    assert home != away and all(re.fullmatch("02(:[0-9a-f]{2}){5}", mac) for mac in (home, away))
    other = replace(LEG, address="198.51.100.3")
    assert other.hardware_address("home") != home, "one bridge may have many"
