"""Does an address answer? By the network alone: who is asked says nothing of himself by any other way.

At a bridge by ARP and neighbour discovery, which no firewall of a guest's drops; from anywhere by echoes (RFC 792, RFC
4443) and, where none comes back, by a TCP connection, of which a reset is as good an answer as an open port.

Nothing waits here: a guest that pauses meanwhile must not wait, either. Each question sends again to who is silent, and
tells what has come since the first; the sockets are kept until nobody has asked for a while.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from vmacro.host import neighbours
from vmacro.host.flows import ECHO_ID
from vmacro.host.neighbours6 import Neighbours
from vmacro.wire.host_verbs import MOST_ANSWERING, Heard, HeardOf, Reach

LEAST = 64  # bytes of the packets that are sent in any case
SIZES = (LEAST, 1280, 1400)  # and where whole ones are asked for: these too, so that it can be told what passes
MOST_NAMES, FORGET_S = 32, 30.0
_SYN = 60  # bytes of a TCP segment that opens a connection
_TCP, _TIMESTAMPS = 20, 12  # bytes of its header, and of what TCP_MAXSEG leaves out where both ends say the time
_OPTIONS = 5  # where they are in struct tcp_info (linux/tcp.h)
_MOST_READ = 256  # packets at a time
_LARGEST = 1 << 16  # that is told of
_ETH_P_ARP = 0x0806
# linux/in.h, linux/in6.h, which `socket` does not have
_DISCOVER, _DO, _MTU = {4: 10, 6: 23}, 2, {4: 14, 6: 24}
_DONTFRAG = 62
_ECHO, _REPLY, _HEADER = {4: 8, 6: 128}, {4: 0, 6: 129}, {4: 20, 6: 40}
_ICMP = struct.Struct("!BBHHH")


class _Way(Protocol):
    def close(self) -> None: ...


Opened = TypeVar("Opened", bound=_Way)


class Reaching:
    """All questions that are under way."""

    def __init__(self) -> None:
        self._asking: dict[str, _Asking] = {}

    def ask(self, args: Reach) -> HeardOf:
        """Raises OSError."""
        now_s = time.monotonic()
        for name, asking in [*self._asking.items()]:
            if now_s - asking.asked_s > FORGET_S or (name == args.name and asking.args != args):
                self._asking.pop(name).close()
        if args.name not in self._asking:
            for name in [*self._asking][: max(0, len(self._asking) - MOST_NAMES + 1)]:
                self._asking.pop(name).close()
            self._asking[args.name] = _Asking(args)
        return self._asking[args.name].again(now_s)


@dataclass
class _Answers:
    macs: list[str] = field(default_factory=list)
    answered: int = 0
    tried: int = 0


class _Asking:
    """One question."""

    def __init__(self, args: Reach) -> None:
        self.args, self.asked_s, self._rounds = args, 0.0, 0
        self._found = {address: _Answers() for address in args.addresses}
        self._open = contextlib.ExitStack()
        try:
            self._echoes = {address: self._kept(_Echo(address, args.whole, args.bridge)) for address in self._found}
            versions = {ipaddress.ip_address(address).version for address in self._found if args.bridge}
            self._arp = self._kept(_Arp(args.bridge)) if 4 in versions else None
            self._discovery = self._kept(Neighbours(args.bridge)) if 6 in versions else None
        except OSError:
            self.close()
            raise
        self._doors: dict[str, _Door] = {}

    def again(self, now_s: float) -> HeardOf:
        self.asked_s = now_s
        self._hear()
        for address, found in self._found.items():
            self._ask(address, found)
        self._rounds += 1
        return HeardOf(tuple(Heard(a, tuple(f.macs), f.answered, f.tried) for a, f in self._found.items()))

    def close(self) -> None:
        self._open.close()

    def _kept(self, opened: Opened) -> Opened:
        self._open.callback(opened.close)
        return opened

    def _hear(self) -> None:
        for address, echo in self._echoes.items():
            self._found[address].answered = max(self._found[address].answered, echo.largest())
        for address, door in self._doors.items():
            if door.answers():
                if self.args.whole:
                    self._echoes[address].most = door.whole()
                else:
                    self._found[address].answered = max(self._found[address].answered, _SYN)
        for way in (self._arp, self._discovery):
            for address, mac in way.hear() if way is not None else ():
                macs = self._found[address].macs if address in self._found else [mac]
                if mac not in macs and len(macs) < MOST_ANSWERING:
                    macs.append(mac)

    def _ask(self, address: str, found: _Answers) -> None:
        way = self._discovery if ":" in address else self._arp
        if way is not None:  # also where somebody has answered: another one may, later
            with contextlib.suppress(OSError):  # silent, then
                way.ask(address)
        if not found.answered or found.answered < found.tried:
            found.tried = self._echoes[address].ask() or found.tried
        due = self.args.whole or (self._rounds and not found.answered)
        if self.args.port and due and address not in self._doors:
            self._doors[address] = self._kept(_Door(address, self.args.port))


class _Echo:
    """Echoes of one address. Whole ones are as large as the kernel believes that the way takes, and not fragmented; no
    larger than `most`, which TCP has agreed upon for that way.

    At a bridge they go to the guest there, whatever leads elsewhere: what came back to this host from an address of
    another site by way of that would have its own address as the source, and be dropped. Of IPv6 the kernel sends none
    to a foreign prefix."""

    def __init__(self, address: str, whole: bool, bridge: str) -> None:
        self.most = 1 << 16
        self._version, self._whole = ipaddress.ip_address(address).version, whole
        self._level = socket.IPPROTO_IP if self._version == 4 else socket.IPPROTO_IPV6
        family, protocol = (
            (socket.AF_INET, socket.IPPROTO_ICMP) if self._version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
        )
        self._number = int.from_bytes(os.urandom(2), "big")
        self._socket = socket.socket(family, socket.SOCK_RAW, protocol)
        self._socket.setblocking(False)
        if bridge:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bridge.encode())
        if whole:
            self._socket.setsockopt(self._level, _DISCOVER[self._version], _DO)
            if self._version == 6:
                self._socket.setsockopt(self._level, _DONTFRAG, 1)
        with contextlib.suppress(OSError):  # no way there: nobody answers
            self._socket.connect((address, 0))

    def ask(self) -> int:
        """The size of the largest packet that was sent, 0 for none."""
        sent = 0
        for size in (*SIZES, 0) if self._whole else (LEAST,):
            with contextlib.suppress(OSError):
                sent = max(sent, self._sent(size))
        return sent

    def _sent(self, size: int) -> int:
        """0 stands for as large as the way takes. An error of an earlier packet is told to who sends the next one."""
        for _ in range(3):
            believed = min(self.most, int(self._socket.getsockopt(self._level, _MTU[self._version])))
            wanted = size or believed
            if wanted > believed:
                return 0
            try:
                self._socket.send(echo(self._version, self._number, wanted - _HEADER[self._version]))
                return wanted
            except OSError as error:
                if error.errno not in (errno.EMSGSIZE, errno.ECONNREFUSED, errno.EHOSTUNREACH):
                    raise
        return 0

    def largest(self) -> int:
        """Of the packets that have come back by now."""
        found = 0
        for _ in range(_MOST_READ):
            try:
                packet = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:
                continue  # of a packet that was not delivered
            if is_reply(self._version, self._number, packet):
                found = max(found, min(len(packet) + (0 if self._version == 4 else _HEADER[6]), _LARGEST))
        return found

    def close(self) -> None:
        self._socket.close()


def echo(version: int, number: int, size: int) -> bytes:
    """An echo request of so many bytes, header and all; of IPv6 the kernel makes the checksum."""
    asked = bytes(max(0, size - _ICMP.size))
    check = checksum(_ICMP.pack(_ECHO[4], 0, 0, ECHO_ID, number)) if version == 4 else 0
    return _ICMP.pack(_ECHO[version], 0, check, ECHO_ID, number) + asked


def checksum(words: bytes) -> int:
    """Of the Internet's protocols (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(words) // 2}H", words))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def is_reply(version: int, number: int, packet: bytes) -> bool:
    """Whether a packet, of IPv4 with its header, replies to echoes of that number."""
    start = 4 * (packet[0] & 15) if version == 4 and packet else 0
    if len(packet) < start + _ICMP.size:
        return False
    kind, code, _, named, numbered = _ICMP.unpack_from(packet, start)
    return (kind, code, named, numbered) == (_REPLY[version], 0, ECHO_ID, number)


class _Arp:
    """ARP on one bridge, from no address (RFC 5227)."""

    def __init__(self, bridge: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setblocking(False)
        self._socket.bind((bridge, _ETH_P_ARP))

    def ask(self, address: str) -> None:
        self._socket.send(neighbours.probe(address, self._socket.getsockname()[4]))

    def hear(self) -> Iterator[tuple[str, str]]:
        for _ in range(_MOST_READ):
            try:
                found = neighbours.answered(self._socket.recv(2048))
            except OSError:
                return
            if found is not None:
                yield found

    def close(self) -> None:
        self._socket.close()


class _Door:
    """A TCP connection that says nothing, and is gone as soon as it is closed."""

    def __init__(self, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._headers = _TCP + _HEADER[6 if family == socket.AF_INET6 else 4]
        self._came = self._socket.connect_ex((address, port)) == errno.ECONNREFUSED

    def answers(self) -> bool:
        if not self._came and select.select([], [self._socket], [], 0)[1]:
            came = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._came = came == errno.ECONNREFUSED or (came == 0 and self._is_open())
        return self._came

    def whole(self) -> int:
        """The size of its largest packets: less than the kernel believes, where a router on the way has seen to that in
        both ends' MSS. 65536 where nobody has agreed upon any."""
        if not self._is_open():
            return 1 << 16
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)
        stamps = _TIMESTAMPS if info[_OPTIONS] & 1 else 0
        return self._headers + stamps + self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)

    def _is_open(self) -> bool:
        with contextlib.suppress(OSError):
            self._socket.getpeername()
            return True
        return False

    def close(self) -> None:
        self._socket.close()
