"""Looking at everything that a move concerns, changing nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from vmacro.errors import AgentError, HostError
from vmacro.model.facts import AgentFacts, Connection, DiskCopy, HostView, Survey
from vmacro.model.nouns import Guest, Host, Inventory
from vmacro.planning import disks
from vmacro.planning.handoffs import next_address
from vmacro.ports import World


def survey(inventory: Inventory, guest: Guest, world: World, ask_clients: bool, ask_host_sides: bool) -> Survey:
    """All hosts, the guest's agent and its connections. Trouble is a finding, not an error.

    `ask_clients`: find out which clients join an announced address, by announcing a borrowed
    address to those of whom it is not known. `ask_host_sides`: tunnels too, by SSH.
    """
    views = tuple(view(host, guest, world) for host in inventory.hosts)
    running = [v for v in views if v.domain is not None and v.domain.running]
    if len(running) != 1 or running[0].domain is None:
        return Survey(views)
    copies = disks.copies(running[0].domain, running[0].pools)
    views = tuple(_with_disks(v, inventory, copies, world) for v in views)
    if not running[0].domain.has_agent_channel:
        return Survey(views)
    host = inventory.host(running[0].host)
    assert host is not None
    try:
        facts, connections = _ask_agent(host, guest, inventory.policy.consent_timeout_ms if ask_clients else 0, world)
    except (AgentError, HostError) as error:
        return Survey(views, agent_trouble=error.message, agent_hint=error.hint)
    if ask_host_sides:
        mac, held = running[0].domain.mac, facts.held
        views = tuple(_with_links(v, inventory, host, mac, held, world) for v in views)
    return Survey(views, facts, connections=connections)


def _with_links(
    view: HostView, inventory: Inventory, source: Host, mac: str, held: tuple[str, ...], world: World
) -> HostView:
    """What the host's own side says of its tunnels, and who uses the address that the guest would get."""
    host, network = inventory.host(view.host), view.network
    if host is None or network is None or view.trouble:
        return view
    elsewhere = host.name != source.name
    probe = next_address(network, mac, held) if elsewhere and host.site != source.site else ""
    peers = [h for h in inventory.hosts if h.name != host.name]
    peer = source.address if elsewhere else next((h.address for h in peers), "")
    try:
        return replace(view, links=world.host_network(host).facts(network.bridge, peer, probe))
    except HostError as error:
        return replace(view, links_trouble=error.message, links_hint=error.hint)


def _with_disks(view: HostView, inventory: Inventory, copies: tuple[DiskCopy, ...], world: World) -> HostView:
    """What a host has of the guest's own disks."""
    host = inventory.host(view.host)
    if host is None or view.trouble or not copies:
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
        return HostView(host.name, host.site, facts, domain, network, pools=hypervisor.pools())
    except HostError as error:
        return HostView(host.name, host.site, trouble=error.message, trouble_hint=error.hint)


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


def _ask_agent(
    host: Host, guest: Guest, consent_timeout_ms: int, world: World
) -> tuple[AgentFacts, tuple[Connection, ...]]:
    with world.agent(host, guest.domain) as agent:
        facts = agent.status()
        if not facts.address:
            return facts, ()
        return facts, agent.consent(consent_timeout_ms) if consent_timeout_ms else agent.connections()
