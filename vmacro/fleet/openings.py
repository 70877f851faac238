"""What is open to units, and at what cost, given what the others have booked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vmacro.fleet.copying import Floats
from vmacro.fleet.grid import Ints
from vmacro.fleet.ledger import TOLERANCE, Bools, Ledger
from vmacro.fleet.routes import Costs


def costs(ledger: Ledger, units: Sequence[int]) -> Costs:
    """What any route of each of these units costs, if the others keep theirs. That a stay finds one host for all of its
    slots is known only when it is booked."""
    grid = ledger.grid
    of = np.array(units, dtype=np.int64)
    fits, at_home = _fits(ledger, units)
    first = np.array([hosts[0] for hosts in grid.place_hosts], dtype=np.int64)
    run = grid.run[of].copy()
    leave = np.zeros_like(run)
    closed = ~np.logical_or.reduceat(fits, first, axis=1)
    run[:, :-1][closed] = np.inf
    leave[:, :-1][closed] = np.inf
    wrong = ~at_home * grid.penalty[of][:, None]
    run[:, -1] += wrong
    leave[:, -1, 1:] = wrong[:, 1:]
    return Costs(of, run, leave, np.zeros((len(of), grid.places, grid.slots)), grid.move[of], _transit(ledger, of))


def _fits(ledger: Ledger, units: Sequence[int]) -> tuple[Bools, Bools]:
    """At which hosts all guests of a unit have room, one by one, as [B, H, T]; and whether they have it at home."""
    grid = ledger.grid
    first = np.array([grid.units[unit][0] for unit in units])
    fits = np.ones((len(units), len(grid.host_site), grid.slots), dtype=bool)
    for resource, free in enumerate(ledger.free):
        fits &= free[None] >= grid.demand[first, resource][:, None, None] - TOLERANCE
    at_home = np.empty((len(units), grid.slots), dtype=bool)
    for n, unit in enumerate(units):
        guests = grid.units[unit]
        if len(guests) > 1 or guests[0] in ledger.rules_of or grid.takes_licence[guests[0]].any():
            booking = ledger.release(unit)
            each = [ledger.fits(guest) for guest in guests]
            fits[n] = np.logical_and.reduce(each)
            at_home[n] = np.logical_and.reduce([f[grid.home_host[g]] for f, g in zip(each, guests, strict=True)])
            ledger.restore(unit, booking)
        else:
            for stay in ledger.bookings[unit].stays:
                held = slice(stay.begin, stay.held)
                fits[n, stay.host, held] = (ledger.free[:, stay.host, held] >= -TOLERANCE).all(axis=0)
            at_home[n] = fits[n, grid.home_host[guests[0]]]
    at_home[:, 0] = True
    return fits, at_home


def _transit(ledger: Ledger, units: Ints) -> Floats:
    """Infinite where a link has not enough left for a unit's copies; one for all units if that is so for all."""
    grid = ledger.grid
    needs = grid.sends_by_site[units]
    room = ledger.links[:, grid.place_site]
    own = {n: ledger.bookings[unit].sent for n, unit in enumerate(units) if ledger.bookings[unit].sent}
    short = room < needs.max(axis=0)[:, :, None] - TOLERANCE
    same = (np.arange(len(grid.fleet.sites))[:, None] == grid.place_site[None])[:, :, None]
    if not own and not (short & (room > 0)).any():
        return _forbidden((short & ~same)[None])
    shut = (room[None] < needs[:, :, :, None] - TOLERANCE) & ~same[None]
    for n, sent in own.items():
        for each in sent:
            there = grid.place_site == each.target
            left = ledger.links[each.source, each.target, each.slot]
            shut[n, each.source, there, each.slot] = left < -TOLERANCE
    return _forbidden(shut)


def _forbidden(shut: Bools) -> Floats:
    """As costs, [B, T, S, P]."""
    return np.where(shut.transpose(0, 3, 1, 2), np.inf, 0.0)
