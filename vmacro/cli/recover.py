"""resume, abort, cleanup: after an orchestrator, a host or a person has failed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vmacro.cli import render, wiring
from vmacro.cli.history import MoveArgument
from vmacro.cli.move import InventoryOption, JsonOption, ReportOption
from vmacro.errors import ConfigurationError, VmacroError
from vmacro.inventory import Settings
from vmacro.model.events import Event
from vmacro.model.moves import EXIT_CODES, Ending
from vmacro.planning.resuming import inherited
from vmacro.ports import World
from vmacro.services import leftovers, report
from vmacro.services.archive import Record

MaybeMove = Annotated[str, typer.Argument(metavar="[MOVE]", help="default: the one that has not ended")]


def resume(
    move_id: MaybeMove = "",
    report_dir: ReportOption = None,
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """Go on with a move that was cut off, is incomplete, or left it uncertain where the guest is."""
    settings = wiring.load(inventory)
    raise typer.Exit(_go_on(settings, move_id or _only_unfinished(settings), report_dir, json, abort=False))


def abort(
    move_id: MoveArgument,
    report_dir: ReportOption = None,
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """Undo a move that was cut off; past the point of no return, finish it instead."""
    raise typer.Exit(_go_on(wiring.load(inventory), move_id, report_dir, json, abort=True))


def cleanup(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be removed")] = False,
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """Remove what ended moves of this journal left at hosts and in guests; exit code 1 if something stays."""
    settings = wiring.load(inventory)
    with wiring.archive(settings) as archive, wiring.opened(settings) as world:
        moves, carried = archive.moves(limit=1000), archive.carriages()
        found = leftovers.find(settings.inventory, moves, carried, world)
        rows = []
        for left in found:
            did = "would be removed" if left.ours else "not ours: stays"
            if left.ours and not dry_run:
                did = _removed(settings, left, world)
            rows.append((left.host, left.move_id, left.what, did))
    if json:
        render.as_json([{**asdict(left), "did": row[-1]} for left, row in zip(found, rows)])
    else:
        render.table(render.rows("", ("at", "move", "what", ""), rows))
    raise typer.Exit(1 if any(row[-1] != "removed" for row in rows) and not dry_run else 0)


def _removed(settings: Settings, left: leftovers.Leftover, world: World) -> str:
    try:
        with wiring.claimed(settings, left.guest):
            leftovers.remove(settings.inventory, left, world)
        return "removed"
    except VmacroError as error:
        return error.message


def _go_on(settings: Settings, move_id: str, report_dir: Path | None, json: bool, abort: bool) -> int:
    events: list[Event] = []
    guest = _record(settings, move_id).plan.guest.name
    with render.stream(json) as show:

        def publish(event: Event) -> None:
            events.append(event)
            show(event)

        with (
            wiring.claimed(settings, guest),
            wiring.interruptible(publish) as interrupted,
            wiring.opened(settings, publish, lambda: abort or interrupted()) as world,
            wiring.runner(settings, world) as run,
            wiring.archive(settings) as archive,
        ):
            record = _record(settings, move_id)
            if record.outcome is not None and not record.outcome.remains:
                text = f"move {move_id}: {record.outcome.ending.value} already; there is nothing to do"
                world.tell(move_id, "note", text)
                return EXIT_CODES[record.outcome.ending]
            steps = inherited(archive.steps(move_id), record.outcome)
            archive.give_up(move_id)
            outcome = run(record.plan, record.attempts + 1, steps)
    figures = report.write(report_dir or Path("report") / move_id, record.plan, outcome, events, None)
    if json:
        render.as_json(figures)
    else:
        where = record.plan.source if outcome.ending == Ending.ROLLED_BACK else record.plan.destination
        place = "" if outcome.ending == Ending.UNCERTAIN else f"; the guest runs at {where.name}"
        render.out.print(f"{move_id}: {outcome.ending.value}{place}{': ' if outcome.reason else ''}{outcome.reason}")
        if outcome.hint:
            render.out.print(f"  hint: {outcome.hint}")
    return outcome.exit_code


def _record(settings: Settings, move_id: str) -> Record:
    with wiring.archive(settings) as archive:
        record = archive.move(move_id)
    if record is None:
        raise ConfigurationError(f"move {move_id!r}: not in the journal", "`vmacro history` lists them")
    return record


def _only_unfinished(settings: Settings) -> str:
    with wiring.archive(settings) as archive:
        unfinished = [r.plan.move_id for r in archive.unfinished()]
    if len(unfinished) != 1:
        seen = ", ".join(unfinished) or "no move is unfinished"
        raise ConfigurationError(f"resume: which move? {seen}", "vmacro resume MOVE")
    return unfinished[0]
