"""What others than hosts and guest are told of a move: the name server, and the operator's own executables.

Nobody waits for them: what fails after the arrival is left for `vmacro resume`, and the move goes on. Both may be done
again, since a step may be cut off before the journal knows that it has ended.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from vmacro.errors import HookError, InterruptedMoveError, NamesError, VmacroError
from vmacro.model.events import HookEnded, NameSet
from vmacro.model.facts import Arrival, HomedAddress, HookEnd
from vmacro.model.moves import Ending, Outcome, Phase, Plan
from vmacro.planning.names import addresses_wanted, led
from vmacro.ports import World
from vmacro.services.handoff import have_the_agent_wait
from vmacro.services.phases import Phases
from vmacro.services.troubles import Troubles

BEFORE, AFTER = "before", "after"
_OF_THE_SERVER = ("silent", "key")  # codes of NamesError that are none of a name's
ATTEMPTS = 5  # at a name that others change at the same time


@dataclass(frozen=True)
class Untold:
    """What is left to be told after the arrival."""

    names: VmacroError | None = None
    hooks: VmacroError | None = None

    def left_in(self, outcome: Outcome) -> Outcome:
        """How the attempt ends, with this left."""
        left = [error for error in (self.names, self.hooks) if error is not None]
        if not left:
            return outcome
        said = [outcome.reason, *(error.message for error in left)]
        hints = [outcome.hint, *(error.hint for error in left)]
        return replace(
            outcome,
            ending=Ending.INCOMPLETE,
            reason="; ".join(text for text in said if text),
            hint=next((hint for hint in hints if hint), ""),
            remains=True,
            names_remain=self.names is not None,
        )


def before(plan: Plan, world: World, phases: Phases) -> None:
    """Before anything is touched. Raises HookError where a hook fails that is to stop the move."""
    if world.inventory.hooks.before:
        coming = [address for address in (plan.new_address, plan.new_address6) if address]
        phases.do(Phase.HOOKS_BEFORE, lambda w: _run_hooks(plan, w, BEFORE, w.inventory.hooks.before, coming))


def after(plan: Plan, world: World, phases: Phases, arrival: Arrival) -> Untold:
    """Once the guest is reached at its new addresses, and before its old ones are withdrawn."""
    hooks = world.inventory.hooks.after
    names = _trouble(phases, Phase.NAMES, partial(_lead_names, plan, arrival)) if plan.guest.names else None
    run = partial(_run_hooks, plan, when=AFTER, paths=hooks, addresses=arrival.present)
    return Untold(names, _trouble(phases, Phase.HOOKS_AFTER, run) if hooks else None)


def _trouble(phases: Phases, phase: Phase, act: partial[None]) -> VmacroError | None:
    try:
        phases.do(phase, lambda world: act(world=world))
    except VmacroError as error:
        return error
    return None


def _lead_names(plan: Plan, arrival: Arrival, world: World) -> None:
    """All of them, whatever is the matter with one; but a server that does not answer, or takes no key, is asked no
    more. Idempotent. Raises the first error."""
    have_the_agent_wait(plan, world)
    first: NamesError | None = None
    for name in plan.guest.names:
        try:
            _lead(name, plan, arrival, world)
        except NamesError as error:
            first = first or error
            if error.code in _OF_THE_SERVER:
                break
    if first is not None:
        raise first


def _lead(name: str, plan: Plan, arrival: Arrival, world: World) -> None:
    """Raises NamesError, also where somebody else has changed the name: then it is left as it is."""
    homed = [HomedAddress(address, plan.source) for address in (plan.address, plan.address6) if address]
    for _ in range(ATTEMPTS):
        seen = world.names.look(name)
        old, present = led(seen, [*homed, *plan.addresses], plan.destination, arrival.present)
        wanted = addresses_wanted(seen, old, present)
        there = " and ".join(present)
        if wanted is None:
            text = f"name {name}: leads to {', '.join(seen.addresses) or 'nothing'}, and not to guest {plan.guest.name}"
            hint = f"it was left as it is: whoever changed it sets it to {there}; then vmacro resume {plan.move_id}"
            raise NamesError(text, hint, "changed")
        if set(wanted) == set(seen.addresses):
            return
        if world.names.replace(seen, wanted):
            world.tell(plan.move_id, NameSet(name, wanted, seen.addresses))
            return
    text = f"name {name}: others changed it {ATTEMPTS} times while it was set to {there}"
    raise NamesError(text, f"vmacro resume {plan.move_id}", "changed")


def _run_hooks(plan: Plan, world: World, when: str, paths: Sequence[str], addresses: Sequence[str]) -> None:
    """All of them, in order, but none after one that stops the move. Raises HookError; InterruptedMoveError."""
    if when == AFTER:
        have_the_agent_wait(plan, world)
    hooks, told, troubles = world.inventory.hooks, _told(plan, when, addresses), Troubles()
    for path in paths:
        if when == BEFORE and world.cancelled():
            raise InterruptedMoveError(f"interrupted before hook {path} began")
        with troubles.of(HookError):
            _run_hook(plan, world, when, path, told)
        if when == BEFORE and hooks.strict:
            troubles.raise_first()
    if hooks.strict:
        troubles.raise_first()


def _run_hook(plan: Plan, world: World, when: str, path: str, told: str) -> None:
    """Tells how it ended. Raises HookError where not well."""
    deadline_s = world.inventory.hooks.deadline_s
    try:
        end = world.hooks.run(path, told, deadline_s)
    except HookError as error:
        world.tell(plan.move_id, HookEnded(path, when, error.message, 0, ""))
        raise
    trouble = _why(end, deadline_s)
    world.tell(plan.move_id, HookEnded(path, when, trouble, end.took_ms, end.said))
    if trouble:
        said = f": {end.said[-300:]}" if end.said else ""
        raise HookError(f"hook {path} ({when}): {trouble}{said}", "hooks.on_failure says what follows from that")


def _why(end: HookEnd, deadline_s: float) -> str:
    if end.late:
        return f"had not ended after {deadline_s:g} s, and was ended"
    if end.code < 0:
        return f"was ended by signal {-end.code}"
    return f"exit status {end.code}" if end.code else ""


def _told(plan: Plan, when: str, new: Sequence[str]) -> str:
    """For programs; docs/names.md has the fields. No secrets."""
    return json.dumps(
        {
            "version": 1,
            "when": when,
            "move": plan.move_id,
            "guest": plan.guest.name,
            "handoff": plan.handoff,
            "operator": plan.operator,
            "from": {"site": plan.source.site, "host": plan.source.name},
            "to": {"site": plan.destination.site, "host": plan.destination.name},
            "old_addresses": [address for address in (plan.address, plan.address6) if address],
            "new_addresses": list(new),
            "names": list(plan.guest.names),
        }
    )
