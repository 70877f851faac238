"""The handoff `seamless`: clients join the new address before the move, and no packet is lost at the pause.

The new address reaches the guest through a leg while it is still at the source, and clients join it there. At the pause
the hosts turn the legs to the destination, whose tap holds packets until the guest runs. Old addresses are carried
through legs for connections that cannot follow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

from vmacro.errors import AgentError, HostError
from vmacro.model.events import Joined, Tunnelled, Turned
from vmacro.model.facts import Arrival, HomedAddress, Leg
from vmacro.model.moves import After, Before, Plan
from vmacro.model.nouns import Host
from vmacro.ports import Agent, World
from vmacro.services import datagrams, dhcp
from vmacro.services.handoff import (
    Look,
    WhileTheyJoin,
    ask_to_arrive,
    counted_until,
    once_told,
    wait_until_followed,
)
from vmacro.services.troubles import Troubles
from vmacro.services.whereabouts import in_memory
from vmacro.wire.agent_verbs import MAX_CONNECTIONS, CountArgs
from vmacro.wire.host_verbs import VXLAN

JOIN_POLL_S = 0.05


class Seamless:
    """Implements handoff.Handoff."""

    def prepare(self, plan: Plan, world: World, before: Before) -> Before:
        """Reserve the new address, bring it to the guest at the source, and let clients join it as backup.

        Waits until all MPTCP connections have joined, or none has for the policy's join_timeout_s; the others are
        carried, but for those that join yet.
        """
        # A switchover that failed in an earlier attempt has left the guest fenced.
        world.host_network(plan.source).turn(plan.guest.domain, to_guest=True)
        dhcp.reserve(plan, world)
        for leg in plan.new_legs:
            _open(leg, world)
            world.host_network(plan.destination).point(leg, to_guest=False)
        for leg in plan.old_legs:
            _open(leg, world)
        coming, kind = [leg.address for leg in plan.new_legs], next((leg.kind for leg in plan.new_legs), "")
        world.tell(plan.move_id, Tunnelled(tuple(coming), kind))
        with world.agent(plan.source, plan.guest.domain) as agent:
            if plan.new_public:
                agent.publish(plan.new_address, plan.new_public)
            agent.prepare(plan.new_address, plan.new_address6)
            args, deadline_s = CountArgs(tuple(coming)), WhileTheyJoin(world, plan.policy.join_timeout_s)
            counts = counted_until(lambda c: not c.apart, world, agent, before, args, JOIN_POLL_S, deadline_s)
            watched = agent.watch()
        follow, total = sum(c.reaches(*coming) for c in watched.connections), len(watched.connections)
        if counts.total > MAX_CONNECTIONS:  # more than are told of each
            follow, total = min(counts.joined, counts.total), counts.total  # a guest may say anything
        world.tell(plan.move_id, Joined(follow, carried=total - follow, unwilling=counts.apart))
        return replace(before, connections=watched.connections, watch=watched.name)

    @contextmanager
    def watching(self, plan: Plan, world: World) -> Iterator[None]:
        """Each host turns by its own libvirt's events, without waiting for the orchestrator."""
        for host in (plan.source, plan.destination):
            world.host_network(host).arm(plan.guest.domain)
        yield

    def undo_prepare(self, plan: Plan, world: World) -> None:
        """Try all of it, whatever fails. Raises the first error."""
        troubles = Troubles()
        with (
            troubles.of(AgentError, HostError),
            in_memory(plan.source, plan, world),
            world.agent(plan.source, plan.guest.domain) as agent,
        ):
            for leg in plan.new_legs:
                agent.retire(leg.address, force=True)  # nothing brings it to the guest any more
        for host in _hosts(plan):
            with troubles.of(HostError):
                side = world.host_network(host)
                if host == plan.source:
                    side.turn(plan.guest.domain, to_guest=True)
                side.close(plan.move_id)
        with troubles.of(HostError):
            dhcp.release(plan, world)
        troubles.raise_first()

    def arrive(self, plan: Plan, world: World) -> Arrival:
        """Make sure that the hosts have turned; then have the guest prefer its new address."""
        troubles = Troubles()
        with troubles.of(HostError):
            _turn(plan, world)
        arrival = ask_to_arrive(plan, world)
        troubles.raise_first()
        return arrival

    def settle(self, plan: Plan, world: World, before: Before, arrival: Arrival, look: Look) -> After:
        """Withdraw old addresses from connections that follow; those that others, or datagrams, still use, or that
        linger, are carried."""
        with world.agent(plan.destination, plan.guest.domain) as agent:
            wait_until_followed(plan, world, agent, before, CountArgs(arrival.present))
            has = agent.status().claimed
        look(has)
        with world.agent(plan.destination, plan.guest.domain) as agent:
            old = [homed for homed in plan.addresses if homed.address not in arrival.present]
            carried = tuple(homed.address for homed in old if not _given_up(plan, homed, agent, world))
            flows = datagrams.known([homed for homed in old if homed.address in carried], world)
            return replace(once_told(world, agent, before, arrival.present, carried), flows=flows)

    def clean(self, plan: Plan, world: World, after: After) -> None:
        """Close legs that no address needs. DHCP gives a carried address to no other guest meanwhile."""
        troubles = Troubles()
        done = [leg for leg in plan.old_legs if leg.address not in after.carried]
        for leg in (*plan.new_legs, *done, *plan.earlier_legs):
            with troubles.of(HostError):
                close(leg, world)
        with troubles.of(HostError):
            dhcp.release(plan, world)
        _reserve_what_is_carried(plan, [h for h in plan.addresses if h.address in after.carried], world, troubles)
        troubles.raise_first()

    def let_go(self, plan: Plan, world: World) -> None:
        """All old addresses are carried. The new one stays reserved: the guest may not have asked for it yet."""
        troubles = Troubles()
        with troubles.of(HostError):
            _turn(plan, world)
            for leg in plan.earlier_legs:  # what came by them comes by this move's now
                with troubles.of(HostError):
                    close(leg, world)
        for leg in plan.new_legs:
            with troubles.of(HostError):
                close(leg, world)
        _reserve_what_is_carried(plan, plan.addresses, world, troubles)
        troubles.raise_first()


def close(leg: Leg, world: World) -> None:
    """Close both ends of a leg, the second also where the first cannot be. Idempotent. Raises HostError."""
    troubles = Troubles()
    for host in (leg.home, leg.away):
        with troubles.of(HostError):
            world.host_network(host).close(leg.move_id, leg.address)
    troubles.raise_first()


def moves_with_legs(address: str, host: Host, bridge: str, world: World) -> set[str]:
    """Those that have a leg of an address at a host, as that one says. Raises HostError."""
    found = world.host_network(host).facts(bridge, "", "").legs
    return {end.move for end in found if end.address == address}


def mend(leg: Leg, world: World) -> tuple[str, ...]:
    """Make anew what is gone of a leg whose guest is away: a host was restarted, or its tunnel's process died. Not one
    whose address another move carries now. Returns at which hosts it was gone. Raises HostError."""
    ends = ((leg.home, leg.home_bridge), (leg.away, leg.away_bridge))
    found = {host.name: moves_with_legs(leg.address, host, bridge, world) for host, bridge in ends}
    gone = tuple(name for name, moves in found.items() if leg.move_id not in moves)
    if not gone or any(moves - {leg.move_id} for moves in found.values()):
        return ()
    _open(leg, world)
    world.host_network(leg.home).point(leg, to_guest=False)
    return gone


def _reserve_what_is_carried(plan: Plan, carried: Collection[HomedAddress], world: World, troubles: Troubles) -> None:
    """And give back what is carried no longer."""
    for homed in _once_used(plan):
        with troubles.of(HostError):
            if homed in carried:
                dhcp.keep(plan.move_id, homed.address, homed.home, world, plan.mac)
            else:
                dhcp.give_back(homed.address, homed.home, world, plan.mac)


def _open(leg: Leg, world: World) -> None:
    """Raises HostError; also for what others have written into the journal, or an older vmacro has planned, and would
    go in the clear although the inventory wants it encrypted."""
    if leg.kind == VXLAN and not (leg.home.plain_tunnel and leg.away.plain_tunnel):
        hosts = f"{leg.home.name} and {leg.away.name}"
        text = f"leg of {leg.address}: no {leg.kind}, since {hosts} do not both say plain_tunnel"
        raise HostError(text, "plan the move anew: vmacro abort, vmacro migrate")
    home, away = world.host_network(leg.home), world.host_network(leg.away)
    near, far = home.open(leg), away.open(leg)
    if near.public_key:
        home.join(leg, far)  # first: it waits for the away end's greeting
        away.join(leg, near)


def _given_up(plan: Plan, homed: HomedAddress, agent: Agent, world: World) -> bool:
    """Whether the guest has given up an old address, which neither lingers nor is needed by connections or datagrams.
    Where nobody can know of datagrams, it is kept: the carriage looks again.

    One that is kept stays the backup of who follows, too: withdrawn, it would take along whoever comes anew just then,
    as the kernel closes all subflows of an address (mptcp_nl_remove_id_zero_address)."""
    now_s = world.clock.wall_ns() / 1e9
    lingers = plan.lingers_until_s(homed.address, now_s) > now_s
    try:
        needed = lingers or datagrams.in_use(homed.address, homed.home, world)
    except HostError:
        needed = True
    return not needed and agent.retire(homed.address)


def _once_used(plan: Plan) -> list[HomedAddress]:
    """The guest's addresses, and those that earlier moves carried for it and that it has no more."""
    earlier = (HomedAddress(leg.address, leg.home) for leg in plan.earlier_legs)
    return [*plan.addresses, *(e for e in earlier if e.address not in {h.address for h in plan.addresses})]


def _turn(plan: Plan, world: World) -> None:
    """All hosts, whatever fails: legs lead to where the guest is now. Idempotent. Raises the first error."""
    troubles = Troubles()
    for host, to_guest in ((plan.destination, True), (plan.source, False)):
        with troubles.of(HostError):
            side = world.host_network(host)
            _tell_turns(plan, world, host)
            side.turn(plan.guest.domain, to_guest)
    for leg in plan.old_legs:
        with troubles.of(HostError):
            if leg.home != plan.source:
                _point_into_the_tunnel(leg, world)
    troubles.raise_first()


def _point_into_the_tunnel(leg: Leg, world: World) -> None:
    """At a home that is neither source nor destination. A leg that was closed at its deadline is none to point."""
    try:
        world.host_network(leg.home).point(leg, to_guest=False)
    except HostError:
        if leg.move_id in moves_with_legs(leg.address, leg.home, leg.home_bridge, world):
            raise


def _hosts(plan: Plan) -> list[Host]:
    legs = [*plan.new_legs, *plan.old_legs]
    return list(dict.fromkeys([plan.source, plan.destination, *(h for leg in legs for h in (leg.home, leg.away))]))


def _tell_turns(plan: Plan, world: World, host: Host) -> None:
    for turn in world.host_network(host).turned(plan.guest.domain):
        turned = Turned(host.name, turn.to, turn.wall_ns, turn.took_us, turn.rescued, turn.trouble)
        world.tell(plan.move_id, turned)
