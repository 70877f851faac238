"""The guest's connections, by NETLINK_SOCK_DIAG: TCP sockets, and which MPTCP connection each belongs to.

There may be thousands, and they are asked for again and again.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from socket import AF_INET

from guest_agent import netlink
from guest_agent.listeners import cookies, have_them_queue, put_back, turned_away
from guest_agent.muting import mute, unmute, unmute_all
from guest_agent.netlink import attributes, integer
from guest_agent.ports import Ends
from vmacro.wire.agent_verbs import Connection, Subflow

__all__ = [
    "connections",
    "cookies",
    "cut",
    "forget_round_trips",
    "has_sockets",
    "have_them_queue",
    "look",
    "mute",
    "put_back",
    "rooms",
    "turned_away",
    "unmute",
    "unmute_all",
]
NETLINK_SOCK_DIAG = 4
SOCK_DESTROY = 21
TCP_METRICS, TCP_METRICS_CMD_DEL = "tcp_metrics", 2  # include/uapi/linux/tcp_metrics.h
# This older request has the kernel walk through its table once for both families, SOCK_DIAG_BY_FAMILY for each. The
# table has a place for each 128 KiB of memory: where sockets are few, it takes longer than they do.
TCPDIAG_GETSOCK = 18
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
FIN_WAIT1, FIN_WAIT2 = 1 << 4, 1 << 5
LISTEN = 1 << 10
CLOSING = FIN_WAIT1 | FIN_WAIT2 | 1 << 9 | 1 << 11  # LAST_ACK, CLOSING

_REQUEST = struct.Struct("=3xB48xI4x")  # inet_diag_req, for all sockets
_MESSAGE = struct.Struct(">BBxxHH16s16s32x")  # inet_diag_msg as far as we read it
# inet_diag_msg.idiag_wqueue: bytes that the peer has not acknowledged; of a listener its backlog
_QUEUED = struct.Struct("=I")
_QUEUED_AT = 60
_FIN = 1  # it counts as a byte, too
_STATE_AT = 1  # inet_diag_msg.idiag_state
_INODE = struct.Struct("=I")  # inet_diag_msg.idiag_inode: 0 once the application has closed it (sock_orphan)
_INODE_AT = 68


@dataclass(frozen=True)
class TcpInfo:
    """Of struct tcp_info (include/uapi/linux/tcp.h): bytes that were `acked`, `sent` (each once), `unsent` and
    `received`; how often the oldest one was sent again without an answer; how many probes have had none (keepalives, or
    of a window that was shut); how long ago the peer was heard last; the round trip in µs, 0 before there was one."""

    retransmits: int
    probes: int
    ms_since_data: int
    ms_since_ack: int
    rtt_us: int
    acked: int
    received: int
    unsent: int
    sent: int


def tcp_info(payload: bytes) -> TcpInfo | None:
    """Of an inet_diag_msg; None where there is none, or one of a kernel before 4.19: that counts no bytes sent."""
    return _info_in(attributes(payload[_MESSAGE.size :]))


def _info_in(found: dict[int, bytes]) -> TcpInfo | None:
    raw = found.get(INET_DIAG_INFO, b"")
    if len(raw) < 216:
        return None
    since_data, since_ack, _, _, rtt_us = struct.unpack_from("=IIIII", raw, 52)
    acked, received = struct.unpack_from("=QQ", raw, 120)
    (unsent,) = struct.unpack_from("=I", raw, 144)
    sent, again = struct.unpack_from("=QQ", raw, 200)
    return TcpInfo(raw[2], raw[3], since_data, since_ack, rtt_us, acked, received, unsent, sent - again)


def ends_of(payload: bytes) -> Ends:
    """Of an inet_diag_msg: address and port, the guest's first."""
    family, _state, local_port, remote_port, source, target = _MESSAGE.unpack_from(payload)
    return address_of(family, source), local_port, address_of(family, target), remote_port


def connections() -> list[Connection]:
    """All established connections of the guest but those with itself, MPTCP ones with all subflows."""
    return look()[0]


def look() -> tuple[list[Connection], set[Ends]]:
    """As connections(), and by the same dump the sockets that have said goodbye and wait for their peers'. One of which
    the guest's application has shut down its own direction alone goes on: its client may still send. So does one that
    has been closed with an answer in its buffer, which may be megabytes: its client has yet to receive them. Raises
    OSError."""
    there, closing = [], set()
    for payload in _dump(ESTABLISHED | CLOSE_WAIT | CLOSING):
        if CLOSING >> payload[_STATE_AT] & 1 and not _goes_on(payload):
            closing.add(ends_of(payload))
        else:
            there.append(parse(payload))
    return _joined(there, closing), closing


def _goes_on(payload: bytes) -> bool:
    """Whether the guest has said goodbye, its client has not, and the application listens on; or not all that comes
    before that goodbye has been acknowledged. Of plain TCP: an MPTCP connection does that without its subflows
    (DATA_FIN)."""
    (inode,), (queued,) = _INODE.unpack_from(payload, _INODE_AT), _QUEUED.unpack_from(payload, _QUEUED_AT)
    listens_on = (FIN_WAIT1 | FIN_WAIT2) >> payload[_STATE_AT] & 1 and inode
    return bool(listens_on or queued > _FIN) and not parse(payload)[0]


def _joined(found: list[tuple[int, Subflow]], closing: set[Ends]) -> list[Connection]:
    """Subflows of one token are one connection. Of one with the guest itself, either end may say goodbye first."""
    mptcp: dict[int, list[Subflow]] = {}
    plain = []
    for token, subflow in found:
        if token:
            mptcp.setdefault(token, []).append(subflow)
        else:
            plain.append(Connection(0, (subflow,)))
    all_of_them = [*(Connection(token, tuple(subflows)) for token, subflows in mptcp.items()), *plain]
    there = closing | {_ends(subflow) for _, subflow in found}
    return [c for c in all_of_them if not any(_with_itself(subflow, there) for subflow in c.subflows)]


def _with_itself(subflow: Subflow, there: set[Ends]) -> bool:
    """Whether the guest has the other end, too: by loopback, or by its own addresses, which are announced there, too,
    and joined."""
    local, local_port, remote, remote_port = _ends(subflow)
    by_loopback = remote in (local, "::1") or remote.startswith("127.")
    return by_loopback or (remote, remote_port, local, local_port) in there


def _ends(subflow: Subflow) -> Ends:
    return subflow.local, subflow.local_port, subflow.remote, subflow.remote_port


def has_sockets(address: str) -> bool:
    """Whether any TCP connection still needs an address, closing ones too."""
    return any(subflow.local == address for _, subflow in _sockets(ESTABLISHED | CLOSE_WAIT | CLOSING))


def rooms() -> dict[int, int]:
    """For how many clients that are still connecting a port's listeners have room, the one that has least. Raises
    OSError."""
    found: dict[int, int] = {}
    for payload in _dump(LISTEN):
        _, port, _, _ = ends_of(payload)
        (room,) = _QUEUED.unpack_from(payload, _QUEUED_AT)
        found[port] = min(room, found.get(port, room))
    return found


def cut(address: str, tokens: set[int]) -> None:
    """End the subflows on an address of some connections, which go on by their others (RST, SOCK_DESTROY).

    For initial subflows: REMOVE_ADDR of id 0 would take those of all connections. Raises OSError.
    """
    for payload in list(_dump(ESTABLISHED | CLOSE_WAIT | CLOSING)):
        token, subflow = parse(payload)
        if token in tokens and subflow.local == address:
            # struct inet_diag_msg and inet_diag_req_v2 begin with the family, and carry the same inet_diag_sockid.
            body = struct.pack("=BBBxI", payload[0], socket.IPPROTO_TCP, 0, 0xFFFFFFFF) + payload[4:52]
            try:
                netlink.ask(NETLINK_SOCK_DIAG, SOCK_DESTROY, body, netlink.NLM_F_ACK)
            except OSError as error:
                if error.errno != errno.ENOENT:  # it may have ended by itself
                    raise


def forget_round_trips() -> None:
    """What the kernel remembers of all paths (TCP_METRICS_CMD_DEL without an address): how long new connections wait
    before they send again. Raises OSError."""
    family = integer(netlink.generic_family(TCP_METRICS)[netlink.CTRL_ATTR_FAMILY_ID])
    netlink.ask(netlink.NETLINK_GENERIC, family, netlink.GENERIC.pack(TCP_METRICS_CMD_DEL, 1, 0), netlink.NLM_F_ACK)


def _sockets(states: int) -> Iterable[tuple[int, Subflow]]:
    return map(parse, _dump(states))


def parse(payload: bytes) -> tuple[int, Subflow]:
    """(token, subflow) of one inet_diag_msg."""
    outer = attributes(payload[_MESSAGE.size :])
    info, inner = _info_in(outer), attributes(outer.get(INET_DIAG_ULP_INFO, b""))
    inner = attributes(inner.get(ULP_INFO_MPTCP, b""))
    token, flags = (integer(inner.get(a, b"")) for a in (ATTR_TOKEN_LOC, ATTR_FLAGS))
    (queued,), state = _QUEUED.unpack_from(payload, _QUEUED_AT), 1 << payload[_STATE_AT]
    fin = info is not None and bool(state & CLOSING) and not info.unsent  # that was sent
    subflow = Subflow(
        *ends_of(payload),
        joined=bool(flags & SUBFLOW_JOINED),
        backup=bool(flags & SUBFLOW_BACKUP),
        established=not token or bool(flags & SUBFLOW_ESTABLISHED),
        bytes=info.acked + info.received if info is not None else 0,
        # The SYN of who opens a connection counts as a byte that was acknowledged, as a FIN does; the answer to one
        # does not.
        outgoing=info is not None and info.acked + queued - info.unsent > info.sent + fin,
        unanswered=info.retransmits if info is not None else 0,
    )
    return token, subflow


def _dump(states: int) -> Iterator[bytes]:
    """Payloads of all sockets, of either family. Raises OSError, TimeoutError among them."""
    return netlink.dump(NETLINK_SOCK_DIAG, TCPDIAG_GETSOCK, _REQUEST.pack(EXTENSIONS, states))


@lru_cache(maxsize=1 << 14)
def address_of(family: int, raw: bytes) -> str:
    """An IPv4 client of a dual-stack server counts as IPv4."""
    if family == AF_INET:
        return str(ipaddress.IPv4Address(raw[:4]))
    address = ipaddress.IPv6Address(raw)
    return str(address.ipv4_mapped or address)
