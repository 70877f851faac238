"""The guest's connections, by NETLINK_SOCK_DIAG: TCP sockets, and which MPTCP connection each belongs to.

By hand: it is asked twenty times a second under emulation, where pyroute2's decoder and the event
loop that it brings along cost a second for a hundred sockets.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from socket import AF_INET, AF_INET6

from vmacro.wire.agent_verbs import Connection, Subflow

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
INET_DIAG_INFO, INET_DIAG_ULP_INFO = 2, 19
# The kernel gives INET_DIAG_ULP_INFO to those who ask for INET_DIAG_INFO, as a bit of a mask.
EXTENSIONS = 1 << (INET_DIAG_INFO - 1)
# INET_ULP_INFO_MPTCP holds MPTCP_SUBFLOW_ATTR_* (include/uapi/linux/inet_diag.h, mptcp.h)
ULP_INFO_MPTCP = 3
ATTR_TOKEN_LOC, ATTR_FLAGS = 2, 8
SUBFLOW_JOINED = 1 << 2 | 1 << 3  # MPTCP_SUBFLOW_FLAG_JOIN_REM | _JOIN_LOC
SUBFLOW_BACKUP = 1 << 4 | 1 << 5
SUBFLOW_ESTABLISHED = 1 << 6  # MPTCP_SUBFLOW_FLAG_FULLY_ESTABLISHED
# include/net/tcp_states.h, as bits
ESTABLISHED, CLOSE_WAIT = 1 << 1, 1 << 8
CLOSING = 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11  # FIN_WAIT1, FIN_WAIT2, LAST_ACK, CLOSING
ANSWER_TIMEOUT_S = 2.0

_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI48x")  # inet_diag_req_v2, for all sockets
_MESSAGE = struct.Struct(">BBxxHH16s16s32x")  # inet_diag_msg as far as we read it


def connections() -> list[Connection]:
    """All established connections of the guest but loopback's, MPTCP ones with all subflows."""
    mptcp: dict[int, list[Subflow]] = {}
    plain = []
    for token, subflow in _sockets(ESTABLISHED | CLOSE_WAIT):
        if token:
            mptcp.setdefault(token, []).append(subflow)
        else:
            plain.append(Connection(0, (subflow,)))
    return [*(Connection(token, tuple(subflows)) for token, subflows in mptcp.items()), *plain]


def has_sockets(address: str) -> bool:
    """Whether any TCP connection still needs an address, closing ones too."""
    return any(subflow.local == address for _, subflow in _sockets(ESTABLISHED | CLOSE_WAIT | CLOSING))


def cut(address: str, tokens: set[int]) -> None:
    """End the subflows on an address of some connections, which go on by their others (RST, SOCK_DESTROY).

    For initial subflows: REMOVE_ADDR of id 0 would take those of all connections. Raises OSError.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as diag:
        diag.settimeout(ANSWER_TIMEOUT_S)
        for family in (AF_INET, AF_INET6):
            for payload in list(_dump(family, ESTABLISHED | CLOSE_WAIT)):
                found = parse(payload)
                if found is not None and found[0] in tokens and found[1].local == address:
                    # struct inet_diag_msg and inet_diag_req_v2 carry the same inet_diag_sockid.
                    body = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, 0xFFFFFFFF) + payload[4:52]
                    head = _HEADER.pack(_HEADER.size + len(body), SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, 1, 0)
                    diag.send(head + body)
                    code = -struct.unpack_from("=i", diag.recv(1 << 16), _HEADER.size)[0]
                    if code not in (0, errno.ENOENT):  # it may have ended by itself
                        raise OSError(code, f"SOCK_DESTROY: {os.strerror(code)}")


def _sockets(states: int) -> Iterable[tuple[int, Subflow]]:
    for family in (AF_INET, AF_INET6):
        for payload in _dump(family, states):
            found = parse(payload)
            if found is not None:
                yield found


def parse(payload: bytes) -> tuple[int, Subflow] | None:
    """(token, subflow) of one inet_diag_msg; None for loopback's."""
    family, _state, local_port, remote_port, source, target = _MESSAGE.unpack_from(payload)
    local, remote = _address(family, source), _address(family, target)
    if local.is_loopback:
        return None
    attributes = _attributes(payload[_MESSAGE.size :])
    info = attributes.get(INET_DIAG_INFO, b"")  # struct tcp_info: tcpi_bytes_acked, tcpi_bytes_received
    inner = _attributes(_attributes(attributes.get(INET_DIAG_ULP_INFO, b"")).get(ULP_INFO_MPTCP, b""))
    token, flags = (_integer(inner.get(a, b"")) for a in (ATTR_TOKEN_LOC, ATTR_FLAGS))
    subflow = Subflow(
        str(local),
        local_port,
        str(remote),
        remote_port,
        joined=bool(flags & SUBFLOW_JOINED),
        backup=bool(flags & SUBFLOW_BACKUP),
        established=not token or bool(flags & SUBFLOW_ESTABLISHED),
        bytes=_integer(info[120:128]) + _integer(info[128:136]),
    )
    return token, subflow


def _dump(family: int, states: int) -> Iterator[bytes]:
    """Payloads of all sockets. Raises OSError, TimeoutError among them."""
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, EXTENSIONS, states)
    head = _HEADER.pack(_HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as diag:
        diag.settimeout(ANSWER_TIMEOUT_S)
        diag.send(head + body)
        while True:
            data = diag.recv(1 << 17)
            while len(data) >= _HEADER.size:
                length, kind, _, _, _ = _HEADER.unpack_from(data)
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", data, _HEADER.size)[0]
                    raise OSError(code, "sock_diag refused")
                yield data[_HEADER.size : length]
                data = data[(length + 3) & ~3 :]


def _address(family: int, raw: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IPv4 client of a dual-stack server counts as IPv4."""
    if family == AF_INET:
        return ipaddress.IPv4Address(raw[:4])
    address = ipaddress.IPv6Address(raw)
    return address.ipv4_mapped or address


def _attributes(raw: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(raw) >= 4:
        length, kind = struct.unpack_from("=HH", raw)
        if length < 4:
            break
        found[kind & 0x3FFF] = raw[4:length]
        raw = raw[(length + 3) & ~3 :]
    return found


def _integer(raw: bytes) -> int:
    return int.from_bytes(raw, "little")
