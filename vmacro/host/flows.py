"""Which flows of datagrams of an address this host's kernel tracks (conntrack): UDP, and echoes of ICMP, which it
forgets by timeouts of its own. Asked by netlink, with a filter that the kernel applies (Linux 5.8, CTA_FILTER): a busy
host tracks hundreds of thousands of connections, and nobody here has the time to read them.

What a guest has with its host itself (DHCP, names) ends with its stay; so does what is for a link or a group. Echoes by
which hosts ask whether an address answers (vmacro/host/reach.py) are no use of it.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from vmacro.wire.fields import is_special
from vmacro.wire.host_verbs import MOST_FLOWS, Flows

_NETLINK_NETFILTER = 12  # linux/netlink.h
_GET, _REQUEST_DUMP = 1 << 8 | 1, 0x301  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET; NLM_F_REQUEST | NLM_F_DUMP
_ERROR, _DONE, _NESTED = 2, 3, 0x8000
# linux/netfilter/nfnetlink_conntrack.h
_TUPLE_ORIG, _FILTER, _TUPLE_IP, _TUPLE_PROTO, _PROTO_NUM, _FILTER_ORIG, _FILTER_REPLY = 1, 25, 1, 2, 1, 1, 2
ECHO_ID = 0x7672  # that of our own echoes
_ICMP_IDS = {socket.IPPROTO_ICMP: 4, socket.IPPROTO_ICMPV6: 7}  # CTA_PROTO_ICMP_ID, CTA_PROTO_ICMPV6_ID
_SRC, _DST, _F_PROTO = 0, 1, 1 << 3  # CTA_FILTER_FLAG of either end is 1 << it
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_PATIENCE_S = 5.0
_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")


def tracked() -> bool:
    """Whether the kernel tracks anything here. It does on a host that anybody is connected to, if it does at all."""
    try:
        return int(_COUNT.read_text()) > 0
    except OSError:
        return False


def of(address: str, own: frozenset[str]) -> Flows:
    """Those that began from or towards an address. `own`: the host's own addresses, and its
    links'. Raises OSError."""
    version = ipaddress.ip_address(address).version
    found = [
        min(MOST_FLOWS, sum(_counts(peer, own) for peer in _peers(address, protocol)))
        for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6)
    ]
    return Flows(address, *found)


def _counts(peer: str, own: frozenset[str]) -> bool:
    return peer not in own and not is_special(peer)


def _peers(address: str, protocol: int) -> Iterator[str]:
    """The other end of each, at most MOST_FLOWS. Of IPv6 the kernel's filter leaves out those that are meant
    (ctnetlink_filter_match_tuple takes ipv6_addr_cmp() for equality, seen in 6.18), so that all are read."""
    packed = ipaddress.ip_address(address).packed
    asked = [_question(packed, protocol, end) for end in ((_SRC, _DST) if len(packed) == 4 else (None,))]
    found = (
        _other_end(entry, packed)
        for question in asked
        for entry in _dump(question, len(packed))
        if packed in entry and not _is_ours(entry, protocol)
    )
    yield from islice((str(ipaddress.ip_address(peer)) for peer in found if peer), MOST_FLOWS)


def _question(packed: bytes, protocol: int, end: int | None) -> bytes:
    """Entries of a protocol, with the address at one end, None: with any addresses."""
    which, flags = _nested(_TUPLE_PROTO, _attribute(_PROTO_NUM, bytes([protocol]))), _F_PROTO
    if end is not None:
        which = _nested(_TUPLE_IP, _attribute(_first(packed) + end, packed)) + which
        flags |= 1 << end
    chosen = _attribute(_FILTER_ORIG, struct.pack("=I", flags)) + _attribute(_FILTER_REPLY, bytes(4))
    return _nested(_TUPLE_ORIG, which) + _nested(_FILTER, chosen)


def _dump(attributes: bytes, length: int) -> Iterator[bytes]:
    """The attributes of each entry. Raises OSError."""
    family = socket.AF_INET if length == 4 else socket.AF_INET6
    body = struct.pack("!BBH", family, 0, 0) + attributes
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as sock:
        sock.settimeout(_PATIENCE_S)
        sock.bind((0, 0))
        sock.send(_HEADER.pack(_HEADER.size + len(body), _GET, _REQUEST_DUMP, 1, 0) + body)
        while True:
            data = memoryview(sock.recv(1 << 17))
            while data:
                size, kind, *_ = _HEADER.unpack_from(data)
                if kind in (_DONE, _ERROR):  # both say how it went
                    code = -struct.unpack_from("=i", data, _HEADER.size)[0]
                    if code or kind == _ERROR:
                        raise OSError(code, "conntrack cannot be asked")
                    return
                yield bytes(data[_HEADER.size + 4 : size])
                data = data[size + 3 & ~3 :]


def _is_ours(entry: bytes, protocol: int) -> bool:
    proto = _attributes(_attributes(_attributes(entry)[_TUPLE_ORIG])[_TUPLE_PROTO])
    return proto.get(_ICMP_IDS.get(protocol, 0)) == struct.pack("!H", ECHO_ID)


def _other_end(entry: bytes, address: bytes) -> bytes:
    """Of an entry's original direction; b'' where the address is at neither end."""
    ends = _attributes(_attributes(_attributes(entry)[_TUPLE_ORIG])[_TUPLE_IP])
    source, target = (ends.get(_first(address) + end, b"") for end in (_SRC, _DST))
    return target if source == address else source if target == address else b""


def _first(address: bytes) -> int:
    """CTA_IP_V4_SRC or CTA_IP_V6_SRC; that of the target is the next one."""
    return 1 if len(address) == 4 else 3


def _attributes(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 4 <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        found[kind & 0x3FFF] = data[at + 4 : at + size]
        at += max(4, size + 3 & ~3)
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    padding = bytes(-len(value) % 4)
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + padding


def _nested(kind: int, value: bytes) -> bytes:
    return _attribute(kind | _NESTED, value)
