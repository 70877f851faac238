"""The way to another host, wide from the first packet on, while a guest may leave for it.

At the pause QEMU sends the state of the guest's devices, some 340 KiB, by a connection that has sent next to nothing
until then where memory goes by others (multifd, which compresses). TCP begins with 10 segments and needs five round
trips for that (seen at 50 ms; decision 0029): this is the longer pause of a compressed copy. A route of its own to the
other host, by the very way that it has anyway, lets connections begin with more (ip-route(8), initcwnd).
"""

from __future__ import annotations

import errno
import ipaddress
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vmacro.host.errors import RefusedError

SEGMENTS = 256  # 370 KiB: that state, and no more than what a link of 50 ms and 200 Mbit/s buffers
PROTOCOL = 119  # of these routes alone: no leg's
MOST = 64  # other hosts at once, so that no table is filled by asking
_MAIN, _UNICAST = 254, 1
_METRIC = "RTAX_"


def widen(ip: IPRoute, peer: str) -> None:
    """An operator's own route to exactly this address stays as it is. Idempotent. Raises NetlinkError; RefusedError
    where the address is no other machine's, or where a copy of its way would not be that way."""
    found = ip.route("get", dst=peer)[0]
    if found["type"] != _UNICAST:
        raise RefusedError("no-way", f"{peer} is not another host's address")
    if found.get("RTA_VIA") is not None or found.get("RTA_ENCAP") is not None:
        text = f"the way to {peer} has a gateway of another family, or is encapsulated: it stays as it is"
        raise RefusedError("no-way", text)
    if len(_ours(ip)) >= MOST:
        raise RefusedError("no-way", f"the ways to {MOST} other hosts are wide already")
    address = ipaddress.ip_address(peer)
    named = {"oif": "RTA_OIF", "gateway": "RTA_GATEWAY", "prefsrc": "RTA_PREFSRC"}
    way = {key: found.get(name) for key, name in named.items() if found.get(name) is not None}
    way["metrics"] = {**_metrics(found), "initcwnd": SEGMENTS}
    try:
        ip.route("add", dst=f"{peer}/{address.max_prefixlen}", table=_MAIN, proto=PROTOCOL, **_scoped(way))
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise


def narrow(ip: IPRoute) -> None:
    """Take back what any session here has widened: connections that there are stay as they are. Idempotent."""
    for family, route in _ours(ip):
        target = f"{route.get('RTA_DST')}/{route['dst_len']}"
        try:
            ip.route("del", dst=target, table=_MAIN, proto=PROTOCOL, scope=route["scope"], family=family)
        except NetlinkError as error:
            if error.code != errno.ESRCH:  # another session has just done it
                raise


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
