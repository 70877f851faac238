"""Routes that were wanted become bookings, as far as there is room; then each unit looks again on its own.

All stay in the beginning, so that whatever is interrupted is still a placement.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vmacro.fleet import openings, routes
from vmacro.fleet.copying import Floats
from vmacro.fleet.grid import Grid, Ints
from vmacro.fleet.ledger import Ledger
from vmacro.fleet.routes import EPSILON, Costs

CHUNK = 128
RETRIES = 3


def current(ledger: Ledger) -> Floats:
    """What each unit's booking costs, with what it is weighed with and its penalties."""
    grid = ledger.grid
    total = np.empty(len(grid.units))
    for start in range(0, len(grid.units), CHUNK):
        units = range(start, min(start + CHUNK, len(grid.units)))
        booked = np.array([ledger.bookings[unit].route for unit in units])
        total[start : units.stop] = routes.value_of(grid, openings.costs(ledger, units), booked)
    return total


def all_at_home(grid: Grid) -> Ledger:
    """Where everything begins."""
    ledger = Ledger(grid)
    for unit in range(len(grid.units)):
        ledger.stay(unit)
    return ledger


def settled(grid: Grid, wanted: Ints, order: Ints) -> Ledger:
    """From home to these routes, in this order, again and again while one's leaving makes room for others."""
    ledger = all_at_home(grid)
    waiting = [unit for unit in order.tolist() if (wanted[unit] != grid.places).any()]
    before = -1
    while len(waiting) != before:
        before = len(waiting)
        waiting = [unit for unit in waiting if not rebook(ledger, unit, wanted[unit])]
    return ledger


def at_once(grid: Grid, wanted: Ints) -> Ledger:
    """All of these routes, if they fit together, whoever is in whose way on the way there: the largest first. Who finds
    no room stays, and its home may be too full then."""
    ledger = Ledger(grid)
    for unit in np.argsort([-grid.demand[list(guests), 0].sum() for guests in grid.units], kind="stable").tolist():
        if not ledger.book(unit, wanted[unit]):
            ledger.stay(unit)
    return ledger


def rebook(ledger: Ledger, unit: int, route: Ints) -> bool:
    """Give a unit another route, if there is room for all of it."""
    before = ledger.release(unit)
    if ledger.book(unit, route, before):
        return True
    ledger.restore(unit, before)
    return False


def improve(ledger: Ledger, rounds: int, units: Sequence[int] | None = None) -> None:
    """Who can gain most goes first; until a round changes nothing."""
    order = list(range(len(ledger.grid.units))) if units is None else list(units)
    for _ in range(rounds):
        gains = np.zeros(len(order))
        for start in range(0, len(order), CHUNK):
            gains[start : start + CHUNK] = _improve(ledger, order[start : start + CHUNK])
        if not gains.any():
            return
        order = [order[n] for n in np.argsort(-gains, kind="stable")]


def _improve(ledger: Ledger, units: Sequence[int]) -> Floats:
    grid = ledger.grid
    costs = openings.costs(ledger, units)
    best, cost = routes.cheapest(grid, costs)
    booked = np.array([ledger.bookings[unit].route for unit in units])
    gains = routes.value_of(grid, costs, booked) - cost
    gained = np.zeros(len(units))
    for n in np.argsort(-gains, kind="stable"):
        if gains[n] <= 1e-9 * (1 + abs(cost[n])):
            break
        if rebook(ledger, units[n], best[n]) or _retry(ledger, units[n]):
            gained[n] = gains[n]
    return gained


def _retry(ledger: Ledger, unit: int) -> bool:
    """Others of its chunk were faster, or no single host has room for all of a stay."""
    costs = openings.costs(ledger, [unit])
    now = float(routes.value_of(ledger.grid, costs, ledger.bookings[unit].route[None])[0])
    return _try(ledger, unit, costs, now)


def _try(ledger: Ledger, unit: int, costs: Costs, below: float) -> bool:
    """The cheapest route, or, where a stay of it finds no host, another one without that stay."""
    grid = ledger.grid
    for _ in range(RETRIES):
        (best,), (cost,) = routes.cheapest(grid, costs)
        if not cost + EPSILON * (1 + abs(cost)) < below:
            return False
        if rebook(ledger, unit, best):
            return True
        before = np.concatenate([[grid.places], best[:-1]])
        for slot in np.flatnonzero(before != best):
            costs.enter[0, best[slot], slot] = np.inf
    return False
