"""Looking at everything that a move concerns, changing nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from vmacro.errors import ConfigurationError, HostError, NamesError, UnsupportedError
from vmacro.model.definitions import Definition
from vmacro.model.facts import NO_PAST, DiskCopy, DomainFacts, HostView, Past, Survey
from vmacro.model.names import NameView
from vmacro.model.nouns import Guest, Host, Inventory
from vmacro.planning import cards, disks, needs, taking
from vmacro.planning.addresses import next_address
from vmacro.ports import World
from vmacro.services import datagrams, dirtying, inside, paths
from vmacro.wire.host_verbs import MOST_DEVICES
from vmacro.wire.taken_verbs import Taking

HOST_DEADLINE_S = 20.0
_LONGEST_S = 600.0  # for a guest, whose driver gives up sooner
Views = tuple[HostView, ...]
_LATE_HINT = "it takes connections, but something on it hangs: look at its libvirtd and vmacro-host"


def deadline_s(hosts: Iterable[Host]) -> float:
    """For answers of all of them. Above the drivers' own limits for a silent host: this one is for a host whose answer
    never ends."""
    return HOST_DEADLINE_S + max((host.starting_s for host in hosts), default=0.0)


def late(host: Host) -> str:
    """What is told of one that has not answered by then."""
    return f"no answer within {deadline_s([host]):g} s"


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
    ask_names: bool = False,
    compare: bool = False,
    measure: bool = False,
) -> Survey:
    """All hosts, the guest's agent and its connections. Trouble is a finding, not an error.

    `ask_clients`: find out which clients join an announced address, by announcing a borrowed
    address to those of whom it is not known. `ask_host_sides`: tunnels too, by SSH. `counted` adds what other moves
    have reserved, before anybody asks who uses the address that the guest would get. `past`: what the journal knows.
    `ask_names`: the name server, whether it has the guest's names and would change them. `compare`: what the guest's
    domain names on its host with what others have. `measure`: how fast the guest changes its memory, which takes
    some seconds.
    """
    if ask_host_sides:
        _greet(inventory.hosts, world)
    views, names = _looked_at(inventory.hosts, guest, guest.names if ask_names else (), world)
    seen = Survey(counted(views), hosts=inventory.hosts, past=past, names=names)
    if len(seen.running_at) != 1:
        return seen
    at, host = seen.running_at[0], inventory.host(seen.running_at[0].host)
    assert at.domain is not None and host is not None
    measures = measure and at.domain.running and not at.domain.migrating
    seen, measured = _seen_inside(seen, host, guest, world, ask_clients, compare, measures)
    copies = disks.copies(at.domain, at.pools)
    if copies:
        answering = [h for h in inventory.hosts if not seen.view(h.name).trouble]
        seen = _told(seen, [_Question(h, partial(_disks, h, copies, world), _mute(h)) for h in answering], world)
    coming = _coming(seen, at.domain, host)
    questions = _about_fit(seen, coming, inventory, world)
    if ask_host_sides:  # whether or not the agent answers: what they lack is told at the same time
        questions += _about_links(seen, coming, inventory, world)
    seen = _told(seen, questions, world)
    questions = _about_files(seen, at, inventory, world) + _about_taken(seen, coming, inventory, world)
    if seen.agent is not None:
        asked = inventory.hosts if ask_host_sides else (host,)
        questions += [_Question(h, partial(_tracked, h, seen, seen.agent.claimed, world), _unchanged) for h in asked]
    if measured:
        questions.append(_Question(host, partial(_dirtied, host, guest, world), _unchanged))
    return _told(seen, questions, world)


def _seen_inside(
    seen: Survey, host: Host, guest: Guest, world: World, ask_clients: bool, compare: bool, measure: bool
) -> tuple[Survey, bool]:
    """What the guest's domain names, and meanwhile what its agent says; and whether it is measured what it writes."""
    measured = False

    def of_the_domain() -> Survey:
        return _with_definition(seen, host, guest, world) if compare else seen

    def of_the_agent() -> Survey:
        nonlocal measured
        measured = measure and dirtying.begin(host, guest, world)
        domain = seen.running_at[0].domain
        if domain is None or not (domain.running and domain.has_agent_channel):
            return seen
        return inside.look(seen, host, guest, world.inventory.policy.consent_timeout_ms if ask_clients else 0, world)

    described, looked = world.side_by_side([of_the_domain, of_the_agent], _LONGEST_S)
    assert described is not None and looked is not None, "looked at for ten minutes"
    found = replace(looked, definition=described.definition, definition_trouble=described.definition_trouble)
    return found, measured


def look_at(hosts: Iterable[Host], guest: Guest | None, world: World) -> Views:
    """view() of each host, side by side; one that does not answer in time is in trouble as an unreachable one is."""
    return _looked_at(hosts, guest, (), world)[0]


def _looked_at(
    hosts: Iterable[Host], guest: Guest | None, names: Iterable[str], world: World
) -> tuple[Views, tuple[NameView, ...]]:
    """And what the name server has of names, meanwhile."""
    asked, led = tuple(hosts), tuple(names)
    questions: list[Callable[[], HostView | NameView]] = [partial(view, host, guest, world) for host in asked]
    questions += [partial(_name, name, world) for name in led]
    within_s = deadline_s(asked)
    answers = world.side_by_side(questions, within_s)
    silent = f"name server: no answer within {within_s:g} s"
    others = [*(late_view(host) for host in asked), *(NameView(name, None, "silent", silent) for name in led)]
    said = [answer or other for answer, other in zip(answers, others, strict=True)]
    return tuple(v for v in said if isinstance(v, HostView)), tuple(n for n in said if isinstance(n, NameView))


def _greet(hosts: Iterable[Host], world: World) -> None:
    """Have the way to all host sides opened, which takes as long as libvirt is asked; nobody waits for it."""

    def opened(host: Host) -> None:
        with suppress(HostError):  # which who asks it for something is told
            world.host_network(host)

    world.side_by_side([partial(opened, host) for host in hosts if host.ssh], 0.0)


def _name(name: str, world: World) -> NameView:
    """As the name server has it. That it would change it is tried by a change to what it is, which changes nothing (RFC
    2136 section 3.4)."""
    facts = None
    try:
        facts = world.names.look(name)
        world.names.replace(facts, facts.addresses)
    except NamesError as error:
        return NameView(name, facts, error.code, error.message, error.hint)
    except ConfigurationError as error:
        return NameView(name, facts, "key", error.message, error.hint)
    return NameView(name, facts)


def _with_definition(seen: Survey, host: Host, guest: Guest, world: World) -> Survey:
    """What the guest's domain names."""
    try:
        return replace(seen, definition=world.hypervisor_beside(host).definition(guest.domain))
    except HostError as error:
        return replace(seen, definition_trouble=error.message)


_Change = Callable[[HostView], HostView]


@dataclass(frozen=True)
class _Question:
    """Something that one host is asked, which adds to what was seen of it; `late` where no answer comes in time."""

    host: Host
    ask: Callable[[], _Change]
    late: _Change


def _told(seen: Survey, questions: list[_Question], world: World) -> Survey:
    """With the answers to questions that are asked at once, each by a connection of its own."""
    answers = world.side_by_side([question.ask for question in questions], deadline_s(q.host for q in questions))
    views = {view.host: view for view in seen.views}
    for question, answer in zip(questions, answers, strict=True):
        name = question.host.name
        views[name] = (answer or question.late)(views[name])
    return replace(seen, views=tuple(views.values()))


def _unchanged(view: HostView) -> HostView:
    return view


def _mute(host: Host) -> _Change:
    return lambda view: replace(view, links_trouble=f"its host side: {late(host)}", links_hint=_LATE_HINT)


def late_view(host: Host) -> HostView:
    """A host that has not answered by then."""
    return HostView(host.name, host.site, trouble=f"host {host.name}: {late(host)}", trouble_hint=_LATE_HINT)


@dataclass(frozen=True)
class _Coming:
    """A guest that may come to another site: its domain, from where, what its cards need there, which card moves (its
    MAC, '' where that is not known), and which addresses its agent says it has."""

    domain: DomainFacts
    source: Host
    devices: tuple[str, ...]
    mac: str
    claimed: tuple[str, ...]


def _coming(seen: Survey, domain: DomainFacts, source: Host) -> _Coming:
    claimed = seen.agent.claimed if seen.agent is not None else ()
    named = (*cards.devices(domain), *needs.devices(seen.definition), *taking.taps(seen.definition))
    devices = tuple(dict.fromkeys(named))
    return _Coming(domain, source, devices[:MOST_DEVICES], cards.mac(seen), claimed)


def _about_fit(seen: Survey, coming: _Coming, inventory: Inventory, world: World) -> list[_Question]:
    """What libvirt has at hosts of other sites of what the guest's domain names."""
    if seen.definition is None:
        return []

    def mute(host: Host) -> _Change:
        return lambda view: replace(view, fit_trouble=late(host))

    there = _elsewhere(seen, coming, inventory)
    return [_Question(h, partial(_fit, h, coming.domain, seen.definition, world), mute(h)) for h in there]


def _fit(host: Host, domain: DomainFacts, wanted: Definition, world: World) -> _Change:
    try:
        fit = world.hypervisor(host).fit(domain.name, domain.uuid, wanted)
    except HostError as error:
        trouble = error.message
        return lambda view: replace(view, fit_trouble=trouble)
    return lambda view: replace(view, fit=fit)


def _about_links(seen: Survey, coming: _Coming, inventory: Inventory, world: World) -> list[_Question]:
    """What host sides say of their links, and, meanwhile, what comes back to the guest's host from other sites."""
    answering = [h for h in inventory.hosts if not seen.view(h.name).trouble]
    questions = [_Question(h, partial(_links, h, seen, coming, inventory, world), _mute(h)) for h in answering]
    tried = partial(_paths, coming.source, _elsewhere(seen, coming, inventory), world)
    return [_Question(coming.source, tried, lambda view: view), *questions]


def _elsewhere(seen: Survey, coming: _Coming, inventory: Inventory) -> list[Host]:
    """Hosts of other sites that have answered."""
    return [h for h in inventory.hosts if h.site != coming.source.site and not seen.view(h.name).trouble]


def _paths(source: Host, there: list[Host], world: World) -> _Change:
    heard = paths.between(source, there, world)
    return lambda view: replace(view, paths=heard)


def _links(host: Host, seen: Survey, coming: _Coming, inventory: Inventory, world: World) -> _Change:
    """Of a host's tunnels, and, where the guest may come to, whether its cards find there what they need, and who has
    its MAC, and the address that it would get."""
    network, source = seen.view(host.name).network, coming.source
    if network is None:
        return lambda view: view
    peers = [source] if host.name != source.name else [h for h in inventory.hosts if h.name != host.name]
    peer, elsewhere = next((h.address for h in peers), ""), host.site != source.site
    mac, devices = (coming.mac, coming.devices) if elsewhere else ("", ())
    probe = next_address(network, mac, coming.claimed) if mac else ""
    try:
        links = world.host_network(host).facts(network.bridge, peer, probe, mac, devices)
    except HostError as error:
        return _silent(error)
    return lambda view: replace(view, links=links, probed=probe)


def _silent(error: HostError) -> _Change:
    """Of a host side, and why."""
    message, hint = error.message, error.hint
    return lambda view: replace(view, links_trouble=message, links_hint=hint)


def _about_files(seen: Survey, at: HostView, inventory: Inventory, world: World) -> list[_Question]:
    """What host sides have at the paths that the guest's domain names, where it is and where it may come to."""
    wanted = needs.paths(seen.definition, at.domain) if at.domain is not None else ()
    if not wanted:
        return []

    def mute(host: Host) -> _Change:
        return lambda view: replace(view, files_trouble=late(host))

    asked = [v for v in seen.views if (v.site != at.site or v.host == at.host) and not (v.trouble or v.links_trouble)]
    hosts = [h for h in inventory.hosts if h.name in {v.host for v in asked}]
    return [_Question(h, partial(_files, h, wanted, world), mute(h)) for h in hosts]


def _files(host: Host, wanted: tuple[str, ...], world: World) -> _Change:
    try:
        files = world.host_disks(host).files(wanted)
    except HostError as error:
        trouble = error.message
        return lambda view: replace(view, files_trouble=trouble)
    return lambda view: replace(view, files=files)


def _about_taken(seen: Survey, coming: _Coming, inventory: Inventory, world: World) -> list[_Question]:
    """Whether hosts where the guest may come to have given to others what its domain takes of a host."""
    wanted = taking.taking(seen.definition)
    asked = [h for h in _elsewhere(seen, coming, inventory) if not seen.view(h.name).links_trouble]
    return [_Question(h, partial(_taken, h, wanted, world), _unchanged) for h in asked] if wanted is not None else []


def _taken(host: Host, wanted: Taking, world: World) -> _Change:
    try:
        taken = world.host_network(host).taken(wanted)
    except HostError as error:
        trouble = error.message
        return lambda view: replace(view, taken_trouble=trouble)
    return lambda view: replace(view, taken=taken)


def _tracked(host: Host, seen: Survey, addresses: tuple[str, ...], world: World) -> _Change:
    """Not known is a finding of its own, where it matters."""
    view = seen.view(host.name)
    if view.trouble or view.links_trouble:
        return _unchanged
    try:
        tracked = datagrams.at(host, addresses, world)
    except HostError:
        return _unchanged
    return lambda view: replace(view, tracked=tracked)


def _dirtied(host: Host, guest: Guest, world: World) -> _Change:
    rate = dirtying.mib_s(host, guest, world)
    return lambda view: replace(view, dirty_mib_s=rate)


def _disks(host: Host, copies: tuple[DiskCopy, ...], world: World) -> _Change:
    """What a host has of the guest's own disks."""
    try:
        bases = tuple((copy, world.host_disks(host).look(copy)) for copy in copies)
    except HostError as error:
        return _silent(error)
    return lambda view: replace(view, bases=bases)


def view(host: Host, guest: Guest | None, world: World) -> HostView:
    """One host's facts, and a guest's there; or why there are none. By two connections at once: far away, what takes
    time is the number of questions after each other."""
    own = HostView(host.name, host.site, plain_tunnel=host.plain_tunnel, guard=host.guard)

    def of_the_host() -> _Change:
        hypervisor = world.hypervisor(host)
        facts, networks, pools = hypervisor.facts(), hypervisor.networks(), hypervisor.pools()
        return lambda view: replace(view, facts=facts, networks=networks, pools=pools)

    def of_the_guest() -> _Change:
        hypervisor = world.hypervisor_beside(host)
        network = hypervisor.network(host.network)
        domain = hypervisor.domain(guest.domain) if guest is not None else None
        return lambda view: replace(view, network=network, domain=domain)

    try:
        for seen in world.side_by_side([of_the_host, of_the_guest], deadline_s([host])):
            if seen is None:
                return late_view(host)
            own = seen(own)
        return own
    except HostError as error:
        supported = not isinstance(error, UnsupportedError)
        return HostView(host.name, host.site, trouble=error.message, trouble_hint=error.hint, supported=supported)


def where(hosts: Iterable[Host], guest: Guest, world: World) -> list[Host]:
    """Hosts on which the guest runs now. Raises HostError where one cannot be asked."""
    found = []
    for host in hosts:
        domain = world.hypervisor(host).domain(guest.domain)
        if domain is not None and domain.running:
            found.append(host)
    return found
