"""A move, from top to bottom. `tell_the_story` is the order of things; no other file decides it.

Each phase is a step of a durable workflow: its result is in the journal before the next begins.
Before the guest runs at the destination everything rolls back; after it everything goes forward.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Protocol, TypeVar

from vmacro.errors import AgentError, CopyError, HostError, VmacroError
from vmacro.model.facts import Arrival, CopyProgress, CopyStatistics
from vmacro.model.moves import After, Before, ConnectionOutcome, Ending, Outcome, Phase, Plan
from vmacro.planning.outcome import compare
from vmacro.ports import World
from vmacro.services import survey
from vmacro.services.handoff import Handoff
from vmacro.services.handoffs import HANDOFFS

Result = TypeVar("Result")
_MAYBE_STATISTICS: type[CopyStatistics | None] = CopyStatistics | None  # type: ignore[assignment]


class Journal(Protocol):
    """Runs a step once: a move that begins again gets the result that the step had."""

    def step(self, name: str, kind: type[Result], act: Callable[[], Result]) -> Result: ...


def tell_the_story(plan: Plan, world: World, journal: Journal) -> Outcome:
    """One move, already checked and planned. Never raises for what the world does to it."""
    began = world.clock.monotonic_s()
    handoff = HANDOFFS[plan.handoff]
    phase = _Phases(plan, world, journal)
    try:
        seen = phase.run(Phase.SURVEY, Before, lambda: _look_once_more(plan, world))
        before = phase.run(Phase.PREPARE, Before, lambda: handoff.prepare(plan, world, seen))
        statistics = phase.run(Phase.COPY, _MAYBE_STATISTICS, lambda: _copy(plan, world, handoff))
    except VmacroError as error:
        return _back_out(plan, world, phase, error)
    outcome = Outcome(Ending.MOVED, statistics=statistics)
    try:
        arrival = phase.run(Phase.ARRIVE, Arrival, lambda: handoff.arrive(plan, world))
        outcome = replace(outcome, arrival=arrival)
        after = phase.run(Phase.SETTLE, After, lambda: handoff.settle(plan, world, before, arrival))
        found = compare(before.connections, after.connections, arrival.present, after.carried)
        outcome = replace(outcome, connections=tuple(found), carried=after.carried)
        phase.do(Phase.VERIFY, lambda: _verify_health(plan, world))
        phase.do(Phase.CLEAN, lambda: handoff.clean(plan, world, after))
    except VmacroError as error:
        outcome = replace(outcome, ending=Ending.INCOMPLETE, reason=error.message, hint=error.hint)
    lost = [c for c in outcome.connections if not c.kept]
    if outcome.ending == Ending.MOVED and lost and not plan.policy.allow_connection_loss:
        outcome = _with_losses(outcome, lost)
    return replace(outcome, wall_s=round(world.clock.monotonic_s() - began, 3))


class _Phases:
    """Runs phases as steps, and tells of each."""

    def __init__(self, plan: Plan, world: World, journal: Journal) -> None:
        self._plan, self._world, self._journal = plan, world, journal

    def run(self, phase: Phase, kind: type[Result], act: Callable[[], Result]) -> Result:
        self._world.tell(self._plan.move_id, "phase.begin", phase.value, phase=phase.value)
        try:
            result = self._journal.step(phase.value, kind, act)
        except VmacroError as error:
            self._world.tell(self._plan.move_id, "phase.failed", f"{phase.value}: {error.message}", phase=phase.value)
            raise
        self._world.tell(self._plan.move_id, "phase.end", phase.value, phase=phase.value)
        return result

    def do(self, phase: Phase, act: Callable[[], None]) -> None:
        """A phase without a result; what is written down is that it ended."""

        def acted() -> bool:
            act()
            return True

        self.run(phase, bool, acted)


def _look_once_more(plan: Plan, world: World) -> Before:
    """The connections as they are now: some have come since the checks."""
    with world.agent(plan.source, plan.guest.domain) as agent:
        facts, connections = agent.status(), agent.connections()
    return Before(facts.boot_id, connections)


def _copy(plan: Plan, world: World, handoff: Handoff) -> CopyStatistics | None:
    """Live migration; ends when the guest runs at the destination, which is the point of no return."""
    source, destination = world.hypervisor(plan.source), world.hypervisor(plan.destination)

    def report(progress: CopyProgress) -> None:
        done = progress.bytes_total - progress.bytes_remaining
        percent = 100 * done // progress.bytes_total if progress.bytes_total else 0
        text = f"{percent} %, {progress.rate_mib_s:.1f} MiB/s, pass {progress.iteration}"
        world.tell(
            plan.move_id,
            "copy.progress",
            text,
            percent=percent,
            bytes_sent=progress.bytes_sent,
            bytes_remaining=progress.bytes_remaining,
            bytes_total=progress.bytes_total,
            dirty_mib_s=round(progress.dirty_mib_s, 2),
            rate_mib_s=round(progress.rate_mib_s, 2),
            iteration=progress.iteration,
        )

    with ExitStack() as watching:
        for name, host, hypervisor in (
            ("source", plan.source, source),
            ("destination", plan.destination, destination),
        ):
            watching.enter_context(hypervisor.watch(plan.guest.domain, _teller(plan, world, name, host.name)))
        watching.enter_context(handoff.watching(plan, world))
        if survey.where([plan.source, plan.destination], plan.guest, world) != [plan.destination]:
            source.copy(plan.guest.domain, plan.destination, plan.policy, report, world.cancelled)
    return destination.statistics(plan.guest.domain)


def _teller(plan: Plan, world: World, side: str, host: str) -> Callable[[str, str], None]:
    def see(event: str, detail: str) -> None:
        world.tell(plan.move_id, "domain", f"{event} at {host}", side=side, host=host, event=event, detail=detail)

    return see


def _verify_health(plan: Plan, world: World) -> None:
    """libvirt's word is no proof: the same boot, alive, answering. Raises AgentError."""
    with world.agent(plan.destination, plan.guest.domain) as agent:
        facts = agent.status()
    if facts.boot_id != plan.boot_id:
        text = f"guest {plan.guest.name}: it rebooted during the move (boot id {facts.boot_id}, was {plan.boot_id})"
        raise AgentError(text, "look at its console on the destination")


def _back_out(plan: Plan, world: World, phase: _Phases, error: VmacroError) -> Outcome:
    """Look where the guest is, and only then undo. Where it cannot be known, touch nothing."""
    try:
        places = survey.where([plan.source, plan.destination], plan.guest, world)
    except HostError as blind:
        return Outcome(Ending.UNCERTAIN, f"{error.message}; and then: {blind.message}", _UNCERTAIN_HINT)
    if places == [plan.destination] and isinstance(error, CopyError):
        return Outcome(Ending.INCOMPLETE, f"the guest runs at {plan.destination.name}, but: {error.message}")
    if places != [plan.source]:
        seen = " and ".join(h.name for h in places) or "neither host"
        return Outcome(Ending.UNCERTAIN, f"{error.message}; the guest runs on {seen}", _UNCERTAIN_HINT)
    try:
        phase.do(Phase.CLEAN, lambda: HANDOFFS[plan.handoff].undo_prepare(plan, world))
    except VmacroError as left:
        return Outcome(Ending.ROLLED_BACK, f"{error.message}; and undoing what was prepared: {left.message}", left.hint)
    return Outcome(Ending.ROLLED_BACK, error.message, error.hint)


_UNCERTAIN_HINT = "nothing was touched: look with `virsh list --all` on both hosts before you start anything"


def _with_losses(outcome: Outcome, lost: list[ConnectionOutcome]) -> Outcome:
    names = ", ".join(c.client for c in lost[:5])
    return replace(outcome, ending=Ending.INCOMPLETE, reason=f"{len(lost)} connections did not follow: {names}")
