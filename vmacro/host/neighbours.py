"""Does anybody on a bridge use an address already? An ARP probe (RFC 5227 section 2.1.1)."""

from __future__ import annotations

import select
import socket
import struct
import time

_ARP = struct.Struct(">6s6sHHHBBH6s4s6s4s")
_ETH_P_ARP, _REQUEST, _REPLY = 0x0806, 1, 2
_BROADCAST, _NOBODY = b"\xff" * 6, bytes(6)


def user_of(address: str, bridge: str, patience_s: float = 0.3) -> str:
    """The MAC that answers for an IPv4 address, or ''. Raises OSError."""
    wanted = socket.inet_aton(address)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP)) as sock:
        sock.bind((bridge, _ETH_P_ARP))
        mine = sock.getsockname()[4]
        frame = _ARP.pack(_BROADCAST, mine, _ETH_P_ARP, 1, 0x0800, 6, 4, _REQUEST, mine, bytes(4), _NOBODY, wanted)
        sock.send(frame)
        deadline = time.monotonic() + patience_s
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([sock], [], [], left)[0]:
                break
            data = sock.recv(2048)
            if len(data) < _ARP.size:
                continue
            fields = _ARP.unpack_from(data)
            if fields[7] == _REPLY and fields[9] == wanted:
                return bytes(fields[8]).hex(":")
    return ""
