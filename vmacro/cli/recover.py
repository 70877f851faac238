"""resume, abort, cleanup: after an orchestrator, a host or a person has failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vmacro import wiring
from vmacro.cli import render
from vmacro.cli.move import InventoryOption, JsonOption, ReportOption, show_ending, show_troubles, under_control
from vmacro.errors import VmacroError
from vmacro.inventory import Settings
from vmacro.ports import World
from vmacro.services import leftovers
from vmacro.services.moves import Control, Moves, Report

MaybeMove = Annotated[str, typer.Argument(metavar="[MOVE]", help="default: the one that has not ended")]


def resume(
    move_id: MaybeMove = "",
    report_dir: ReportOption = None,
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """Go on with a move that was cut off, is incomplete, or left it uncertain where the guest is."""
    raise typer.Exit(_go_on(inventory, move_id, report_dir, json, Moves.resume))


def abort(
    move_id: MaybeMove = "",
    report_dir: ReportOption = None,
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """Undo a move that was cut off; past the point of no return, finish it instead."""
    raise typer.Exit(_go_on(inventory, move_id, report_dir, json, Moves.abort))


def cleanup(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be removed")] = False,
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """Remove what ended moves of this journal left at hosts and in guests; exit code 1 if something stays."""
    settings = wiring.load(inventory)
    with wiring.archive(settings) as archive, wiring.opened(settings) as world:
        moves, carried = archive.readable(limit=1000), archive.carriages()
        found = leftovers.find(settings.inventory, moves, carried, world)
        rows = []
        for left in found:
            did = "would be removed" if left.ours else "not ours: stays"
            if left.ours and not dry_run:
                did = _removed(settings, left, world)
            rows.append((left.host, left.move_id, left.what, did))
    if json:
        render.as_json([{**asdict(left), "did": row[-1]} for left, row in zip(found, rows, strict=True)])
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


def _go_on(
    inventory: Path | None,
    move_id: str,
    report_dir: Path | None,
    json: bool,
    how: Callable[[Moves, str, Control, Callable[[str], Path]], Report],
) -> int:
    with under_control(wiring.load(inventory), json) as (moves, control):
        chosen = move_id or moves.the_unfinished()
        report = how(moves, chosen, control, lambda name: report_dir or wiring.REPORTS / name)
    show_troubles(report)
    if json:
        render.as_json(report.figures)
    else:
        show_ending(report)
    return report.outcome.exit_code
