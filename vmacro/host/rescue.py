"""Rescues packets that reached the source's tap after the guest had paused and before the host heard of it.

The guest will not read them there. So while a domain is armed its tap is overheard, and what came in the last moments
before the turn is sent into the tunnel. The guest may get some of it twice, which IP allows (RFC 791) and TCP discards.
"""

from __future__ import annotations

import collections
import contextlib
import ipaddress
import struct
import time

from vmacro.host import packets
from vmacro.host.legs import LegEnd
from vmacro.wire.host_verbs import VXLAN

WINDOW_S = 0.03  # a few times what libvirt takes to pass on QEMU's STOP
MOST_FRAMES = 4096
_VNET_HEADER = 10  # struct virtio_net_hdr: checksums and segments still to be made
# ld #pkttype; jeq #4, next, drop; ret #-1; ret #0 (linux/filter.h)
_FILTER = struct.pack(
    "=HBBIHBBIHBBIHBBI",
    *(0x28, 0, 0, 0xFFFFF004),
    *(0x15, 0, 1, packets.OUTGOING),  # towards the guest
    *(0x06, 0, 0, 0xFFFFFFFF),
    *(0x06, 0, 0, 0),
)


class Overheard:
    """The last moments of what went to a guest by its tap."""

    def __init__(
        self, tap: str, overhear: packets.Overhear = packets.overheard, sender: packets.Send = packets.sender
    ) -> None:
        """Raises OSError where there is no such device."""
        self._frames: collections.deque[tuple[float, bytes]] = collections.deque(maxlen=MOST_FRAMES)
        self._socket = overhear(tap, _FILTER)
        self._sender = sender

    def fileno(self) -> int:
        """For whoever waits until there is something to listen to."""
        return self._socket.fileno()

    def listen(self) -> None:
        """Take what has come; forget what is so old that the guest has read it."""
        now = time.monotonic()
        with contextlib.suppress(BlockingIOError):
            for _ in range(MOST_FRAMES):
                self._frames.append((now, self._socket.recv(packets.LARGEST)))
        while self._frames and now - self._frames[0][0] > WINDOW_S:
            self._frames.popleft()

    def send_on(self, legs: list[LegEnd]) -> int:
        """Send the packets into the tunnels of the addresses that they are for. Returns how many."""
        self.listen()
        frames, sent = [frame for _, frame in self._frames], 0
        self._frames.clear()
        for leg in legs:
            wanted = ipaddress.ip_address(leg.address).packed
            mine = [f for f in frames if _target(f) == wanted]
            if mine:
                with self._sender(leg.device) as out:
                    for frame in mine:
                        with contextlib.suppress(OSError):  # the device's queue is full: as lost as it was
                            out.send(_for_tunnel(frame, leg))
                            sent += 1
        return sent

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def _target(frame: bytes) -> bytes:
    """The destination address of a frame with its virtio header, or b''."""
    protocol, packet = frame[_VNET_HEADER + 12 : _VNET_HEADER + 14], frame[_VNET_HEADER + 14 :]
    if protocol == b"\x08\x00":
        return packet[16:20]
    return packet[24:40] if protocol == b"\x86\xdd" else b""


def _for_tunnel(frame: bytes, leg: LegEnd) -> bytes:
    header, ethernet, packet = frame[:_VNET_HEADER], frame[_VNET_HEADER:][:14], frame[_VNET_HEADER + 14 :]
    if leg.kind != VXLAN:
        flags, gso, length, size, start, offset = struct.unpack("=BBHHHH", header)
        # Offsets count from the frame's beginning, which in WireGuard is the packet's.
        header = struct.pack("=BBHHHH", flags, gso, max(0, length - 14), size, max(0, start - 14), offset)
        return header + packet
    far, near = (bytes.fromhex(leg.hardware_address(s).replace(":", "")) for s in (leg.far_side, leg.side))
    return header + far + near + ethernet[12:14] + packet
