"""Which of a guest's network cards moves with its addresses, what becomes of the others, who else has its MAC. Pure.

libvirt says which cards a domain has and where they are. The agent's MAC only selects among those that are on the
network for guests of the host where the guest runs: what it names otherwise is nobody's (docs/decisions/0025).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vmacro.model.facts import Card, DomainFacts, HostView, NetworkFacts, Survey
from vmacro.model.moves import Finding, Severity
from vmacro.planning.request import Request, blocker, destination_host, source_view, target_view
from vmacro.wire.host_verbs import LONGEST_DEVICE

_AGENTS = "in the guest, `vmacro-agent --interface NAME` names the one that migrates"


def on_network(domain: DomainFacts, network: NetworkFacts | None) -> tuple[Card, ...]:
    """Those of a domain's cards that have a MAC and are on a libvirt network, by its name or by its bridge."""
    return tuple(c for c in domain.cards if network is not None and c.mac and _is_on(c, network))


def card(survey: Survey) -> Card | None:
    """The one that moves: on the network for guests at the guest's host, and of the MAC that its agent names; where no
    agent answers, the only one there. None where there is no such card, or more than one."""
    if len(survey.running_at) != 1:
        return None
    found = _candidates(survey, survey.running_at[0])
    return found[0] if len(found) == 1 else None


def mac(survey: Survey) -> str:
    """That card's, '' where there is none."""
    found = card(survey)
    return found.mac if found is not None else ""


def devices(domain: DomainFacts) -> tuple[str, ...]:
    """Bridges and interfaces that its cards need wherever it runs, of names that a kernel can have; of a libvirt
    network's that is its own affair."""
    found = dict.fromkeys(c.device for c in domain.cards if c.device and not c.network)
    return tuple(name for name in found if len(name) <= LONGEST_DEVICE)


def findings(request: Request, survey: Survey) -> Iterator[Finding]:
    """Whether it is known which card moves, and what each of them finds at the destination."""
    source, target = source_view(survey), target_view(request, survey)
    if source is None or source.domain is None:
        return
    chosen = card(survey)
    if chosen is None:
        yield _unknown(request, survey, source, source.domain)
    if target is None or target.site == source.site:
        return
    host = destination_host(request, survey)
    for each in source.domain.cards:
        if each.network:
            if host is not None and each.network != host.network:  # else the rule about that network speaks
                yield from _network_is_there(each, target)
        elif each.device:
            yield from _device_is_there(each, target)
    if chosen is not None:
        yield from _goes_to_guests(chosen, target)
        yield from _others(request, source.domain, chosen)
        yield from _shared(request, source.domain, chosen, target)


def _candidates(survey: Survey, view: HostView) -> tuple[Card, ...]:
    found = on_network(view.domain, view.network) if view.domain is not None else ()
    return tuple(c for c in found if survey.agent is None or c.mac == survey.agent.mac)


def _unknown(request: Request, survey: Survey, source: HostView, domain: DomainFacts) -> Finding:
    subject, agent, there = f"guest {request.guest.name}", survey.agent, on_network(domain, source.network)
    network = next((h.network for h in survey.hosts if h.name == source.host), "")
    if not any(c.mac for c in domain.cards):
        text, hint = "its domain has no network card with a MAC", "add an <interface> with a <mac/> to the domain"
        return blocker("no-card", subject, text, hint)
    if source.network is None:
        text, hint = f"has no libvirt network {network!r}, on which the guest is to be", "hosts.NAME.network names it"
        return blocker("network-missing", f"host {source.host}", text, hint)
    if not there:
        text = f"it has no card on {source.host}'s network for guests, {network!r}, but {_some(domain.cards)}"
        return blocker("no-card", subject, text, f"attach one there; or correct hosts.{source.host}.network")
    if agent is None:
        text = f"it has {len(there)} cards on network {network!r} ({_macs(there)}), and no agent to say which one moves"
        return blocker("card-unknown", subject, text, "mend its agent; or leave it one card on that network")
    if any(c.mac == agent.mac for c in there):
        text = f"it has several cards of one MAC, {agent.mac}, on network {network!r}"
        return blocker("card-unknown", subject, text, "give each card a MAC of its own")
    where = next((place(c) for c in domain.cards if c.mac == agent.mac), "none of its domain's cards")
    text = (
        f"its agent looks after {agent.interface or 'a card'} of MAC {agent.mac} ({where}); "
        f"on network {network!r} of {source.host} it has {_macs(there)}"
    )
    return blocker("card-unknown", subject, text, f"{_AGENTS}; or correct hosts.{source.host}.network")


def _network_is_there(each: Card, target: HostView) -> Iterator[Finding]:
    if each.network not in target.networks:
        text = f"has no active libvirt network {each.network!r}, on which the guest has a card ({each.mac})"
        hint = "libvirt would refuse the guest: virsh net-start it there; or take that card out of its domain"
        yield blocker("network-missing", f"host {target.host}", text, hint)


def _device_is_there(each: Card, target: HostView) -> Iterator[Finding]:
    subject, what = f"host {target.host}", f"{place(each)}, at which the guest has a card ({each.mac})"
    if target.links is None:
        text = f"nobody has looked whether it has {what}"
        hint = "ip link show there: without it libvirt refuses the guest in the midst of the move"
        yield Finding("bridge-unknown", Severity.WARNING, subject, text, hint)
    elif each.device not in target.links.devices:
        hint = "libvirt would refuse the guest: make it there; or take that card out of its domain"
        yield blocker("bridge-missing", subject, f"has no {what}", hint)


def _goes_to_guests(chosen: Card, target: HostView) -> Iterator[Finding]:
    """What is there under the name that the card is attached to is the network where its address is reserved."""
    network = target.network
    if network is None or _is_on(chosen, network):
        return
    there = chosen.network in target.networks
    if not chosen.network:
        there = target.links is not None and chosen.device in target.links.devices
    if there:
        text = f"the guest would arrive at its {place(chosen)}, and its network for guests is {network.name!r}"
        hint = f"one name at both hosts; or correct hosts.{target.host}.network"
        yield blocker("network-differs", f"host {target.host}", text, hint)


def _others(request: Request, domain: DomainFacts, chosen: Card) -> Iterator[Finding]:
    for each in domain.cards:
        if each != chosen:
            text = f"it has another card, {each.mac or 'of no MAC'} ({place(each)}): its addresses there do not move"
            hint = "connections to those end, unless what it is attached to is one network at both sites"
            yield Finding("cards-several", Severity.WARNING, f"guest {request.guest.name}", text, hint)


def _shared(request: Request, domain: DomainFacts, chosen: Card, target: HostView) -> Iterator[Finding]:
    subject, guest = f"host {target.host}", f"guest {request.guest.name}"
    for user in target.links.mac_users if target.links is not None else ():
        if not user.domain:
            text = f"frames from {chosen.mac} come by its {user.device}: a machine there has the MAC of {guest}"
            hint = "find it, and give it another; a bridge forgets within 5 minutes (ageing_time)"
            yield blocker("mac-shared", subject, text, hint)
        elif user.domain != domain.name and user.active:
            text = f"its domain {user.domain!r} has a card of the MAC of {guest}, {chosen.mac}"
            yield blocker("mac-shared", subject, text, "give one of them another <mac/>")
        elif user.domain != domain.name:
            text = f"its domain {user.domain!r}, which is shut off, has a card of the MAC of {guest}, {chosen.mac}"
            hint = "give it another <mac/> before it is started"
            yield Finding("mac-shared", Severity.WARNING, subject, text, hint)


def place(each: Card) -> str:
    """What a card is attached to, for people."""
    if each.network:
        return f"network {each.network!r}"
    what = "bridge" if each.kind == "bridge" else "interface"
    return f"{what} {each.device!r}" if each.device else f"of type {each.kind!r}"


def _is_on(each: Card, network: NetworkFacts) -> bool:
    if each.network:
        return each.network == network.name
    return each.kind == "bridge" and bool(network.bridge) and each.device == network.bridge


def _macs(cards: Iterable[Card]) -> str:
    return ", ".join(c.mac for c in cards)


def _some(cards: tuple[Card, ...], most: int = 3) -> str:
    more = len(cards) - most
    listed = [f"{c.mac or 'one without a MAC'} ({place(c)})" for c in cards[:most]]
    return ", ".join([*listed, *([f"{more} more"] if more > 0 else [])])
