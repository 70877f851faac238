"""history, show: what the journal knows."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from vmacro import wiring
from vmacro.cli import render, telling
from vmacro.cli.options import InventoryOption, JsonOption
from vmacro.errors import ConfigurationError, JournalError
from vmacro.model.moves import Noted
from vmacro.services import report
from vmacro.services.archive import Archive, Record, Unreadable
from vmacro.services.event_json import as_plain
from vmacro.wire.text import many

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
    rows: list[tuple[object, ...]] = []
    for record in records:
        if isinstance(record, Unreadable):
            blank, began = ("",) * 4, _clock(record.began_ms, True)
            rows.append((record.move_id, record.guest, *blank, began, record.attempts, None, None, "cannot be read"))
            continue
        plan, outcome = record.plan, record.outcome
        downtime = outcome.downtime_ms if outcome else None
        wall = outcome.wall_s if outcome else None
        whole = (plan.move_id, plan.guest.name, plan.source.site, plan.destination.site, plan.handoff, plan.operator)
        rows.append((*whole, _clock(record.began_ms, True), record.attempts, downtime, wall, _ended(record)))
    if json:
        render.as_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        render.table(render.rows("", columns, rows))


def show(move_id: MoveArgument, inventory: InventoryOption = None, json: JsonOption = False) -> None:
    """One move: its plan, its phases, what each found, what happened meanwhile, how it ended, what is left."""
    settings = wiring.load(inventory)
    with wiring.archive(settings) as archive:
        record, (steps, untold) = archive.move(move_id), _steps(archive, move_id)
        carried = [c.address for c in archive.carriages() if c.move_id == move_id]
    if record is None:
        raise ConfigurationError(f"move {move_id!r}: not in the journal", "`vmacro history` lists them")
    left, events = _left(record, carried), report.story(telling.event_log(settings), move_id)
    if json:
        shown = [{**asdict(s), "error": str(s.error) if s.error else ""} for s in steps]
        told = [as_plain(event) for event in events]
        render.as_json({"record": asdict(record), "steps": shown, "untold": untold, "left": left, "events": told})
        return
    plan = record.plan
    heading = f"{plan.move_id}: {plan.guest.name}, {plan.source.name} to {plan.destination.name}, {plan.handoff}"
    rows = [(s.name, _clock(s.began_ms), s.ended_ms - s.began_ms, _found(s)) for s in steps]
    render.table(render.rows(heading, ("phase", "began", "ms", "found"), rows, untold))
    if (meanwhile := render.meanwhile(events)).rows:
        render.table(meanwhile)
    outcome = record.outcome
    ended = f"ended: {_ended(record)}" + (f": {outcome.reason}" if outcome and outcome.reason else "")
    render.say(ended + (f"\n  hint: {outcome.hint}" if outcome and outcome.hint else ""))
    for text in left or ["nothing"]:
        render.say(f"left: {text}")


def _steps(archive: Archive, move_id: str) -> tuple[list[Noted], str]:
    """The phases, and why they cannot be told if so."""
    try:
        return archive.steps(move_id), ""
    except JournalError as error:
        return [], error.message


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
        return many(len(found["connections"]), "connection")
    if step.name == "copy":
        return f"downtime {found['downtime_ms']} ms, {found['bytes_transferred'] >> 20} MiB" if found else "no figures"
    if step.name == "arrive":
        return f"{found['old']} to {found['new']}, seen by {found['seen_by']}"
    if step.name == "settle":
        carried = ", ".join(found["carried"])
        return many(len(found["connections"]), "connection") + (f", carried: {carried}" if carried else "")
    return "rebooted" if step.name == "verify" and found is False else "ok"


def _clock(ms: int, date: bool = False) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S", time.localtime(ms / 1000))
