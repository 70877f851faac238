"""How a guest's connections get from its old address to its new one: the moments of a handoff.

Every method looks before it acts, so that any of them may run again.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from vmacro.errors import AgentError
from vmacro.model.facts import Arrival, Connection
from vmacro.model.moves import After, Before, Plan
from vmacro.model.nouns import Policy
from vmacro.planning.outcome import all_followed
from vmacro.ports import Agent, World

SETTLE_POLL_S = 0.1
AGENT_PATIENCE_S = 0.1


class Handoff(Protocol):
    def prepare(self, plan: Plan, world: World, before: Before) -> Before:
        """Before the copy; returns the connections as they are then."""

    def watching(self, plan: Plan, world: World) -> AbstractContextManager[None]:
        """Around the copy: what must happen as the guest pauses."""

    def undo_prepare(self, plan: Plan, world: World) -> None:
        """After a copy that failed; also where prepare never ran."""

    def arrive(self, plan: Plan, world: World) -> Arrival:
        """The guest runs at the destination."""

    def settle(self, plan: Plan, world: World, before: Before, arrival: Arrival) -> After:
        """Until connections use the new address; old ones that nobody needs are withdrawn."""

    def clean(self, plan: Plan, world: World, after: After) -> None:
        """Remove what only the move needed."""


class Renumber:
    """The paper's: move first; then the guest renews DHCP, keeps its old address as /32 and announces the new one."""

    def prepare(self, plan: Plan, world: World, before: Before) -> Before:
        return before

    def watching(self, plan: Plan, world: World) -> AbstractContextManager[None]:
        return nullcontext()

    def undo_prepare(self, plan: Plan, world: World) -> None:
        pass

    def arrive(self, plan: Plan, world: World) -> Arrival:
        return ask_to_arrive(plan, world)

    def settle(self, plan: Plan, world: World, before: Before, arrival: Arrival) -> After:
        expected = [c.key for c in before.connections if c.willing]
        with world.agent(plan.destination, plan.guest.domain) as agent:
            after = wait_until_followed(plan, world, agent, expected, arrival.present)
            if arrival.old != arrival.new:
                agent.retire(arrival.old)
        return After(after)

    def clean(self, plan: Plan, world: World, after: After) -> None:
        pass


def claim_s(policy: Policy) -> float:
    """How long a guest is a move's at most: what was announced for it ends by then, if nobody is left to do so."""
    return policy.move_timeout_s + policy.arrival_timeout_s + policy.settle_timeout_s + policy.phase_timeout_s


def ask_to_arrive(plan: Plan, world: World) -> Arrival:
    """Raises AgentError once the policy's arrival_timeout_s has passed, also where the guest keeps its old address."""
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


def wait_until_followed(
    plan: Plan, world: World, agent: Agent, expected: list[str], present: tuple[str, ...]
) -> tuple[Connection, ...]:
    """The connections, once all expected ones use one of the addresses, or the policy's settle_timeout_s has passed."""
    deadline = world.clock.monotonic_s() + plan.policy.settle_timeout_s
    found = agent.connections()
    while not _settled(expected, found, present) and world.clock.monotonic_s() < deadline:
        world.clock.sleep(SETTLE_POLL_S)
        found = agent.connections()
    return found


def _settled(expected: Iterable[str], after: tuple[Connection, ...], addresses: tuple[str, ...]) -> bool:
    """A connection whose old path has died may show no subflow for a moment: wait for that one too."""
    there = {c.key for c in after}
    return all(key in there for key in expected) and all_followed(expected, after, addresses)
