"""What the kernel tells of connections as they begin and end, by netlink: two groups that anybody may listen to.

- mptcp_pm_events of generic netlink's mptcp_pm (needs CAP_NET_ADMIN): MPTCP connections and their subflows, by token.
- SKNLGRP_INET_TCP_DESTROY and its like of sock_diag: each TCP socket, as it is freed, with its tcp_info.

What comes when was tried on real kernels: docs/decisions/0021, tests/contract/test_kernel_events.py.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from socket import AF_INET, AF_INET6

from guest_agent.connections import NETLINK_SOCK_DIAG, address_of, ends_of, tcp_info
from guest_agent.netlink import GENERIC, NETLINK_GENERIC, attributes, generic_family, integer, opened, payloads
from guest_agent.ports import Closed, Ends, KernelEvent, SocketGone, SubflowClosed, SubflowOpened

LOG = logging.getLogger(__name__)
# include/uapi/linux/genetlink.h, netlink.h, sock_diag.h
CTRL_ATTR_MCAST_GROUPS, CTRL_ATTR_MCAST_GRP_NAME, CTRL_ATTR_MCAST_GRP_ID = 7, 1, 2
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1
TCP_DESTROY_GROUPS = (1, 3)  # SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET6_TCP_DESTROY
SO_RCVBUFFORCE = 33
# include/uapi/linux/mptcp_pm.h: enum mptcp_event_type, mptcp_event_attr
CREATED, CLOSED, SUB_ESTABLISHED, SUB_CLOSED = 1, 3, 10, 11
TOKEN, SADDR4, SADDR6, DADDR4, DADDR6, SPORT, DPORT, ERROR = 1, 5, 6, 7, 8, 9, 10, 12
# Room for what comes between two looks: each message takes about 1 KiB of the kernel's memory, whatever its length.
RECEIVE_BYTES = 8 << 20
MOST_AT_ONCE = 1 << 14  # messages of a socket in one look: twice as many as there is room for. A flood has no end


class KernelEvents:
    """Implements ports.KernelEvents."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def listen(self) -> None:
        """See ports.KernelEvents."""
        if self._sockets:
            return
        try:
            self._sockets = [_path_manager_events(), _destroyed_sockets()]
        except OSError:
            self.stop()
            raise

    def heard(self) -> tuple[list[KernelEvent], bool]:
        """See ports.KernelEvents. The path manager's come first, so that a socket's end is told after whose it was."""
        events: list[KernelEvent] = []
        missed = False
        for sock, parse in zip(self._sockets, (path_manager_event, socket_gone)):
            for _ in range(MOST_AT_ONCE):
                try:
                    data = sock.recv(1 << 16)
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    missed = True  # more came than there was room for; what came since is still to be read
                    continue
                events += [event for event in map(parse, payloads(data)) if event is not None]
        return events, missed

    def stop(self) -> None:
        """See ports.KernelEvents."""
        for sock in self._sockets:
            sock.close()
        self._sockets = []


def path_manager_event(payload: bytes) -> KernelEvent | None:
    """Of one message of mptcp_pm_events; None for those that tell of nothing that we ask about."""
    command, found = payload[0], attributes(payload[GENERIC.size :])
    token = integer(found.get(TOKEN, b""))
    if command == CLOSED:
        return Closed(token)
    if command in (CREATED, SUB_ESTABLISHED):
        return SubflowOpened(token, _ends(found))
    if command == SUB_CLOSED:
        return SubflowClosed(token, _ends(found), integer(found.get(ERROR, b"")))
    return None


def socket_gone(payload: bytes) -> KernelEvent | None:
    """Of one inet_diag_msg of the destroy groups. None for one that never was connected: a listener, an attempt that
    was refused; also for an MPTCP connection's first subflow, which is disconnected before it is freed."""
    ends, info = ends_of(payload), tcp_info(payload)
    if not ends[3] or info is None or not info.rtt_us:
        return None
    # A FIN that was acknowledged counts as a byte that was; so does a SYN.
    surplus, again = info.acked - info.sent, info.retransmits + info.probes
    return SocketGone(ends, surplus, again, min(info.ms_since_data, info.ms_since_ack) / 1000)


def _path_manager_events() -> socket.socket:
    groups = attributes(generic_family("mptcp_pm").get(CTRL_ATTR_MCAST_GROUPS, b""))
    for group in map(attributes, groups.values()):
        if group.get(CTRL_ATTR_MCAST_GRP_NAME) == b"mptcp_pm_events\0":
            return _joined(NETLINK_GENERIC, integer(group[CTRL_ATTR_MCAST_GRP_ID]))
    raise OSError(errno.ENOENT, "this kernel has no mptcp_pm_events")


def _destroyed_sockets() -> socket.socket:
    return _joined(NETLINK_SOCK_DIAG, *TCP_DESTROY_GROUPS)


def _joined(protocol: int, *groups: int) -> socket.socket:
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(opened(protocol))
        sock.bind((0, 0))
        for group in groups:
            sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)  # as much as the system allows
        sock.setblocking(False)
        undo.pop_all()
        return sock


def _ends(found: dict[int, bytes]) -> Ends:
    local, remote = (found.get(v4) or found.get(v6, bytes(16)) for v4, v6 in ((SADDR4, SADDR6), (DADDR4, DADDR6)))
    local_port, remote_port = (int.from_bytes(found.get(port, b""), "big") for port in (SPORT, DPORT))
    return _text(local), local_port, _text(remote), remote_port


def _text(raw: bytes) -> str:
    return address_of(AF_INET if len(raw) == 4 else AF_INET6, raw)
