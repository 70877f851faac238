"""Netlink by hand, for what is asked again and again: under emulation pyroute2's decoder and the event loop that it
brings along cost a second for a hundred sockets, and a tenth of one for a guest's few addresses.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from collections.abc import Iterable, Iterator

# include/uapi/linux/netlink.h, genetlink.h
NETLINK_GENERIC, GENL_ID_CTRL, CTRL_CMD_GETFAMILY = 16, 0x10, 3
CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 1, 2
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
ANSWER_TIMEOUT_S = 2.0
READ_BYTES = 1 << 17
AT_ONCE = 64  # requests whose answers there is room for

GENERIC = struct.Struct("=BBH")  # genlmsghdr: command, version
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_CODE = struct.Struct("=i")


def dump(protocol: int, kind: int, body: bytes) -> Iterator[bytes]:
    """Payloads of all messages of a list. Raises OSError, TimeoutError among them."""
    with opened(protocol) as sock:
        sock.send(request(kind, NLM_F_DUMP, body))
        while True:
            for told, payload in _messages(sock.recv(READ_BYTES)):
                if told == NLMSG_DONE:
                    return
                yield payload


def ask(protocol: int, kind: int, body: bytes, flags: int = 0) -> bytes:
    """The payload of the one message that answers, empty for an acknowledgement. Raises OSError, TimeoutError among
    them."""
    with opened(protocol) as sock:
        sock.send(request(kind, flags, body))
        return next(payloads(sock.recv(READ_BYTES)), b"")


def tell(protocol: int, kind: int, flags: int, bodies: Iterable[bytes], missing_ok: bool = False) -> None:
    """Many requests of one kind, each carried out whatever becomes of the others; `missing_ok`: what is to be removed
    may be gone. Raises OSError for the first that the kernel refuses, TimeoutError among them."""
    rest, refused = iter(bodies), None
    with opened(protocol) as sock:
        while True:
            some = list(itertools.islice(rest, AT_ONCE))
            if not some:
                break
            sock.send(b"".join(request(kind, flags | NLM_F_ACK, body) for body in some))
            for _ in some:
                try:
                    list(payloads(sock.recv(READ_BYTES)))
                except TimeoutError:
                    raise
                except OSError as error:
                    if not (missing_ok and error.errno == errno.ENOENT):
                        refused = refused or error
    if refused is not None:
        raise refused


def generic_family(name: str) -> dict[int, bytes]:
    """What there is to know of a family of generic netlink (CTRL_ATTR_*). Raises OSError where the kernel has none."""
    asked = attribute(CTRL_ATTR_FAMILY_NAME, name.encode() + b"\0")
    answer = ask(NETLINK_GENERIC, GENL_ID_CTRL, GENERIC.pack(CTRL_CMD_GETFAMILY, 1, 0) + asked)
    return attributes(answer[GENERIC.size :])


def opened(protocol: int) -> socket.socket:
    """A socket that waits for its answers, but not for ever. Raises OSError."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    sock.settimeout(ANSWER_TIMEOUT_S)
    return sock


def request(kind: int, flags: int, body: bytes) -> bytes:
    """A message to the kernel."""
    return _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, 1, 0) + body


def payloads(data: bytes) -> Iterator[bytes]:
    """Of the messages in one datagram. Raises OSError for the kernel's refusal."""
    return (payload for kind, payload in _messages(data) if kind not in (NLMSG_ERROR, NLMSG_DONE))


def attribute(kind: int, payload: bytes) -> bytes:
    """To be sent."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def attributes(raw: bytes) -> dict[int, bytes]:
    """Netlink attributes (struct nlattr) by type."""
    found: dict[int, bytes] = {}
    at = 0
    while len(raw) - at >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(raw, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = raw[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


def integer(raw: bytes) -> int:
    """Of an attribute; 0 where it is missing."""
    return int.from_bytes(raw, "little")


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and payload. A list that ends with an error is not complete, which is one, too."""
    at = 0
    while len(data) - at >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        payload = data[at + _HEADER.size : at + length]
        if kind in (NLMSG_ERROR, NLMSG_DONE) and len(payload) >= _CODE.size:
            code = -_CODE.unpack_from(payload)[0]
            if code:
                raise OSError(code, f"netlink refused: {os.strerror(code)}")
        yield kind, payload
        at += (length + 3) & ~3
