"""Phases as durable steps, each with a deadline and with events; and what happens if the journal fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from vmacro.errors import DeadlineError, InterruptedMoveError, JournalError, VmacroError
from vmacro.model.events import JournalTrouble, PhaseBegan, PhaseEnded, PhaseFailed, What
from vmacro.model.moves import Phase, Plan
from vmacro.model.names import NameFacts
from vmacro.model.nouns import MOST_JOIN_S, Host, Policy
from vmacro.ports import Agent, HostDisks, HostNetwork, Hypervisor, Names, World
from vmacro.wire import agent_verbs

Result = TypeVar("Result")
BEFORE_ARRIVAL = (Phase.HOOKS_BEFORE, Phase.SURVEY, Phase.DISKS, Phase.PREPARE, Phase.COPY)


class Journal(Protocol):
    """Runs a step once: a move that begins again gets the result, or the error, that the step had.

    Raises JournalError if it cannot be written; the step may have been done or not.
    """

    def step(self, name: str, kind: type[Result], act: Callable[[], Result]) -> Result:
        """The result of `act`, now or from before. `kind`: what it returns, to read it back from the journal."""


class Phases:
    """Runs the phases of one attempt at a move."""

    def __init__(self, plan: Plan, world: World, journal: Journal) -> None:
        self._plan, self._world, self._journal = plan, world, journal
        self._began_s = world.clock.monotonic_s()
        self.begun: list[Phase] = []
        self.unwritten = ""  # what the journal said when it failed

    def run(self, phase: Phase, kind: type[Result], act: Callable[[World], Result]) -> Result:
        """Run one phase. If the journal cannot be written before the guest has arrived, the move stops, since it could
        not be resumed; afterwards it goes on. Nothing begins before it is sure that no other process has the guest.
        Raises VmacroError.
        """
        self._world.claim.still()
        self.begun.append(phase)
        self._tell(PhaseBegan(phase))
        attempt = _Once(lambda: act(self._bounded(phase)))
        try:
            result = self._journal.step(phase.value, kind, attempt)
        except JournalError as error:
            result = self._without_journal(phase, attempt, error)
        except VmacroError as error:
            self._tell(PhaseFailed(phase, error.message))
            raise
        self._tell(PhaseEnded(phase))
        return result

    def do(self, phase: Phase, act: Callable[[World], None]) -> None:
        """Run a phase that has no result. The journal keeps that it ended."""

        def acted(world: World) -> bool:
            act(world)
            return True

        self.run(phase, bool, acted)

    def left_s(self) -> float:
        """How long the move may still take until the guest has arrived. Its claim on the guest lasts no longer."""
        return max(0.0, self._began_s + self._plan.policy.move_timeout_s - self._world.clock.monotonic_s())

    def _without_journal(self, phase: Phase, attempt: _Once[Result], error: JournalError) -> Result:
        self._world.claim.still()  # who has taken the move over has closed this attempt in the journal
        if not self.unwritten:
            self._tell(JournalTrouble(phase, error.message))
        self.unwritten = error.message
        stops = phase in BEFORE_ARRIVAL and not (phase == Phase.COPY and attempt.ended)
        try:
            if stops and attempt.error is None:
                raise error
            return attempt.outcome()
        except VmacroError as failed:
            self._tell(PhaseFailed(phase, failed.message))
            raise

    def _bounded(self, phase: Phase) -> World:
        """The world for one phase: once its time is over, nothing more can be asked of hosts, guests and the name
        server. Calls that are under way have limits of their own; so have hooks."""
        world, clock = self._world, self._world.clock
        if phase in BEFORE_ARRIVAL and phase != Phase.COPY and world.cancelled():
            raise InterruptedMoveError("interrupted before the copy began")
        seconds = bound_s(phase, self._plan.policy)
        until = clock.monotonic_s() + seconds
        if phase in BEFORE_ARRIVAL:
            until = min(until, self._began_s + self._plan.policy.move_timeout_s)

        def check() -> None:
            world.claim.see()
            if clock.monotonic_s() > until:
                text = f"phase {phase.value}: not over after {until - self._began_s:g} s of the move"
                raise DeadlineError(text, "policy phase_timeout_s, move_timeout_s")

        def hypervisor(host: Host) -> Hypervisor:
            check()
            return world.hypervisor(host)

        def beside(host: Host) -> Hypervisor:
            check()
            return world.hypervisor_beside(host)

        def agent(host: Host, domain: str) -> AbstractContextManager[Agent]:
            check()
            return world.agent(host, domain)

        def host_network(host: Host) -> HostNetwork:
            check()
            return world.host_network(host)

        def host_disks(host: Host) -> HostDisks:
            check()
            return world.host_disks(host)

        bounded = replace(world, hypervisor=hypervisor, agent=agent, host_network=host_network, host_disks=host_disks)
        return replace(bounded, names=_Bounded(world.names, check), beside=beside)

    def _tell(self, what: What) -> None:
        self._world.tell(self._plan.move_id, what)


def bound_s(phase: Phase, policy: Policy) -> float:
    """How long a phase may take: the wait that has a setting of its own, plus the policy's phase_timeout_s."""
    waiting = {
        Phase.DISKS: policy.move_timeout_s,
        Phase.PREPARE: MOST_JOIN_S,
        Phase.COPY: policy.copy_timeout_s,
        Phase.ARRIVE: policy.arrival_timeout_s,
        Phase.SETTLE: policy.settle_timeout_s,
        Phase.UNDO: 2 * agent_verbs.RETIRE.deadline_s,  # of IPv4 and IPv6: hosts come after the guest
    }
    return policy.phase_timeout_s + waiting.get(phase, 0.0)


class _Bounded:
    """Implements ports.Names, as long as there is time."""

    def __init__(self, names: Names, check: Callable[[], None]) -> None:
        self._names, self._check = names, check

    def look(self, name: str) -> NameFacts:
        self._check()
        return self._names.look(name)

    def replace(self, seen: NameFacts, wanted: tuple[str, ...]) -> bool:
        self._check()
        return self._names.replace(seen, wanted)


class _Once(Generic[Result]):
    """An act that is done at most once, however often its outcome is asked for."""

    def __init__(self, act: Callable[[], Result]) -> None:
        self._act = act
        self._results: list[Result] = []
        self.error: VmacroError | None = None

    @property
    def ended(self) -> bool:
        return bool(self._results) or self.error is not None

    def __call__(self) -> Result:
        try:
            self._results.append(self._act())
        except VmacroError as error:
            self.error = error
            raise
        return self._results[0]

    def outcome(self) -> Result:
        if self.error is not None:
            raise self.error
        return self._results[0] if self._results else self()
