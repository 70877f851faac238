"""Which address a guest gets, and which of its addresses are tunnelled from where to where. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from vmacro.model.facts import AgentFacts, HostView, Leg, LegEnd, NetworkFacts, Survey
from vmacro.model.moves import Held
from vmacro.model.nouns import Host, Inventory

SEAMLESS, RENUMBER = "seamless", "renumber"
HANDOFFS = (SEAMLESS, RENUMBER)


def next_address(network: NetworkFacts, mac: str, held: Iterable[str]) -> str:
    """The address that a guest will have on a network, or '' where none is free.

    What DHCP already keeps for it; but never one that it still holds for connections of an earlier
    stay: those could not be told from the ones to come, and would be withdrawn with them.
    """
    kept, unusable = network.address_of(mac), set(held)
    if kept and kept not in unusable:
        return kept
    if network.dhcp_range is None:
        return ""
    first, last = (int(ipaddress.IPv4Address(a)) for a in network.dhcp_range)
    unusable |= {address for address, _ in network.taken}
    candidates = (str(ipaddress.IPv4Address(n)) for n in range(first, last + 1))
    return next((a for a in candidates if a not in unusable), "")


def next_address6(network: NetworkFacts, mac: str, held: Iterable[str]) -> str:
    """The address that a card gives itself on a network (RFC 4291 appendix A), or the next that the guest
    does not hold; '' where it cannot."""
    if not network.subnet6.endswith("/64"):
        return ""
    octets, taken = bytes.fromhex(mac.replace(":", "")), set(held)
    identifier = int.from_bytes(bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:], "big")
    subnet = ipaddress.IPv6Network(network.subnet6)
    return next(a for a in (str(subnet[identifier + n]) for n in range(len(taken) + 1)) if a not in taken)


def best_tunnel(one: HostView, other: HostView) -> str:
    """The best kind that both hosts can do, or ''."""
    if one.links is None or other.links is None:
        return ""
    return next((kind for kind in one.links.tunnels if kind in other.links.tunnels), "")


def standing(survey: Survey, inventory: Inventory, domain: str) -> tuple[Leg, ...]:
    """Legs of the guest that earlier moves left, put together from their ends."""
    found: dict[tuple[str, str], dict[str, tuple[Host, LegEnd]]] = {}
    for view in survey.views:
        host = inventory.host(view.host)
        for end in view.links.legs if view.links is not None and host is not None else ():
            if end.domain == domain and host is not None:
                found.setdefault((end.move, end.address), {})[end.side] = (host, end)
    legs = []
    for (move_id, address), sides in sorted(found.items()):
        if sides.keys() == {"home", "away"}:
            (home, near), (away, far) = sides["home"], sides["away"]
            legs.append(Leg(move_id, domain, near.mac, address, near.kind, home, away, near.bridge, far.bridge))
    return tuple(legs)


def lead(move_id: str, survey: Survey, source: Host, destination: Host, address: str) -> Leg:
    """The new address, home at the destination, reaches the guest while it is still at the source."""
    return _leg(move_id, survey, source, address, home=destination, away=source)


def held(agent: AgentFacts, source: HostView, here: Host, legs: Iterable[Leg]) -> tuple[Held, ...]:
    """The guest's present addresses, each with its home: what its leg says, or else where the guest is."""
    homes = {leg.address: leg.home for leg in legs}
    network = source.network
    subnets = [ipaddress.ip_network(s) for s in (network.subnet, network.subnet6) if s] if network is not None else []
    present = [a for a in (agent.address, agent.address6) if a]
    local = [a for a in agent.held if any(ipaddress.ip_address(a) in subnet for subnet in subnets)]
    known = dict.fromkeys([*present, *local], here) | {a: homes[a] for a in (*present, *agent.held) if a in homes}
    return tuple(Held(address, home) for address, home in known.items())


def trail(move_id: str, survey: Survey, source: Host, destination: Host, addresses: Iterable[Held]) -> tuple[Leg, ...]:
    """The guest's present addresses, each from its own home straight to the destination; none where
    the destination is home. A carried address never goes through two tunnels."""
    return tuple(
        _leg(move_id, survey, source, held.address, home=held.home, away=destination)
        for held in addresses
        if held.home.name != destination.name
    )


def _leg(move_id: str, survey: Survey, source: Host, address: str, home: Host, away: Host) -> Leg:
    domain = survey.view(source.name).domain
    views = {h.name: survey.view(h.name) for h in (home, away)}
    bridges = {n: v.network.bridge if v.network is not None else "" for n, v in views.items()}
    assert domain is not None
    kind = best_tunnel(views[home.name], views[away.name])
    mac = domain.mac.lower()
    return Leg(move_id, domain.name, mac, address, kind, home, away, bridges[home.name], bridges[away.name])
