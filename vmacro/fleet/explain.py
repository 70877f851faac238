"""Why a guest goes or stays, in a sentence, and what would have to change."""

from __future__ import annotations

import numpy as np

from vmacro.fleet import faults, openings, routes
from vmacro.fleet.copying import Floats
from vmacro.fleet.demands import Demands
from vmacro.fleet.grid import RESOURCES, Ints, move_costs
from vmacro.fleet.ledger import TOLERANCE, Ledger
from vmacro.fleet.nouns import Level
from vmacro.model.moves import Finding, Severity

PENNY = 1e-9


class Explainer:
    """Of what is booked. `staying`: what all cost if nobody moved."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.grid, self.fleet = ledger, ledger.grid, ledger.grid.fleet
        demands = Demands(self.grid)
        free = demands.room.like(np.zeros_like(demands.room.rows))
        chunks = [routes.cheapest(self.grid, demands.costs(free, chunk))[0] for chunk in demands.chunks]
        self.wanted = np.concatenate(chunks)
        self.plain_moves, _ = move_costs(self.fleet, self.grid.copies, self.grid.energy_cost)
        self.kwh = np.array([g.watts for g in self.fleet.guests]) / 1000 * self.fleet.horizon.slot_hours
        self.staying = float(self.grid.run[:, -1].sum())

    def reason(self, unit: int, guest: int) -> tuple[str, str]:
        """Why, and what would have to change."""
        booked = self.ledger.bookings[unit].route
        blocked = "" if (booked == self.wanted[unit]).all() else self._lacking(unit, guest)
        if any(sent.guest == guest for sent in self.ledger.bookings[unit].sent):
            return self._goes(unit, guest), blocked or self._why_later(unit, guest)
        return self._stays(unit, guest, blocked)

    def saves(self, unit: int, guest: int) -> float:
        """What a guest's moves save over the horizon, what they cost taken off."""
        sites = self._sites(unit, guest)
        at_home = np.full_like(sites, self.grid.home_site[guest])
        return float(self._running(guest, at_home).sum() - self._running(guest, sites).sum() - self._paid(unit, guest))

    def findings(self) -> tuple[Finding, ...]:
        """Guests that stay where they must not be."""
        found = []
        for start in range(0, len(self.grid.units), 128):
            units = range(start, min(start + 128, len(self.grid.units)))
            costs = openings.costs(self.ledger, units)
            for n, unit in enumerate(units):
                at_home = self.ledger.bookings[unit].route == self.grid.places
                wrong = at_home[1:] & (costs.run[n, -1, 1:] > self._least_wrong(unit))
                if wrong.any():
                    found.append(self._must_leave(unit, int(wrong.argmax()) + 1))
        return tuple(found)

    def _least_wrong(self, unit: int) -> Floats:
        """A penalty is more than anything else that a unit costs at home."""
        each = np.array(
            [self._running(g, np.full(self.grid.slots, self.grid.home_site[g])) for g in self.grid.units[unit]]
        )
        return np.asarray(each.sum(axis=0)[1:] + PENNY)

    def _must_leave(self, unit: int, slot: int) -> Finding:
        guest = self.grid.units[unit][0]
        host = self.fleet.hosts[self.grid.home_host[guest]]
        message = (
            f"must leave host {host.name} by {self._time(slot)}, and there is no way: {self._lacking(unit, guest)}"
        )
        return Finding("must-leave", Severity.WARNING, f"guest {self.fleet.guests[guest].name}", message)

    def _sites(self, unit: int, guest: int) -> Ints:
        sites = np.empty(self.grid.slots, dtype=np.int64)
        for stay in self.ledger.bookings[unit].stays:
            if stay.guest == guest:
                sites[stay.begin : stay.end] = self.grid.host_site[stay.host]
        return sites

    def _running(self, guest: int, sites: Ints) -> Floats:
        slots = np.arange(self.grid.slots)
        total = self.kwh[guest] * self.grid.energy_cost[sites, slots]
        names = [region.name for region in self.fleet.regions]
        for region, share in self.fleet.guests[guest].clients:
            total = total + share * self.grid.rtt_cost[names.index(region), sites, slots]
        return np.asarray(total)

    def _paid(self, unit: int, guest: int) -> float:
        sent = [s for s in self.ledger.bookings[unit].sent if s.guest == guest]
        return float(sum(self.plain_moves[guest, s.source, s.target] for s in sent))

    def _goes(self, unit: int, guest: int) -> str:
        stays = [s for s in self.ledger.bookings[unit].stays if s.guest == guest]
        way = ", ".join(f"to {self._where(s.host)} at {self._time(s.begin)}" for s in stays[1:])
        net, paid = self.saves(unit, guest), self._paid(unit, guest)
        hours = self.grid.slots * self.fleet.horizon.slot_hours
        return f"goes {way}: saves {net + paid:.4g} in {hours:g} h, and costs {paid:.4g} to move"

    def _why_later(self, unit: int, guest: int) -> str:
        """What keeps a guest that goes from going at once; '' where it is cheaper to go later."""
        first = next(s.end for s in self.ledger.bookings[unit].stays if s.guest == guest)
        if first and first == self.grid.wait[unit]:
            return "a shorter stay: it may go no sooner (shortest_stay)"
        if first and self.grid.budget[unit] == 0 and not self.grid.same_day(0, first):
            moved = len(self.fleet.guests[guest].moved)
            return f"more moves a day: it has moved {moved} times lately (most_moves_a_day)"
        return ""

    def _stays(self, unit: int, guest: int, blocked: str) -> tuple[str, str]:
        needs = self.fleet.guests[guest]
        hold = self.fleet.sites[self.grid.home_site[guest]].hold
        if needs.pinned:
            return f"stays: pinned, {needs.pinned}", "its pin"
        if needs.hold:
            return f"stays: {needs.hold}", needs.hold
        if hold:
            return f"stays: nothing is known of site {self.fleet.sites[self.grid.home_site[guest]].name}: {hold}", hold
        if blocked:
            return f"stays: {blocked}", blocked
        if self.grid.wait[unit] >= self.grid.slots:
            return "stays: it has not been here for long enough", "a shorter stay, or a longer horizon"
        if self.grid.budget[unit] == 0 and self.grid.same_day(0, self.grid.slots - 1):
            return f"stays: it has moved {len(needs.moved)} times today", "more moves a day, or time"
        return self._nothing_better(guest)

    def _nothing_better(self, guest: int) -> tuple[str, str]:
        """The site that is cheapest over the horizon, and what stands against it."""
        home = int(self.grid.home_site[guest])
        cost = [float(self._running(guest, np.full(self.grid.slots, s)).sum()) for s in range(len(self.fleet.sites))]
        best = int(np.argmin(cost))
        saved, move = cost[home] - cost[best], float(self.plain_moves[guest, home, best])
        name = self.fleet.sites[best].name
        if best == home:
            return "stays: no site is cheaper over the horizon", ""
        if (
            not np.isfinite(move)
            or self.fleet.sites[best].hold
            or not faults.allowed(self.fleet, self.fleet.guests[guest], best)
        ):
            why = self._no_way(guest, home, best)
            return f"stays: site {name} would save {saved:.4g}, but {why}", why
        rules = self.fleet.rules
        least = rules.worth * move + rules.least_gain
        short = f"{least - saved:.4g} more to save at site {name}"
        return f"stays: site {name} would save {saved:.4g}, and a move there must save {least:.4g}", short

    def _no_way(self, guest: int, home: int, site: int) -> str:
        """Why a guest cannot go from site to site, whatever room there is."""
        there, needs = self.fleet.sites[site], self.fleet.guests[guest]
        if there.hold:
            return f"nothing is known of it: {there.hold}"
        if not faults.allowed(self.fleet, needs, site):
            return f"it lacks what the guest must have: {', '.join((*needs.residency, *needs.licences))}"
        ends = self.fleet.sites[home].name, there.name
        link = next((x for x in self.fleet.links if (x.source, x.target) == ends), None)
        if link is None or link.mib_s <= 0:
            return "no link leads there"
        if not np.isfinite(self.grid.copies.mib[guest, home, site]):
            return f"the copy would not end: it dirties {needs.dirty_mib_s:g} MiB/s, the link carries {link.mib_s:g}"
        takes = self.grid.copies.seconds[guest, home, site]
        return f"the copy would take {takes:.0f} s, a slot has {self.fleet.horizon.slot_s}"

    def _lacking(self, unit: int, guest: int) -> str:
        """What the route that a unit wants runs into first."""
        wanted = self.wanted[unit]
        booking = self.ledger.release(unit)
        try:
            before = self.grid.places
            for slot, place in enumerate(wanted.tolist()):
                if place == before:
                    continue
                begin, before = slot, place
                short = self._short(unit, guest, place, begin)
                if short:
                    site = self.fleet.sites[self.grid.site_at(guest, place)].name
                    return f"{short} at site {site} at {self._time(begin)}"
        finally:
            self.ledger.restore(unit, booking)
        if (wanted == self.grid.places).all():
            return "no other site is open to it"
        return "others need the room that it would have for some of the time"

    def _short(self, unit: int, guest: int, place: int, slot: int) -> str:
        if place == self.grid.places:
            return ""
        ledger, site = self.ledger, int(self.grid.place_site[place])
        hosts = list(self.grid.place_hosts[place])
        home = int(self.grid.home_site[guest])
        if home != site and ledger.links[home, site, slot] < self.grid.copies.mib[guest, home, site] - TOLERANCE:
            return f"no bandwidth left from site {self.fleet.sites[home].name}"
        end = min(slot + self.grid.stay_slots + 1, self.grid.slots)
        for number, resource in enumerate(RESOURCES):
            left = float(ledger.free[number, hosts, slot:end].min(axis=1).max())
            need = float(self.grid.demand[guest, number])
            if left < need - TOLERANCE:
                return f"not enough {resource} on any host ({need:g} needed, {max(left, 0.0):g} left)"
        for licence in np.flatnonzero(self.grid.takes_licence[guest]):
            if ledger.licences[licence, site, slot:end].min() < 1:
                return f"no licence {self.grid.licences[licence]} left"
        for rule in ledger.rules_of.get(guest, ()):
            where = hosts if self.grid.apart[rule][0].level is Level.HOST else [site]
            if (ledger.present[rule][where, slot:end] > 0).any(axis=1).all():
                return "a guest that it must not be with"
        return ""

    def _where(self, host: int) -> str:
        return f"{self.fleet.hosts[host].site}/{self.fleet.hosts[host].name}"

    def _time(self, slot: int) -> str:
        return f"{self.fleet.horizon.at(slot):%d %b %H:%M %Z}"
