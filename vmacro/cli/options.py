"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vmacro import wiring
from vmacro.cli import render
from vmacro.planning.handoffs import HANDOFFS


def _found(given: Path | None) -> Path:
    """Whoever named none is told whose guests are looked at, or moved: the one lab that is up may be anybody's."""
    found = wiring.find_inventory(given)
    if given is None and found != wiring.SYSTEM_INVENTORY:
        render.warn(f"vmacro: no inventory is named: taking that of the one lab that is up: {found}")
    return found


InventoryOption = Annotated[
    Path | None,
    typer.Option(
        "--inventory",
        "-i",
        envvar="VMACRO_INVENTORY",
        callback=_found,
        help="TOML inventory; default: the system's, or that of the one lab that is up, which is told",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on standard output, events as lines")]
GuestArgument = Annotated[str, typer.Argument(help="a guest of the inventory")]
ToOption = Annotated[str, typer.Option("--to", help="the site to move to, or one host of it: SITE/HOST")]
HandoffOption = Annotated[str, typer.Option(help=f"how connections get to the new address: {', '.join(HANDOFFS)}")]
LossOption = Annotated[
    bool, typer.Option("--allow-connection-loss", help="connections may be cut: that is a warning then")
]


def loss(allowed: bool) -> dict[str, Any]:
    """The policy's word stands, unless the operator allows more."""
    return {"allow_connection_loss": True} if allowed else {}
