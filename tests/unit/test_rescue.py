"""Packets that came too late for a guest: for whom they are, and how they go into a tunnel."""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest

from vmacro.host import rescue
from vmacro.host.legs import LegEnd
from vmacro.host.rescue import Overheard

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


# What is overheard, by sockets of this process in place of packet(7)'s


@dataclass
class Devices:
    """The tap that is overheard, and all devices by which something was sent."""

    at: ExitStack
    clock_s: float = 100.0
    code: bytes = b""
    tap: tuple[str, socket.socket] | None = None
    sent: dict[str, socket.socket] = field(default_factory=dict)

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        one.setblocking(False)
        return self.at.enter_context(one), self.at.enter_context(other)

    def overhear(self, device: str, code: bytes) -> socket.socket:
        ours, theirs = self._pair()
        self.tap, self.code = (device, theirs), code
        return ours

    def sender(self, device: str) -> socket.socket:
        self.sent[device], ours = self._pair()
        return ours

    def to_guest(self, *frames: bytes) -> None:
        assert self.tap is not None
        for each in frames:
            self.tap[1].send(each)

    def by(self, leg: LegEnd) -> list[bytes]:
        """What was sent into a leg's tunnel; its socket is closed."""
        there = self.sent.pop(leg.device, None)
        return [] if there is None else list(iter(lambda: there.recv(1 << 17), b""))


LEG6 = replace(LEG, address=TO6, kind="wireguard")


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[Devices]:
    with ExitStack() as at:
        made = Devices(at)
        monkeypatch.setattr(rescue, "time", SimpleNamespace(monotonic=lambda: made.clock_s))
        yield made


@pytest.fixture
def overheard(devices: Devices) -> Iterator[Overheard]:
    made = Overheard("tap2", devices.overhear, devices.sender)
    yield made
    made.close()


def numbered(number: int, to: str = TO4) -> bytes:
    return frame(0x0800, ipv4().replace(packed(TO4), packed(to)) + bytes([number]))


def test_what_went_to_a_guest_is_sent_into_the_tunnel_of_its_address(devices: Devices, overheard: Overheard) -> None:
    assert devices.tap is not None and devices.tap[0] == "tap2"
    both = (frame(0x0800, ipv4()), frame(0x86DD, ipv6()))
    devices.to_guest(both[0], numbered(1, FROM4), both[1], numbered(2))
    assert overheard.send_on([LEG, LEG6]) == 3
    assert devices.by(LEG) == [rescue._for_tunnel(each, LEG) for each in (both[0], numbered(2))], "in their order"
    assert devices.by(LEG6) == [rescue._for_tunnel(both[1], LEG6)]


def test_what_was_sent_on_is_not_sent_again(devices: Devices, overheard: Overheard) -> None:
    devices.to_guest(numbered(1))
    assert overheard.send_on([LEG]) == 1 and len(devices.by(LEG)) == 1
    assert overheard.send_on([LEG]) == 0 and not devices.sent, "nor is a tunnel opened for nothing"


def test_what_is_older_the_guest_has_read(devices: Devices, overheard: Overheard) -> None:
    for number, moment_s in enumerate((0.0, 0.01, rescue.WINDOW_S + 0.005)):
        devices.clock_s = 100 + moment_s
        devices.to_guest(numbered(number))
        overheard.listen()
    assert overheard.send_on([LEG]) == 2
    assert [each[-1] for each in devices.by(LEG)] == [1, 2]


def test_what_came_within_the_window_is_all_sent_on(devices: Devices, overheard: Overheard) -> None:
    devices.clock_s = 0.0
    devices.to_guest(numbered(1))
    overheard.listen()
    devices.clock_s = rescue.WINDOW_S
    assert overheard.send_on([LEG]) == 1


def test_of_a_flood_the_last_frames_are_kept(devices: Devices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescue, "MOST_FRAMES", 3)
    flooded = Overheard("tap2", devices.overhear, devices.sender)
    devices.to_guest(*(numbered(each) for each in range(5)))
    flooded.listen()
    assert flooded.send_on([LEG]) == 3, "of each look, no more than it keeps; the second took the rest"
    assert [each[-1] for each in devices.by(LEG)] == [2, 3, 4]


def test_a_large_frame_is_sent_on_whole(devices: Devices, overheard: Overheard) -> None:
    """Segments that are still to be made (GSO): up to 64 KiB of a packet."""
    large = frame(0x0800, ipv4() + bytes(65_000))
    devices.to_guest(large)
    assert overheard.send_on([LEG]) == 1
    assert devices.by(LEG) == [rescue._for_tunnel(large, LEG)]


def test_a_tunnel_that_takes_no_more_loses_its_own_alone(devices: Devices, overheard: Overheard) -> None:
    def full(device: str) -> socket.socket:
        out = devices.sender(device)
        if device == LEG.device:
            devices.sent[device].close()
        return out

    overheard._sender = full
    devices.to_guest(numbered(1), frame(0x86DD, ipv6()))
    assert overheard.send_on([LEG, LEG6]) == 1
    assert len(devices.by(LEG6)) == 1


def test_who_waits_waits_for_the_taps_socket_until_it_is_closed(devices: Devices) -> None:
    overheard = Overheard("tap2", devices.overhear, devices.sender)
    assert overheard.fileno() == overheard._socket.fileno() >= 0
    overheard.close()
    assert overheard._socket.fileno() == -1


def test_what_goes_to_the_guest_is_taken_and_nothing_else(devices: Devices, overheard: Overheard) -> None:
    """The program as the kernel runs it: load the packet's type, compare it, return all or nothing (linux/filter.h)."""
    words = list(struct.iter_unpack("=HBBI", devices.code))
    (load, _, _, at), (jump, when, otherwise, value), taken, left = words
    assert (load, at) == (0x28, 0xFFFFF000 + 4), "ldh, of SKF_AD_OFF + SKF_AD_PKTTYPE"
    assert (jump, when, otherwise, value) == (0x15, 0, 1, 4), "jeq PACKET_OUTGOING"
    assert taken == (0x06, 0, 0, 0xFFFFFFFF) and left == (0x06, 0, 0, 0)
