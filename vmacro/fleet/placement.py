"""Where each guest should be in each slot of a horizon, why, and what would have to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from vmacro.fleet import faults, grid, search
from vmacro.fleet.explain import Explainer
from vmacro.fleet.ledger import Stay
from vmacro.fleet.nouns import Fleet
from vmacro.model.moves import Finding

# Up to there hosts are decided one by one, not sites: exact, and still fast.
MOST_BY_HOST = 1_000


@dataclass(frozen=True)
class Visit:
    """A guest is at a host from `begin` to `end`; where it is now is its first one."""

    site: str
    host: str
    begin: datetime
    end: datetime


@dataclass(frozen=True)
class Decision:
    """What a guest should do over the horizon: `why`, in a sentence, and what would have to `change` for something
    better, '' if there is nothing better. `saves`: what it saves by not staying, moves taken off."""

    guest: str
    visits: tuple[Visit, ...]
    saves: float
    why: str
    change: str = ""

    @property
    def moves(self) -> int:
        """How many."""
        return len(self.visits) - 1


@dataclass(frozen=True)
class Placement:
    """`cost` and `staying` are what guests cost over the horizon, as they are weighed; nothing can be below `bound`.
    With findings that block there are no decisions: what was asked is wrong."""

    decisions: tuple[Decision, ...]
    findings: tuple[Finding, ...]
    cost: float = 0.0
    staying: float = 0.0
    bound: float = 0.0


def place(fleet: Fleet, seconds: float = 0.0, clock: Callable[[], float] = lambda: 0.0) -> Placement:
    """Decide. `seconds` of `clock` are for the solver, after what is found fast."""
    found = faults.check(fleet)
    if found:
        return Placement((), found)
    fleet = _in_order(fleet)
    alone = not fleet.rules.together
    made = grid.build(fleet, by_host=alone and len(fleet.guests) * len(fleet.hosts) <= MOST_BY_HOST)
    best = search.find(made, seconds, clock)
    explainer = Explainer(best.ledger)
    decisions = {}
    for unit, guests in enumerate(made.units):
        for guest in guests:
            why, change = explainer.reason(unit, guest)
            stays = [stay for stay in best.ledger.bookings[unit].stays if stay.guest == guest]
            visits = tuple(_visit(fleet, stay) for stay in stays if stay.end > stay.begin or stay.begin == 0)
            decisions[guest] = Decision(fleet.guests[guest].name, visits, explainer.saves(unit, guest), why, change)
    ordered = tuple(decisions[n] for n in range(len(fleet.guests)))
    return Placement(ordered, explainer.findings(), best.cost, explainer.staying, best.bound)


def _in_order(fleet: Fleet) -> Fleet:
    """Hosts of a site next to each other, as its arrays want them."""
    order = {site.name: n for n, site in enumerate(fleet.sites)}
    return replace(fleet, hosts=tuple(sorted(fleet.hosts, key=lambda host: order[host.site])))


def _visit(fleet: Fleet, stay: Stay) -> Visit:
    host = fleet.hosts[stay.host]
    return Visit(host.site, host.name, fleet.horizon.at(stay.begin), fleet.horizon.at(stay.end))
