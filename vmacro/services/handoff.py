"""How a guest's connections get from its old address to its new one: what a handoff does in each phase.

Every method looks before it acts, so that each of them may run again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import Protocol

from vmacro.errors import AgentError, VmacroError
from vmacro.model.facts import Arrival, Counts
from vmacro.model.moves import NOTHING_HEARD, After, Before, Plan
from vmacro.model.nouns import MOST_JOIN_S
from vmacro.planning.outcome import untold
from vmacro.ports import Agent, World
from vmacro.wire.agent_verbs import CountArgs
from vmacro.wire.counting import REST, began_with, counted

SETTLE_POLL_S = 0.1
AGENT_PATIENCE_S = 0.1
UNTOLD_FOR_S = 2.0  # the kernel tells of an end a moment later, and the agent waits for it
Look = Callable[[Collection[str]], None]  # given the addresses that the guest has by now; raises NotReachedError


class Handoff(Protocol):
    """What differs from one handoff to the other."""

    def prepare(self, plan: Plan, world: World, before: Before) -> Before:
        """What must be done before the copy. Returns the connections as they are then."""

    def watching(self, plan: Plan, world: World) -> AbstractContextManager[None]:
        """Open during the copy: sees to what must happen as the guest pauses."""

    def undo_prepare(self, plan: Plan, world: World) -> None:
        """Undo prepare() after a copy that failed, however far prepare() has come."""

    def arrive(self, plan: Plan, world: World) -> Arrival:
        """Once the guest runs at the destination: have it use its new address."""

    def settle(self, plan: Plan, world: World, before: Before, arrival: Arrival, look: Look) -> After:
        """Wait until connections use the new address, and withdraw old addresses that no connection needs; before that,
        where clients could still come by these, see by `look` that the guest is reached."""

    def clean(self, plan: Plan, world: World, after: After) -> None:
        """Remove what was needed only for the move."""

    def let_go(self, plan: Plan, world: World) -> None:
        """The guest has arrived, and its agent does not do its part: close at the hosts what only the move needed. Asks
        the guest for nothing. Its old addresses are carried."""


class Renumber:
    """The paper's way: move first; then the guest asks DHCP, keeps its old address as a /32 and announces the new
    one."""

    def prepare(self, plan: Plan, world: World, before: Before) -> Before:
        """Nothing to prepare."""
        return before

    def watching(self, plan: Plan, world: World) -> AbstractContextManager[None]:
        """Nothing to do at the pause."""
        return nullcontext()

    def undo_prepare(self, plan: Plan, world: World) -> None:
        """Nothing was prepared."""

    def arrive(self, plan: Plan, world: World) -> Arrival:
        """The agent asks DHCP and announces the new address."""
        return ask_to_arrive(plan, world)

    def settle(self, plan: Plan, world: World, before: Before, arrival: Arrival, look: Look) -> After:
        """Wait for joins, then withdraw the old address: no client sends again by another path what was under way to it
        before it is. So it also goes where connections stay behind, which are lost, and cut once that is known; and
        before anybody looks, as the old address is reached no more in any case."""
        with world.agent(plan.destination, plan.guest.domain) as agent:
            wait_until_followed(plan, world, agent, before, CountArgs(arrival.present, willing=True))
            gone = arrival.old == arrival.new or agent.retire(arrival.old)
            found = once_told(world, agent, before, arrival.present)
            if not gone:
                agent.retire(arrival.old, force=True)
            has = agent.status().claimed
        look(has)
        return found

    def clean(self, plan: Plan, world: World, after: After) -> None:
        """Nothing is left."""

    def let_go(self, plan: Plan, world: World) -> None:
        """Nothing was made at the hosts."""


def ask_to_arrive(plan: Plan, world: World) -> Arrival:
    """Ask the agent until the guest has its new address. Raises AgentError once the policy's arrival_timeout_s has
    passed, also if the guest still has its old address."""
    deadline = world.clock.monotonic_s() + plan.policy.arrival_timeout_s
    while True:
        try:
            with world.agent(plan.destination, plan.guest.domain) as agent:
                arrival = agent.arrive(plan.address)
            if arrival.new == (plan.new_address or arrival.new) != plan.address:
                return arrival
            wanted = plan.new_address or "one of the new site's"
            raise AgentError(f"guest {plan.guest.name}: has address {arrival.new}, not {wanted}", "vmacro resume")
        except AgentError:
            if world.clock.monotonic_s() > deadline:
                raise
            world.clock.sleep(AGENT_PATIENCE_S)


def have_the_agent_wait(plan: Plan, world: World) -> None:
    """Else it would settle the arrival by itself after a while, as it does where an orchestrator is gone."""
    with suppress(VmacroError), world.agent(plan.destination, plan.guest.domain) as agent:
        agent.claim(plan.move_id, plan.operator, plan.policy.claim_s)


def wait_until_followed(plan: Plan, world: World, agent: Agent, before: Before, args: CountArgs) -> None:
    """Until all awaited connections that have not ended use one of the addresses, or the policy's settle_timeout_s has
    passed."""
    deadline_s = world.clock.monotonic_s() + plan.policy.settle_timeout_s
    counted_until(lambda counts: not counts.awaited, world, agent, before, args, SETTLE_POLL_S, lambda _: deadline_s)


def once_told(
    world: World, agent: Agent, before: Before, present: tuple[str, ...], carried: tuple[str, ...] = ()
) -> After:
    """The connections that are there, and how the others have ended, once the guest's kernel has told of all."""
    args = CountArgs(present, carried, known=before.addresses)
    deadline_s = world.clock.monotonic_s() + UNTOLD_FOR_S
    while True:
        counts = counted_until(lambda c: not c.untold, world, agent, before, args, SETTLE_POLL_S, lambda _: deadline_s)
        connections, endings = agent.connections(), agent.endings()  # what goes in between has an ending, too
        found = After(connections, carried, endings, beyond=counts.beyond)
        if not untold(before, found) or world.clock.monotonic_s() >= deadline_s:
            return found
        world.clock.sleep(SETTLE_POLL_S)


def counted_until(
    over: Callable[[Counts], bool],
    world: World,
    agent: Agent,
    before: Before,
    args: CountArgs,
    every_s: float,
    deadline_s: Callable[[Counts], float],
) -> Counts:
    """Have the guest count its connections until that is over, or the deadline by its last counts has passed; these. It
    counts for no more than a tenth of its time, however many there are."""
    while True:
        counts = _count(agent, before, args)
        left_s = deadline_s(counts) - world.clock.monotonic_s()
        if over(counts) or left_s <= 0:
            return counts
        world.clock.sleep(min(max(every_s, REST * counts.took_ms / 1000), left_s))


class WhileTheyJoin:
    """A deadline that is put off for as long as clients join: `quiet_s` after the last one, or as long as the guest
    rests between two looks; MOST_JOIN_S after the beginning at most."""

    def __init__(self, world: World, quiet_s: float) -> None:
        self._now_s, self._quiet_s = world.clock.monotonic_s, quiet_s
        self._most_s = self._now_s() + MOST_JOIN_S
        self._deadline_s, self._joined = self._now_s() + quiet_s, 0

    def __call__(self, counts: Counts) -> float:
        """By the world's clock, once these were counted."""
        if counts.joined > self._joined:
            rest_s = REST * counts.took_ms / 1000 if self._quiet_s else 0.0
            self._joined, self._deadline_s = counts.joined, self._now_s() + max(self._quiet_s, rest_s)
        return min(self._deadline_s, self._most_s)


def _count(agent: Agent, before: Before, args: CountArgs) -> Counts:
    """Where the agent knows of no such watch, it does not know whom to wait for: then it tells of each connection."""
    counts = agent.count(args)
    if counts.watch == before.watch != "":
        return counts
    connections = agent.connections()
    endings = agent.endings() if before.watch else NOTHING_HEARD
    unbroken = bool(before.watch) and endings.watch == before.watch
    ended = {e.key: e for e in endings.endings} if unbroken else {}
    told = unbroken and not endings.missed
    found = counted(args, began_with(before.connections), connections, ended, told)
    return replace(counts, awaited=found.awaited, untold=found.untold, beyond=found.beyond)
