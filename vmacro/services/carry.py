"""After a move: old addresses stay tunnelled for connections that cannot follow, until the last has ended.

A durable workflow of its own for each such address, since it outlives the move by hours. A later move of
the guest takes the address over; then this one has nothing left to do.
"""

from __future__ import annotations

import functools
from enum import StrEnum

from vmacro.errors import HostError, VmacroError
from vmacro.model.moves import Carriage, Outcome, Plan
from vmacro.ports import World
from vmacro.services import seamless, survey
from vmacro.services.phases import Journal

LOOK_EVERY_S = 1.0
LOOK_FOR_S = 60.0  # one step of the workflow


class Verdict(StrEnum):
    """What a look found. `UNNEEDED` and `LATE` end in closing, `TAKEN_OVER` in nothing."""

    NEEDED = "needed"
    UNNEEDED = "unneeded"
    TAKEN_OVER = "taken over"
    LATE = "late"


def carriages(plan: Plan, outcome: Outcome, wall_s: float) -> list[Carriage]:
    """One for each address that the move left carried."""
    legs = {leg.address: leg for leg in plan.trail}
    homes = {held.address: held.home for held in plan.held}
    return [
        Carriage(
            plan.move_id,
            plan.guest,
            address,
            homes[address],
            plan.destination,
            legs.get(address),
            wall_s,
            wall_s + plan.policy.carry_deadline_s,
        )
        for address in outcome.carried
    ]


def tell_the_story(carriage: Carriage, world: World, journal: Journal) -> str:
    """Until nobody needs the address, the deadline has passed, or a later move has taken over."""
    while True:
        verdict = journal.step("watch", Verdict, lambda: _watch(carriage, world))
        if verdict == Verdict.NEEDED:
            continue
        if verdict == Verdict.TAKEN_OVER:
            ended = f"{carriage.address}: a later move of {carriage.guest.name} carries it on, or has ended it"
        else:
            late = verdict == Verdict.LATE
            journal.step("close", bool, functools.partial(_close, carriage, world, cut=late))
            ended = f"{carriage.address}: closed, its {'deadline has passed' if late else 'last connection has ended'}"
        world.tell(carriage.move_id, "carry", ended)
        return ended


def _watch(carriage: Carriage, world: World) -> Verdict:
    """What cannot be asked just now is asked again: a carried connection is not cut for a silent host."""
    began = world.clock.monotonic_s()
    while world.clock.monotonic_s() - began < LOOK_FOR_S and not world.cancelled():
        try:
            verdict = _look(carriage, world)
        except VmacroError as error:
            verdict = Verdict.NEEDED
            world.tell(carriage.move_id, "carry.trouble", f"{carriage.address}: {error.message}; asking again")
        if verdict != Verdict.NEEDED:
            return verdict
        if world.clock.wall_ns() > carriage.deadline_s * 1e9:
            return Verdict.LATE
        world.clock.sleep(LOOK_EVERY_S)
    return Verdict.NEEDED


def _look(carriage: Carriage, world: World) -> Verdict:
    if not survey.where([carriage.at], carriage.guest, world):
        return Verdict.TAKEN_OVER
    with world.agent(carriage.at, carriage.guest.domain) as agent:
        facts = agent.status()
        if not facts.address:
            return Verdict.NEEDED  # an agent that has just started does not know yet what it holds
        if carriage.address not in facts.held:
            return Verdict.UNNEEDED
        return Verdict.UNNEEDED if agent.retire(carriage.address) else Verdict.NEEDED


def _close(carriage: Carriage, world: World, cut: bool) -> bool:
    """The guest's address first: what it would still send must not leave by another way."""
    if cut:
        with world.agent(carriage.at, carriage.guest.domain) as agent:
            agent.retire(carriage.address, force=True)
    troubles: list[HostError] = []
    try:
        if carriage.leg is not None:
            seamless.close(carriage.leg, world)
    except HostError as error:
        troubles.append(error)
    seamless.keep(carriage.address, carriage.home, world, kept=False)
    if troubles:
        raise troubles[0]
    return True
