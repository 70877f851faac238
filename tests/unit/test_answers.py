"""Which way a guest's answers take, as benchmarks.handoff reads it from packets."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network

import pytest

from benchmarks.answers import Answer, from_there_alone_ns, has_data

BERLIN = IPv4Network("10.80.2.0/24")
NEW, OLD = "10.80.2.10", "10.80.1.10"


def told(*rows: tuple[int, str]) -> list[Answer]:
    return [Answer(at, IPv4Address(source)) for at, source in rows]


@pytest.mark.parametrize(
    ("rows", "since"),
    [
        ([(90, OLD), (110, OLD), (120, NEW), (130, OLD), (140, NEW), (150, NEW)], 140),
        ([(90, NEW), (95, OLD), (110, NEW)], 110),
        ([(90, NEW), (110, OLD), (120, NEW), (130, OLD)], None),
        ([(110, OLD)], None),
        ([], None),
    ],
    ids=["both for a moment", "at once", "old to the end", "never", "silent"],
)
def test_the_direct_path_is_in_use_once_no_other_is(rows: list[tuple[int, str]], since: int | None) -> None:
    assert from_there_alone_ns(told(*rows), BERLIN, 100) == since


def segment(port: int, data: bytes, options: bytes = b"", protocol: int = 6) -> bytes:
    tcp = struct.pack("!HHIIBBHHH", port, 40000, 1, 1, (20 + len(options)) << 2, 0x18, 9, 0, 0) + options + data
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, protocol, 0)
    return head + IPv4Address(NEW).packed + IPv4Address("192.0.2.1").packed + tcp


@pytest.mark.parametrize(
    ("packet", "answers"),
    [
        (segment(7000, b"x"), True),
        (segment(7000, b"x", bytes(12)), True),
        (segment(7000, b"", bytes(12)), False),
        (segment(7001, b"x"), False),
        (segment(7000, b"x", protocol=17), False),
    ],
    ids=["data", "data and options", "an acknowledgement", "of another port", "no TCP"],
)
def test_an_answer_is_a_segment_with_data(packet: bytes, answers: bool) -> None:
    assert has_data(packet, 7000) is answers
