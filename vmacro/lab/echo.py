"""ICMP echo requests at a steady rate, whether or not replies come: how reachable a guest's kernel is, whatever its
programs do."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address

from vmacro.lab import namespaces

INTERVAL_S = 0.005
_MARK = 0x766D
_ECHO = struct.Struct(">BBHHH")


@dataclass
class Echoes:
    """When each request was sent and when its first reply came, by sequence number, in ns of the wall clock."""

    sent: dict[int, int] = field(default_factory=dict)
    came: dict[int, int] = field(default_factory=dict)

    def longest_silence_ms(self, start_ns: int, end_ns: int) -> float | None:
        """The longest time between two replies, less one interval; None if replies did not come back."""
        inside = sorted(t for t in self.came.values() if start_ns <= t <= end_ns)
        gaps = [(b - a) / 1e6 - INTERVAL_S * 1e3 for a, b in itertools.pairwise(inside)]
        return max(gaps) if gaps and inside[-1] > (start_ns + end_ns) / 2 else None

    def answered(self, start_ns: int, end_ns: int) -> tuple[int, int]:
        """How many requests of those sent in [start, end) were answered, and how many were sent."""
        asked = [s for s, at in self.sent.items() if start_ns <= at < end_ns]
        return sum(s in self.came for s in asked), len(asked)


@contextmanager
def echoing(namespace: str, address: str) -> Iterator[Echoes]:
    """Send requests from a namespace to an address; the result grows while this is open."""
    old = ip_address(address).version == 4
    family, protocol = (socket.AF_INET, socket.IPPROTO_ICMP) if old else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    with namespaces.inside(namespace):
        sock = socket.socket(family, socket.SOCK_RAW, protocol)
    sock.settimeout(0.2)
    request, reply = (8, 0) if old else (128, 129)
    found, over = Echoes(), threading.Event()

    def send() -> None:
        due, sequence = time.monotonic(), 0
        while not over.is_set():
            found.sent[sequence] = time.time_ns()
            sock.sendto(_request(request, sequence), (address, 0))
            sequence, due = sequence + 1, due + INTERVAL_S
            time.sleep(max(0.0, due - time.monotonic()))

    def receive() -> None:
        while not over.is_set():
            try:
                data = sock.recv(2048)
            except TimeoutError:
                continue
            kind, _, _, mark, sequence = _ECHO.unpack_from(data, (data[0] & 15) * 4 if old else 0)
            if (kind, mark) == (reply, _MARK):
                found.came.setdefault(sequence, time.time_ns())

    running = [threading.Thread(target=act, daemon=True) for act in (send, receive)]
    for thread in running:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in running:
            thread.join()
        sock.close()


def _request(kind: int, sequence: int) -> bytes:
    """With its checksum; the kernel replaces that of ICMPv6 by the right one."""
    sequence &= 0xFFFF
    body = _ECHO.pack(kind, 0, 0, _MARK, sequence)
    return _ECHO.pack(kind, 0, 0xFFFF - sum(struct.unpack(">4H", body)) % 0xFFFF, _MARK, sequence)
