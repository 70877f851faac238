"""carry, carried: old addresses that connections still use after their guest has moved."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from vmacro.cli import render, wiring
from vmacro.cli.move import InventoryOption, JsonOption
from vmacro.errors import VmacroError
from vmacro.model.facts import Connection
from vmacro.model.moves import Carriage
from vmacro.ports import World

POLL_S = 0.5


def carry(
    inventory: InventoryOption = None,
    json: JsonOption = False,
    forever: Annotated[bool, typer.Option("--forever", help="wait for more; for a service")] = False,
) -> None:
    """Close tunnels as their last connections end; returns with the last one. Interrupted, it goes on next time."""
    settings = wiring.load(inventory)
    with (
        render.stream(json) as show,
        wiring.interruptible(show) as cancelled,
        wiring.opened(settings, show, cancelled, polite=True) as world,
        wiring.carrier(settings, world),
        wiring.archive(settings) as archive,
    ):
        while not cancelled() and (forever or archive.carriages()):
            time.sleep(POLL_S)


def carried(inventory: InventoryOption = None, json: JsonOption = False) -> None:
    """Old addresses still in use, and by which connections."""
    settings = wiring.load(inventory)
    with wiring.archive(settings) as archive:
        carriages = archive.carriages()
    rows: list[tuple[object, ...]] = []
    with wiring.opened(settings) as world:
        for carriage in carriages:
            age_s, left_s = time.time() - carriage.began_s, carriage.deadline_s - time.time()
            ends = (carriage.home.name, carriage.at.name, carriage.leg.kind if carriage.leg else "none: it is home")
            common = (carriage.guest.name, carriage.address, *ends, round(age_s), round(left_s))
            try:
                users = _users(carriage, world)
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
        render.as_json([dict(zip(columns, row)) for row in rows])
    else:
        render.table(render.rows("", columns, rows))


def _users(carriage: Carriage, world: World) -> list[Connection]:
    with world.agent(carriage.at, carriage.guest.domain) as agent:
        return [c for c in agent.connections() if c.reaches(carriage.address)]
