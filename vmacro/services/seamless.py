"""Make before break, hold instead of lose, carry who cannot follow.

The new address reaches the guest through a tunnel while it is still at home, and clients join it there.
At the pause the hosts turn its packets to the destination, whose tap holds them until it runs. Old
addresses stay tunnelled for connections that cannot follow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from vmacro.errors import AgentError, HostError, VmacroError
from vmacro.model.facts import Arrival, Connection, Leg
from vmacro.model.moves import After, Before, Plan
from vmacro.model.nouns import Host
from vmacro.ports import World
from vmacro.services.handoff import ask_to_arrive, wait_until_followed

JOIN_POLL_S = 0.05


class Seamless:
    """Implements handoff.Handoff."""

    def prepare(self, plan: Plan, world: World, before: Before) -> Before:
        """Reserve the new address, lead it to the guest at home, and let clients join it as backup.

        Waits until all MPTCP connections have, at most the policy's join_timeout_s: who has not is carried.
        """
        if plan.reserve:
            world.hypervisor(plan.destination).reserve(plan.destination.network, plan.mac, plan.new_address)
        assert plan.lead is not None, "the planner gives a seamless move its lead"
        _open(plan.lead, world)
        world.host_network(plan.destination).point(plan.lead, to_guest=False)
        for leg in plan.trail:
            _open(leg, world)
        kind = plan.lead.kind + ("" if plan.lead.kind == "wireguard" else " (neither encrypted nor authenticated)")
        world.tell(plan.move_id, "note", f"{plan.new_address} leads to the guest at home, through {kind}", tunnel=kind)
        with world.agent(plan.source, plan.guest.domain) as agent:
            agent.prepare(plan.new_address)
            deadline = world.clock.monotonic_s() + plan.policy.join_timeout_s
            found = agent.connections()
            while (waiting := _not_joined(found, plan.new_address)) and world.clock.monotonic_s() < deadline:
                world.clock.sleep(JOIN_POLL_S)
                found = agent.connections()
        follow = sum(c.reaches(plan.new_address) for c in found)
        text = f"{follow} of {len(found)} connections have joined {plan.new_address}; the others will be carried"
        world.tell(plan.move_id, "note", text, follow=follow, carried=len(found) - follow, unwilling=waiting)
        return Before(before.boot_id, found)

    @contextmanager
    def watching(self, plan: Plan, world: World) -> Iterator[None]:
        """Each host turns by its own libvirt's events; nobody waits for us."""
        for host in (plan.source, plan.destination):
            world.host_network(host).arm(plan.guest.domain)
        yield

    def undo_prepare(self, plan: Plan, world: World) -> None:
        """All of it is tried, whatever fails first. Raises that first error."""
        troubles: list[VmacroError] = []
        try:
            with world.agent(plan.source, plan.guest.domain) as agent:
                agent.retire(plan.new_address)
        except (AgentError, HostError) as error:
            troubles.append(error)
        for host in _hosts(plan):
            try:
                side = world.host_network(host)
                if host == plan.source:
                    side.turn(plan.guest.domain, to_guest=True)
                side.close(plan.move_id)
            except HostError as error:
                troubles.append(error)
        try:
            if plan.reserve:
                world.hypervisor(plan.destination).release(plan.destination.network, plan.mac, plan.new_address)
        except HostError as error:
            troubles.append(error)
        if troubles:
            raise troubles[0]

    def arrive(self, plan: Plan, world: World) -> Arrival:
        """See that the hosts have turned; then the guest takes the new address for its own."""
        trouble: HostError | None = None
        for host, to_guest in ((plan.destination, True), (plan.source, False)):
            try:
                side = world.host_network(host)
                _tell_turns(plan, world, host)
                side.turn(plan.guest.domain, to_guest)
            except HostError as error:
                trouble = trouble or error
        for leg in plan.trail:
            if leg.home != plan.source:
                world.host_network(leg.home).point(leg, to_guest=False)
        arrival = ask_to_arrive(plan, world)
        if trouble is not None:
            raise trouble
        return arrival

    def settle(self, plan: Plan, world: World, before: Before, arrival: Arrival) -> After:
        """Addresses that only followers used are withdrawn; the others are carried on."""
        expected = [c.key for c in before.connections if c.reaches(arrival.new)]
        with world.agent(plan.destination, plan.guest.domain) as agent:
            wait_until_followed(plan, world, agent, expected, arrival.new)
            carried = [h.address for h in plan.held if h.address != arrival.new and not agent.retire(h.address)]
            return After(agent.connections(), tuple(carried))

    def clean(self, plan: Plan, world: World, after: After) -> None:
        """Legs that nobody needs are closed. DHCP gives a carried address to nobody else meanwhile."""
        done = [leg for leg in plan.trail if leg.address not in after.carried]
        for leg in (plan.lead, *done, *plan.standing):
            if leg is not None:
                close(leg, world)
        if plan.reserve:
            world.hypervisor(plan.destination).release(plan.destination.network, plan.mac, plan.new_address)
        for held in plan.held:
            keep(held.address, held.home, world, held.address in after.carried)


def close(leg: Leg, world: World) -> None:
    """Both ends. Idempotent."""
    for host in (leg.home, leg.away):
        world.host_network(host).close(leg.move_id, leg.address)


def keep(address: str, home: Host, world: World, kept: bool) -> None:
    """Reserve a carried address for nobody, or give it back. Idempotent."""
    nobody = "02:76:03:" + hashlib.sha256(address.encode()).digest()[:3].hex(":")
    hypervisor = world.hypervisor(home)
    (hypervisor.reserve if kept else hypervisor.release)(home.network, nobody, address)


def _open(leg: Leg, world: World) -> None:
    home, away = world.host_network(leg.home), world.host_network(leg.away)
    near, far = home.open(leg), away.open(leg)
    if near.public_key:
        home.join(leg, far)
        away.join(leg, near)


def _hosts(plan: Plan) -> list[Host]:
    legs = [leg for leg in (plan.lead, *plan.trail) if leg is not None]
    return list(dict.fromkeys([plan.source, plan.destination, *(h for leg in legs for h in (leg.home, leg.away))]))


def _not_joined(found: tuple[Connection, ...], address: str) -> int:
    return sum(c.mptcp and not c.reaches(address) for c in found)


def _tell_turns(plan: Plan, world: World, host: Host) -> None:
    for turn in world.host_network(host).turned():
        what = f"{host.name} turned to the {turn.to} within {turn.took_us / 1000:.1f} ms of its event"
        what += f"; {turn.rescued} packets sent after the guest" if turn.rescued else ""
        text = f"{host.name} could not turn: {turn.trouble}" if turn.trouble else what
        world.tell(
            plan.move_id, "turn", text, host=host.name, to=turn.to, at_wall_ns=turn.wall_ns, took_us=turn.took_us
        )
