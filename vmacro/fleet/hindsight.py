"""The best that could have been done, had all signals been known from the beginning; and a bound of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from vmacro.fleet import grid, improve, prices, search
from vmacro.fleet.demands import Demands
from vmacro.fleet.grid import Grid, Ints
from vmacro.fleet.ledger import Ledger
from vmacro.fleet.nouns import Fleet

ROUNDS = 4


@dataclass(frozen=True)
class Hindsight:
    """`sites` of all guests in all slots; nothing can cost less than `bound`."""

    sites: Ints
    bound: float


def best(truth: Fleet, paths: Iterable[Ints], seconds: float, clock: Callable[[], float]) -> Hindsight:
    """By placement over all of the time at once, and by improving on `paths`, which others have gone: the cheapest of
    these. A move need only pay for itself here. `seconds` of `clock` are for the solver."""
    free = replace(truth, rules=replace(truth.rules, worth=1.0, least_gain=0.0))
    made = grid.build(free, by_host=False)
    found = search.find(made, seconds, clock)
    ledgers, every = [found.ledger], np.arange(len(made.units))
    for path in paths:
        ledgers.append(improve.settled(made, _routes(made, path), every))
    for ledger in ledgers:
        improve.improve(ledger, ROUNDS)
    cheapest = min(ledgers, key=lambda ledger: float(improve.current(ledger).sum()))
    return Hindsight(_sites(made, cheapest), _bound(free, made, found.bound))


def _bound(fleet: Fleet, made: Grid, whole: float) -> float:
    """Who must not move takes room also where there is none (maintenance), which no bound survives: so the bound is
    that of the others, in the room that is left to them, and what those cost who stay."""
    stuck = {guest for unit in np.flatnonzero(made.wait >= made.slots) for guest in made.units[unit]}
    if not stuck:
        return whole
    free = [guest for n, guest in enumerate(fleet.guests) if n not in stuck]
    never_closed = replace(fleet, hosts=tuple(replace(host, closed=()) for host in fleet.hosts))
    staying = grid.build(never_closed, by_host=False).run[made.wait >= made.slots, -1].sum()
    if not free:
        return float(staying)
    others = grid.build(_without(fleet, {fleet.guests[n].name for n in stuck}), by_host=False)
    return float(staying) + max(bound for _, bound in prices.search(Demands(others), search.rounds_of(others)))


def _without(fleet: Fleet, names: set[str]) -> Fleet:
    """Nor is the room there that these guests have at their hosts."""
    taken = [guest for guest in fleet.guests if guest.name in names]
    hosts = tuple(
        replace(
            host,
            memory_mib=max(0, host.memory_mib - sum(g.memory_mib for g in taken if g.host == host.name)),
            cpus=max(0.0, host.cpus - sum(g.cpus for g in taken if g.host == host.name)),
            disk_gib=max(0.0, host.disk_gib - sum(g.disk_gib for g in taken if g.host == host.name)),
        )
        for host in fleet.hosts
    )
    rules = replace(
        fleet.rules,
        together=tuple(rule for rule in fleet.rules.together if not names & set(rule)),
        apart=tuple(
            replace(rule, guests=tuple(name for name in rule.guests if name not in names)) for rule in fleet.rules.apart
        ),
    )
    guests = tuple(guest for guest in fleet.guests if guest.name not in names)
    return replace(fleet, guests=guests, hosts=hosts, rules=rules)


def _routes(made: Grid, path: Ints) -> Ints:
    """Of units; home is where a unit has not left yet."""
    routes = path[[unit[0] for unit in made.units]].copy()
    for unit, route in enumerate(routes):
        away = np.flatnonzero(route != made.unit_site[unit])
        route[: away[0] if len(away) else None] = made.places
    return routes


def _sites(made: Grid, ledger: Ledger) -> Ints:
    sites = np.empty((len(made.home_host), made.slots), dtype=np.int64)
    for booking in ledger.bookings:
        for stay in booking.stays:
            sites[stay.guest, stay.begin : stay.end] = made.host_site[stay.host]
    return sites
