"""Which legs this host takes: those of guests' addresses. It trusts its orchestrator, but not with others'.

At home an address lies in a subnet of the leg's own bridge, which is what this host routes. Away it lies in none of
those, but in its home's subnet, as the orchestrator says, in which this host is not (docs/decisions/0017).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Any

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vmacro.host import guard, guests, tunnels
from vmacro.host.errors import RefusedError
from vmacro.host.legs import LegEnd
from vmacro.wire.host_verbs import HOME


@dataclass(frozen=True)
class Seen:
    """What this host knows by itself: its own addresses, each with its subnet, those of the leg's `bridge` among all
    (`own`); who has a leg of the address here, and a card of its MAC (`users`, domains); which cards have the address
    by DHCP (`leased`, MACs); whether the way to the leg's other host is by the leg's own bridge (`outward`)."""

    bridge: tuple[IPv4Interface | IPv6Interface, ...]
    own: tuple[IPv4Interface | IPv6Interface, ...]
    users: tuple[str, ...]
    leased: tuple[str, ...] = ()
    outward: bool = False


def seen(ip: IPRoute, end: LegEnd, with_card: list[str]) -> Seen:
    """`with_card`: the domains that run, or are paused, with a card of the leg's MAC. Raises OSError, NetlinkError."""
    bridges = ip.link_lookup(ifname=end.bridge)
    found = [(m["index"], interface(m)) for m in ip.get_addr()]
    users = [other.domain for other in tunnels.ends(ip) if other.address == end.address]
    return Seen(
        tuple(address for index, address in found if index in bridges),
        tuple(address for _, address in found),
        (*users, *with_card),
        tuple(sorted(guard.holders(end.address))),
        _leads_to(ip, end.peer) in bridges,
    )


def check(end: LegEnd, subnet: str, here: Seen) -> None:
    """Raises RefusedError for a leg that is no guest's, or another guest's."""
    address = ipaddress.ip_address(end.address)
    others = set(here.users) - {end.domain}
    if others:
        raise RefusedError("another-guests", f"{end.address} for {end.mac}: domain {sorted(others)[0]!r} has that here")
    if here.outward:
        raise _not_a_guests(
            end, f"is to be at {end.bridge}: that is the way to {end.peer}, and no bridge of guests alone"
        )
    if end.address == end.peer or any(address == own.ip for own in here.own):
        raise _not_a_guests(end, "is a host's own")
    subnets = [own.network for own in here.bridge if own.version == address.version]
    if end.side == HOME:
        home = next((s for s in subnets if address in s), None)
        if home is None:
            raise _not_a_guests(end, f"is in no subnet of {end.bridge}")
        if address in (home.network_address, home.broadcast_address):
            raise _not_a_guests(end, f"is one of {home} that nobody can have")
        _check_card(end, home, here)
    elif any(address in s for s in subnets):
        raise _not_a_guests(end, f"is in a subnet of {end.bridge}, and so at home here")
    _check_home(end, subnet, here)


def _check_card(end: LegEnd, home: IPv4Network | IPv6Network, here: Seen) -> None:
    """At home it is known which card has an address by DHCP, and of which MAC one is made."""
    others = sorted(set(here.leased) - {end.mac})
    if others:
        raise RefusedError("another-guests", f"{end.address} for {end.mac}: DHCP has given that to {others[0]} here")
    if isinstance(home, IPv6Network) and home.prefixlen == 64:
        made = ipaddress.IPv6Address(end.address).packed[11:13] == b"\xff\xfe"
        if made and end.address != str(guests.slaac(end.mac, home)):
            raise RefusedError("another-guests", f"{end.address} for {end.mac}: that is made of another card's MAC")


def _check_home(end: LegEnd, subnet: str, here: Seen) -> None:
    """Against what the orchestrator says of the home."""
    if not subnet:
        return
    try:
        home = ipaddress.ip_network(subnet)
    except ValueError as error:
        raise RefusedError("bad-args", f"subnet: {error}") from None
    address = ipaddress.ip_address(end.address)
    if address not in home:
        raise _not_a_guests(end, f"is not in its home's subnet {home}")
    if address in (home.network_address, home.broadcast_address):
        raise _not_a_guests(end, f"is one of {home} that nobody can have")
    if end.side != HOME and any(own.version == home.version and own.ip in home for own in here.own):
        raise _not_a_guests(end, f"has a home, {home}, in which this host is")


def _not_a_guests(end: LegEnd, why: str) -> RefusedError:
    return RefusedError("not-a-guests", f"a leg of {end.address}, which {why}")


def _leads_to(ip: IPRoute, peer: str) -> int | None:
    """The interface by which packets to it leave; None for none."""
    try:
        return next((route.get("RTA_OIF") for route in ip.route("get", dst=peer)), None)
    except NetlinkError:
        return None


def interface(message: Any) -> IPv4Interface | IPv6Interface:
    """Of RTM_NEWADDR: of a point-to-point link IFA_ADDRESS is the other end's, and IPv6 has no IFA_LOCAL."""
    return ipaddress.ip_interface(f"{message.get('IFA_LOCAL') or message.get('IFA_ADDRESS')}/{message['prefixlen']}")
