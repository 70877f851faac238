"""Where a host sends a leg's packets: to the guest here, or into the tunnel to where the guest is.

One rule governs all of it: a host that has the guest points its legs to the guest, a host that has
not points them into the tunnel. At the pause the source turns, and what is under way already follows;
the destination points to its tap from the start, whose queue holds packets until the guest runs.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vmacro.host import grants, guard, tunnels
from vmacro.host.errors import RefusedError
from vmacro.host.grants import PROTOCOL
from vmacro.host.legs import DEVICE_PREFIX, LegEnd
from vmacro.host.tunnels import NEXT_HOPS, ends
from vmacro.wire.host_verbs import AWAY, GUEST, HOME, TUNNEL, Offer

MAIN = 254
INWARD_PRIORITY, OUTWARD_PRIORITY = 1180, 1181
_TABLES = (0x76, 0x77)  # the first bytes of LegEnd.inward and LegEnd.outward


def make(ip: IPRoute, leg: LegEnd) -> Offer:
    """Device, tables and rules; at home the leg is idle until pointed. Idempotent."""
    older = [e for e in ends(ip) if (e.address, e.side, leg.side) == (leg.address, HOME, HOME) and e != leg]
    offer = tunnels.make(ip, leg)
    bridge = _index(leg.bridge)
    _route(ip, leg, table=leg.inward, oif=bridge)
    _rule(ip, leg, table=leg.inward, priority=INWARD_PRIORITY, iifname=leg.device)
    grants.grant(ip, bridge, leg.address, leg.mac)
    if leg.side == AWAY:
        _route(ip, leg, table=leg.outward, dst=_everything(leg), **_through(leg))
        _rule(ip, leg, table=leg.outward, priority=OUTWARD_PRIORITY, src=leg.address, iifname=leg.bridge)
    for old in older:  # the guest moves on from the old leg's end: what comes back by that one goes on by this
        _route(ip, old, table=old.inward, **_through(leg))
    guard.refresh(ip)
    return offer


def point(ip: IPRoute, leg: LegEnd, to: str) -> None:
    """GUEST: it is here. TUNNEL: it is at the other end. Idempotent."""
    bridge = _index(leg.bridge)
    if leg.side == AWAY:
        way = {"oif": bridge} if to == GUEST else _through(leg)
        _route(ip, leg, table=leg.inward, **way)
    elif to == TUNNEL:
        _route(ip, leg, table=MAIN, **_through(leg))
        # Neighbours on the guests' own subnet ask for it too: this host answers for it.
        if _family(leg) == AF_INET6:
            tunnels.sysctl(f"net/ipv6/conf/{leg.bridge}/proxy_ndp", "1")
        grants.answer(ip, bridge, leg.address)
    else:
        _no_route(ip, leg, table=MAIN, oif=_index(leg.device))
        grants.answer_not(ip, bridge, leg.address)
        _route(ip, leg, table=leg.inward, oif=bridge)


def pointed(ip: IPRoute, leg: LegEnd) -> str:
    """As point() left it: read from the routes."""
    table, device = (MAIN if leg.side == HOME else leg.inward), _index(leg.device)
    for route in ip.get_routes(family=_family(leg), table=table):
        if route.get("RTA_DST") == leg.address and route.get("RTA_OIF") == device:
            return TUNNEL
    return GUEST


def remove(ip: IPRoute, leg: LegEnd) -> None:
    """All of this end, and only of this one. Idempotent; what refers to the device goes with it."""
    for table in (leg.inward, leg.outward):
        _no_rules(ip, leg, table)
    tunnels.remove(ip, leg)
    with _ignoring(errno.ESRCH, errno.ENOENT):
        ip.flush_routes(family=_family(leg), table=leg.inward)
    others = [e for e in ends(ip) if e.address == leg.address and e.domain == leg.domain]
    if not others:
        for bridge in ip.link_lookup(ifname=leg.bridge):
            grants.answer_not(ip, bridge, leg.address)
            if not guard.still_needed(ip, leg.bridge, leg.address, leg.mac):
                grants.revoke(ip, bridge, leg.address)
    guard.refresh(ip)


def sweep(ip: IPRoute) -> None:
    """Remove what is left of ends whose device went by itself, as wireguard-go's does if that is killed. Idempotent."""
    standing = {end.device for end in ends(ip)}
    for family in (AF_INET, AF_INET6):
        for rule in ip.get_rules(family=family):
            table, priority = rule.get("FRA_TABLE") or 0, rule.get("FRA_PRIORITY")
            ours = priority in (INWARD_PRIORITY, OUTWARD_PRIORITY) and table >> 24 in _TABLES
            if ours and f"{DEVICE_PREFIX}{table & 0xFFFFFF:06x}" not in standing:
                with _ignoring(errno.ENOENT):
                    ip.rule("del", table=table, priority=priority, family=family)
                with _ignoring(errno.ESRCH, errno.ENOENT):
                    ip.flush_routes(family=family, table=table)
    tunnels.filter_legs(ip)
    grants.sweep(ip, lambda bridge, address, mac: guard.still_needed(ip, bridge, address, mac))
    guard.refresh(ip)


def _through(leg: LegEnd) -> dict[str, Any]:
    return {"oif": _index(leg.device), "gateway": NEXT_HOPS[leg.prefix_length], "flags": ["onlink"]}


def _route(ip: IPRoute, leg: LegEnd, table: int, dst: str = "", **way: Any) -> None:
    target = dst or f"{leg.address}/{leg.prefix_length}"
    ip.route("replace", dst=target, table=table, proto=PROTOCOL, family=_family(leg), **way)


def _no_route(ip: IPRoute, leg: LegEnd, table: int, oif: int) -> None:
    with _ignoring(errno.ESRCH):
        ip.route("del", dst=f"{leg.address}/{leg.prefix_length}", table=table, oif=oif, family=_family(leg))


def _rule(ip: IPRoute, leg: LegEnd, table: int, priority: int, iifname: str, src: str = "") -> None:
    match = {"src": src, "src_len": leg.prefix_length} if src else {}
    with _ignoring(errno.EEXIST):
        ip.rule("add", table=table, priority=priority, iifname=iifname, family=_family(leg), **match)


def _no_rules(ip: IPRoute, leg: LegEnd, table: int) -> None:
    for rule in ip.get_rules(family=_family(leg)):
        if rule.get("FRA_TABLE") == table:
            with _ignoring(errno.ENOENT):
                ip.rule("del", table=table, priority=rule.get("FRA_PRIORITY"), family=_family(leg))


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise RefusedError("no-interface", f"no interface {name!r}") from None


def _family(leg: LegEnd) -> int:
    return grants.family(leg.address)


def _everything(leg: LegEnd) -> str:
    return "0.0.0.0/0" if _family(leg) == AF_INET else "::/0"


@contextlib.contextmanager
def _ignoring(*codes: int) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code not in codes:
            raise
