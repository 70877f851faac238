"""What is scarce, as one row each: room at places, licences, links, being apart; and what routes take of each row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vmacro.fleet import routes
from vmacro.fleet.copying import Floats
from vmacro.fleet.grid import Grid, Ints
from vmacro.fleet.nouns import Level
from vmacro.fleet.routes import CHUNK, Costs


@dataclass(frozen=True)
class Room:
    """An amount for each row: what there is, what is taken, or what one more of it costs. `places` [resources, P, T],
    `licences` [L, S, T], `links` [S, S, T] and `apart` [rules, P or S, T] are views of `rows`."""

    rows: Floats
    shapes: tuple[tuple[int, int, int], ...]

    def like(self, rows: Floats) -> Room:
        """The same rows with other amounts."""
        return Room(rows, self.shapes)

    def part(self, number: int) -> Floats:
        """One of the four."""
        before = sum(int(np.prod(shape)) for shape in self.shapes[:number])
        shape = self.shapes[number]
        return self.rows[before : before + int(np.prod(shape))].reshape(shape)

    @property
    def places(self) -> Floats:
        """Of resources."""
        return self.part(0)

    @property
    def licences(self) -> Floats:
        """Of sites."""
        return self.part(1)

    @property
    def links(self) -> Floats:
        """MiB."""
        return self.part(2)

    @property
    def apart(self) -> Floats:
        """Guests of a rule: one where places are hosts or the rule is about sites; else one for each host."""
        return self.part(3)


class Demands:
    """Rows of a grid. Homes count where they are; in slot 0 they are no choice, and reduce what is left for others."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        of_host = np.empty(len(grid.host_site), dtype=np.int64)
        for place, hosts in enumerate(grid.place_hosts):
            of_host[list(hosts)] = place
        self.by_host = all(len(hosts) == 1 for hosts in grid.place_hosts)
        self.home_place = of_host[grid.home_host]
        self.rules_of: dict[int, list[int]] = {}
        self.bound_by = np.zeros((len(grid.apart), len(grid.home_host)), dtype=bool)
        for n, (_, guests) in enumerate(grid.apart):
            self.bound_by[n, list(guests)] = True
            for guest in guests:
                self.rules_of.setdefault(guest, []).append(n)
        self.sizes = np.array([len(unit) for unit in grid.units])
        self.guests = np.array([guest for unit in grid.units for guest in unit], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self.takes = np.add.reduceat(grid.demand[self.guests], self.starts[:-1], axis=0)
        self.licences = np.add.reduceat(grid.takes_licence[self.guests], self.starts[:-1], axis=0)
        self.room = self._room()
        self.priced_rows = np.arange(len(self.room.rows)) < sum(int(np.prod(s)) for s in self.room.shapes[:2])
        count = len(grid.units)
        self.chunks = [np.arange(n, min(n + CHUNK, count)) for n in range(0, count, CHUNK)]

    def apart_row(self, rule: int, place: int) -> int:
        """In which row of a rule a place counts."""
        grid = self.grid
        return place if self.by_host and grid.apart[rule][0].level is Level.HOST else int(grid.place_site[place])

    def _room(self) -> Room:
        grid, slots = self.grid, self.grid.slots
        sites = len(grid.fleet.sites)
        shapes = (
            (grid.demand.shape[1], grid.places, slots),
            (len(grid.licences), sites, slots),
            (sites, sites, slots),
            (len(grid.apart), max(sites, grid.places), slots),
        )
        room = Room(np.zeros(sum(int(np.prod(s)) for s in shapes)), shapes)
        room.places[:] = np.stack([grid.capacity[:, list(hosts)].sum(axis=1) for hosts in grid.place_hosts], axis=1)
        room.licences[:] = grid.licence_room[:, :, None]
        room.links[:] = grid.link_room
        room.apart[:] = 1.0
        for n, (rule, _) in enumerate(grid.apart):
            if rule.level is Level.HOST:
                for place in range(grid.places):
                    row = self.apart_row(n, place)
                    room.apart[n, row] = len(grid.place_hosts[place])
        for guest in range(len(grid.home_host)):
            room.places[:, self.home_place[guest], 0] -= grid.demand[guest]
            room.licences[:, grid.home_site[guest], 0] -= grid.takes_licence[guest]
            for rule_number in self.rules_of.get(guest, ()):
                room.apart[rule_number, self.apart_row(rule_number, int(self.home_place[guest])), 0] -= 1
        np.maximum(room.rows, 0.0, out=room.rows)
        return room

    def costs(self, prices: Room, units: Ints) -> Costs:
        """Of some units that are next to each other, at these prices."""
        grid = self.grid
        guests = self.guests[self.starts[units[0]] : self.starts[units[-1] + 1]]
        inner = self.starts[units] - self.starts[units[0]]
        rent = np.zeros((len(units), grid.places + 1, grid.slots))
        rent[:, :-1] = np.einsum("ur,rpt->upt", self.takes[units], prices.places)
        home = np.einsum("gr,rgt->gt", grid.demand[guests], prices.places[:, self.home_place[guests]])
        if len(grid.licences):
            rent[:, :-1] += np.einsum("ul,lpt->upt", self.licences[units], prices.licences[:, grid.place_site])
            home += np.einsum("gl,lgt->gt", grid.takes_licence[guests], prices.licences[:, grid.home_site[guests]])
        rent[:, -1] = np.add.reduceat(home, inner, axis=0)
        self._add_apart(rent, prices, units)
        rent[:, -1, 0] = 0.0
        none = np.zeros((len(units), grid.places, grid.slots))
        return Costs(units, grid.run[units] + rent, rent, none, grid.move[units], self._transit(prices, units))

    def _add_apart(self, rent: Floats, prices: Room, units: Ints) -> None:
        if not prices.apart.any():
            return
        for n, unit in enumerate(units):
            for guest in self.grid.units[unit]:
                for rule in self.rules_of.get(guest, ()):
                    for place in range(self.grid.places):
                        rent[n, place] += prices.apart[rule, self.apart_row(rule, place)]
                    rent[n, -1] += prices.apart[rule, self.apart_row(rule, int(self.home_place[guest]))]

    def _transit(self, prices: Room, units: Ints) -> Floats | None:
        grid = self.grid
        shut = np.where(grid.link_room[:, grid.place_site] > 0, 0.0, np.inf)
        shut[np.arange(len(shut))[:, None] == grid.place_site[None]] = 0.0
        transit = shut.transpose(2, 0, 1)[None]
        if prices.links.any():
            toll = prices.links[:, grid.place_site].transpose(2, 0, 1)
            return np.asarray(transit + toll[None] * grid.sends_by_site[units][:, None])
        return transit if shut.any() else None

    def value(self, units: Ints, found: Ints) -> Floats:
        """What routes of units cost by themselves, without what others take."""
        grid = self.grid
        nothing = np.broadcast_to(0.0, (len(units), grid.places + 1, grid.slots))
        costs = Costs(units, grid.run[units], nothing, nothing[:, :-1], grid.move[units])
        return routes.value_of(grid, costs, found)

    def taken(self, wanted: Ints) -> Room:
        """By routes of all units."""
        _, rows, amounts = self.usage(np.arange(len(wanted)), wanted)
        return self.room.like(np.bincount(rows, amounts, len(self.room.rows)).astype(np.float64))

    def usage(self, units: Ints, found: Ints) -> tuple[Ints, Ints, Floats]:
        """What routes of units take, as (number of the route, row, amount). What a guest leaves it still takes in that
        slot."""
        grid = self.grid
        route = np.repeat(np.arange(len(units)), self.sizes[units])
        guest = np.concatenate([self.guests[self.starts[u] : self.starts[u + 1]] for u in units])
        at = np.where(found[route] == grid.places, self.home_place[guest][:, None], found[route])
        before = np.concatenate([self.home_place[guest][:, None], at[:, :-1]], axis=1)
        moves = at != before
        chosen = np.ones_like(moves)
        chosen[:, 0] = found[route, 0] != grid.places
        stays, leaves = np.nonzero(chosen), np.nonzero(moves[:, 1:])
        who = np.concatenate([stays[0], leaves[0]])
        slot = np.concatenate([stays[1], leaves[1] + 1])
        place = np.concatenate([at[stays], before[:, 1:][leaves]])
        parts = [*self._takes(guest[who], slot, place, who), self._sends(guest, at, before, moves)]
        numbers, rows, amounts = (np.concatenate(of) for of in zip(*parts, strict=True))
        return route[numbers], rows, amounts

    def _takes(self, guest: Ints, slot: Ints, place: Ints, who: Ints) -> list[tuple[Ints, Ints, Floats]]:
        grid, slots, shapes = self.grid, self.grid.slots, self.room.shapes
        found = []
        for resource in range(shapes[0][0]):
            found.append((who, (resource * grid.places + place) * slots + slot, grid.demand[guest, resource]))
        first = int(np.prod(shapes[0]))
        for licence in range(shapes[1][0]):
            some = grid.takes_licence[guest, licence] > 0
            rows = first + (licence * shapes[1][1] + grid.place_site[place[some]]) * slots + slot[some]
            found.append((who[some], rows, np.ones(len(rows))))
        first = sum(int(np.prod(shape)) for shape in shapes[:3])
        for n, (rule, _) in enumerate(grid.apart):
            some = self.bound_by[n][guest]
            row = place[some] if self.by_host and rule.level is Level.HOST else grid.place_site[place[some]]
            rows = first + (n * shapes[3][1] + row) * slots + slot[some]
            found.append((who[some], rows, np.ones(len(rows))))
        return found

    def _sends(self, guest: Ints, at: Ints, before: Ints, moves: npt.NDArray[np.bool_]) -> tuple[Ints, Ints, Floats]:
        grid, shapes = self.grid, self.room.shapes
        who, slot = np.nonzero(moves)
        source, target = grid.place_site[before[who, slot]], grid.place_site[at[who, slot]]
        first = int(np.prod(shapes[0])) + int(np.prod(shapes[1]))
        rows = first + (source * shapes[2][1] + target) * grid.slots + slot
        return who, rows, grid.copies.mib[guest[who], source, target]
