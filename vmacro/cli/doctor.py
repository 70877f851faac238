"""doctor: what is missing, everywhere, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict

import typer

from vmacro import wiring
from vmacro.cli import render
from vmacro.cli.check import show_findings
from vmacro.cli.options import InventoryOption, JsonOption
from vmacro.planning.checks import blockers
from vmacro.services.doctor import examine


def doctor(inventory: InventoryOption = None, json: JsonOption = False) -> None:
    """Look at every host and guest, and say all that is missing, each with its fix. Changes nothing; exit code 3 if
    something would block a move."""
    settings = wiring.load(inventory)
    with wiring.archive(settings) as archive, wiring.opened(settings) as world:
        found = examine(settings.inventory, world, lambda what: render.warn(f"looking at {what}"), archive.past)
    if json:
        render.as_json([asdict(f) for f in found])
    else:
        show_findings(found, "all hosts and guests are fit to move")
    raise typer.Exit(3 if blockers(found) else 0)
