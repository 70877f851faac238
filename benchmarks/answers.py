"""When answers of a guest come to a client, and from which of its addresses: which way they take, as packets say it.

Round trips say it only where nothing else makes them longer: on a busy machine without KVM they are over any bound for
seconds after each arrival, by whatever way.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from vmacro.lab import namespaces

_ETH_P_IP, _SO_TIMESTAMPNS = 0x0800, 35
_STAMP = struct.Struct("=qq")


@dataclass(frozen=True)
class Answer:
    """A segment with data. `came_ns`: of the wall clock, by the client's kernel."""

    came_ns: int
    source: IPv4Address


@contextmanager
def heard(namespace: str, port: int) -> Iterator[list[Answer]]:
    """What comes to a namespace from a TCP port of IPv4, all the while; the list grows as long as this is open."""
    with namespaces.inside(namespace):
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
    found, over = list[Answer](), threading.Event()
    with ear:
        ear.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        ear.settimeout(0.2)
        listener = threading.Thread(target=_listen, args=(ear, port, found, over.is_set))
        listener.start()
        try:
            yield found
        finally:
            over.set()
            listener.join()


def from_there_alone_ns(answers: list[Answer], there: IPv4Network, after_ns: int) -> int | None:
    """When the first one came from there after which none came from elsewhere; None where that was never so."""
    last_ns = max((a.came_ns for a in answers if a.source not in there and a.came_ns > after_ns), default=after_ns)
    return min((a.came_ns for a in answers if a.source in there and a.came_ns > last_ns), default=None)


def _listen(ear: socket.socket, port: int, found: list[Answer], over: Callable[[], bool]) -> None:
    while not over():
        try:
            packet, ancillary, _, (_, _, kind, *_) = ear.recvmsg(120, 64)
        except TimeoutError:
            continue
        if kind != socket.PACKET_OUTGOING and has_data(packet, port):
            seconds, ns = _STAMP.unpack(ancillary[0][2][: _STAMP.size])
            found.append(Answer(seconds * 10**9 + ns, IPv4Address(packet[12:16])))


def has_data(packet: bytes, port: int) -> bool:
    """Of an IPv4 packet: whether it is a TCP segment of that port with data."""
    header = (packet[0] & 15) * 4
    if packet[9] != socket.IPPROTO_TCP or int.from_bytes(packet[header : header + 2], "big") != port:
        return False
    return int.from_bytes(packet[2:4], "big") > header + (packet[header + 12] >> 4) * 4
