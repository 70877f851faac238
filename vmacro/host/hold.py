"""Holds packets for a guest that has no card yet. On Xen the vif of a guest that arrives takes packets only once the
guest's own driver has connected to it, some tenths of a second after the guest goes on (QEMU's tap has a queue). What
comes meanwhile by the host's own routes, by a leg or from elsewhere, is kept here, and given to the vif once it is up.

The guest may get some of it twice, as in rescue.py. What other machines of the bridge send it is not held.

The kernel drops what it would send by a bridge without a port, before anybody sees it (noop_qdisc: it has no carrier).
A host's first guest comes to such a one; so the bridge has a port of ours for as long.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable

import libvirt

from vmacro.host import packets

MOST_FRAMES, MOST_BYTES = 1000, 4 << 20  # as many as a tap's queue; and a bound for those that are large
LOOK_EVERY_MS = 5
GIVEN_UP_AFTER = 30_000 // LOOK_EVERY_MS  # looks
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8913, 0x8914, 0x1, 0x40
_SIOCSIFHWADDR, _SIOCGIFHWADDR, _SIOCBRADDIF = 0x8924, 0x8927, 0x89A2
_TUN = "/dev/net/tun"
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x2, 0x1000


class Hold:
    """Frames to one MAC that this host sends by a bridge."""

    def __init__(self, bridge: str, mac: str) -> None:
        """Raises OSError where there is no such bridge."""
        self._frames: list[bytes] = []
        self._bytes = 0
        self._socket = packets.overheard(bridge, _filter(bytes.fromhex(mac.replace(":", ""))))
        try:
            self._port = _port(bridge)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For whoever waits until there is something to hold."""
        return self._socket.fileno()

    def listen(self) -> None:
        """Take what has come; what is over the bounds is lost, as it would be in a queue."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(MOST_FRAMES):
                frame = self._socket.recv(packets.LARGEST)
                if len(self._frames) < MOST_FRAMES and self._bytes + len(frame) <= MOST_BYTES:
                    self._frames.append(frame)
                    self._bytes += len(frame)

    def release(self, device: str) -> int:
        """Give all to a device that is up. Returns how many. Raises OSError where there is no such device."""
        self.listen()
        frames, self._frames, self._bytes, sent = self._frames, [], 0, 0
        with packets.sender(device) as out:
            for frame in frames:
                with contextlib.suppress(OSError):  # its queue is full: as lost as it was
                    out.send(frame)
                    sent += 1
        return sent

    def close(self) -> None:
        """Stop holding."""
        self._socket.close()
        if self._port is not None:
            self._port.close()


class _Port:
    """A tap in a bridge, which nobody reads and which gives the bridge a carrier. It goes with whoever has it open."""

    def __init__(self, bridge: str) -> None:
        """Raises OSError."""
        self._file = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
        try:
            request = struct.pack("16sH14x", b"vmachold%d", _IFF_TAP | _IFF_NO_PI)
            name = fcntl.ioctl(self._file, _TUNSETIFF, request)[:16]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                # The bridge's own: it takes the lowest of its ports', and with another forgets all neighbours.
                own = fcntl.ioctl(sock, _SIOCGIFHWADDR, struct.pack("16s16x", bridge.encode()))[16:32]
                fcntl.ioctl(sock, _SIOCSIFHWADDR, name + own)
                fcntl.ioctl(sock, _SIOCSIFFLAGS, name + struct.pack("H14x", _IFF_UP))
                index = socket.if_nametoindex(name.rstrip(b"\0").decode())
                fcntl.ioctl(sock, _SIOCBRADDIF, struct.pack("16si12x", bridge.encode(), index))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        os.close(self._file)


def _port(bridge: str) -> _Port | None:
    """None where the kernel has no taps: then what is held depends on the bridge's other ports. Raises OSError."""
    try:
        return _Port(bridge)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return None
        raise


class Holding:
    """A hold that is read in libvirt's event loop, as packets come, until the guest's card is up."""

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        wanted = libvirt.VIR_EVENT_HANDLE_READABLE
        self._watch = libvirt.virEventAddHandle(hold.fileno(), wanted, lambda *_: hold.listen(), None)
        self._timer = -1
        self._looks = 0

    def release(self, device: str, told: Callable[[int], None]) -> None:
        """As soon as the device has a carrier, which is looked for again and again; `told` how many packets were
        held. Returns at once."""

        def look(_timer: int, _opaque: object) -> None:
            self._looks += 1
            if has_carrier(device):
                with contextlib.suppress(OSError):  # it has gone since
                    told(self._hold.release(device))
                self.close()
            elif self._looks > GIVEN_UP_AFTER:
                self.close()

        if self._timer < 0:
            self._timer = libvirt.virEventAddTimeout(LOOK_EVERY_MS, look, None)

    def close(self) -> None:
        """Idempotent."""
        if self._watch >= 0:
            libvirt.virEventRemoveHandle(self._watch)
            self._hold.close()
        if self._timer >= 0:
            libvirt.virEventRemoveTimeout(self._timer)
        self._watch = self._timer = -1


def has_carrier(device: str) -> bool:
    """Whether it is up, and somebody is at the other end of it (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            told = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sH14x", device.encode(), 0))
        except OSError:  # there is none
            return False
    return bool(struct.unpack_from("16sH", told)[1] & _IFF_RUNNING)


def _filter(mac: bytes) -> bytes:
    """ld #pkttype; jne #4, drop; ld [0]; jne #mac, drop; ldh [4]; jne #mac, drop; ret #-1; drop: ret #0 (filter.h)."""
    first, last = struct.unpack("!IH", mac)
    return struct.pack(
        "=" + 8 * "HBBI",
        *(0x28, 0, 0, 0xFFFFF004),
        *(0x15, 0, 5, packets.OUTGOING),  # from the host's own routes
        *(0x20, 0, 0, 0),
        *(0x15, 0, 3, first),
        *(0x28, 0, 0, 4),
        *(0x15, 0, 1, last),
        *(0x06, 0, 0, 0xFFFFFFFF),
        *(0x06, 0, 0, 0),
    )
