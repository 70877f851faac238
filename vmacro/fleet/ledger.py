"""Who has which room when: routes are booked on hosts and links, and released again.

A guest takes room at the host that it leaves for the whole slot in which it leaves: the copy needs both. So all have
that of slot 0 where they are, whatever is booked.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from vmacro.fleet.grid import Grid, Ints
from vmacro.fleet.nouns import Level

Bools = npt.NDArray[np.bool_]
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Stay:
    """A guest (by number) is at a host from slot `begin` up to `end`, and holds its room up to `held`."""

    guest: int
    host: int
    begin: int
    end: int
    held: int


@dataclass(frozen=True)
class Sent:
    """A guest's copy uses a link in a slot."""

    guest: int
    source: int
    target: int
    slot: int
    mib: float


@dataclass(frozen=True)
class Booking:
    """What one unit has."""

    route: Ints
    stays: tuple[Stay, ...]
    sent: tuple[Sent, ...]


class Ledger:
    """All bookings; none in the beginning."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.free = grid.capacity.copy()
        self.licences = np.repeat(grid.licence_room[:, :, None], grid.slots, axis=2)
        self.links = grid.link_room.copy()
        width = {Level.HOST: len(grid.host_site), Level.SITE: len(grid.fleet.sites)}
        self.present = [np.zeros((width[rule.level], grid.slots), dtype=np.int64) for rule, _ in grid.apart]
        self.rules_of: dict[int, list[int]] = {}
        for n, (_, guests) in enumerate(grid.apart):
            for guest in guests:
                self.rules_of.setdefault(guest, []).append(n)
        self.home = np.full(grid.slots, grid.places, dtype=np.int64)
        self.bookings = [Booking(self.home, (), ())] * len(grid.units)
        for guest in range(len(grid.home_host)):
            self._account(guest, int(grid.home_host[guest]), slice(0, 1), 1)

    def release(self, unit: int) -> Booking:
        """Give back what a unit has; whoever releases books again, this or something else."""
        booking = self.bookings[unit]
        self._enter(booking, -1)
        self.bookings[unit] = Booking(self.home, (), ())
        return booking

    def restore(self, unit: int, booking: Booking) -> None:
        """Book again what was released."""
        self.bookings[unit] = booking
        self._enter(booking, 1)

    def stay(self, unit: int) -> None:
        """Book a released unit's home for all slots, whether or not there is room: nobody can be made to leave."""
        stays = tuple(
            Stay(g, int(self.grid.home_host[g]), 0, self.grid.slots, self.grid.slots) for g in self.grid.units[unit]
        )
        self.restore(unit, Booking(self.home, stays, ()))

    def book(self, unit: int, route: Ints, before: Booking | None = None) -> bool:
        """Find hosts for a released unit's route; nothing is booked where one of its stays finds none. A home that it
        had `before` it may have again, full or not."""
        had = {stay.guest: stay.held for stay in reversed(before.stays)} if before is not None else {}
        booked = Booking(route, (), ())
        for guest in self.grid.units[unit]:
            mine = self._find(guest, route, had.get(guest, 1))
            if mine is None:
                self._enter(booked, -1)
                return False
            self._enter(mine, 1)
            booked = Booking(route, booked.stays + mine.stays, booked.sent + mine.sent)
        self.bookings[unit] = booked
        return True

    def _find(self, guest: int, route: Ints, before: int) -> Booking | None:
        """What one guest of a unit would have. Its home is its own up to slot `before`."""
        grid = self.grid
        stays: list[Stay] = []
        sent: list[Sent] = []
        host, since = int(grid.home_host[guest]), 0
        for begin, end, place in self._parts(route):
            source, site = int(grid.host_site[host]), grid.site_at(guest, place)
            if site == source:
                continue
            mib = float(grid.copies.mib[guest, source, site])
            if not mib <= self.links[source, site, begin] + TOLERANCE:
                return None
            sent.append(Sent(guest, source, site, begin, mib))
            stays.append(Stay(guest, host, since, begin, begin + 1))
            host, since = self._host(guest, place, begin, min(end + 1, grid.slots)), begin
            if host < 0:
                return None
        stays.append(Stay(guest, host, since, grid.slots, grid.slots))
        at_home = stays[0]
        if at_home.held > before and not self.fits(guest)[at_home.host, before : at_home.held].all():
            return None
        return Booking(route, tuple(stays), tuple(sent))

    def _parts(self, route: Ints) -> list[tuple[int, int, int]]:
        """From which slot up to which a route is at a place, in order."""
        cuts = [0, *(np.flatnonzero(np.diff(route)) + 1).tolist(), self.grid.slots]
        return [(begin, end, int(route[begin])) for begin, end in pairwise(cuts)]

    def _host(self, guest: int, place: int, begin: int, end: int) -> int:
        """The fullest of a place's hosts that has room for all of a stay: large gaps are kept for large guests."""
        grid = self.grid
        hosts = np.array(grid.place_hosts[place], dtype=np.int64)
        least = self.free[:, hosts, begin:end].min(axis=2) - grid.demand[guest][:, None]
        fits = (least >= -TOLERANCE).all(axis=0)
        site = int(grid.place_site[place])
        for licence in np.flatnonzero(grid.takes_licence[guest]):
            fits &= bool((self.licences[licence, site, begin:end] >= 1).all())
        for rule in self.rules_of.get(guest, ()):
            where = hosts if grid.apart[rule][0].level is Level.HOST else np.full(len(hosts), site)
            fits &= (self.present[rule][where, begin:end] == 0).all(axis=1)
        if not fits.any():
            return -1
        return int(hosts[np.where(fits, least[0], np.inf).argmin()])

    def _enter(self, booking: Booking, sign: int) -> None:
        for stay in booking.stays:
            at_home = stay.begin == 0 and stay.host == self.grid.home_host[stay.guest]
            self._account(stay.guest, stay.host, slice(1 if at_home else stay.begin, stay.held), sign)
        for sent in booking.sent:
            self.links[sent.source, sent.target, sent.slot] -= sign * sent.mib

    def _account(self, guest: int, host: int, slots: slice, sign: int) -> None:
        grid, site = self.grid, self.grid.host_site[host]
        self.free[:, host, slots] -= sign * grid.demand[guest][:, None]
        if len(grid.licences):
            self.licences[:, site, slots] -= sign * grid.takes_licence[guest][:, None]
        for rule in self.rules_of.get(guest, ()):
            self.present[rule][host if grid.apart[rule][0].level is Level.HOST else site, slots] += sign

    def fits(self, guest: int) -> Bools:
        """At which host a guest has room in a slot, as [H, T]."""
        grid = self.grid
        fits: Bools = (self.free >= grid.demand[guest][:, None, None] - TOLERANCE).all(axis=0)
        for licence in np.flatnonzero(grid.takes_licence[guest]):
            fits &= (self.licences[licence] >= 1)[grid.host_site]
        for rule in self.rules_of.get(guest, ()):
            level = grid.apart[rule][0].level
            fits &= (self.present[rule] == 0)[slice(None) if level is Level.HOST else grid.host_site]
        return fits
