"""A move with its circumstances: checked, measured from a client while it happens, reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from textwrap import indent
from typing import Protocol, TypeVar

from vmacro.errors import HostError, PlanRejectedError, RolledBackError, TakenError, VmacroError
from vmacro.model.events import Note
from vmacro.model.facts import NO_PAST, Past, Survey
from vmacro.model.moves import Finding, Outcome, Plan, StoppedError
from vmacro.model.nouns import Inventory, ProbeTarget
from vmacro.planning import checks, planner
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request
from vmacro.ports import World
from vmacro.services import dhcp, waiting
from vmacro.services.reservations import Reservations
from vmacro.services.survey import Views, survey, uncounted

# Long enough before and after the move for a meaningful median.
LEAD_IN_S, LEAD_OUT_S = 3.0, 4.0
LOOKS = 5
Answer = TypeVar("Answer")
_ABOUT_CLIENTS = ("client-plain-tcp", "client-refuses-add-addr", "client-ipv6-only", "client-slots-taken")


class Prober(Protocol):
    """Measures round trips to a guest while it moves. Both methods raise VmacroError."""

    def start(self, address: str, target: ProbeTarget, recording: Path) -> None:
        """Begin to measure, and return with the first round trip in the recording. Raises OSError where it cannot be
        written."""

    def stop(self) -> None:
        """End, once what is outstanding has come. Idempotent."""


@dataclass(frozen=True)
class Done:
    """A move, and the recording of what its prober measured, if there is one; `trouble` says why its prober could not
    record."""

    plan: Plan
    outcome: Outcome
    recording: Path | None
    trouble: str = ""


def look(
    inventory: Inventory,
    request: Request,
    world: World,
    ask_clients: bool,
    counted: Callable[[Views], Views] = uncounted,
    past: Past = NO_PAST,
    measure: bool = True,
) -> Survey:
    """What checks and planner need to know, with what `counted` adds; changes nothing but, to ask clients, an address
    borrowed, announced and withdrawn. `measure`: for some seconds, how fast the guest changes its memory."""
    seamless = request.handoff == SEAMLESS  # it carries those who cannot follow, and need not ask before
    ask = ask_clients and not seamless
    known = (inventory, request.guest, world, ask, seamless, counted, past)
    return survey(*known, ask_names=True, compare=True, measure=measure)


def planned(move_id: str, inventory: Inventory, request: Request, survey: Survey) -> Plan:
    """What a move would do. Raises StoppedError with all findings."""
    _reject(checks.check(request, survey))
    return planner.plan(move_id, inventory, request, survey)


def move(
    inventory: Inventory,
    request: Request,
    world: World,
    run: Callable[[Plan], Outcome],
    name: Callable[[], str],
    prober: Prober | None,
    folder: Callable[[str], Path],
    reservations: Reservations,
    past: Past = NO_PAST,
) -> Done:
    """Raises StoppedError with all findings; RolledBackError if interrupted before anything began. `past`: what
    the journal knows of the guest, which changes for nobody else as long as it is claimed."""
    heeding = _heeding(world, request)
    first = look(inventory, request, heeding, False, reservations.counted, past, measure=False)
    _reject([f for f in checks.check(request, first) if f.code not in _ABOUT_CLIENTS])
    move_id = name()
    recording, trouble = _start(prober, request, first, folder(move_id))
    if trouble:
        world.tell(move_id, Note(trouble))
    began = False
    try:
        if recording is not None:
            world.tell(move_id, Note("measuring round trips from the client before the move"))
            _wait(world, LEAD_IN_S)
        with _reserved(move_id, inventory, request, world, reservations, past) as plan:
            if world.cancelled():
                raise _interrupted(request)
            began = True
            outcome = run(plan)
        if recording is not None:
            world.tell(move_id, Note("measuring round trips after the move"))
            world.clock.sleep(LEAD_OUT_S)
    finally:
        if prober is not None:
            prober.stop()
        if recording is not None and not began:
            _remove(recording)
    return Done(plan, outcome, recording, trouble)


def _interrupted(request: Request) -> RolledBackError:
    return RolledBackError(f"guest {request.guest.name}: interrupted before the move began; nothing was changed")


def _heeding(world: World, request: Request) -> World:
    """Who asks hosts of it waits for none that hangs once the move is cancelled: answers to what only looks are left
    behind. Raises RolledBackError then."""

    def ask(questions: Sequence[Callable[[], Answer]], within_s: float) -> list[Answer | None]:
        return waiting.call(lambda: world.side_by_side(questions, within_s), unless)

    def unless() -> None:
        if world.cancelled():
            raise _interrupted(request)

    return replace(world, side_by_side=ask)


@contextmanager
def _reserved(
    move_id: str, inventory: Inventory, request: Request, world: World, reservations: Reservations, past: Past
) -> Iterator[Plan]:
    """The plan, with what it counts on reserved: memory and address in this process, the address in DHCP, too, which
    is how processes and orchestrators share a site. Another move may have taken the address that was asked about, so
    that this one gets an address of which nobody knows who uses it, or may take it before it is reserved: then look
    again. Raises PlanRejectedError."""
    for _ in range(LOOKS):
        # What the guest writes is reckoned with only as long as no copy has shown what comes of it.
        seen = look(inventory, request, world, True, reservations.counted, past, measure=not past.copies)
        with reservations.planned(seen, partial(planned, move_id, inventory, request)) as plan:
            if seen.view(plan.destination.name).probed in ("", plan.new_address) and _is_first(plan, world):
                try:
                    yield plan
                except VmacroError:  # nothing has begun: of what has, there is an outcome
                    _give_back(plan, world)
                    raise
                return
    text = f"guest {request.guest.name}: other moves took {LOOKS} addresses while it was planned; nothing was changed"
    raise PlanRejectedError(text, "try again")


def _is_first(plan: Plan, world: World) -> bool:
    """Whether nobody else has reserved the new address since it was chosen. From now on it is this move's, by its mark:
    if this process dies before the journal has the move, `vmacro cleanup` knows by this note that it was ours. Raises
    PlanRejectedError."""
    if not plan.reserve:
        return True
    world.tell(plan.move_id, Note(f"reserving {plan.new_address} at {plan.destination.name}"))
    try:
        dhcp.reserve(plan, world)
    except TakenError as error:
        world.tell(plan.move_id, Note(f"{error.message}; looking for another"))
        return False
    except HostError as error:
        _give_back(plan, world)  # it may have been made all the same
        raise PlanRejectedError(f"the move was not started: {error.message}", error.hint) from error
    return True


def _give_back(plan: Plan, world: World) -> None:
    try:
        dhcp.release(plan, world)
    except HostError as error:
        world.tell(plan.move_id, Note(f"{error.message}; `vmacro cleanup` removes it"))


def _start(prober: Prober | None, request: Request, seen: Survey, folder: Path) -> tuple[Path | None, str]:
    """The recording, or why none can be kept here: that stops no move."""
    target = request.guest.probe
    if prober is None or target is None or seen.agent is None:
        return None, ""
    recording = folder / "rtt.ndjson"
    try:
        prober.start(target.address or seen.agent.address, target, recording)
    except OSError as error:
        return None, f"round trips are not measured: {error}"
    return recording, ""


def _remove(recording: Path) -> None:
    """Of a move that was refused there is no report; nor its folder, unless it has something else."""
    with suppress(OSError):
        for path in (recording, recording.with_suffix(".log")):
            path.unlink(missing_ok=True)
        recording.parent.rmdir()


def _wait(world: World, seconds: float) -> None:
    end = world.clock.monotonic_s() + seconds
    while world.clock.monotonic_s() < end and not world.cancelled():
        world.clock.sleep(0.05)


def _reject(findings: list[Finding]) -> None:
    if checks.blockers(findings):
        told = "\n".join(finding.text for finding in findings)
        text = f"the move was not started; nothing was changed:\n{indent(told, '  ')}"
        raise StoppedError(text, findings=tuple(findings))
