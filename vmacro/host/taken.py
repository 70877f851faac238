"""Is what a guest would take of this host in use? Asked by taking it, for a moment: nothing else knows of all who might
have it."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from pathlib import Path

from vmacro.wire.taken_verbs import TCP, Port, Taken, Taking

VSOCK = Path("/dev/vhost-vsock")
_SET_GUEST_CID = 0x4008AF60  # VHOST_VSOCK_SET_GUEST_CID (linux/vhost.h): libvirt asks by it, too (virVsockSetGuestCid)
_EVERYWHERE = ("0.0.0.0", "::")


def taken(wanted: Taking) -> Taken:
    """Of these, what somebody has."""
    return Taken(
        tuple(port for port in wanted.ports if any(_is_bound(port, at) for at in _addresses(port))),
        tuple(cid for cid in wanted.cids if _is_a_guests(cid)),
    )


def _addresses(port: Port) -> tuple[str, ...]:
    return (port.address,) if port.address else _EVERYWHERE


def _is_bound(port: Port, address: str) -> bool:
    """A port of TCP is, if somebody listens there: connections that have ended keep nobody from it. What is none of
    this host's addresses is nobody's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if port.protocol == TCP else socket.SOCK_DGRAM
    try:
        with socket.socket(family, kind) as tried:
            if port.protocol == TCP:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            tried.bind((address, port.number))
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _is_a_guests(cid: int) -> bool:
    """Where this host has no vsock, nobody has one."""
    try:
        with VSOCK.open("r+b", buffering=0) as device:
            fcntl.ioctl(device, _SET_GUEST_CID, struct.pack("=Q", cid))
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False
