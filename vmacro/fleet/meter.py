"""What it costs where guests really were: money, carbon, round trips and moves, over recorded time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vmacro.fleet import grid
from vmacro.fleet.copying import MIB_PER_GIB, Floats
from vmacro.fleet.grid import Grid, Ints
from vmacro.fleet.nouns import Fleet, Weights


@dataclass(frozen=True)
class Cost:
    """`weighed`: all of it, as the policy weighs it; `money` in its currency; `rtt_ms`: what clients had, on average
    and weighted by how busy they were, None without clients; `pause_s`: all guests' together."""

    weighed: float
    money: float
    carbon_kg: float
    rtt_ms: float | None
    pause_s: float


@dataclass(frozen=True)
class Moved:
    """A guest (by number) went from site to site at the beginning of a slot. `pays`: what its stay saved there until it
    went on, less what the move cost, as it is weighed; below 0: it was in vain."""

    guest: int
    source: int
    target: int
    slot: int
    pays: float


class Meter:
    """Of a fleet whose outlooks are what really was."""

    def __init__(self, truth: Fleet) -> None:
        self.grid: Grid = grid.build(truth, by_host=False)
        fleet = truth
        self._kwh = np.array([g.watts for g in fleet.guests]) / 1000 * fleet.horizon.slot_hours
        self._price = _energy(fleet, Weights(price=1.0))
        self._carbon = _energy(fleet, Weights(price=0.0, carbon_per_kg=1.0))
        self._shares = _shares(fleet)
        self._moves, self._sent = grid.move_costs(fleet, self.grid.copies, self.grid.energy_cost)
        self._busy = np.array([r.activity or (1.0,) * fleet.horizon.slots for r in fleet.regions])
        self._ms = np.array([[dict(r.rtt_ms).get(s.name, 0.0) for s in fleet.sites] for r in fleet.regions])

    def moves(self, sites: Ints, first: Sequence[int]) -> list[Moved]:
        """`sites` are [guests, slots]; `first`, where each was before."""
        before = np.concatenate([np.array(first)[:, None], sites[:, :-1]], axis=1)
        guests, slots = np.nonzero(before != sites)
        found = []
        for guest, slot in zip(guests.tolist(), slots.tolist(), strict=True):
            later = slots[(guests == guest) & (slots > slot)]
            end = int(later.min()) if len(later) else sites.shape[1]
            source, target = int(before[guest, slot]), int(sites[guest, slot])
            there, here = (float(self._running(guest, at)[slot:end].sum()) for at in (target, source))
            paid = float(self._moves[guest, source, target])
            found.append(Moved(guest, source, target, slot, here - there - paid))
        return sorted(found, key=lambda move: (move.slot, move.guest))

    def cost(self, sites: Ints, moves: Sequence[Moved]) -> Cost:
        """Of all guests, over all of the time."""
        fleet, slots = self.grid.fleet, np.arange(sites.shape[1])
        running = sum(float(self._running(g, s)[slots].sum()) for g, s in enumerate(sites))
        money, carbon = (
            float((self._kwh[:, None] * energy[sites, slots]).sum()) for energy in (self._price, self._carbon)
        )
        pause = paid = 0.0
        links = {(link.source, link.target): link for link in fleet.links}
        names = [site.name for site in fleet.sites]
        for move in moves:
            link = links[names[move.source], names[move.target]]
            gib = float(self._sent[move.guest, move.source, move.target]) / MIB_PER_GIB
            paid += float(self._moves[move.guest, move.source, move.target])
            pause += float(self.grid.copies.pause_s[move.guest, move.source, move.target])
            money += gib * (link.price_per_gib + link.kwh_per_gib * float(self._price[move.source].mean()))
            carbon += gib * link.kwh_per_gib * float(self._carbon[move.source].mean())
        return Cost(running + paid, money, carbon, self._rtt(sites), pause)

    def _running(self, guest: int, sites: int | Ints) -> Floats:
        """Slot by slot."""
        slots = np.arange(self.grid.slots)
        total = self._kwh[guest] * self.grid.energy_cost[sites, slots]
        for region in np.flatnonzero(self._shares[guest]):
            total = total + self._shares[guest, region] * self.grid.rtt_cost[region, sites, slots]
        return np.asarray(total)

    def _rtt(self, sites: Ints) -> float | None:
        if not self._shares.any():
            return None
        slots = np.arange(sites.shape[1])
        weight = total = 0.0
        for region, busy in enumerate(self._busy):
            share = self._shares[:, region][:, None] * busy[slots]
            weight += float(share.sum())
            total += float((share * self._ms[region][sites]).sum())
        return total / weight if weight else None


def _energy(fleet: Fleet, weights: Weights) -> Floats:
    """Of one kWh, as [sites, slots]: money or kg, by these weights alone."""
    return grid.energy_cost(replace(fleet, weights=weights))


def _shares(fleet: Fleet) -> Floats:
    regions = {region.name: n for n, region in enumerate(fleet.regions)}
    shares = np.zeros((len(fleet.guests), len(regions)))
    for n, guest in enumerate(fleet.guests):
        for region, share in guest.clients:
            shares[n, regions[region]] += share
    return shares
