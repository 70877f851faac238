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
NOBODY = "02:76:03:"  # locally administered (IEEE 802)


class Seamless:
    """Implements handoff.Handoff."""

    def prepare(self, plan: Plan, world: World, before: Before) -> Before:
        """Reserve the new address, lead it to the guest at home, and let clients join it as backup.

        Waits until all MPTCP connections have, at most the policy's join_timeout_s: who has not is carried.
        """
        # A switch that failed in an earlier attempt has left the guest without its network.
        world.host_network(plan.source).turn(plan.guest.domain, to_guest=True)
        if plan.reserve:
            world.hypervisor(plan.destination).reserve(plan.destination.network, plan.mac, plan.new_address)
        for leg in plan.leads:
            _open(leg, world)
            world.host_network(plan.destination).point(leg, to_guest=False)
        for leg in plan.trail:
            _open(leg, world)
        coming, kind = [leg.address for leg in plan.leads], plan.leads[0].kind
        secured = "" if kind == "wireguard" else " (neither encrypted nor authenticated)"
        text = f"what comes for {' and '.join(coming)} goes to the guest at home, through {kind}{secured}"
        world.tell(plan.move_id, "note", text, tunnel=kind)
        with world.agent(plan.source, plan.guest.domain) as agent:
            agent.prepare(plan.new_address, plan.new_address6)
            deadline = world.clock.monotonic_s() + plan.policy.join_timeout_s
            found = agent.connections()
            while (waiting := _not_joined(found, coming)) and world.clock.monotonic_s() < deadline:
                world.clock.sleep(JOIN_POLL_S)
                found = agent.connections()
        follow = sum(c.reaches(*coming) for c in found)
        text = f"{follow} of {len(found)} connections have joined; the others will be carried"
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
                for leg in plan.leads:
                    agent.retire(leg.address)
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
        troubles: list[HostError] = []
        for host, to_guest in ((plan.destination, True), (plan.source, False)):
            try:
                side = world.host_network(host)
                _tell_turns(plan, world, host)
                side.turn(plan.guest.domain, to_guest)
            except HostError as error:
                troubles.append(error)
        for leg in plan.trail:
            try:
                if leg.home != plan.source:
                    world.host_network(leg.home).point(leg, to_guest=False)
            except HostError as error:
                troubles.append(error)
        arrival = ask_to_arrive(plan, world)
        if troubles:
            raise troubles[0]
        return arrival

    def settle(self, plan: Plan, world: World, before: Before, arrival: Arrival) -> After:
        """Addresses that only followers used are withdrawn; the others are carried on."""
        expected = [c.key for c in before.connections if c.reaches(*arrival.present)]
        with world.agent(plan.destination, plan.guest.domain) as agent:
            wait_until_followed(plan, world, agent, expected, arrival.present)
            old = [held.address for held in plan.held if held.address not in arrival.present]
            carried = [address for address in old if not agent.retire(address)]
            return After(agent.connections(), tuple(carried))

    def clean(self, plan: Plan, world: World, after: After) -> None:
        """Legs that nobody needs are closed. DHCP gives a carried address to nobody else meanwhile."""
        done = [leg for leg in plan.trail if leg.address not in after.carried]
        for leg in (*plan.leads, *done, *plan.standing):
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
    """Reserve a carried address for nobody, or give it back; SLAAC gives none away. Idempotent."""
    if ":" in address:
        return
    hypervisor = world.hypervisor(home)
    (hypervisor.reserve if kept else hypervisor.release)(home.network, nobody(address), address)


def nobody(address: str) -> str:
    """The card that a carried address is reserved for: nobody has it."""
    return NOBODY + hashlib.sha256(address.encode()).digest()[:3].hex(":")


def _open(leg: Leg, world: World) -> None:
    home, away = world.host_network(leg.home), world.host_network(leg.away)
    near, far = home.open(leg), away.open(leg)
    if near.public_key:
        home.join(leg, far)
        away.join(leg, near)


def _hosts(plan: Plan) -> list[Host]:
    legs = [*plan.leads, *plan.trail]
    return list(dict.fromkeys([plan.source, plan.destination, *(h for leg in legs for h in (leg.home, leg.away))]))


def _not_joined(found: tuple[Connection, ...], coming: list[str]) -> int:
    return sum(c.mptcp and not c.reaches(*coming) for c in found)


def _tell_turns(plan: Plan, world: World, host: Host) -> None:
    for turn in world.host_network(host).turned():
        what = f"{host.name} turned to the {turn.to} within {turn.took_us / 1000:.1f} ms of its event"
        what += f"; {turn.rescued} packets sent after the guest" if turn.rescued else ""
        text = f"{host.name} could not turn: {turn.trouble}" if turn.trouble else what
        world.tell(
            plan.move_id, "turn", text, host=host.name, to=turn.to, at_wall_ns=turn.wall_ns, took_us=turn.took_us
        )
