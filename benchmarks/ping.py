"""An echo request of the kernel's every 5 ms (ICMP): what a guest's network feels, without its programs."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vmacro.lab import namespaces

INTERVAL_S = 0.005
_MARK = 0x766D


@contextmanager
def pinging(namespace: str, address: str) -> Iterator[list[int]]:
    """Yields the wall clock times (ns) at which replies came; it grows while this is open."""
    with namespaces.inside(namespace):
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    sock.settimeout(0.2)
    came: list[int] = []
    over = threading.Event()

    def send() -> None:
        due, sequence = time.monotonic(), 0
        while not over.is_set():
            body = struct.pack(">BBHHH", 8, 0, 0, _MARK, sequence)
            checksum = 0xFFFF - sum(struct.unpack(">4H", body)) % 0xFFFF
            sock.sendto(struct.pack(">BBHHH", 8, 0, checksum, _MARK, sequence), (address, 0))
            sequence, due = (sequence + 1) & 0xFFFF, due + INTERVAL_S
            time.sleep(max(0.0, due - time.monotonic()))

    def receive() -> None:
        while not over.is_set():
            try:
                data = sock.recv(2048)
            except TimeoutError:
                continue
            kind, _, _, mark, _ = struct.unpack_from(">BBHHH", data, (data[0] & 15) * 4)
            if (kind, mark) == (0, _MARK):
                came.append(time.time_ns())

    running = [threading.Thread(target=act, daemon=True) for act in (send, receive)]
    for thread in running:
        thread.start()
    try:
        yield came
    finally:
        over.set()
        for thread in running:
            thread.join()
        sock.close()


def longest_silence_ms(came: list[int], start_ns: int, end_ns: int) -> float | None:
    """Between replies, less one interval; None where none came after the silence."""
    inside = [t for t in came if start_ns <= t <= end_ns]
    gaps = [(b - a) / 1e6 - INTERVAL_S * 1e3 for a, b in zip(inside, inside[1:])]
    return max(gaps) if gaps and inside[-1] > (start_ns + end_ns) / 2 else None
