"""cleanup."""

from __future__ import annotations

import ipaddress
from contextlib import nullcontext
from dataclasses import asdict
from typing import Annotated

import typer

from vmacro import wiring
from vmacro.cli import render
from vmacro.cli.options import InventoryOption, JsonOption
from vmacro.errors import ConfigurationError, JournalError, VmacroError
from vmacro.inventory import Settings
from vmacro.ports import EventLog, World
from vmacro.services import leftovers
from vmacro.services.archive import Archive

ReleaseOption = Annotated[
    list[str] | None,
    typer.Option(metavar="ADDRESS", help="also remove a DHCP reservation of which it is only told; may be repeated"),
]


def cleanup(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be removed")] = False,
    release: ReleaseOption = None,
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """Remove what ended moves of this journal left at hosts and in guests; exit code 1 if any stays or was not seen."""
    wanted = {_address(text) for text in release or ()}
    settings = wiring.load(inventory)
    log = wiring.event_log(settings, lambda _text: None)  # which is only read
    with wiring.archive(settings) as archive, wiring.opened(settings) as world:
        moves, carried = archive.readable(limit=1000), archive.carriages()
        found = leftovers.find(settings.inventory, moves, carried, world, lambda move: _was_planned(log, move))
        rows = []
        for left in found:
            asked = left.kind == "reservation" and left.address in wanted
            did = "would be removed" if left.ours or asked else _kept(left)
            if (left.ours or asked) and not dry_run:
                did = _removed(settings, archive, left, world)
            rows.append((left.host, left.move_id, left.what, did))
    if json:
        render.as_json([{**asdict(left), "did": row[-1]} for left, row in zip(found, rows, strict=True)])
    else:
        render.table(render.rows("", ("at", "move", "what", "became"), rows))
    missing = wanted - {left.address for left in found if left.kind == "reservation"}
    for address in sorted(missing):
        render.warn(f"--release {address}: no reservation there that is a move's, or it is needed; nothing was removed")
    stays = [left for left, row in zip(found, rows, strict=True) if row[-1] != "removed" and not left.perhaps]
    unseen = any(left.kind == "trouble" for left in found)
    raise typer.Exit(1 if missing or unseen or (stays and not dry_run) else 0)


def _address(text: str) -> str:
    """In its plain form. Raises ConfigurationError."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ConfigurationError(f"--release {text!r}: is no IP address", "as `vmacro cleanup` tells it") from None


def _was_planned(log: EventLog, move_id: str) -> bool:
    try:
        return bool(log.read(move_id))
    except JournalError:
        return False


def _kept(left: leftovers.Leftover) -> str:
    if left.kind == "trouble":
        return "could not be looked at"
    return "stays: --release removes it" if left.kind == "reservation" else "not ours: stays"


def _removed(settings: Settings, archive: Archive, left: leftovers.Leftover, world: World) -> str:
    try:
        with wiring.claimed(settings, left.guest) if left.guest else nullcontext():
            if left.planned and archive.move(left.move_id) is not None:
                return "its move has begun meanwhile: stays"
            leftovers.remove(settings.inventory, left, world)
        return "removed"
    except VmacroError as error:
        return error.message
