"""events: what happened, and what happens just now in another terminal."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Annotated

import typer

from vmacro import wiring
from vmacro.cli import output, render, telling
from vmacro.cli.options import InventoryOption, JsonOption
from vmacro.errors import ConfigurationError
from vmacro.inventory import Settings
from vmacro.model.events import Event
from vmacro.services.event_json import as_plain
from vmacro.services.event_log import follow as followed

POLL_S = 0.5


def events(
    move_id: Annotated[str, typer.Argument(metavar="[MOVE]", help="default: all moves")] = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="wait for more, until the move ends or Ctrl-C")
    ] = False,
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """What happened in moves, as it was written down when it happened; docs/events.md lists the kinds."""
    settings = wiring.load(inventory)
    try:
        _show(settings, move_id, follow, json)
    except KeyboardInterrupt:
        raise typer.Exit(0 if follow else 130) from None


def _show(settings: Settings, move_id: str, follow: bool, json: bool) -> None:
    log = telling.event_log(settings)
    with ExitStack() as opened:
        archive = opened.enter_context(wiring.archive(settings)) if move_id else None

        def ended() -> bool:
            record = archive.move(move_id) if archive is not None else None
            return not follow or output.unread() or (record is not None and record.outcome is not None)

        if archive is not None and archive.move(move_id) is None and not log.read(move_id):
            raise ConfigurationError(f"move {move_id!r}: neither in the log nor in the journal", "vmacro history")
        silent = not json
        for event in followed(log, move_id, ended, lambda: time.sleep(POLL_S if follow else 0)):
            if output.unread():
                return
            _tell(event, json)
            silent = False
        if silent:
            render.say("nothing")


def _tell(event: Event, json: bool) -> None:
    if json:
        render.as_json(as_plain(event))
    else:
        print(render.event_line(event), flush=True)
