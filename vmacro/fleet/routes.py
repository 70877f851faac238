"""The cheapest route of each unit: where it is in each slot, by dynamic programming over slots.

Exact for one unit at given costs: shortest stay, moves a day, windows and the room that a copy takes at both ends are
all in it. What units take from each other is in the costs: as prices (demands.py) or as infinite ones (openings.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmacro.fleet.copying import Floats
from vmacro.fleet.grid import Grid, Ints

EPSILON = 1e-9
CHUNK = 512  # units at once: what one step works on stays in a processor's cache


@dataclass(frozen=True)
class Costs:
    """Of B units: to be at a place for a slot (`run`, [B, P + 1, T]), to hold its room for the slot in which it is left
    (`leave`, the same shape), to come to a place in a slot (`enter`, [B, P, T]), to move ([B, P + 1, P]), and
    what that costs besides in a slot, by the site that is left (`transit`, [B or 1, T, S, P], None where nothing)."""

    units: Ints
    run: Floats
    leave: Floats
    enter: Floats
    move: Floats
    transit: Floats | None = None


def cheapest(grid: Grid, costs: Costs) -> tuple[Ints, Floats]:
    """Of each unit the place in each slot, as [B, T], and what that costs."""
    parts = [_cheapest(grid, _chunk(costs, slice(n, n + CHUNK))) for n in range(0, len(costs.units), CHUNK)]
    return np.concatenate([routes for routes, _ in parts]), np.concatenate([cost for _, cost in parts])


def _chunk(costs: Costs, of: slice) -> Costs:
    transit = costs.transit if costs.transit is None or len(costs.transit) == 1 else costs.transit[of]
    return Costs(costs.units[of], costs.run[of], costs.leave[of], costs.enter[of], costs.move[of], transit)


def _cheapest(grid: Grid, costs: Costs) -> tuple[Ints, Floats]:
    """Backwards, in `_Table`, then forwards from home: a unit moves where that is cheaper, and not where it makes no
    difference."""
    table = _Table(grid, costs)
    count, slots, most = len(costs.units), grid.slots, grid.fleet.rules.most_moves_a_day
    place = np.full(count, grid.places, dtype=np.int64)
    left = grid.budget[costs.units].copy()
    free_at = grid.wait[costs.units].copy()
    routes = np.full((count, slots), grid.places, dtype=np.int64)
    for t in range(slots):
        if t and not grid.same_day(t - 1, t):
            left[:] = most
        who = np.flatnonzero((free_at <= t) & (left > 0))
        stay = costs.run[who, place[who], t] + table.after(t, t + 1)[left[who], place[who], who]
        best = table.value[t][left[who], place[who], who]
        movers = who[best + EPSILON * (1 + np.abs(best)) < stay]
        if len(movers):
            moves = costs.move[movers, place[movers]] + _transit(grid, costs, movers, t, place[movers])
            place[movers] = (moves + table.arrival[t][left[movers] - 1, :, movers]).argmin(axis=1)
            free_at[movers] = t + grid.stay_slots
            left[movers] -= 1
        routes[:, t] = place
    return routes, value_of(grid, costs, routes)


class _Table:
    """`value[t]` is what remains to be paid from slot t on by who is free to move, as [moves left, P + 1, B];
    `arrival[t]` what it costs to come in slot t, stay for as long as one must, and go on, as [moves left after it, P,
    B]. Units are last: what is done for all of them at once is next to each other in memory."""

    def __init__(self, grid: Grid, costs: Costs) -> None:
        self.grid = grid
        most, slots = grid.fleet.rules.most_moves_a_day, grid.slots
        run, leave, enter = (np.ascontiguousarray(a.transpose(2, 1, 0)) for a in (costs.run, costs.leave, costs.enter))
        move = np.ascontiguousarray(costs.move.transpose(1, 2, 0))
        self.arrival: list[Floats] = [np.zeros(0)] * slots
        self.value: list[Floats] = [np.zeros(0)] * slots
        self.value.append(np.zeros((most + 1, grid.places + 1, len(costs.units))))
        for t in reversed(range(slots)):
            now = run[t] + self.after(t, t + 1)
            stay = run[t : t + grid.stay_slots, :-1].sum(axis=0) + enter[t]
            self.arrival[t] = stay + self.after(t, t + grid.stay_slots)[:, :-1]
            if most:
                self._move(now, _move_costs(grid, costs, move, t), leave[t], t)
            self.value[t] = now

    def after(self, t: int, later: int) -> Floats:
        """`value[later]` by the moves that were left in slot t: a new day has all of them again."""
        later = min(later, self.grid.slots)
        if later < self.grid.slots and not self.grid.same_day(t, later):
            return np.broadcast_to(self.value[later][-1:], self.value[later].shape)
        return self.value[later]

    def _move(self, now: Floats, moves: Floats, leave: Floats, t: int) -> None:
        room = np.empty_like(moves)
        for left in range(1, len(now)):
            np.add(moves, self.arrival[t][left - 1][None], out=room)
            np.minimum(now[left], room.min(axis=1) + leave, out=now[left])


def _move_costs(grid: Grid, costs: Costs, move: Floats, t: int) -> Floats:
    """With what a slot adds, as [P + 1, P, B]."""
    if costs.transit is None:
        return move
    moves = move.copy()
    moves[:-1] += costs.transit[:, t][:, grid.place_site].transpose(1, 2, 0)
    moves[-1] += _transit(grid, costs, np.arange(len(costs.units)), t, grid.places).T
    return moves


def _transit(grid: Grid, costs: Costs, who: Ints, t: int | Ints, place: int | Ints) -> Floats:
    """To each place, from that of some of the units."""
    if costs.transit is None:
        return np.zeros((len(who), grid.places))
    home = grid.unit_site[costs.units[who]]
    site = np.where(np.asarray(place) == grid.places, home, grid.place_site[np.minimum(place, grid.places - 1)])
    return np.asarray(costs.transit[who if len(costs.transit) > 1 else np.zeros_like(who), t, site])


def value_of(grid: Grid, costs: Costs, routes: Ints) -> Floats:
    """What each of these routes costs."""
    each = np.arange(len(routes))[:, None]
    slots = np.arange(grid.slots)
    total: Floats = costs.run[each, routes, slots].sum(axis=1)
    before = np.concatenate([np.full((len(routes), 1), grid.places), routes[:, :-1]], axis=1)
    who, when = np.nonzero(before != routes)
    source, target = before[who, when], routes[who, when]
    paid = costs.move[who, source, target] + costs.enter[who, target, when] + costs.leave[who, source, when]
    np.add.at(total, who, paid + _transit(grid, costs, who, when, source)[np.arange(len(who)), target])
    return total
