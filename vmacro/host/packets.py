"""Frames as the kernel has them on a device: with a virtio header, in which checksums and segments are still to be made
(packet(7), PACKET_VNET_HDR)."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Callable

LARGEST = 1 << 17  # bytes of a frame with its header
OUTGOING = 4  # PACKET_OUTGOING, of what the host itself sends by a device
_ETH_P_ALL, _SOL_PACKET, _PACKET_VNET_HDR, _SO_ATTACH_FILTER = 3, 263, 15, 26
_BUFFER = 1 << 23  # bytes

Overhear = Callable[[str, bytes], socket.socket]
Send = Callable[[str], socket.socket]


def overheard(device: str, code: bytes) -> socket.socket:
    """What goes by a device from now on and a program of the classic BPF takes (linux/filter.h). To read it never
    blocks. Raises OSError where there is no such device."""
    found = _raw()
    program = ctypes.create_string_buffer(code)  # struct sock_fprog points to it
    pointer = struct.pack("@HP", len(code) // 8, ctypes.addressof(program))
    try:
        found.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        found.setblocking(False)
        found.bind((device, _ETH_P_ALL))
    except OSError:
        found.close()
        raise
    return found


def sender(device: str) -> socket.socket:
    """To send frames by a device. Raises OSError where there is no such device."""
    found = _raw()
    try:
        found.bind((device, 0))
    except OSError:
        found.close()
        raise
    return found


def _raw() -> socket.socket:
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    found.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    return found
