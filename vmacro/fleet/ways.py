"""Simple ways to follow signals, beside which placement has to prove itself. They know the present alone."""

from __future__ import annotations

import numpy as np

from vmacro.fleet import grid, improve
from vmacro.fleet.ledger import Bools
from vmacro.fleet.nouns import Fleet
from vmacro.fleet.routes import EPSILON


def best_now(now: Fleet) -> dict[str, str]:
    """Always the site that is cheapest at this moment, whatever a move costs and however often one has moved: guests
    to their new hosts. `now` has one slot. Room, labels, licences, pins and links hold."""
    return _gone(now, slots=0)


def simple_rule(now: Fleet, slots: int) -> dict[str, str]:
    """As best_now(), but a guest goes only if what it saves at present would pay for the move, as the policy wants it
    paid, if it stayed so for `slots`; most moves a day and shortest stay hold, too."""
    return _gone(now, slots)


def _gone(now: Fleet, slots: int) -> dict[str, str]:
    made = grid.build(now, by_host=False)
    ledger = improve.all_at_home(made)
    weighed = made.move[:, -1]  # what a move from home has to save
    gains = made.run[:, -1, :1] - made.run[:, :-1, 0]
    forbidden = ~np.isfinite(weighed) | _stuck(now, made)[:, None]
    if slots:
        forbidden |= (gains * slots <= weighed) | ((made.wait > 0) | (made.budget == 0))[:, None]
    gains[forbidden] = -np.inf
    for unit in np.argsort(-gains.max(axis=1), kind="stable").tolist():
        for place in np.argsort(-gains[unit], kind="stable").tolist():
            if gains[unit, place] <= EPSILON or improve.rebook(ledger, unit, np.array([place])):
                break
    stays = [stay for booking in ledger.bookings for stay in booking.stays if stay.host != made.home_host[stay.guest]]
    return {now.guests[stay.guest].name: now.hosts[stay.host].name for stay in stays}


def _stuck(now: Fleet, made: grid.Grid) -> Bools:
    """Units with a guest that must not move, whatever it would save."""
    unknown = np.array([bool(site.hold) for site in now.sites])[made.home_site]
    stuck = np.array([bool(guest.pinned or guest.hold) for guest in now.guests]) | unknown
    return np.array([stuck[list(unit)].any() for unit in made.units])
