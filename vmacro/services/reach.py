"""Is a guest that has arrived reached in the network? Two hosts ask it by packets: the destination, at its own bridge,
and the source, from another site. What libvirt and the agent say is no proof (docs/decisions/0027)."""

from __future__ import annotations

from functools import partial

from vmacro.errors import AgentError, HostError
from vmacro.model.events import Note
from vmacro.model.facts import Arrival, Heard, NetworkFacts, Reach
from vmacro.model.moves import Before, Plan
from vmacro.model.nouns import Host
from vmacro.planning import reaching
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


def see_that_it_answers(plan: Plan, world: World, before: Before, arrival: Arrival) -> None:
    """At its new addresses and at those old ones that it still has, before any of these is withdrawn. Raises HostError
    where it is certain that it does not; where nobody knows, that is told. AgentError, also for an address that nobody
    but the guest knows of: no host asks for it."""
    network = _network(plan, world)
    _see_that_they_are_its_own(plan, network, arrival)
    with world.agent(plan.destination, plan.guest.domain) as agent:
        has = agent.status().claimed
    old = [homed.address for homed in plan.addresses if homed.address in has]
    addresses = tuple(dict.fromkeys((*arrival.present, *old)))[:MOST_ASKED]
    port = next((s.local_port for c in before.connections for s in c.subflows), 0)
    bridge = network.bridge if network is not None else ""
    (here, trouble), (there, other_trouble) = _asked(plan, world, Reach(plan.move_id, addresses, bridge), port)
    lost = reaching.unreached(here, plan.mac, bridge, but=plan.guest.taken_as_reached)
    if lost:
        have_the_agent_wait(plan, world)
        text = f"guest {plan.guest.name}: is not reached at {plan.destination.name}: {'; '.join(lost)}"
        hint = f"is its card held to another address (virsh dumpxml: <filterref>)? then vmacro resume {plan.move_id}"
        raise HostError(text, f"{hint}; if it is reached all the same: guests.{plan.guest.name}.taken_as_reached")
    for text in reaching.unreached(here, plan.mac, bridge):
        world.tell(plan.move_id, Note(f"{text}: taken as reached, as guests.{plan.guest.name}.taken_as_reached says"))
    told = f"whether it can be reached from {plan.destination.name}: {trouble}" if trouble else ""
    other = reaching.unknown(there, plan.source.name, port)
    other = f"whether it can be reached from {plan.source.name}: {other_trouble}" if other_trouble else other
    for text in (told, other):
        if text:
            world.tell(plan.move_id, Note(f"it is not known {text}"))


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


def _asked(plan: Plan, world: World, wanted: Reach, port: int) -> tuple[Asked, Asked]:
    """By the destination and by the source, again and again until all is said, or for as long as it is worth."""
    began_s = world.clock.monotonic_s()
    elsewhere = Reach(wanted.name, wanted.addresses, port=port)
    here: Asked = ((), "" if wanted.bridge else "nobody says which bridge its guests are at")
    there: Asked = ((), "")
    while True:
        questions = [] if here[1] else [partial(_ask, plan.destination, wanted, world)]
        questions += [] if there[1] else [partial(_ask, plan.source, elsewhere, world)]
        answers = [
            answer or ((), LATE)
            for answer in world.side_by_side(questions, deadline_s((plan.source, plan.destination)))
        ]
        here, there = (asked if asked[1] else answers.pop(0) for asked in (here, there))
        waited_s = world.clock.monotonic_s() - began_s
        is_over = here[1] or waited_s > CARD_PATIENCE_S or reaching.is_over(here[0], plan.mac)
        if is_over and (there[1] or waited_s > PATIENCE_S or reaching.all_answered(there[0])):
            return here, there
        world.clock.sleep(ASK_EVERY_S)


def _ask(host: Host, wanted: Reach, world: World) -> Asked:
    try:
        return world.host_network(host).reach(wanted), ""
    except HostError as error:
        return (), error.message
