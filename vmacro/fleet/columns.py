"""Near the optimum, and proof of how near: routes are columns of a linear program that HiGHS solves.

Column generation (Dantzig and Wolfe, Decomposition principle for linear programs, 1960): the program picks one route
for each unit within all room; its duals are prices; at these prices each unit's cheapest route (routes.py) joins in,
until none helps. Then whole routes are chosen among those that joined.
"""

from __future__ import annotations

import highspy
import numpy as np

from vmacro.fleet.copying import Floats
from vmacro.fleet.demands import Demands
from vmacro.fleet.grid import Grid, Ints

NEAR = 1e-4
MOST_ROUNDS = 60


class Master:
    """The linear program with the routes so far."""

    def __init__(self, demands: Demands) -> None:
        self.demands = demands
        self.grid: Grid = demands.grid
        self.units: list[int] = []
        self.routes: list[Ints] = []
        self._known: set[tuple[int, bytes]] = set()
        self.highs = highspy.Highs()
        self.highs.setOptionValue("output_flag", False)
        self.highs.setOptionValue("threads", 1)
        count, room = len(self.grid.units), demands.room.rows
        none, nothing = np.zeros(0, dtype=np.int32), np.zeros(0)
        lower = np.concatenate([np.ones(count), np.full(len(room), -highspy.kHighsInf)])
        upper = np.concatenate([np.ones(count), room])
        self.highs.addRows(len(lower), lower, upper, 0, none, none, nothing)
        self._add_overflows(count, len(room))

    def _add_overflows(self, count: int, rows: int) -> None:
        """More than there is, at a price that nobody pays who can go elsewhere: staying is always possible."""
        self.overflow = float(self.grid.penalty.sum())
        scale = np.maximum(self.demands.room.rows, 1.0)
        starts = np.arange(rows, dtype=np.int32)
        ones, at = np.full(rows, -1.0), (count + starts).astype(np.int32)
        infinite = np.full(rows, highspy.kHighsInf)
        self.highs.addCols(rows, self.overflow / scale, np.zeros(rows), infinite, rows, starts, at, ones)

    def add(self, units: Ints, routes: Ints) -> int:
        """Routes that are not known yet; how many they were."""
        new = [n for n, unit in enumerate(units) if (int(unit), routes[n].tobytes()) not in self._known]
        if not new:
            return 0
        units, routes = units[new], routes[new]
        self._known.update((int(unit), route.tobytes()) for unit, route in zip(units, routes, strict=True))
        cost = self.demands.value(units, routes)
        number, rows, amounts = self.demands.usage(units, routes)
        count = len(self.grid.units)
        number = np.concatenate([np.arange(len(units)), number])
        rows = np.concatenate([units, count + rows])
        amounts = np.concatenate([np.ones(len(units)), amounts])
        key = number * (count + len(self.demands.room.rows)) + rows
        unique, at = np.unique(key, return_inverse=True)
        amounts = np.bincount(at, amounts).astype(np.float64)
        number, rows = np.divmod(unique, count + len(self.demands.room.rows))
        starts = np.searchsorted(number, np.arange(len(units))).astype(np.int32)
        zeros, infinite = np.zeros(len(units)), np.full(len(units), highspy.kHighsInf)
        self.highs.addCols(len(units), cost, zeros, infinite, len(rows), starts, rows.astype(np.int32), amounts)
        self.units += [int(u) for u in units]
        self.routes += list(routes)
        return len(units)

    def solve(self) -> tuple[float, Floats]:
        """Its value, and what one more of each row would save."""
        self.highs.run()
        duals = np.array(self.highs.getSolution().row_dual[len(self.grid.units) :])
        return self.highs.getObjectiveValue(), (-duals).clip(min=0)

    def leaning(self) -> tuple[Ints, Floats]:
        """For each unit the route that the program takes most of, and how much."""
        first, count = len(self.demands.room.rows), len(self.grid.units)
        share = np.array(self.highs.getSolution().col_value[first:])
        order = np.argsort(share, kind="stable")
        last = np.zeros(count, dtype=np.int64)
        last[np.array(self.units)[order]] = order
        return np.stack([self.routes[n] for n in last]), share[last]

    def choose(self, incumbent: Ints, seconds: float) -> Ints:
        """Whole routes, by branch and bound. Those of `incumbent` are among the known ones."""
        first = len(self.demands.room.rows)
        count = len(self.units)
        at = np.arange(first, first + count, dtype=np.int32)
        self.highs.changeColsIntegrality(count, at, np.full(count, highspy.HighsVarType.kInteger))
        self.highs.setOptionValue("time_limit", self.highs.getRunTime() + max(1.0, seconds))
        self.highs.setOptionValue("mip_rel_gap", NEAR)
        start = np.zeros(first + count)
        for n, (unit, route) in enumerate(zip(self.units, self.routes, strict=True)):
            start[first + n] = float((incumbent[unit] == route).all())
        solution = highspy.HighsSolution()
        solution.col_value = start.tolist()
        self.highs.setSolution(solution)
        self.highs.run()
        value = np.array(self.highs.getSolution().col_value[first:])
        chosen = incumbent.copy()
        for n in np.flatnonzero(value > 0.5).tolist():
            chosen[self.units[n]] = self.routes[n]
        return chosen
