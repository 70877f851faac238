"""How a guest's connections get from its old address to its new one.

A handoff has four moments. `renumber` is the paper's: nothing before the move. Every method looks
before it acts, so that any of them may run again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from vmacro.errors import AgentError
from vmacro.model.facts import Arrival, Connection
from vmacro.model.moves import Before, Plan
from vmacro.planning.checks import RENUMBER
from vmacro.planning.outcome import all_followed
from vmacro.ports import World

SETTLE_POLL_S = 0.1
AGENT_PATIENCE_S = 0.1


class Handoff(Protocol):
    def prepare(self, plan: Plan, world: World) -> None:
        """Before the copy."""

    def undo_prepare(self, plan: Plan, world: World) -> None:
        """After a copy that failed; also where prepare never ran."""

    def arrive(self, plan: Plan, world: World) -> Arrival:
        """The guest runs at the destination."""

    def settle(self, plan: Plan, world: World, before: Before, arrival: Arrival) -> tuple[Connection, ...]:
        """Until connections use the new address; returns them as they are then."""


class Renumber:
    """Move first; then the guest renews DHCP, keeps its old address as /32 and announces the new one."""

    def prepare(self, plan: Plan, world: World) -> None:
        pass

    def undo_prepare(self, plan: Plan, world: World) -> None:
        pass

    def arrive(self, plan: Plan, world: World) -> Arrival:
        """Raises AgentError once the policy's arrival_timeout_s has passed."""
        deadline = world.clock.monotonic_s() + plan.policy.arrival_timeout_s
        while True:
            try:
                with world.agent(plan.destination, plan.guest.domain) as agent:
                    return agent.arrive(plan.address)
            except AgentError:
                if world.clock.monotonic_s() > deadline:
                    raise
                world.clock.sleep(AGENT_PATIENCE_S)

    def settle(self, plan: Plan, world: World, before: Before, arrival: Arrival) -> tuple[Connection, ...]:
        expected = [c.key for c in before.connections if c.willing]
        deadline = world.clock.monotonic_s() + plan.policy.settle_timeout_s
        with world.agent(plan.destination, plan.guest.domain) as agent:
            after = agent.connections()
            while not _settled(expected, after, arrival.new) and world.clock.monotonic_s() < deadline:
                world.clock.sleep(SETTLE_POLL_S)
                after = agent.connections()
            if arrival.old != arrival.new:
                agent.retire(arrival.old)
        return after


def _settled(expected: Iterable[str], after: tuple[Connection, ...], address: str) -> bool:
    """A connection whose old path has died may show no subflow for a moment: wait for that one too."""
    present = {c.key for c in after}
    return all(key in present for key in expected) and all_followed(expected, after, address)


HANDOFFS: dict[str, Handoff] = {RENUMBER: Renumber()}
