"""What scarce room is worth: prices at which units, each for itself, want no more of it than there is.

Lagrangian relaxation. The cheapest routes at any prices that are not negative, less what all room costs at them, are a
lower bound of what any placement costs; the best prices found also tell who should have the room (Held, Wolfe and
Crowder, Validation of subgradient optimization, 1974).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vmacro.fleet import routes
from vmacro.fleet.copying import Floats
from vmacro.fleet.demands import Demands, Room
from vmacro.fleet.grid import Ints

ABOVE = 0.05  # of the bound


def search(demands: Demands, rounds: int) -> Iterator[tuple[Ints, float]]:
    """What units want at one price after another, and the bound that it proves: the price of what too many want is
    raised, that of what is left over lowered; Polyak's step towards a cost a little above the best bound, halved while
    that does not rise. Hosts, sites and licences alone have prices here."""
    room = demands.room.rows
    scale = np.maximum(room, 1.0)  # so that a MiB and a processor weigh alike
    prices = np.zeros_like(room)
    best, trust, stuck = -np.inf, ABOVE, 0
    for _ in range(rounds):
        wanted, bound = relaxed(demands, demands.room.like(prices))
        yield wanted, bound
        if bound > best:
            best, stuck = bound, 0
        else:
            stuck += 1
            if stuck == 2:
                trust, stuck = trust / 2, 0
        excess = (demands.taken(wanted).rows - room) / scale * demands.priced_rows
        direction = np.where((prices > 0) | (excess > 0), excess, 0.0)
        square = float((direction**2).sum())
        if square < 1e-12:
            return
        gap = max(best + trust * abs(best) - bound, trust * abs(best))
        prices = (prices + gap / square * direction / scale).clip(min=0)


def relaxed(demands: Demands, prices: Room) -> tuple[Ints, float]:
    """What all units want at these prices, and the bound that this proves."""
    wanted, cost = unit_costs(demands, prices)
    return wanted, float(cost.sum()) - float((prices.rows * demands.room.rows).sum())


def unit_costs(demands: Demands, prices: Room) -> tuple[Ints, Floats]:
    """What all units want at these prices, and what it costs each."""
    parts = [routes.cheapest(demands.grid, demands.costs(prices, chunk)) for chunk in demands.chunks]
    return np.concatenate([p for p, _ in parts]), np.concatenate([c for _, c in parts])
