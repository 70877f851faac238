"""After a move: an old address stays reachable through its leg until the last connection that cannot follow has ended,
as long as datagrams come for it, and as long as it lingers for new connections.

Each such address has a durable workflow of its own, which outlives the move by hours. If a later move of the guest
takes the address over, this workflow has nothing left to do.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from enum import StrEnum

from vmacro.errors import HostError, VmacroError
from vmacro.model.events import CarryEnded, CarryTrouble, CarryWaits, Note
from vmacro.model.moves import Carriage, Outcome, Plan
from vmacro.ports import World
from vmacro.services import datagrams, dhcp, seamless, survey
from vmacro.services.executions import Suspended
from vmacro.services.phases import Journal
from vmacro.services.troubles import Troubles
from vmacro.wire.counting import REST

LOOK_EVERY_S = 1.0
LONGEST_REST_S = 5.0
LOOK_FOR_S = 60.0  # one step of the workflow
CLOSE_FOR_S = 600.0
Tell = Callable[[str], None]


class Need(StrEnum):
    """Whether a carried address is needed. UNNEEDED and LATE: close it; TAKEN_OVER: a later move has it."""

    NEEDED = "needed"
    UNNEEDED = "unneeded"
    TAKEN_OVER = "taken over"
    LATE = "late"


def carriages(plan: Plan, outcome: Outcome, wall_s: float) -> list[Carriage]:
    """One for each address that is carried after the move; `wall_s`: now, in seconds since 1970. Where nobody has seen
    the guest reached at its new address, clients may reach it by no other than these, whatever they have joined."""
    legs = {leg.address: leg for leg in plan.old_legs}
    homes = {homed.address: homed.home for homed in plan.addresses}
    deadline_s = wall_s + plan.policy.carry_deadline_s
    return [
        Carriage(
            plan.move_id,
            plan.guest,
            address,
            homes[address],
            plan.destination,
            legs.get(address),
            wall_s,
            deadline_s,
            plan.lingers_until_s(address, wall_s),
            named=outcome.names_remain or outcome.arrival is None,
        )
        for address in outcome.carried
        if address in homes  # a journal that others write to may name any
    ]


def run_carriage(carriage: Carriage, world: World, journal: Journal) -> str:
    """Watch until no connection needs the address and it lingers no more, its deadline has passed, or a later move has
    it. Returns how it ended. Raises Suspended where its process leaves first."""
    tell = _teller(carriage, world)
    while True:
        need = journal.step("watch", Need, lambda: _watch(carriage, world, tell))
        if need == Need.NEEDED:
            if world.cancelled():
                raise Suspended
            continue
        if need == Need.TAKEN_OVER:
            ended = f"a later move of {carriage.guest.name} carries it on, or has ended it"
        else:
            late = need == Need.LATE
            left = journal.step("close", str, functools.partial(_close, carriage, world, late))
            ended = f"closed, its {'deadline has passed' if late else 'last connection has ended'}"
            ended += f"; but {left}; `vmacro cleanup` closes what is left" if left else ""
        event = CarryEnded(carriage.address, ended)
        world.tell(carriage.move_id, event)
        return event.text


def _teller(carriage: Carriage, world: World) -> Tell:
    """What tells for what the address is carried, whenever that changes."""
    last = ""

    def tell(reason: str) -> None:
        nonlocal last
        if reason != last:
            last = reason
            world.tell(carriage.move_id, CarryWaits(carriage.address, reason))

    return tell


def _untold(_reason: str) -> None:
    pass


def _watch(carriage: Carriage, world: World, tell: Tell = _untold) -> Need:
    """Look for a while, and once after the leg. What cannot be asked is asked again: no carried connection is cut
    because a host is silent. A guest that is slow to answer, as it has just arrived or has thousands of connections, is
    left alone for longer."""
    began, looked_after = world.clock.monotonic_s(), False
    while (looks_at_s := world.clock.monotonic_s()) - began < LOOK_FOR_S and not world.cancelled():
        try:
            need = _retire_if_unused(carriage, world, tell)
            if need == Need.NEEDED and not looked_after:
                looked_after = True
                _look_after(carriage, world)
        except VmacroError as error:
            need = Need.NEEDED
            world.tell(carriage.move_id, CarryTrouble(carriage.address, error.message))
        if need != Need.NEEDED:
            return need
        if world.clock.wall_ns() > carriage.deadline_s * 1e9:
            return Need.LATE
        took_s = world.clock.monotonic_s() - looks_at_s
        world.clock.sleep(min(max(LOOK_EVERY_S, REST * took_s), LONGEST_REST_S))
    return Need.NEEDED


def _look_after(carriage: Carriage, world: World) -> None:
    """Connections wait for a leg that is gone: it is made anew, and that is told. Not while the guest is on its way to
    elsewhere, where a later move's leg has the address."""
    here = carriage.leg is not None and survey.where([carriage.at], carriage.guest, world)
    gone = seamless.mend(carriage.leg, world) if carriage.leg is not None and here else ()
    if gone:
        text = f"its leg was gone at {' and '.join(gone)}, and has been made anew"
        world.tell(carriage.move_id, CarryTrouble(carriage.address, text))


def _retire_if_unused(carriage: Carriage, world: World, tell: Tell = _untold) -> Need:
    """Have the guest give the address up, unless connections or datagrams need it, it lingers, or a later move has
    it."""
    name, at = f"guest {carriage.guest.name}", carriage.at.name
    if not survey.where([carriage.at], carriage.guest, world):
        if _taken_over(carriage, world):
            return Need.TAKEN_OVER
        tell(f"{name} does not run at {at}: kept for it until the deadline, or a later move of it has ended")
        return Need.NEEDED
    with world.agent(carriage.at, carriage.guest.domain) as agent:
        facts = agent.status()
        if not facts.address:
            tell(f"the agent of {name} has just started")
            return Need.NEEDED
        if carriage.address in (facts.address, facts.address6):
            if carriage.leg is None:  # which it had left for another one; since then it was elsewhere
                return Need.TAKEN_OVER
            tell(f"{name} has not seen yet that it is at {at}")
            return Need.NEEDED
        if carriage.address not in facts.extra_addresses:
            return Need.UNNEEDED
        if world.clock.wall_ns() < carriage.open_until_s * 1e9:
            until = time.strftime("%H:%M:%S", time.localtime(carriage.open_until_s))
            tell(f"lingers for new connections to {name}, until {until}")
            return Need.NEEDED
        if datagrams.in_use(carriage.address, carriage.home, world):
            tell(f"datagrams for {name} still come there")
            return Need.NEEDED
        if not agent.retire(carriage.address):
            tell(f"connections of {name} still use it: vmacro carried")
            return Need.NEEDED
        return Need.UNNEEDED


def _taken_over(carriage: Carriage, world: World) -> bool:
    """Of a guest that is not where the address is carried to: whether a later move has closed what hosts had for it. If
    not, that move is under way, or the guest was stopped and may come back before the deadline. At home the address has
    no leg that a later move would close: it has a leg of that move, which its guest has left by for good."""
    leg, home = carriage.leg, carriage.home
    if leg is not None:
        ends = ((leg.home, leg.home_bridge), (leg.away, leg.away_bridge))
        return not any(leg.move_id in seamless.moves_with_legs(leg.address, *end, world) for end in ends)
    if not dhcp.is_kept(carriage.address, home, world):
        return True
    has_left = world.hypervisor(carriage.at).domain(carriage.guest.domain) is None
    return has_left and bool(_others(carriage, world))


def _others(carriage: Carriage, world: World) -> set[str]:
    """Other moves that have a leg of the address at its home. Raises HostError."""
    leg, home = carriage.leg, carriage.home
    network = world.hypervisor(home).network(home.network)
    bridge = leg.home_bridge if leg is not None else network.bridge if network is not None else ""
    return seamless.moves_with_legs(carriage.address, home, bridge, world) - {carriage.move_id}


def _is_anothers(carriage: Carriage, world: World) -> bool:
    """At the deadline: whether a later move carries the address, which has brought the guest back here. If that cannot
    be known, none does."""
    try:
        others = _others(carriage, world)
        return bool(others) or (carriage.leg is not None and _taken_over(carriage, world))
    except HostError:
        return False


def _close(carriage: Carriage, world: World, late: bool) -> str:
    """Close it, the guest's address first: what the guest still sends from it must not leave by another way. The hosts'
    ends close whatever the guest answers. Returns what could not be closed, after trying for a while."""
    anothers = late and _is_anothers(carriage, world)
    if late and not anothers:
        _cut(carriage, world)
    began = world.clock.monotonic_s()
    while left := _close_at_hosts(carriage, world, release=not anothers):
        if world.cancelled():
            raise Suspended
        if world.clock.monotonic_s() - began >= CLOSE_FOR_S:
            break
        world.tell(carriage.move_id, CarryTrouble(carriage.address, left))
        world.clock.sleep(LOOK_EVERY_S)
    return left


def _cut(carriage: Carriage, world: World) -> None:
    try:
        with world.agent(carriage.at, carriage.guest.domain) as agent:
            given_up = agent.retire(carriage.address, force=True)
        trouble = "" if given_up else "it is still in use"
    except VmacroError as error:
        trouble = error.message
    if trouble:
        text = f"{carriage.address}: the guest does not give it up: {trouble}; its hosts close it all the same"
        world.tell(carriage.move_id, Note(text))


def _close_at_hosts(carriage: Carriage, world: World, release: bool) -> str:
    """Returns the first error's message, or ''."""
    troubles = Troubles()
    with troubles.of(HostError):
        if carriage.leg is not None:
            seamless.close(carriage.leg, world)
    with troubles.of(HostError):
        if release:
            dhcp.give_back(carriage.address, carriage.home, world)
    return troubles.first
