"""Who on a bridge uses an IPv6 address? Neighbour discovery asks (RFC 4861), whatever the kernel has written down."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterator

_SOLICITATION, _ADVERTISEMENT, _ON_LINK = 135, 136, 255  # of the last: a hop limit that no router has lowered
_SOURCE_OPTION, _TARGET_OPTION = 1, 2
_SIOCGIFHWADDR = 0x8927  # linux/sockios.h
_ICMPV6_FILTER = 1  # linux/icmpv6.h: bits of types that are blocked
_SOLICITED_NODES = int(ipaddress.IPv6Address("ff02::1:ff00:0"))
_MOST_READ = 256  # advertisements at a time
_HEADER = struct.Struct("!BBHI16s")


class Neighbours:
    """Questions on one bridge, and their answers."""

    def __init__(self, bridge: str) -> None:
        """Raises OSError where there is no such interface."""
        self._index = socket.if_nametoindex(bridge)
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        self._mac = fcntl.ioctl(self._socket, _SIOCGIFHWADDR, struct.pack("40s", bridge.encode()))[18:24]
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bridge.encode())
        self._socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, _only(_ADVERTISEMENT))
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self._index)
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _ON_LINK)
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        self._socket.setblocking(False)

    def ask(self, address: str) -> None:
        """Raises OSError."""
        group = str(ipaddress.IPv6Address(_SOLICITED_NODES | int(ipaddress.IPv6Address(address)) & 0xFFFFFF))
        self._socket.sendto(solicitation(address, self._mac), (group, 0, 0, self._index))

    def hear(self) -> Iterator[tuple[str, str]]:
        """(address, MAC) of those that have answered by now."""
        for _ in range(_MOST_READ):
            try:
                data, said, _, _ = self._socket.recvmsg(2048, socket.CMSG_SPACE(4))
            except OSError:  # nothing more, or nothing that concerns us
                return
            limits = [struct.unpack("=i", value)[0] for _, kind, value in said if kind == socket.IPV6_HOPLIMIT]
            found = advertised(data) if limits == [_ON_LINK] else None
            if found is not None:
                yield found

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()


def solicitation(address: str, mac: bytes) -> bytes:
    """The message that asks for it; the kernel makes its checksum."""
    target = ipaddress.IPv6Address(address).packed
    return _HEADER.pack(_SOLICITATION, 0, 0, 0, target) + bytes((_SOURCE_OPTION, 1)) + mac


def advertised(message: bytes) -> tuple[str, str] | None:
    """The address and the MAC that a message says is its; None where it says nothing of that kind."""
    if len(message) < _HEADER.size:
        return None
    kind, code, _, _, target = _HEADER.unpack_from(message)
    options = message[_HEADER.size :]
    if (kind, code) != (_ADVERTISEMENT, 0):
        return None
    while len(options) >= 8 and options[1]:
        if options[:2] == bytes((_TARGET_OPTION, 1)):
            return str(ipaddress.IPv6Address(target)), options[2:8].hex(":")
        options = options[8 * options[1] :]
    return None


def _only(kind: int) -> bytes:
    words = [0xFFFFFFFF] * 8
    words[kind >> 5] &= ~(1 << (kind & 31))
    return struct.pack("=8I", *words)
