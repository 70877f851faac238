"""resume, abort, cleanup: after an orchestrator, a host or a person has failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from vmacro import moving, wiring
from vmacro.cli import render
from vmacro.cli.move import show_ending, show_troubles, under_control
from vmacro.cli.options import InventoryOption, JsonOption
from vmacro.cli.places import ReportOption
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


def _go_on(
    inventory: Path | None,
    move_id: str,
    report_dir: Path | None,
    json: bool,
    how: Callable[[Moves, str, Control, Callable[[str], Path]], Report],
) -> int:
    with under_control(wiring.load(inventory), json) as (moves, control):
        chosen = move_id or moves.the_unfinished()
        report = how(moves, chosen, control, lambda name: report_dir or moving.REPORTS / name)
    show_troubles(report)
    if json:
        render.as_json(report.figures)
    else:
        show_ending(report)
    return report.outcome.exit_code
