"""history, show: what the journal knows."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from vmacro.cli import render, wiring
from vmacro.cli.move import InventoryOption, JsonOption
from vmacro.errors import ConfigurationError
from vmacro.model.moves import Noted
from vmacro.services.archive import Record

MoveArgument = Annotated[str, typer.Argument(metavar="MOVE", help="as `vmacro history` names it")]


def history(
    inventory: InventoryOption = None,
    json: JsonOption = False,
    limit: Annotated[int, typer.Option(min=1, help="newest moves only")] = 20,
) -> None:
    """Moves so far, newest first, out of the journal."""
    settings = wiring.load(inventory)
    with wiring.archive(settings) as archive:
        records = archive.moves(limit)
    columns = ("move", "guest", "from", "to", "handoff", "by", "began", "attempts", "downtime ms", "wall s", "ended")
    rows = []
    for record in records:
        plan, outcome = record.plan, record.outcome
        downtime = outcome.statistics.downtime_ms if outcome and outcome.statistics else None
        wall = outcome.wall_s if outcome else None
        whole = (plan.move_id, plan.guest.name, plan.source.site, plan.destination.site, plan.handoff, plan.operator)
        rows.append((*whole, _clock(record.began_ms, True), record.attempts, downtime, wall, _ended(record)))
    if json:
        render.as_json([dict(zip(columns, row)) for row in rows])
    else:
        render.table(render.rows("", columns, rows))


def show(move_id: MoveArgument, inventory: InventoryOption = None, json: JsonOption = False) -> None:
    """One move: its plan, its phases, what each found, how it ended, what is left."""
    settings = wiring.load(inventory)
    with wiring.archive(settings) as archive:
        record, steps = archive.move(move_id), archive.steps(move_id)
        carried = [c.address for c in archive.carriages() if c.move_id == move_id]
    if record is None:
        raise ConfigurationError(f"move {move_id!r}: not in the journal", "`vmacro history` lists them")
    left = _left(record, carried)
    if json:
        shown = [{**asdict(s), "error": str(s.error) if s.error else ""} for s in steps]
        render.as_json({"record": asdict(record), "steps": shown, "left": left})
        return
    plan = record.plan
    heading = f"{plan.move_id}: {plan.guest.name}, {plan.source.name} to {plan.destination.name}, {plan.handoff}"
    rows = [(s.name, _clock(s.began_ms), s.ended_ms - s.began_ms, _found(s)) for s in steps]
    render.table(render.rows(heading, ("phase", "began", "ms", "found"), rows))
    outcome = record.outcome
    ended = f"ended: {_ended(record)}" + (f": {outcome.reason}" if outcome and outcome.reason else "")
    render.out.print(ended + (f"\n  hint: {outcome.hint}" if outcome and outcome.hint else ""))
    for text in left or ["nothing"]:
        render.out.print(f"left: {text}")


def _ended(record: Record) -> str:
    return record.outcome.ending.value if record.outcome is not None else "not yet"


def _left(record: Record, carried: list[str]) -> list[str]:
    left = [f"{address} is carried: vmacro carried" for address in carried]
    if record.unfinished:
        left.append(f"vmacro resume {record.plan.move_id}, or vmacro abort {record.plan.move_id}")
    return left


def _found(step: Noted) -> str:
    """A phase's result in a few words."""
    if step.error is not None:
        return f"failed: {step.error.message}"
    found: Any = step.result
    if step.name in ("survey", "prepare") and found:
        return f"{len(found['connections'])} connections"
    if step.name == "copy":
        return f"downtime {found['downtime_ms']} ms, {found['bytes_transferred'] >> 20} MiB" if found else "no figures"
    if step.name == "arrive":
        return f"{found['old']} to {found['new']}, seen by {found['seen_by']}"
    if step.name == "settle":
        carried = ", ".join(found["carried"])
        return f"{len(found['connections'])} connections" + (f", carried: {carried}" if carried else "")
    return "ok"


def _clock(ms: int, date: bool = False) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S", time.localtime(ms / 1000))
