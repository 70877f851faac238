"""Which addresses are a guest's, and which it may get. Pure.

Its agent can say anything, so what it says is only compared with what others know: the DHCP of the host where the guest
runs, SLAAC by that host's prefix and the card's MAC, and the moves of this journal (docs/decisions/0017).
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from vmacro.model.facts import HomedAddress, HostView, Leg, NetworkFacts, Survey
from vmacro.model.nouns import Host
from vmacro.planning import cards

OWN6 = 8  # addresses that one card may give itself on a network


@dataclass(frozen=True)
class Claims:
    """What an agent says of its guest's addresses, sorted: those that are the guest's (`homed`), and those of which
    nobody else knows that they are (`others`)."""

    homed: tuple[HomedAddress, ...]
    others: tuple[str, ...]


def claims(survey: Survey, legs: Iterable[Leg]) -> Claims:
    """Of the agent that was surveyed. `legs`: those that moves of this journal have left (standing.py)."""
    if survey.agent is None or len(survey.running_at) != 1:
        return Claims((), ())
    known, claimed = {**_at_home(survey), **_of_moves(survey, legs)}, survey.agent.claimed
    return Claims(
        tuple(HomedAddress(address, known[address]) for address in claimed if address in known),
        tuple(address for address in claimed if address not in known),
    )


def guest_subnets(host: Host, network: NetworkFacts | None) -> tuple[IPv4Network | IPv6Network, ...]:
    """Those of a host's guests: what its libvirt says and the inventory does not contradict."""
    pairs = ((network.subnet, host.subnet), (network.subnet6, host.subnet6)) if network is not None else ()
    return subnets(*(said for said, written in pairs if written in ("", said)))


def subnets(*texts: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Those that are some."""
    return tuple(found for found in map(_subnet, texts) if found is not None)


def contains(subnet: IPv4Network | IPv6Network, address: str) -> bool:
    """Whether this is an address in that subnet; a name is none."""
    try:
        return ipaddress.ip_address(address) in subnet
    except ValueError:
        return False


def routes(host: Host, network: NetworkFacts | None, address: str) -> str:
    """The subnet of a host's guests in which this may be a guest's address, or ''."""
    gateway = network.gateway if network is not None else ""
    found = (s for s in guest_subnets(host, network) if _may_be_a_guests(address, s, gateway))
    return str(next(found, ""))


def next_address(network: NetworkFacts, mac: str, claimed: Iterable[str]) -> str:
    """The IPv4 address that a guest will have on a network, or '' where none is free.

    The one that DHCP keeps for it, if any, and else the one that it has leased to it. But never one of `claimed`, which
    the guest keeps for connections of an earlier stay: old and new connections could not be told apart, and the address
    would be withdrawn from both.
    """
    subnet, unusable = _subnet(network.subnet), set(claimed)
    if subnet is None:
        return ""

    def usable(address: str) -> bool:
        return address not in unusable and _may_be_a_guests(address, subnet, network.gateway)

    # A card that an address is reserved for gets no other one.
    pinned = [r.address for r in network.reserved if r.mac == mac]
    known = [a for a in _leased(network, mac) if a in pinned or not pinned]
    kept = next((address for address in known if usable(address)), "")
    if kept or network.dhcp_range is None or pinned:
        return kept
    first, last = (int(ipaddress.IPv4Address(a)) for a in network.dhcp_range)
    unusable |= {address for address, _ in network.taken}
    candidates = (str(ipaddress.IPv4Address(n)) for n in range(first, last + 1))
    return next((a for a in candidates if usable(a)), "")


def public_of(host: Host, address: str) -> str:
    """What clients elsewhere know an address of a host's guests as; '' where the inventory says nothing of that."""
    listed = dict(host.public).get(address, "")
    subnet, public = _subnet(host.subnet), _subnet(host.public_subnet)
    if listed or subnet is None or public is None or not contains(subnet, address):
        return listed
    return str(public[int(ipaddress.ip_address(address)) - int(subnet.network_address)])


def seen_as(host: Host, address: str) -> str:
    """What clients elsewhere know an address of a host's guests as: most as what it is."""
    return public_of(host, address) or address


def next_address6(network: NetworkFacts, mac: str, claimed: Iterable[str]) -> str:
    """The IPv6 address that a card gives itself on a network, or another of its own that is not in `claimed`; '' where
    the network has no /64, or all are claimed."""
    taken = set(claimed)
    return next((address for address in own_addresses6(network, mac) if address not in taken), "")


def own_addresses6(network: NetworkFacts, mac: str) -> Iterator[str]:
    """Those that a card, and no other, may give itself on a network: the first by its MAC (RFC 4291 appendix A), others
    by a hash of it, as RFC 7217 makes them. The number after the first one would be another card's first one."""
    subnet, octets = _subnet(network.subnet6), _octets(mac)
    if subnet is None or subnet.version != 6 or subnet.prefixlen != 64 or len(octets) != 6:
        return
    identifiers = [bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]]
    for n in range(1, OWN6):
        identifiers.append(hashlib.sha256(f"{subnet} {octets.hex()} {n}".encode()).digest()[:8])
    for identifier in identifiers:
        yield str(subnet[int.from_bytes(identifier, "big")])


def _at_home(survey: Survey) -> dict[str, Host]:
    """Addresses of the host where the guest runs that are its card's."""
    (view,) = survey.running_at
    host, network, mac = _host(survey, view), view.network, cards.mac(survey)
    if host is None or network is None or not mac:
        return {}
    found = [*_leased(network, mac), *own_addresses6(network, mac)]
    return {address: host for address in found if routes(host, network, address)}


def _of_moves(survey: Survey, legs: Iterable[Leg]) -> dict[str, Host]:
    """Addresses of hosts where the guest was. A home that does not answer cannot contradict the journal."""
    found = {}
    for homed in (*survey.past.carried, *(HomedAddress(leg.address, leg.home) for leg in legs)):
        home = next((h for h in survey.hosts if h.name == homed.home.name), None)
        network = survey.view(home.name).network if home is not None else None
        if home is not None and (network is None or routes(home, network, homed.address)):
            found[homed.address] = home
    return found


def _leased(network: NetworkFacts, mac: str) -> list[str]:
    """What DHCP has given to a card or keeps for it, and for no other. An entry without a MAC is for whoever says its
    name, which this card may do: then it has the lease."""
    nameless = {r.address for r in network.reserved if not r.mac}
    pairs = tuple(dict.fromkeys((*network.taken, *((r.address, r.mac) for r in network.reserved))))
    others = {a for a, other in pairs if other != mac and not (other == "" and a in nameless)}
    return [a for a, other in pairs if other == mac and a not in others]


def _may_be_a_guests(address: str, subnet: IPv4Network | IPv6Network, gateway: str) -> bool:
    if not contains(subnet, address):
        return False
    found = ipaddress.ip_address(address)
    nobodys = found in (subnet.network_address, subnet.broadcast_address) or address == gateway
    return not (nobodys or found.is_multicast or found.is_loopback or found.is_link_local)


def _host(survey: Survey, view: HostView) -> Host | None:
    return next((h for h in survey.hosts if h.name == view.host), None)


def _subnet(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _octets(mac: str) -> bytes:
    try:
        return bytes.fromhex(mac.replace(":", ""))
    except ValueError:
        return b""
