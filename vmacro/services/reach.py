"""Is a guest that has arrived reached in the network? Two hosts ask it by packets: the destination, at its own bridge,
and the source, from another site. What libvirt and the agent say is no proof (docs/decisions/0027); nor are packets,
where a filter is known to drop them once it has learnt whom it lets pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from vmacro.errors import AgentError, HostError, NotReachedError
from vmacro.model.events import Note
from vmacro.model.facts import Arrival, Heard, NetworkFacts, Reach
from vmacro.model.filters import Filters
from vmacro.model.moves import Before, Plan
from vmacro.model.nouns import Host
from vmacro.planning import filters, reaching
from vmacro.planning.addresses import contains, subnets
from vmacro.ports import World
from vmacro.services.handoff import have_the_agent_wait
from vmacro.services.survey import deadline_s
from vmacro.wire.host_verbs import MOST_ASKED

ASK_EVERY_S = 0.1
CARD_PATIENCE_S = 5.0  # until the card of a guest that has just arrived answers at its bridge
PATIENCE_S = 1.5  # until a packet comes back, from another site, too; a guest may answer none
LATE = "no answer from its host side in time"
Asked = tuple[tuple[Heard, ...], str]  # who was heard; or why nobody could ask


@dataclass(frozen=True)
class _Question:
    """To one host, again and again until all is said, or for as long as it is worth. `trouble`: why nobody can ask."""

    host: Host
    wanted: Reach
    patience_s: float
    is_over: Callable[[tuple[Heard, ...]], bool]
    trouble: str = ""


def see_that_it_answers(plan: Plan, world: World, before: Before, arrival: Arrival) -> None:
    """At its new addresses and at those old ones that it still has, before any of these is withdrawn. Raises
    NotReachedError where it is certain that it does not, or will not; where nobody knows, that is told. AgentError,
    also for an address that nobody but the guest knows of: no host asks for it."""
    network = _network(plan, world)
    _see_that_they_are_its_own(plan, network, arrival)
    with world.agent(plan.destination, plan.guest.domain) as agent:
        addresses = _asked_for(plan, arrival, agent.status().claimed)
    bridge = network.bridge if network is not None else ""
    port = next((s.local_port for c in before.connections for s in c.subflows), 0)
    elsewhere = Reach(plan.move_id, addresses, port=port)
    at_bridge = _at_bridge(plan, Reach(plan.move_id, addresses, bridge))
    from_there = _Question(plan.source, elsewhere, PATIENCE_S, reaching.all_answered)
    meanwhile = partial(_see_that_no_filter_drops, plan, world, addresses, tell=True)
    (here, trouble), (there, other_trouble) = _asked(world, (at_bridge, from_there), meanwhile)
    _see_that_none_is_silent(plan, world, here, bridge, tell=True)
    told = f"whether it can be reached from {plan.destination.name}: {trouble}" if trouble else ""
    other = reaching.unknown(there, plan.source.name, port)
    other = f"whether it can be reached from {plan.source.name}: {other_trouble}" if other_trouble else other
    for text in (told, other):
        if text:
            world.tell(plan.move_id, Note(f"it is not known {text}"))


def see_that_it_still_answers(plan: Plan, world: World, arrival: Arrival, has: Collection[str]) -> None:
    """The same as it settles, by the destination alone: who waits for clients may have waited for long, and something
    may have closed meanwhile. `has`: the addresses that the guest has by now. Raises NotReachedError."""
    addresses = _asked_for(plan, arrival, has)
    bridge = next((leg.home_bridge for leg in plan.new_legs), "")
    if not bridge:
        network = _network(plan, world)
        bridge = network.bridge if network is not None else ""
    # By another name: what was heard by the first one proves nothing now.
    again = _at_bridge(plan, Reach(f"{plan.move_id[:57]}.again", addresses, bridge))
    ((here, _),) = _asked(world, (again,), partial(_see_that_no_filter_drops, plan, world, addresses))
    _see_that_none_is_silent(plan, world, here, bridge)


def _network(plan: Plan, world: World) -> NetworkFacts | None:
    """None where nobody says: then the destination cannot ask at its bridge."""
    try:
        return world.hypervisor(plan.destination).network(plan.destination.network)
    except HostError:
        return None


def _see_that_they_are_its_own(plan: Plan, network: NetworkFacts | None, arrival: Arrival) -> None:
    """As the plan has it, or as the destination's network may have given them to it."""
    inside = subnets(network.subnet, network.subnet6) if network is not None else ()
    for address in set(arrival.present) - {plan.new_address, plan.new_address6}:
        where = f"network {plan.destination.network!r} at {plan.destination.name}"
        if network is None:
            text = f"guest {plan.guest.name}: says that it has {address}: nobody knows whether that is of {where}"
            raise HostError(text, f"does its libvirt answer? then vmacro resume {plan.move_id}")
        if not any(contains(subnet, address) for subnet in inside):
            text = f"guest {plan.guest.name}: says that it has {address}, which is none of {where}"
            raise AgentError(text, f"if it still says so, it is not to be trusted; then vmacro resume {plan.move_id}")


def _asked_for(plan: Plan, arrival: Arrival, has: Collection[str]) -> tuple[str, ...]:
    old = [homed.address for homed in plan.addresses if homed.address in has]
    return tuple(dict.fromkeys((*arrival.present, *old)))[:MOST_ASKED]


def _see_that_no_filter_drops(plan: Plan, world: World, addresses: Sequence[str], tell: bool = False) -> None:
    """As the destination's libvirt has them now: somebody may have put one up since the move was checked."""
    found: Filters = ()
    unknown = []
    try:
        found = world.hypervisor(plan.destination).filters(plan.guest.domain)
    except HostError as error:
        unknown.append(f"which filters hold its card: {error.message}")
    unknown += filters.unknown(found, plan.mac)
    text = f"is not let send from all its addresses at {plan.destination.name}"
    hint = "take the <filterref> out of its card, or name each address in it (virsh update-device --live);"
    _see_that_none_is_lost(plan, world, partial(filters.dropped, found, plan.mac, addresses), text, hint, tell)
    if tell:
        for each in unknown:
            world.tell(plan.move_id, Note(f"it is not known {each}"))


def _see_that_none_is_silent(plan: Plan, world: World, heard: Sequence[Heard], bridge: str, tell: bool = False) -> None:
    text = f"is not reached at {plan.destination.name}"
    hint = "is its card held to another address (virsh dumpxml: <filterref>)?"
    judge = partial(reaching.unreached, heard, plan.mac, bridge)
    _see_that_none_is_lost(plan, world, judge, text, hint, tell)


def _see_that_none_is_lost(
    plan: Plan, world: World, judge: Callable[..., list[str]], text: str, hint: str, tell: bool
) -> None:
    """`judge`: what is certain of its addresses, but for those of which somebody knows better: these are told of."""
    name, taken = plan.guest.name, plan.guest.taken_as_reached
    lost = judge(but=taken)
    if lost:
        have_the_agent_wait(plan, world)
        hint = f"{hint} then vmacro resume {plan.move_id}; if it is reached all the same"
        raise NotReachedError(f"guest {name}: {text}: {'; '.join(lost)}", f"{hint}: guests.{name}.taken_as_reached")
    for each in judge(but=()) if tell else ():
        world.tell(plan.move_id, Note(f"{each}: taken as reached, as guests.{name}.taken_as_reached says"))


def _at_bridge(plan: Plan, wanted: Reach) -> _Question:
    def is_over(heard: tuple[Heard, ...]) -> bool:
        return reaching.is_over(heard, plan.mac)

    trouble = "" if wanted.bridge else "nobody says which bridge its guests are at"
    return _Question(plan.destination, wanted, CARD_PATIENCE_S, is_over, trouble)


def _asked(world: World, questions: Sequence[_Question], meanwhile: Callable[[], None]) -> list[Asked]:
    """Each by its host, side by side. `meanwhile`: what is done until the first answers may have come."""
    began_s = world.clock.monotonic_s()
    found: list[Asked] = [((), question.trouble) for question in questions]
    for number in itertools.count():
        asked_s = world.clock.monotonic_s()
        due = [(n, question) for n, question in enumerate(questions) if not found[n][1]]
        asking = [partial(_ask, question.host, question.wanted, world) for _, question in due]
        answers = world.side_by_side(asking, deadline_s([question.host for _, question in due]))
        for (n, _), answer in zip(due, answers, strict=True):
            found[n] = answer or ((), LATE)
        if number == 0:
            meanwhile()
        now_s = world.clock.monotonic_s()
        if all(
            asked[1] or now_s - began_s > question.patience_s or question.is_over(asked[0])
            for question, asked in zip(questions, found, strict=True)
        ):
            break
        world.clock.sleep(max(0.0, asked_s + ASK_EVERY_S - now_s))
    return found


def _ask(host: Host, wanted: Reach, world: World) -> Asked:
    try:
        return world.host_network(host).reach(wanted), ""
    except HostError as error:
        return (), error.message
