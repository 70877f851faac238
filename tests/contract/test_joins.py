"""Who joins a leg's address goes into its tunnel in turn, and nobody else waits: by packets, through the real host side
(vmacro/host/joins.py)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from tests.contract import frames, towns
from tests.contract.legs import device, legs_of, opened, reaches
from tests.contract.towns import PATIENCE_S, Ear, Town, client
from vmacro.host import joins
from vmacro.lab import process
from vmacro.lab.forwarder import SO_RCVBUFFORCE

pytestmark = pytest.mark.lab
SYN, TCP = 2, 6
JOIN = bytes([30, 12, 0x10, 1]) + b"tokennon"  # RFC 8684 section 3.2; MP_CAPABLE is 4 bytes long, and 30, 4, 0x01, 0
CAPABLE = bytes([30, 4, 0x01, 0])
MANY, FIRST, PORT = 2500, 10_000, 80


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with towns.town("vmt-joins") as found:
        yield found


def syn(sender: str, receiver: str, number: int, option: bytes) -> bytes:
    """An IP packet; its number is its source port."""
    length = 20 + len(option)
    head = struct.pack("!HHIIBBHHH", FIRST + number, PORT, 7, 0, length // 4 << 4, SYN, 1000, 0, 0)
    return frames.ip(sender, receiver, TCP, frames.with_checksum(sender, receiver, TCP, head + option, 16))


def sent(town: Town, packets: list[bytes], version: int) -> None:
    """By the client, all at once."""
    target, own = (
        place.ip("-o", "link", "show", "dev", name).split("link/ether ")[1].split()[0]
        for place, name in ((town.wan, "to3"), (town.client, "uplink"))
    )
    found = [frames.ethernet(own, target, frames.IPV6 if version == 6 else frames.IPV4, each) for each in packets]
    with town.client.raw("uplink") as sock:
        for frame in found:
            sock.send(frame)


def numbers(ear: Ear, version: int) -> list[int]:
    """Of those that came before the last join, which must come."""
    at = 14 + (40 if version == 6 else 20)
    found: list[int] = []
    ear.socket.settimeout(PATIENCE_S)
    while MANY - 1 not in found[-1:]:
        frame = ear.socket.recv(1 << 12)
        if frame[at + 2 : at + 4] == struct.pack("!H", PORT):
            found.append(struct.unpack_from("!H", frame, at)[0] - FIRST)
    return found


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["wireguard", "vxlan"])
def test_joins_come_in_turn_and_who_comes_anew_overtakes_them(town: Town, kind: str, version: int) -> None:
    with opened(legs_of(town, town.web, kind)) as legs:
        reaches(legs, version)
        address, ear = legs.of(version).address, Ear(town.web, "eth0")
        ear.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        joining = [syn(client(town, version), address, number, JOIN) for number in range(MANY)]
        sent(town, [*joining, syn(client(town, version), address, MANY, CAPABLE)], version)
        heard = numbers(ear, version)
        assert len(heard) == MANY + 1 and [n for n in heard if n != MANY] == list(range(MANY)), "in turn; none is lost"
        assert heard.index(MANY) < MANY - joins.AT_ONCE


def test_the_other_end_makes_no_queue(town: Town) -> None:
    with opened(legs_of(town, town.web, "vxlan")) as legs:
        name = device(legs.of(4))
        home, away = (process.run(h.inner("tc", "qdisc", "show", "dev", name)) for h in (town.one, town.two))
        assert "htb" in home and "htb" not in away
