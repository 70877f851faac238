"""A tunnel's device: WireGuard, or VXLAN where the inventory says so.

WireGuard authenticates and encrypts. VXLAN does neither: it belongs inside a path that does, and
`check` says so each time. Nothing is cut to fit: a tunnel takes whole packets of the guests' bridge,
and the path outside fragments them where it must. What may pass is said before a device is up (leg_rules).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vmacro.host import joins, leg_rules, nft, wireguard
from vmacro.host.errors import RefusedError
from vmacro.host.legs import DEVICE_PREFIX, LegEnd, from_alias
from vmacro.wire.host_verbs import HOME, VXLAN, WIREGUARD, Offer

VXLAN_PORT = 14789
PORTS = f"{VXLAN_PORT}-{wireguard.FIRST_PORT + wireguard.PORTS - 1}"
NEXT_HOPS = {32: "169.254.118.1", 128: "fe80::76"}  # whoever is at the other end
OWN_END = "169.254.118.2"
_SCOPE_LINK = 253
_TRIAL = "vmac-trial"


def kinds(ip: IPRoute, wireguard_by: str) -> list[str]:
    """What this host can do, best first; by trying, since modules may load on demand. `wireguard_by`: who does it."""
    return [*([WIREGUARD] if wireguard_by else []), *([VXLAN] if _has_vxlan(ip) else [])]


def ends(ip: IPRoute) -> list[LegEnd]:
    """All ends of legs on this host, whoever made them."""
    found = []
    for link in ip.get_links():
        name, alias = str(link.get("IFLA_IFNAME")), link.get("IFLA_IFALIAS")
        if name.startswith(DEVICE_PREFIX) and alias:
            found.append(from_alias(str(alias)))
    return [end for end in found if end is not None]


def make(ip: IPRoute, leg: LegEnd) -> Offer:
    """The device, up. Idempotent. Raises NetlinkError, OSError; RefusedError, with nothing made, without its bridge or
    what it takes."""
    if not nft.available():
        nft.apply("")  # says what is missing
    index, mtu = _existing(ip, leg), mtu_of(ip, leg.bridge)
    if index is None:
        index = _made(ip, leg, mtu)
    else:
        filter_legs(ip)
    ip.link("set", index=index, state="up")
    # The way back of what comes out of the tunnel is another interface, by design: loose mode. That asks for an address
    # on the device, too (__fib_validate_source, no_addr); of the link's scope, since nothing is to be sent from it.
    sysctl(f"net/ipv4/conf/{leg.device}/rp_filter", "2")
    ip.addr("replace", index=index, address=OWN_END, prefixlen=32, scope=_SCOPE_LINK)
    if leg.kind == WIREGUARD:
        return wireguard.offer(leg)
    for address in NEXT_HOPS.values():
        ip.neigh("replace", dst=address, lladdr=leg.hardware_address(leg.far_side), ifindex=index, state="permanent")
    return Offer()


def join(leg: LegEnd, far: Offer) -> None:
    """Tell WireGuard's end of its peer."""
    if leg.kind == WIREGUARD:
        wireguard.join(leg, far)


def remove(ip: IPRoute, leg: LegEnd) -> None:
    """Remove the device of a leg's end, and what it was allowed. Idempotent."""
    for index in ip.link_lookup(ifname=leg.device):
        _delete(ip, leg, index)
    filter_legs(ip)


def filter_legs(ip: IPRoute) -> None:
    """Let pass what the legs that there are may carry."""
    if not nft.available():
        return
    with nft.alone():
        found = ends(ip)
        nft.apply(leg_rules.ruleset(found, _ports(found), PORTS))


def mtu_of(ip: IPRoute, device: str) -> int:
    """Raises RefusedError for a device that is not there."""
    indices = ip.link_lookup(ifname=device)
    if not indices:
        raise RefusedError("no-interface", f"no interface {device!r}")
    return int(ip.get_links(indices[0])[0].get("IFLA_MTU"))


def sysctl(key: str, value: str) -> None:
    """Set a kernel setting; `key` is its path below /proc/sys."""
    Path("/proc/sys", key).write_text(value)


def _made(ip: IPRoute, leg: LegEnd, mtu: int) -> int:
    with ExitStack() as undo:  # whatever goes wrong: without its alias nobody knows the device for a leg's
        undo.callback(remove, ip, leg)
        if leg.kind == VXLAN:
            _make_vxlan(ip, leg)
        else:
            wireguard.make(ip, leg)
        index = int(ip.link_lookup(ifname=leg.device)[0])
        ip.link("set", index=index, ifalias=leg.alias(), mtu=mtu)
        filter_legs(ip)
        if leg.side == HOME:
            joins.queue(leg.device)
        undo.pop_all()
    return index


def _make_vxlan(ip: IPRoute, leg: LegEnd) -> None:
    ip.link(
        "add",
        ifname=leg.device,
        kind=VXLAN,
        address=leg.hardware_address(leg.side),
        vxlan_id=leg.number,
        vxlan_group=leg.peer,
        vxlan_port=VXLAN_PORT,
        vxlan_learning=False,
    )


def _ports(ends: Iterable[LegEnd]) -> dict[str, int]:
    """Where each end's device listens."""
    listening = wireguard.ports()
    found = {e.device: VXLAN_PORT if e.kind == VXLAN else listening.get(e.device, 0) for e in ends}
    return {device: port for device, port in found.items() if port}


def _existing(ip: IPRoute, leg: LegEnd) -> int | None:
    """Another leg's is not ours to take; one without an alias is what a host side that died has left half made."""
    for index in ip.link_lookup(ifname=leg.device):
        alias = ip.get_links(index)[0].get("IFLA_IFALIAS")
        if alias == leg.alias():
            return int(index)
        if alias:
            raise OSError(errno.EEXIST, f"{leg.device} belongs to another: {alias!r}")
        _delete(ip, leg, index)
    return None


def _delete(ip: IPRoute, leg: LegEnd, index: int) -> None:
    ip.link("del", index=index)
    if leg.kind == WIREGUARD:
        wireguard.wait_for_end(leg.device)


def _has_vxlan(ip: IPRoute) -> bool:
    try:
        ip.link("add", ifname=_TRIAL, kind=VXLAN, vxlan_id=1, vxlan_port=VXLAN_PORT)
    except NetlinkError as error:
        return bool(error.code == errno.EEXIST)
    for index in ip.link_lookup(ifname=_TRIAL):
        ip.link("del", index=index)
    return True
