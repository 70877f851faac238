"""A fleet as arrays: what each unit costs at each place in each slot, and what it takes there.

A *unit* is a guest, or guests that must be together. A *place* is a site, or each host by itself where that is small
enough to be decided exactly. Behind the last place each unit has one of its own: *home*, where its guests are now.
Nobody can come there, and staying is always possible: where it breaks a rule it has a penalty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vmacro.fleet import copying, faults
from vmacro.fleet.copying import MIB_PER_GIB, Copies, Floats
from vmacro.fleet.nouns import Apart, Fleet

Ints = npt.NDArray[np.int64]
RESOURCES = ("memory", "processors", "disk")


@dataclass(frozen=True)
class Grid:
    """Shapes: guests G, units U, places P, hosts H, sites S, slots T. `run` is [U, P + 1, T], infinite where a unit may
    not be; `move` is [U, P + 1, P] as it is weighed (`Rules.worth`), `sends_by_site` the MiB of it, [U, S, P]. `wait`:
    slots before which a unit may not move; `budget`: moves that it has left on the first day; `day_of`: the day of each
    slot."""

    fleet: Fleet
    units: tuple[tuple[int, ...], ...]
    place_site: Ints
    place_hosts: tuple[tuple[int, ...], ...]
    host_site: Ints
    home_host: Ints
    home_site: Ints
    unit_site: Ints
    demand: Floats
    licences: tuple[str, ...]
    takes_licence: Floats
    run: Floats
    move: Floats
    sends_by_site: Floats
    penalty: Floats
    wait: Ints
    budget: Ints
    day_of: Ints
    capacity: Floats
    licence_room: Floats
    link_room: Floats
    apart: tuple[tuple[Apart, frozenset[int]], ...]
    copies: Copies
    energy_cost: Floats
    rtt_cost: Floats

    @property
    def slots(self) -> int:
        """How many."""
        return self.fleet.horizon.slots

    @property
    def places(self) -> int:
        """How many, without homes. The home of each unit has this number."""
        return len(self.place_site)

    @property
    def stay_slots(self) -> int:
        """The shortest stay."""
        return max(1, -(-self.fleet.rules.shortest_stay_s // self.fleet.horizon.slot_s))

    def same_day(self, first: int, second: int) -> bool:
        """Whether two slots begin on one day, by the clocks of the horizon's time zone; what lies beyond it begins on
        none."""
        return second < self.slots and bool(self.day_of[first] == self.day_of[second])

    def site_at(self, guest: int, place: int) -> int:
        """The site of one of a unit's guests, where the unit is at this place."""
        return int(self.home_site[guest] if place == self.places else self.place_site[place])


def build(fleet: Fleet, by_host: bool) -> Grid:
    """The arrays of a fleet in which nothing is wrong (faults.py)."""
    sites = {site.name: n for n, site in enumerate(fleet.sites)}
    hosts = {host.name: n for n, host in enumerate(fleet.hosts)}
    host_site = np.array([sites[h.site] for h in fleet.hosts], dtype=np.int64)
    if by_host:
        place_hosts: tuple[tuple[int, ...], ...] = tuple((n,) for n in range(len(hosts)))
        place_site = host_site
    else:
        place_hosts = tuple(tuple(np.flatnonzero(host_site == s).tolist()) for s in range(len(sites)))
        place_site = np.arange(len(sites), dtype=np.int64)
    home_host = np.array([hosts[g.host] for g in fleet.guests], dtype=np.int64)
    home_site = host_site[home_host]
    number = {g.name: n for n, g in enumerate(fleet.guests)}
    units = _units(fleet, number)
    licences = tuple(sorted({name for g in fleet.guests for name in g.licences}))
    energy, rtt = energy_cost(fleet), _rtt_cost(fleet)
    copies = _copies(fleet, sites)
    capacity = _capacity(fleet)
    run, penalty = _run(fleet, units, energy, rtt, place_site, home_host, home_site, capacity)
    move, sends = _moves(fleet, units, copies, energy, place_site, home_site)
    return Grid(
        fleet=fleet,
        units=units,
        place_site=place_site,
        place_hosts=place_hosts,
        host_site=host_site,
        home_host=home_host,
        home_site=home_site,
        unit_site=home_site[[unit[0] for unit in units]],
        demand=np.array([[g.memory_mib, g.cpus, g.disk_gib] for g in fleet.guests], dtype=np.float64),
        licences=licences,
        takes_licence=np.array([[name in g.licences for name in licences] for g in fleet.guests], dtype=np.float64),
        run=run,
        move=move,
        sends_by_site=sends,
        penalty=penalty,
        wait=np.array([_wait(fleet, unit, home_site) for unit in units], dtype=np.int64),
        budget=np.array([_budget(fleet, unit) for unit in units], dtype=np.int64),
        day_of=np.array([fleet.horizon.at(t).toordinal() for t in range(fleet.horizon.slots)], dtype=np.int64),
        capacity=capacity,
        licence_room=np.array(
            [[dict(s.licences).get(name, 0) for name in licences] for s in fleet.sites], dtype=np.float64
        ).T,
        link_room=_link_room(fleet, sites),
        apart=tuple((rule, frozenset(number[name] for name in rule.guests)) for rule in fleet.rules.apart),
        copies=copies,
        energy_cost=energy,
        rtt_cost=rtt,
    )


def _units(fleet: Fleet, number: dict[str, int]) -> tuple[tuple[int, ...], ...]:
    """Rules that share a guest make one unit of all of theirs."""
    group = list(range(len(number)))

    def root(n: int) -> int:
        while group[n] != n:
            n = group[n]
        return n

    for names in fleet.rules.together:
        first = root(number[names[0]])
        for name in names[1:]:
            group[root(number[name])] = first
    members: dict[int, list[int]] = {}
    for n in range(len(number)):
        members.setdefault(root(n), []).append(n)
    return tuple(tuple(found) for found in members.values())


def energy_cost(fleet: Fleet) -> Floats:
    """What a kWh that a guest takes costs at a site in a slot, as [S, T]: money and carbon."""
    weights, slots = fleet.weights, fleet.horizon.slots
    price = np.array([s.price_per_kwh or (0.0,) * slots for s in fleet.sites]) * weights.price
    carbon = np.array([s.carbon_g_per_kwh or (0.0,) * slots for s in fleet.sites]) / 1000 * weights.carbon_per_kg
    pue = np.array([s.pue for s in fleet.sites])[:, None]
    return np.asarray((price + carbon) * pue)


def _rtt_cost(fleet: Fleet) -> Floats:
    """What all clients of a region cost in a slot at a site, as [regions, S, T]."""
    slots = fleet.horizon.slots
    rtt = np.array([[dict(r.rtt_ms).get(s.name, 0.0) for s in fleet.sites] for r in fleet.regions])
    active = np.array([r.activity or (1.0,) * slots for r in fleet.regions])
    each = fleet.weights.rtt_per_ms_hour * fleet.horizon.slot_hours
    count = len(fleet.regions)
    return np.asarray(rtt.reshape(count, len(fleet.sites), 1) * active.reshape(count, 1, slots) * each)


def _copies(fleet: Fleet, sites: dict[str, int]) -> Copies:
    """A copy that takes longer than a slot has no place in this grid."""
    rate = np.zeros((len(sites), len(sites)))
    for link in fleet.links:
        rate[sites[link.source], sites[link.target]] = link.mib_s
    memory = np.array([g.memory_mib for g in fleet.guests], dtype=np.float64)
    disk = np.array([g.disk_gib for g in fleet.guests]) * MIB_PER_GIB
    dirty = np.array([g.dirty_mib_s for g in fleet.guests], dtype=np.float64)
    return copying.expected(memory, disk, dirty, rate, fleet.rules.most_pause_ms / 1000)


def _capacity(fleet: Fleet) -> Floats:
    """What a host has in a slot, as [resources, H, T]."""
    horizon = fleet.horizon
    whole = np.array([[h.memory_mib, h.cpus, h.disk_gib] for h in fleet.hosts], dtype=np.float64).T
    slots = [(horizon.at(t), horizon.at(t + 1)) for t in range(horizon.slots)]
    open_ = np.ones((len(fleet.hosts), horizon.slots))
    for n, host in enumerate(fleet.hosts):
        if host.closed:
            open_[n] = [not any(w.touches(*slot) for w in host.closed) for slot in slots]
    return np.asarray(whole[:, :, None] * open_[None])


def _link_room(fleet: Fleet, sites: dict[str, int]) -> Floats:
    """MiB that moves may send in a slot, as [S, S, T]; none in a slot that is not open to its end."""
    horizon = fleet.horizon
    room = np.zeros((len(sites), len(sites), horizon.slots))
    slots = [(horizon.at(t), horizon.at(t + 1)) for t in range(horizon.slots)]
    for link in fleet.links:
        open_ = [not link.windows or any(w.covers(*slot) for w in link.windows) for slot in slots]
        room[sites[link.source], sites[link.target]] = np.array(open_) * link.mib_s * horizon.slot_s
    return room


def _run(
    fleet: Fleet,
    units: tuple[tuple[int, ...], ...],
    energy: Floats,
    rtt: Floats,
    place_site: Ints,
    home_host: Ints,
    home_site: Ints,
    capacity: Floats,
) -> tuple[Floats, Floats]:
    regions = {r.name: n for n, r in enumerate(fleet.regions)}
    places, slots = len(place_site), fleet.horizon.slots
    shares = np.zeros((len(fleet.guests), len(regions)))
    for n, guest in enumerate(fleet.guests):
        for region, share in guest.clients:
            shares[n, regions[region]] += share
    kwh = np.array([g.watts for g in fleet.guests]) / 1000 * fleet.horizon.slot_hours
    each = kwh[:, None, None] * energy[None]
    if regions:
        each = each + np.einsum("gr,rst->gst", shares, rtt)
    allowed = np.array([[faults.allowed(fleet, g, s) for s in range(len(fleet.sites))] for g in fleet.guests])
    # A guest's place may cost nothing: a penalty has to be more than any saving, and still a number to add up.
    penalty = 100 * each.max(axis=1).max(axis=1).clip(min=0) + 100.0
    guests = np.arange(len(fleet.guests))
    at_home = each[guests, home_site]
    wrong = ~allowed[guests, home_site][:, None] | (capacity[0][home_host] <= 0)
    at_home = at_home + wrong * penalty[:, None]
    run = np.empty((len(units), places + 1, slots))
    for u, unit in enumerate(units):
        chosen = list(unit)
        run[u, :places] = each[chosen][:, place_site].sum(axis=0)
        run[u, :places][~allowed[chosen][:, place_site].all(axis=0)] = np.inf
        run[u, places] = at_home[chosen].sum(axis=0)
        if len(set(home_site[chosen])) > 1:
            run[u, places] += penalty[chosen].sum()
    return run, np.array([penalty[list(unit)].sum() for unit in units])


def _moves(
    fleet: Fleet,
    units: tuple[tuple[int, ...], ...],
    copies: Copies,
    energy: Floats,
    place_site: Ints,
    home_site: Ints,
) -> tuple[Floats, Floats]:
    """What moves are weighed as, and the MiB that they send."""
    cost, sends = move_costs(fleet, copies, energy)
    rules = fleet.rules
    weighed = np.where(np.isfinite(cost), rules.worth * cost + rules.least_gain, np.inf)
    closed = np.array([bool(site.hold) for site in fleet.sites])
    weighed[:, :, closed] = np.inf
    places = len(place_site)
    move = np.empty((len(units), places + 1, places))
    sent = np.empty((len(units), len(closed), places))
    between = np.ix_(place_site, place_site)
    same = place_site[:, None] == place_site[None]
    for u, unit in enumerate(units):
        chosen = list(unit)
        move[u, :places] = np.where(same, np.inf, weighed[chosen].sum(axis=0)[between])
        gather = weighed[chosen, home_site[chosen]].copy()
        gather[np.arange(len(chosen)), home_site[chosen]] = 0.0 if len(set(home_site[chosen])) > 1 else np.inf
        move[u, places] = gather.sum(axis=0)[place_site]
        sent[u] = sends[chosen].sum(axis=0)[:, place_site]
    return move, sent


def move_costs(fleet: Fleet, copies: Copies, energy: Floats) -> tuple[Floats, Floats]:
    """What a move of each guest costs from site to site, and the MiB that it sends, as [G, S, S]. Its energy is priced
    at the mean of its source's horizon."""
    sites = {site.name: n for n, site in enumerate(fleet.sites)}
    per_gib = np.full((len(sites), len(sites)), np.inf)
    for link in fleet.links:
        s, d = sites[link.source], sites[link.target]
        per_gib[s, d] = link.price_per_gib * fleet.weights.price + link.kwh_per_gib * float(energy[s].mean())
    fits = np.isfinite(copies.mib) & (copies.seconds <= fleet.horizon.slot_s)
    sends = np.where(fits, copies.mib, 0.0)
    pause = np.where(fits, copies.pause_s, 0.0) * fleet.weights.pause_per_s
    with np.errstate(invalid="ignore"):
        return np.where(fits, sends / MIB_PER_GIB * per_gib[None] + pause, np.inf), sends


def _wait(fleet: Fleet, unit: tuple[int, ...], home_site: Ints) -> int:
    """Slots until all of a unit have stayed long enough; all of them where one must not move."""
    horizon, rules = fleet.horizon, fleet.rules
    waits = [0]
    for n in unit:
        guest = fleet.guests[n]
        if guest.pinned or guest.hold or fleet.sites[home_site[n]].hold:
            return horizon.slots
        if guest.since is not None:
            left_s = rules.shortest_stay_s - (horizon.start.timestamp() - guest.since.timestamp())
            waits.append(-int(-left_s // horizon.slot_s))
    return min(max(waits), horizon.slots)


def _budget(fleet: Fleet, unit: tuple[int, ...]) -> int:
    """Moves that are left of the first day's."""
    start = fleet.horizon.start
    lately = max(sum(m.astimezone(start.tzinfo).date() == start.date() for m in fleet.guests[n].moved) for n in unit)
    return max(0, fleet.rules.most_moves_a_day - lately)
