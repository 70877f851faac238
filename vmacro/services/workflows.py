"""The durable workflows there are: a move, the carriage of each address that it leaves in use, and a try at a move of a
batch."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from vmacro.errors import JournalError
from vmacro.model.batches import Try
from vmacro.model.moves import Ending, Noted, Outcome, Plan
from vmacro.planning.resuming import as_the_inventory_has_it
from vmacro.ports import World
from vmacro.services import carry, journal, migrate
from vmacro.services.crew import Crew
from vmacro.services.journal_json import (
    CARRY_STEP,
    carriage_from,
    decoded,
    encoded,
    noted_as_plain,
    noted_from,
    outcome_from,
    plan_from,
)
from vmacro.services.journal_rows import CARRY, MIGRATE, TRY


@journal.workflow(MIGRATE)
def _migrate(world: World, plan: dict[str, Any], inherited: list[dict[str, Any]]) -> dict[str, Any]:
    chosen, _ = plan_from(plan, "the plan of a move")
    steps = journal.Steps(noted_from(item, "a step of an earlier attempt") for item in inherited)
    outcome = migrate.run_move(chosen, world, steps, again=bool(inherited))
    plain: dict[str, Any] = encoded(outcome)
    journal.remember(plain)
    began_s = steps.step(CARRY_STEP, float, time.time) if outcome.carried else 0.0
    for carriage in carry.carriages(chosen, outcome, began_s):
        # Of each attempt its own: the one of an earlier attempt may have ended, and is not begun again.
        journal.enqueue(_carry, f"carry-{carriage.address}-{journal.present_id()}", encoded(carriage))
    return plain


@journal.workflow(CARRY, by_itself=True)
def _carry(world: World, carriage: dict[str, Any]) -> str:
    found = carriage_from(carriage, "a carriage")
    return carry.run_carriage(as_the_inventory_has_it(found, world.inventory), world, journal.Steps())


@journal.work(TRY)
def _try(crew: Crew, tried: dict[str, Any]) -> dict[str, Any]:
    wanted: Try = decoded(Try, tried, "a try at a move of a batch")
    if wanted.name != journal.present_id():  # no leader would count it
        raise JournalError(f"try {journal.present_id()[:100]} cannot be read: it is {wanted.name}")
    plain: dict[str, Any] = encoded(crew.carry_out(wanted))
    return plain


def submit(tried: Try) -> None:
    """Have a worker try a move of a batch; once more is as good as once. Raises SQLAlchemyError, JournalError."""
    journal.submit(_try, tried.name, encoded(tried))


def run(plan: Plan, world: World, attempt: int = 1, inherited: Iterable[Noted] = ()) -> Outcome:
    """One attempt at a move, to its end. Each is a workflow of its own: MOVE_ID, then MOVE_ID+2 and so on. Raises
    JournalError where a host or the guest of the plan is not in the inventory; nothing was changed then."""
    name = plan.move_id if attempt == 1 else f"{plan.move_id}+{attempt}"
    known = as_the_inventory_has_it(plan, world.inventory)
    arguments = encoded(known), [noted_as_plain(noted) for noted in inherited]
    result, trouble = journal.run(_migrate, name, world, *arguments)
    outcome = outcome_from(result, f"move {plan.move_id}: its outcome")
    if not trouble:
        return outcome
    ending = Ending.INCOMPLETE if outcome.ending == Ending.MOVED else outcome.ending
    return replace(outcome, ending=ending, reason=outcome.reason or trouble, remains=True)
