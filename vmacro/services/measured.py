"""A move with its circumstances: checked, measured from a client while it happens, reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vmacro.errors import PlanRejectedError, RolledBackError
from vmacro.model.events import Event
from vmacro.model.facts import Survey
from vmacro.model.moves import Finding, Outcome, Plan
from vmacro.model.nouns import Inventory, ProbeTarget
from vmacro.planning import checks, planner
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request
from vmacro.ports import World
from vmacro.services.survey import survey

# Enough of both for a median that means something.
LEAD_IN_S, LEAD_OUT_S = 3.0, 4.0
_ABOUT_CLIENTS = ("client-plain-tcp", "client-refuses-add-addr")


class Prober(Protocol):
    def start(self, address: str, target: ProbeTarget, recording: Path) -> None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True)
class Done:
    plan: Plan
    outcome: Outcome
    findings: tuple[Finding, ...]
    recording: Path | None
    events: tuple[Event, ...] = field(default=())


def checked(inventory: Inventory, request: Request, world: World, ask_clients: bool) -> tuple[Survey, list[Finding]]:
    """Survey and findings; changes nothing but, to ask clients, an address borrowed, announced and withdrawn."""
    seamless = request.handoff == SEAMLESS  # it carries those who cannot follow, and need not ask before
    seen = survey(inventory, request.guest, world, ask_clients and not seamless, ask_host_sides=seamless)
    return seen, checks.check(request, seen)


def move(
    inventory: Inventory,
    request: Request,
    world: World,
    run: Callable[[Plan], Outcome],
    name: Callable[[], str],
    prober: Prober | None,
    folder: Callable[[str], Path],
) -> Done:
    """Raises PlanRejectedError with all blockers; RolledBackError if interrupted before anything began."""
    first, findings = checked(inventory, request, world, ask_clients=False)
    _reject([f for f in findings if f.code not in _ABOUT_CLIENTS])
    move_id = name()
    recording = _start(prober, request, first, folder(move_id))
    try:
        if recording is not None:
            world.tell(move_id, "note", "measuring round trips from the client before the move")
            _wait(world, LEAD_IN_S)
        seen, findings = checked(inventory, request, world, ask_clients=True)
        _reject(findings)
        if world.cancelled():
            raise RolledBackError(f"guest {request.guest.name}: interrupted before the move began; nothing was changed")
        plan = planner.plan(move_id, inventory, request, seen)
        outcome = run(plan)
        if recording is not None:
            world.tell(move_id, "note", "measuring round trips after the move")
            world.clock.sleep(LEAD_OUT_S)
    finally:
        if prober is not None:
            prober.stop()
    return Done(plan, outcome, tuple(findings), recording)


def _start(prober: Prober | None, request: Request, seen: Survey, folder: Path) -> Path | None:
    target = request.guest.probe
    if prober is None or target is None or seen.agent is None:
        return None
    recording = folder / "rtt.ndjson"
    prober.start(target.address or seen.agent.address, target, recording)
    return recording


def _wait(world: World, seconds: float) -> None:
    end = world.clock.monotonic_s() + seconds
    while world.clock.monotonic_s() < end and not world.cancelled():
        world.clock.sleep(0.05)


def _reject(findings: list[Finding]) -> None:
    blocking = checks.blockers(findings)
    if blocking:
        lines = [f"  {f.subject}: {f.message}" + (f"\n    hint: {f.hint}" if f.hint else "") for f in blocking]
        raise PlanRejectedError("the move was not started; nothing was changed:\n" + "\n".join(lines))
