"""carry, carried: old addresses that are still in use after their guest has moved, or linger for new connections."""

from __future__ import annotations

import threading
import time
from typing import Annotated

import typer

from vmacro import moving, wiring
from vmacro.cli import interrupts, render, telling
from vmacro.cli.options import InventoryOption, JsonOption
from vmacro.model.moves import Carriage
from vmacro.services.archive import UnreadableCarriage

POLL_S = 0.5


def carry(
    inventory: InventoryOption = None,
    json: JsonOption = False,
    forever: Annotated[bool, typer.Option("--forever", help="wait for more; for a service")] = False,
) -> None:
    """Close tunnels as their last connections end; returns with the last one. Interrupted, it goes on next time."""
    settings, interrupted = wiring.load(inventory), threading.Event()
    wiring.enter(settings)
    with (
        telling.told(settings, json) as (_, publish),
        interrupts.heeded(publish, interrupted.set),
        wiring.drivers(settings, polite=True) as worlds,
        moving.carrier(settings, worlds, publish, interrupted.is_set),
        wiring.archive(settings) as archive,
    ):
        found = archive.carriages()
        for carriage in found:
            if isinstance(carriage, UnreadableCarriage):
                render.warn(f"vmacro: {carriage.trouble}; it is left alone")
        if not found and not forever and not json:
            render.say("nothing is carried")
        while not interrupted.is_set() and (forever or any(isinstance(c, Carriage) for c in archive.carriages())):
            time.sleep(POLL_S)
