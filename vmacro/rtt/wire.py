"""The protocol of prober and responder: records of 16 bytes on a stream, echoed unchanged.

0       4       8               16
| magic | flags | sequence, u64 |     all big-endian
"""

from __future__ import annotations

import socket
import struct

MAGIC = 0x564D5254  # "VMRT"
RECORD = struct.Struct(">IIQ")
DEFAULT_PORT = 7000
IPPROTO_MPTCP = 262  # include/uapi/linux/in.h


class WireError(ValueError):
    """What came on the stream is not a record."""


def encode(sequence: int) -> bytes:
    """One record."""
    return RECORD.pack(MAGIC, 0, sequence)


def take_whole(buffer: bytearray) -> bytes:
    """Remove all complete records from the buffer, and return them unchanged. Raises WireError."""
    size = len(buffer) // RECORD.size * RECORD.size
    whole = bytes(buffer[:size])
    del buffer[:size]
    for magic, flags, _ in RECORD.iter_unpack(whole):
        if magic != MAGIC or flags:
            raise WireError(f"not an RTT record: magic {magic:#x}, flags {flags:#x}")
    return whole


def decode(buffer: bytearray) -> list[int]:
    """Remove all complete records from the buffer, and return their sequence numbers. Raises WireError."""
    return [sequence for _, _, sequence in RECORD.iter_unpack(take_whole(buffer))]


def stream_socket(family: int, mptcp: bool) -> socket.socket:
    """A TCP socket, over MPTCP if asked. Raises OSError (EPROTONOSUPPORT) where the kernel has none."""
    sock = socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP if mptcp else 0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def connect(name: str, port: int, mptcp: bool, timeout_s: float) -> socket.socket:
    """Connect to the first of a name's addresses that answers. Raises OSError."""
    failed: OSError | None = None
    for family, _, _, _, where in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM):
        sock = stream_socket(family, mptcp)
        try:
            sock.settimeout(timeout_s)
            sock.connect(where)
            return sock
        except OSError as error:
            sock.close()
            failed = error
    raise failed or OSError(f"{name}: has no address")
