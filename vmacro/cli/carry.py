"""carry, carried: old addresses that connections still use after their guest has moved."""

from __future__ import annotations

import threading
import time
from typing import Annotated

import typer

from vmacro import wiring
from vmacro.cli import interrupts, render, telling
from vmacro.cli.move import InventoryOption, JsonOption
from vmacro.errors import VmacroError
from vmacro.model.facts import Connection
from vmacro.model.moves import Carriage
from vmacro.planning.resuming import as_the_inventory_has_it
from vmacro.ports import World
from vmacro.services.archive import UnreadableCarriage
from vmacro.services.survey import where

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
        wiring.carrier(settings, worlds, publish, interrupted.is_set),
        wiring.archive(settings) as archive,
    ):
        for carriage in archive.carriages():
            if isinstance(carriage, UnreadableCarriage):
                render.warn(f"vmacro: {carriage.trouble}; it is left alone")
        while not interrupted.is_set() and (forever or any(isinstance(c, Carriage) for c in archive.carriages())):
            time.sleep(POLL_S)


def carried(inventory: InventoryOption = None, json: JsonOption = False) -> None:
    """Old addresses still in use, and by which connections."""
    settings = wiring.load(inventory)
    with wiring.archive(settings) as archive:
        carriages = archive.carriages()
    rows: list[tuple[object, ...]] = []
    with wiring.opened(settings) as world:
        for carriage in carriages:
            if isinstance(carriage, UnreadableCarriage):
                rows.append(("", carriage.address, *("",) * 3, None, None, "", "", None, carriage.trouble))
                continue
            age_s, left_s = time.time() - carriage.began_s, carriage.deadline_s - time.time()
            ends = (carriage.home.name, carriage.at.name, carriage.leg.kind if carriage.leg else "none: it is home")
            common = (carriage.guest.name, carriage.address, *ends, round(age_s), round(left_s))
            try:
                users = _users(as_the_inventory_has_it(carriage, settings.inventory), world)
            except VmacroError as error:
                rows.append((*common, "", "", None, error.message))
                continue
            for user in users:
                moved = sum(s.bytes for s in user.subflows if s.local == carriage.address)
                rows.append((*common, user.client, "mptcp" if user.mptcp else "tcp", moved, ""))
    columns = (
        *("guest", "address", "home", "carried to", "tunnel", "for s", "deadline in s"),
        *("client", "transport", "bytes", "trouble"),
    )
    if json:
        render.as_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        render.table(render.rows("", columns, rows))


def _users(carriage: Carriage, world: World) -> list[Connection]:
    if not where([carriage.at], carriage.guest, world):
        raise VmacroError(f"the guest has gone elsewhere than {carriage.at.name}", "vmacro carry ends this entry")
    with world.agent(carriage.at, carriage.guest.domain) as agent:
        return [c for c in agent.connections() if c.reaches(carriage.address)]
