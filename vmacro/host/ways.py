"""The way to another host, wide from the first packet on, while a guest may leave for it.

At the pause QEMU sends the state of the guest's devices, some 340 KiB, by a connection that has sent next to nothing
until then where memory goes by others (multifd, which compresses). TCP begins with 10 segments and needs five round
trips for that (seen at 50 ms; decision 0029): this is the longer pause of a compressed copy. A route of its own to the
other host, by the very way that it has anyway, lets connections begin with more (ip-route(8), initcwnd).

A host remembers nothing: whose a route is says its metric, which is the token of the move that asked for it
(wire.names.way_token). So moves to one host have a route each, and each ends with its move, whoever's session ends.
"""

from __future__ import annotations

import errno
import ipaddress
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vmacro.host.errors import RefusedError
from vmacro.wire.way_verbs import MOST_WIDE, WideWay

SEGMENTS = 256  # 370 KiB: that state, and no more than what a link of 50 ms and 200 Mbit/s buffers
PROTOCOL = 119  # of these routes alone: no leg's
_MAIN, _UNICAST = 254, 1
_METRIC = "RTAX_"


def widen(ip: IPRoute, peer: str, token: int) -> None:
    """For one move, by its token. An operator's own route to exactly this address still goes first, by its metric.
    Idempotent. Raises NetlinkError; RefusedError where the address is no other machine's, or where a copy of its way
    would not be that way."""
    found = ip.route("get", dst=peer)[0]
    if found["type"] != _UNICAST:
        raise RefusedError("no-way", f"{peer} is not another host's address")
    if found.get("RTA_VIA") is not None or found.get("RTA_ENCAP") is not None:
        text = f"the way to {peer} has a gateway of another family, or is encapsulated: it stays as it is"
        raise RefusedError("no-way", text)
    if len(_ours(ip)) >= MOST_WIDE:  # so that no table is filled by asking
        raise RefusedError("no-way", f"{MOST_WIDE} moves have wide ways already")
    address = ipaddress.ip_address(peer)
    named = {"oif": "RTA_OIF", "gateway": "RTA_GATEWAY", "prefsrc": "RTA_PREFSRC"}
    way = {key: found.get(name) for key, name in named.items() if found.get(name) is not None}
    way["metrics"] = {**_metrics(found), "initcwnd": SEGMENTS}
    try:
        target = f"{peer}/{address.max_prefixlen}"
        ip.route("add", dst=target, table=_MAIN, proto=PROTOCOL, priority=token, **_scoped(way))
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise


def narrow(ip: IPRoute, token: int) -> None:
    """Take back what was widened for one move: connections that there are stay as they are. Idempotent."""
    for family, route in _ours(ip):
        if route.get("RTA_PRIORITY") != token:
            continue
        way = {"proto": PROTOCOL, "priority": token, "scope": route["scope"], "family": family}
        try:
            ip.route("del", dst=f"{route.get('RTA_DST')}/{route['dst_len']}", table=_MAIN, **way)
        except NetlinkError as error:
            if error.code != errno.ESRCH:  # another session has just done it
                raise


def wide(ip: IPRoute) -> tuple[WideWay, ...]:
    """All that there are, whoever's."""
    found = [WideWay(str(r.get("RTA_DST")), int(r.get("RTA_PRIORITY") or 0)) for _, r in _ours(ip)]
    return tuple(found[:MOST_WIDE])


def _ours(ip: IPRoute) -> list[tuple[int, Any]]:
    """With their families."""
    families = (AF_INET, AF_INET6)
    return [(f, r) for f in families for r in ip.get_routes(family=f, table=_MAIN) if r["proto"] == PROTOCOL]


def _metrics(found: Any) -> dict[str, Any]:
    """What its way says besides, its MTU above all: a path that takes less swallows what is larger."""
    told = found.get("RTA_METRICS")
    named = dict(told["attrs"]) if told is not None else {}
    return {name[len(_METRIC) :].lower(): value for name, value in named.items() if name.startswith(_METRIC)}


def _scoped(way: dict[str, Any]) -> dict[str, Any]:
    """A neighbour on the link has no gateway, and Linux wants to be told so."""
    return way if "gateway" in way else {**way, "scope": "link"}
