"""From a grid to bookings: a good placement fast, a better one where there is time, and a bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vmacro.fleet import improve, prices
from vmacro.fleet.columns import NEAR, Master
from vmacro.fleet.copying import Floats
from vmacro.fleet.demands import Demands
from vmacro.fleet.grid import Grid, Ints
from vmacro.fleet.ledger import Ledger

KEPT = 4  # of the last routes that were wanted: more make the linear program slow, and hardly better
IMPROVE_ROUNDS = 3
# Units times places: up to there a few rounds of the linear program take a second, and above it too long.
MOST_FOR_PROGRAM = 50_000
MOST_ROWS = 8_000  # of the linear program: what is scarce, in each slot
MOST_BEFORE_PROGRAM = 8  # rounds of prices: its own are better
FAST_ROUNDS = 2
SEED, VARIATIONS = 1, 60


@dataclass(frozen=True)
class Found:
    """What is booked, what that costs as it is weighed, and what nothing can be below. The bound holds where all that
    the operator wants can be had: where some stay in spite of a rule it says nothing."""

    ledger: Ledger
    cost: float
    bound: float


def find(grid: Grid, seconds: float, clock: Callable[[], float]) -> Found:
    """`seconds` are for the solver, after the fast part, which takes what it takes; 0: without it."""
    demands = Demands(grid)
    home = improve.all_at_home(grid)
    best = Found(home, float(improve.current(home).sum()), -np.inf)
    bound, wanted = -np.inf, []
    programmed = len(grid.units) * grid.places <= MOST_FOR_PROGRAM and len(demands.room.rows) <= MOST_ROWS
    rounds = min(rounds_of(grid), MOST_BEFORE_PROGRAM) if programmed else rounds_of(grid)
    for routes, proven in prices.search(demands, rounds):
        if proven > bound:
            bound = proven
            best_wanted = routes
        wanted.append(routes)
    if programmed:
        best, bound = _programmed(demands, best, wanted[-KEPT:], bound, seconds, clock)
    else:
        order = np.argsort(-_gains(demands, best_wanted), kind="stable")
        best = _better(best, improve.settled(grid, best_wanted, order))
    return Found(best.ledger, best.cost, bound)


def rounds_of(grid: Grid) -> int:
    """Rounds of prices that fit into seconds, whatever the size."""
    work = len(grid.units) * grid.places * grid.places * grid.slots
    return int(np.clip(2.4e9 / work, 8, 30))


def _gains(demands: Demands, wanted: Ints) -> Floats:
    every = np.arange(len(wanted))
    return demands.value(every, np.full_like(wanted, demands.grid.places)) - demands.value(every, wanted)


def _better(best: Found, ledger: Ledger) -> Found:
    improve.improve(ledger, IMPROVE_ROUNDS)
    cost = float(improve.current(ledger).sum())
    return Found(ledger, cost, best.bound) if cost < best.cost else best


def _programmed(
    demands: Demands,
    best: Found,
    wanted: list[Ints],
    bound: float,
    seconds: float,
    clock: Callable[[], float],
) -> tuple[Found, float]:
    """A few rounds of the linear program always; with time, until it is solved, and whole routes."""
    grid, began = demands.grid, clock()
    master, every = Master(demands), np.arange(len(demands.grid.units))
    for routes in (np.full_like(wanted[0], grid.places), _booked(best.ledger), *wanted):
        master.add(every, routes)
    rounds = 0
    while True:
        value, duals = master.solve()
        routes, proven = prices.relaxed(demands, demands.room.like(duals))
        bound, rounds = max(bound, proven), rounds + 1
        late = clock() - began > seconds / 2 and rounds >= FAST_ROUNDS
        if value - bound <= NEAR * abs(value) or late or not master.add(every, routes):
            break
    leaning, share = master.leaning()
    best = _better(best, improve.settled(grid, leaning, np.argsort(-share, kind="stable")))
    if seconds > 0:
        _vary(master, demands, duals)
        incumbent = _booked(best.ledger)
        master.add(every, incumbent)
        chosen = master.choose(incumbent, seconds - (clock() - began))
        for ledger in (improve.settled(grid, chosen, every), improve.at_once(grid, chosen)):
            best = _better(best, ledger)
    return best, bound


def _vary(master: Master, demands: Demands, duals: Floats) -> None:
    """What would be wanted if prices were a little different, and if some places were dearer for a while: a linear
    program needs fewer routes than whole ones are chosen well from."""
    grid, chance = demands.grid, np.random.default_rng(SEED)
    every = np.arange(len(grid.units))
    usual = grid.run[:, -1].mean() / max(float(demands.takes[:, 0].mean()), 1.0)
    for _ in range(VARIATIONS):
        varied = demands.room.like(duals * chance.uniform(0, 2, len(duals)))
        dearer = chance.uniform(0, 1, grid.places) * chance.integers(0, 2, grid.places)
        begin, end = np.sort(chance.integers(0, grid.slots + 1, (2, grid.places)), axis=0)
        slots = np.arange(grid.slots)
        when = (begin[:, None] <= slots) & (slots <= end[:, None])
        varied.places[0] += abs(usual) * dearer[:, None] * when
        master.add(every, prices.relaxed(demands, varied)[0])


def _booked(ledger: Ledger) -> Ints:
    return np.array([booking.route for booking in ledger.bookings])
