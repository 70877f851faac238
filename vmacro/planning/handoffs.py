"""Which of a guest's addresses are tunnelled from where to where. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from vmacro.model.facts import HomedAddress, HostView, Leg, Survey
from vmacro.model.nouns import Host
from vmacro.planning import cards
from vmacro.planning.addresses import guest_subnets, routes
from vmacro.wire.host_verbs import VXLAN, WIREGUARD

SEAMLESS, RENUMBER = "seamless", "renumber"
HANDOFFS = (SEAMLESS, RENUMBER)
MOST_ADDRESSES = 8  # of a guest that go along: as many as its kernel announces. It may have leased a whole subnet


def best_tunnel(one: HostView, other: HostView) -> str:
    """The kind of tunnel between two hosts, or '' where there is none that may be. Where both say that the path between
    them is private it is VXLAN, else WireGuard, and nothing in its place."""
    if one.links is None or other.links is None:
        return ""
    kind = VXLAN if one.plain_tunnel and other.plain_tunnel else WIREGUARD
    return kind if kind in one.links.tunnels and kind in other.links.tunnels else ""


def new_leg(move_id: str, survey: Survey, source: Host, destination: Host, address: str) -> Leg:
    """The new address, home at the destination, reaches the guest while it is still at the source."""
    return _leg(move_id, survey, source, address, home=destination, away=source)


def can_be_carried(homed: HomedAddress, survey: Survey, destination: Host) -> bool:
    """Whether an address can stay in use once its guest is at the destination: it is at home there; or a tunnel can
    lead there, and the address is none of that host's own guests'."""
    if homed.home.name == destination.name:
        return True
    there, address = survey.view(destination.name), ip_address(homed.address)
    mine = not any(address in subnet for subnet in guest_subnets(destination, there.network))
    return mine and bool(best_tunnel(survey.view(homed.home.name), there))


def that_go_along(homed: Iterable[HomedAddress], survey: Survey, destination: Host) -> tuple[HomedAddress, ...]:
    """Of the addresses that are known to be the guest's, those that can be carried, as far as they may be: each takes a
    leg at two hosts, and a question to the agent."""
    return tuple(h for h in homed if can_be_carried(h, survey, destination))[:MOST_ADDRESSES]


def old_legs(
    move_id: str, survey: Survey, source: Host, destination: Host, addresses: Iterable[HomedAddress]
) -> tuple[Leg, ...]:
    """The guest's present addresses, each from its own home straight to the destination; none where
    the destination is home. A carried address never goes through two tunnels."""
    return tuple(
        _leg(move_id, survey, source, homed.address, home=homed.home, away=destination)
        for homed in addresses
        if homed.home.name != destination.name
    )


def _leg(move_id: str, survey: Survey, source: Host, address: str, home: Host, away: Host) -> Leg:
    domain = survey.view(source.name).domain
    views = {h.name: survey.view(h.name) for h in (home, away)}
    bridges = {n: v.network.bridge if v.network is not None else "" for n, v in views.items()}
    assert domain is not None
    kind, subnet = best_tunnel(views[home.name], views[away.name]), routes(home, views[home.name].network, address)
    mac = cards.mac(survey)
    return Leg(move_id, domain.name, mac, address, kind, home, away, bridges[home.name], bridges[away.name], subnet)
