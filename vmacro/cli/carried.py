"""carried."""

from __future__ import annotations

import time

from vmacro import wiring
from vmacro.cli import render
from vmacro.cli.options import InventoryOption, JsonOption
from vmacro.errors import VmacroError
from vmacro.model.moves import Carriage
from vmacro.model.nouns import Inventory
from vmacro.planning.outcome import why_carried
from vmacro.planning.resuming import as_the_inventory_has_it
from vmacro.ports import World
from vmacro.services import datagrams
from vmacro.services.archive import UnreadableCarriage
from vmacro.services.survey import where


def carried(inventory: InventoryOption = None, json: JsonOption = False) -> None:
    """Old addresses still in use, by which connections and flows of datagrams, and for how long they take new ones."""
    settings = wiring.load(inventory)
    with wiring.archive(settings) as archive:
        carriages = archive.carriages()
    rows: list[tuple[object, ...]] = []
    by_age = sorted((c for c in carriages if isinstance(c, Carriage)), key=lambda c: c.began_s)
    last = {(c.guest.name, c.address): c for c in by_age}
    carriages = [c for c in carriages if not isinstance(c, Carriage) or c is last[(c.guest.name, c.address)]]
    with wiring.opened(settings) as world:
        for carriage in carriages:
            if isinstance(carriage, UnreadableCarriage):
                rows.append(("", carriage.address, *("",) * 3, None, None, None, "", "", "", None, carriage.trouble))
            else:
                rows += _rows(carriage, settings.inventory, world)
    columns = (
        *("guest", "address", "home", "carried to", "tunnel", "for s", "deadline in s", "lingers for s"),
        *("client", "transport", "why", "bytes", "trouble"),
    )
    if json:
        render.as_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        render.table(render.rows("", columns, rows))


def _rows(carriage: Carriage, inventory: Inventory, world: World) -> list[tuple[object, ...]]:
    """One for each connection, and for each kind of datagrams, or one where it only lingers; who cannot be asked hides
    no other."""
    age_s, left_s = time.time() - carriage.began_s, carriage.deadline_s - time.time()
    ends = (carriage.home.name, carriage.at.name, carriage.leg.kind if carriage.leg else "none: it is home")
    lingers_s = max(0, round(carriage.open_until_s - time.time()))
    common = (carriage.guest.name, carriage.address, *ends, round(age_s), round(left_s), lingers_s)
    rows: list[tuple[object, ...]] = []
    troubles = []
    for look in (_datagrams, _users):
        try:
            rows += [(*common, *row, "") for row in look(as_the_inventory_has_it(carriage, inventory), world)]
        except VmacroError as error:
            troubles.append(error.message)
    rows += [(*common, "", "", "", None, trouble) for trouble in dict.fromkeys(troubles)]
    return rows or [(*common, "", "", "", None, "")]


def _users(carriage: Carriage, world: World) -> list[tuple[object, ...]]:
    """Client, transport, why it is carried, and bytes of each connection."""
    if not where([carriage.at], carriage.guest, world):
        text = f"the guest does not run at {carriage.at.name}; if it has moved on, `vmacro carry` ends this row"
        raise VmacroError(text)
    with world.agent(carriage.at, carriage.guest.domain) as agent:
        facts = agent.status()
        present = [address for address in (facts.address, facts.address6) if address]
        found = [c for c in agent.connections() if c.uses(carriage.address)]
    users = [c for c in found if not c.reaches(*present)]  # others have it as backup
    moved = [sum(s.bytes for s in user.subflows if s.local == carriage.address) for user in users]
    return [(u.client, "mptcp" if u.mptcp else "tcp", why_carried(u), n) for u, n in zip(users, moved, strict=True)]


def _datagrams(carriage: Carriage, world: World) -> list[tuple[object, ...]]:
    """How many flows of each kind there are, as the address's home says."""
    found = datagrams.at(carriage.home, [carriage.address], world).flows
    return [
        (f"{count} flow{'s' if count > 1 else ''}", kind, "", None)
        for flows in found
        for kind, count in (("udp", flows.udp), ("icmp", flows.icmp))
        if count
    ]
