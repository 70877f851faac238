"""Looking at everything that a move concerns, changing nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from vmacro.errors import AgentError, HostError, UnsupportedError
from vmacro.model.facts import NO_PAST, Connection, DiskCopy, HostFacts, HostView, Past, Survey
from vmacro.model.nouns import Guest, Host, Inventory
from vmacro.planning import disks
from vmacro.planning.addresses import next_address
from vmacro.ports import World

# Above the drivers' own limits for a silent host: this one is for a host whose answer never ends.
HOST_DEADLINE_S = 20.0
Views = tuple[HostView, ...]
LATE = f"no answer within {HOST_DEADLINE_S:g} s"
_LATE_HINT = "it takes connections, but something on it hangs: look at its libvirtd and vmacro-host"


@dataclass(frozen=True)
class HostState:
    """A host as it is now: its facts, None where `trouble` says why, and the guests that run there."""

    host: Host
    facts: HostFacts | None = None
    guests: tuple[str, ...] = ()
    trouble: str = ""


def uncounted(views: Views) -> Views:
    """Where no other move counts on anything."""
    return views


def survey(
    inventory: Inventory,
    guest: Guest,
    world: World,
    ask_clients: bool,
    ask_host_sides: bool,
    counted: Callable[[Views], Views] = uncounted,
    past: Past = NO_PAST,
) -> Survey:
    """All hosts, the guest's agent and its connections. Trouble is a finding, not an error.

    `ask_clients`: find out which clients join an announced address, by announcing a borrowed
    address to those of whom it is not known. `ask_host_sides`: tunnels too, by SSH. `counted` adds what other moves
    have reserved, before anybody asks who uses the address that the guest would get. `past`: what the journal knows.
    """
    seen = Survey(counted(look_at(inventory.hosts, guest, world)), hosts=inventory.hosts, past=past)
    if len(seen.running_at) != 1:
        return seen
    at, host = seen.running_at[0], inventory.host(seen.running_at[0].host)
    assert at.domain is not None and host is not None
    copies = disks.copies(at.domain, at.pools)
    if copies:
        seen = replace(seen, views=_completed(seen.views, lambda v: _with_disks(v, inventory, copies, world), world))
    if at.domain.running and at.domain.has_agent_channel:
        seen = _with_agent(seen, host, guest, inventory.policy.consent_timeout_ms if ask_clients else 0, world)
    if ask_host_sides:  # whether or not the agent answers: what they lack is told at the same time
        mac, claimed = at.domain.mac, seen.agent.claimed if seen.agent is not None else ()
        views = _completed(seen.views, lambda v: _with_links(v, inventory, host, mac, claimed, world), world)
        seen = replace(seen, views=views)
    return seen


def look_at(hosts: Iterable[Host], guest: Guest | None, world: World) -> tuple[HostView, ...]:
    """view() of each host, side by side; one that does not answer in time is in trouble as an unreachable one is."""
    asked = tuple(hosts)
    answers = world.side_by_side([partial(view, host, guest, world) for host in asked], HOST_DEADLINE_S)
    return tuple(answer or _late(host) for host, answer in zip(asked, answers, strict=True))


def connections_of(inventory: Inventory, guest: Guest, world: World) -> Survey:
    """A survey for a guest's connections, which tells which clients would follow. Raises AgentError where its agent
    cannot be asked."""
    seen = survey(inventory, guest, world, ask_clients=True, ask_host_sides=False)
    if seen.agent is None:
        text = seen.agent_trouble or f"guest {guest.name}: runs nowhere, or has no agent channel"
        raise AgentError(text, seen.agent_hint)
    return seen


def overview(inventory: Inventory, world: World) -> list[HostState]:
    """All hosts as they are now."""
    asked = [partial(_state, host, inventory, world) for host in inventory.hosts]
    answers = world.side_by_side(asked, HOST_DEADLINE_S)
    late = [HostState(host, trouble=_late(host).trouble) for host in inventory.hosts]
    return [answer or state for answer, state in zip(answers, late, strict=True)]


def _state(host: Host, inventory: Inventory, world: World) -> HostState:
    try:
        hypervisor = world.hypervisor(host)
        facts = hypervisor.facts()
        found = [(guest.name, hypervisor.domain(guest.domain)) for guest in inventory.guests]
        return HostState(host, facts, tuple(name for name, domain in found if domain is not None and domain.running))
    except HostError as error:
        return HostState(host, trouble=error.message)


def _completed(
    views: tuple[HostView, ...], complete: Callable[[HostView], HostView], world: World
) -> tuple[HostView, ...]:
    """Each host's view with what its host side says, side by side."""
    answers = world.side_by_side([partial(complete, seen) for seen in views], HOST_DEADLINE_S)
    late = [replace(v, links_trouble=f"its host side: {LATE}", links_hint=_LATE_HINT) for v in views]
    return tuple(answer or alternative for answer, alternative in zip(answers, late, strict=True))


def _late(host: Host) -> HostView:
    return HostView(host.name, host.site, trouble=f"host {host.name}: {LATE}", trouble_hint=_LATE_HINT)


def _with_links(
    view: HostView, inventory: Inventory, source: Host, mac: str, claimed: tuple[str, ...], world: World
) -> HostView:
    """What the host's own side says of its tunnels, and who uses the address that the guest would get."""
    host, network = inventory.host(view.host), view.network
    if host is None or network is None or view.trouble:
        return view
    elsewhere = host.name != source.name
    probe = next_address(network, mac, claimed) if elsewhere and host.site != source.site else ""
    peers = [h for h in inventory.hosts if h.name != host.name]
    peer = source.address if elsewhere else next((h.address for h in peers), "")
    try:
        return replace(view, links=world.host_network(host).facts(network.bridge, peer, probe), probed=probe)
    except HostError as error:
        return replace(view, links_trouble=error.message, links_hint=error.hint)


def _with_disks(view: HostView, inventory: Inventory, copies: tuple[DiskCopy, ...], world: World) -> HostView:
    """What a host has of the guest's own disks."""
    host = inventory.host(view.host)
    if host is None or view.trouble:
        return view
    try:
        return replace(view, bases=tuple((copy, world.host_disks(host).look(copy)) for copy in copies))
    except HostError as error:
        return replace(view, links_trouble=error.message, links_hint=error.hint)


def view(host: Host, guest: Guest | None, world: World) -> HostView:
    """One host's facts, and a guest's there; or why there are none."""
    try:
        hypervisor = world.hypervisor(host)
        facts, network = hypervisor.facts(), hypervisor.network(host.network)
        domain = hypervisor.domain(guest.domain) if guest is not None else None
        seen = HostView(host.name, host.site, facts, domain, network, pools=hypervisor.pools())
        return replace(seen, plain_tunnel=host.plain_tunnel, guard=host.guard)
    except HostError as error:
        supported = not isinstance(error, UnsupportedError)
        return HostView(host.name, host.site, trouble=error.message, trouble_hint=error.hint, supported=supported)


def leased_address(inventory: Inventory, guest: Guest, world: World) -> str:
    """What the site where the guest runs has leased to it, whoever asked for it there; '' where nothing says so.

    Raises HostError where a host cannot be asked.
    """
    for host in where(inventory.hosts, guest, world):
        domain, network = world.hypervisor(host).domain(guest.domain), world.hypervisor(host).network(host.network)
        if domain is not None and network is not None:
            return network.address_of(domain.mac) or ""
    return ""


def where(hosts: Iterable[Host], guest: Guest, world: World) -> list[Host]:
    """Hosts on which the guest runs now. Raises HostError where one cannot be asked."""
    found = []
    for host in hosts:
        domain = world.hypervisor(host).domain(guest.domain)
        if domain is not None and domain.running:
            found.append(host)
    return found


def _with_agent(seen: Survey, host: Host, guest: Guest, consent_timeout_ms: int, world: World) -> Survey:
    """What the guest's agent says of it and of its connections, or why there is nothing."""
    try:
        with world.agent(host, guest.domain) as agent:
            facts = agent.status()
            connections: tuple[Connection, ...] = ()
            if facts.address:
                connections = agent.consent(consent_timeout_ms) if consent_timeout_ms else agent.connections()
    except (AgentError, HostError) as error:
        return replace(seen, agent_trouble=error.message, agent_hint=error.hint)
    return replace(seen, agent=facts, connections=connections)
