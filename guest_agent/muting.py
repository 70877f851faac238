"""Connections whose packets do not leave the guest for a moment: blackhole rules of policy routing, one for each.

They carry a protocol number of ours, so that an agent that was killed meanwhile takes them away when it starts again.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import logging
import socket
import struct
from collections.abc import Collection, Iterator
from socket import AF_INET, AF_INET6

from guest_agent.netlink import NLM_F_ACK, ask, attribute, tell
from guest_agent.ports import Ends

LOG = logging.getLogger(__name__)
# Each packet that looks for its way passes all rules.
MOST_MUTED = 512

# include/uapi/linux/rtnetlink.h, fib_rules.h
RTM_NEWRULE, RTM_DELRULE, FR_ACT_BLACKHOLE = 32, 33, 6
FRA_DST, FRA_SRC, FRA_PRIORITY, FRA_PROTOCOL, FRA_IP_PROTO, FRA_SPORT_RANGE, FRA_DPORT_RANGE = 1, 2, 6, 21, 22, 23, 24
NLM_F_CREATE = 0x400
OURS = 118  # of the numbers that nobody has in /etc/iproute2/rt_protos
PRIORITY = 1  # after the table `local`, before everything else
_RULE = struct.Struct("=BBBBBxxBI")  # fib_rule_hdr: family, lengths of the addresses, tos, table, action, flags
_RANGE = struct.Struct("=HH")


def mute(ends: Collection[Ends]) -> None:
    """See ports.Sockets."""
    if len(ends) > MOST_MUTED:
        LOG.warning("%d connections are to be muted, and only %d are", len(ends), MOST_MUTED)
    tell(socket.NETLINK_ROUTE, RTM_NEWRULE, NLM_F_CREATE, map(_rule, itertools.islice(ends, MOST_MUTED)))


def unmute(ends: Collection[Ends]) -> None:
    """See ports.Sockets."""
    try:
        tell(socket.NETLINK_ROUTE, RTM_DELRULE, 0, map(_rule, itertools.islice(ends, MOST_MUTED)), missing_ok=True)
    except OSError as error:  # the next agent tries again
        LOG.error("%d connections may stay mute: %s", len(ends), error)


def unmute_all() -> None:
    """See ports.Sockets."""
    for family in (AF_INET, AF_INET6):
        for _ in _while_there_are(family):
            pass


def _while_there_are(family: int) -> Iterator[bytes]:
    """The kernel takes away one at a time, the first that is alike in what is named."""
    body = _RULE.pack(family, 0, 0, 0, 0, FR_ACT_BLACKHOLE, 0) + _OWN
    with contextlib.suppress(OSError):  # ENOENT, or none can be: a kernel without such rules, or without IPv6
        while True:
            yield ask(socket.NETLINK_ROUTE, RTM_DELRULE, body, NLM_F_ACK)


_OWN = attribute(FRA_PRIORITY, struct.pack("=I", PRIORITY)) + attribute(FRA_PROTOCOL, bytes([OURS]))


def _rule(ends: Ends) -> bytes:
    """What the guest sends from its end to the other."""
    local, local_port, remote, remote_port = ends
    source, target = ipaddress.ip_address(local), ipaddress.ip_address(remote)
    family = AF_INET if source.version == 4 else AF_INET6
    length = source.max_prefixlen
    return (
        _RULE.pack(family, length, length, 0, 0, FR_ACT_BLACKHOLE, 0)
        + attribute(FRA_SRC, source.packed)
        + attribute(FRA_DST, target.packed)
        + attribute(FRA_IP_PROTO, bytes([socket.IPPROTO_TCP]))
        + attribute(FRA_SPORT_RANGE, _RANGE.pack(local_port, local_port))
        + attribute(FRA_DPORT_RANGE, _RANGE.pack(remote_port, remote_port))
        + _OWN
    )
