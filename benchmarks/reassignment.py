"""The machine reassignment problem of the ROADEF/EURO challenge 2012, and a local search for it.

One process after another goes to another machine; what it would cost at each of them is found at once. Where there is
no room for it, it changes places with one that is there. Costs that grow for a while are let pass, less and less (great
deluge: Dueck, 1993).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
SWAPS = 0.7  # of so many processes it is tried, after each one's own move
CANDIDATES = 6  # machines that one looks at


@dataclass(frozen=True)
class Instance:
    """As the challenge's specification has it; `balances` are (resource, resource, target, weight)."""

    transient: Bools
    weight: Ints
    neighbourhood: Ints
    location: Ints
    capacity: Ints
    safety: Ints
    distance: Ints
    spread: Ints
    needs: tuple[tuple[int, ...], ...]
    service: Ints
    requires: Ints
    move_cost: Ints
    balances: tuple[tuple[int, int, int, int], ...]
    weights: tuple[int, int, int]
    first: Ints
    bound: int
    original: int

    @staticmethod
    def read(folder: Path, name: str) -> Instance:
        """From the files of one instance."""

        def numbers(kind: str) -> list[int]:
            return [int(word) for word in (folder / f"{kind}_{name}.txt").read_text().split()]

        words = iter(numbers("model"))

        def take(count: int) -> list[int]:
            return [next(words) for _ in range(count)]

        resources = np.array([take(2) for _ in range(next(words))])
        count = len(resources)
        machines = next(words)
        rows = np.array([take(2 + 2 * count + machines) for _ in range(machines)])
        services = []
        for _ in range(next(words)):
            least, dependencies = take(2)
            services.append((least, tuple(take(dependencies))))
        processes = np.array([take(2 + count) for _ in range(next(words))])
        balances = tuple((*take(3), next(words)) for _ in range(next(words)))
        return Instance(
            transient=resources[:, 0] == 1,
            weight=resources[:, 1],
            neighbourhood=rows[:, 0],
            location=rows[:, 1],
            capacity=rows[:, 2 : 2 + count],
            safety=rows[:, 2 + count : 2 + 2 * count],
            distance=rows[:, 2 + 2 * count :],
            spread=np.array([least for least, _ in services]),
            needs=tuple(needs for _, needs in services),
            service=processes[:, 0],
            requires=processes[:, 1:-1],
            move_cost=processes[:, -1],
            balances=tuple((b[0], b[1], b[2], b[3]) for b in balances),
            weights=tuple(take(3)),  # type: ignore[arg-type]
            first=np.array(numbers("assignment")),
            bound=numbers("lb")[0],
            original=numbers("original_cost")[0],
        )

    def cost(self, at: Ints) -> int:
        """Of an assignment, counted from nothing."""
        usage = np.zeros_like(self.capacity)
        np.add.at(usage, at, self.requires)
        moved = at != self.first
        by_service = np.bincount(self.service[moved], minlength=len(self.spread))
        process, service, machine = self.weights
        moves = process * int(self.move_cost[moved].sum()) + service * int(by_service.max(initial=0))
        return int(self.machine_cost(usage).sum()) + moves + machine * int(self.distance[self.first, at].sum())

    def machine_cost(self, usage: Ints) -> Ints:
        """Of load and balance, of each machine."""
        return self.cost_of(usage, self.capacity, self.safety)

    def cost_of(self, usage: Ints, capacity: Ints, safety: Ints) -> Ints:
        """The same of some machines."""
        total = (np.maximum(usage - safety, 0) * self.weight).sum(axis=-1)
        free = capacity - usage
        for one, other, target, weight in self.balances:
            total = total + weight * np.maximum(target * free[..., one] - free[..., other], 0)
        return np.asarray(total)

    def wrong(self, at: Ints) -> list[str]:
        """Rules that an assignment breaks, looked at anew."""
        used = np.zeros_like(self.capacity)
        np.add.at(used, at, self.requires)
        moved = at != self.first
        np.add.at(used, self.first[moved], self.requires[moved] * self.transient)
        found = ["capacity"] if (used > self.capacity).any() else []
        pairs = np.unique(np.stack([self.service, at]), axis=1)
        found += ["conflict"] if pairs.shape[1] < len(at) else []
        near: list[set[int]] = [set() for _ in self.spread]
        places: list[set[int]] = [set() for _ in self.spread]
        for process, machine in enumerate(at):
            near[self.service[process]].add(int(self.neighbourhood[machine]))
            places[self.service[process]].add(int(self.location[machine]))
        found += ["spread"] if any(len(p) < least for p, least in zip(places, self.spread, strict=True)) else []
        wanting = any(near[s] - near[other] for s, needs in enumerate(self.needs) for other in needs)
        return found + (["dependency"] if wanting else [])


class Search:
    """Where processes are, and what follows from it, kept up to date move by move."""

    def __init__(self, instance: Instance, seed: int = 1) -> None:
        self.of, self.at, self.chance = instance, instance.first.copy(), random.Random(seed)
        machines, services = len(instance.capacity), len(instance.spread)
        self.usage = np.zeros_like(instance.capacity)
        np.add.at(self.usage, self.at, instance.requires)
        self.held = np.zeros_like(instance.capacity)  # what processes that are gone keep there
        self.present = np.zeros((services, machines), dtype=bool)
        self.present[instance.service, self.at] = True
        self.places = np.zeros((services, int(instance.location.max()) + 1), dtype=np.int64)
        np.add.at(self.places, (instance.service, instance.location[self.at]), 1)
        self.near = np.zeros((services, int(instance.neighbourhood.max()) + 1), dtype=np.int64)
        np.add.at(self.near, (instance.service, instance.neighbourhood[self.at]), 1)
        self.moved = np.zeros(services, dtype=np.int64)
        self.needed_by: list[list[int]] = [[] for _ in range(services)]
        for service, needs in enumerate(instance.needs):
            for other in needs:
                self.needed_by[other].append(service)
        self.load = instance.machine_cost(self.usage)
        self.cost = instance.cost(self.at)
        self.best, self.best_cost = self.at.copy(), self.cost

    def run(self, more: Callable[[], bool], level: float = 0.01) -> None:
        """Until there is no time left; `level`: how much worse than the best is let pass at first."""
        order = list(range(len(self.at)))
        while more():
            self.chance.shuffle(order)
            before = self.best_cost
            for number, process in enumerate(order):
                if number % 256 == 0 and not more():
                    break
                ceiling = self.best_cost * (1 + level)
                self._step(process, ceiling)
                if self.chance.random() < SWAPS:
                    self._swap(process, ceiling)
            level = level / 2 if self.best_cost == before else level * 0.9

    def checked_cost(self) -> int:
        """Of the best, counted anew; no rule may be broken by it."""
        broken = self.of.wrong(self.best)
        if broken:
            raise AssertionError(f"the best assignment breaks {broken}")
        return self.of.cost(self.best)

    def _step(self, process: int, ceiling: float) -> None:
        """The best machine of those that are open; its own one is not among them: there is no standing still."""
        open_ = self._open(process)
        if not open_.any():
            return
        delta = np.where(open_, self._delta(process), np.iinfo(np.int64).max)
        target = int(delta.argmin())
        if delta[target] < 0 or (delta[target] > 0 and self.cost + delta[target] <= ceiling):
            self._move(process, target)
            if self.cost < self.best_cost:
                self.best, self.best_cost = self.at.copy(), self.cost

    def _swap(self, process: int, ceiling: float) -> None:
        """Change places with a process of a machine at which this one would be cheaper, if there were room. What the
        rules say of the other one is known only once this one has gone: then it is undone."""
        here, service = int(self.at[process]), int(self.of.service[process])
        wanted = np.where(self._allowed(process), self._delta(process), np.iinfo(np.int64).max)
        few = self.chance.sample(range(len(wanted)), min(CANDIDATES, len(wanted)))
        target = min(few, key=lambda machine: int(wanted[machine]))
        if wanted[target] == np.iinfo(np.int64).max or self.present[service, target]:
            return
        there = np.flatnonzero(self.at == target)
        change = self._changed(process, there, here, target)
        if not len(there) or self.cost + (least := int(change.min())) > ceiling or least >= np.iinfo(np.int64).max // 2:
            return
        other, before = int(there[change.argmin()]), self.cost
        self._move(process, target)
        if self._open(other)[here]:
            self._move(other, here)
            full = (self.usage[target] + self.held[target] > self.of.capacity[target]).any()
            if not full and (self.cost < before or self.cost <= ceiling):
                if self.cost < self.best_cost:
                    self.best, self.best_cost = self.at.copy(), self.cost
                return
            self._move(other, target)
        self._move(process, here)

    def _changed(self, process: int, there: Ints, here: int, target: int) -> Ints:
        """What the cost becomes more by if a process changes places with each of those that are at `target`; as good as
        infinite where there is no room. Without what the largest number of moves of a service costs."""
        of, need, needs = self.of, self.of.requires[process], self.of.requires[there]
        first, firsts = int(of.first[process]), of.first[there]
        at_here, at_target = self.usage[here] - need + needs, self.usage[target] + need - needs
        room_here = self.held[here] + ((here == first) * need - (firsts == here)[:, None] * needs) * of.transient
        room_target = (
            self.held[target] + ((firsts == target)[:, None] * needs - (target == first) * need) * of.transient
        )
        fits = ((at_here + room_here <= of.capacity[here]) & (at_target + room_target <= of.capacity[target])).all(
            axis=1
        )
        change = of.cost_of(at_here, of.capacity[here], of.safety[here]) - self.load[here]
        change = change + of.cost_of(at_target, of.capacity[target], of.safety[target]) - self.load[target]
        process_weight, _, machine_weight = of.weights
        change += machine_weight * int(of.distance[first, target] - of.distance[first, here])
        change += machine_weight * (of.distance[firsts, here] - of.distance[firsts, target])
        change += process_weight * (int(here == first) - int(target == first)) * int(of.move_cost[process])
        change += process_weight * ((firsts == target).astype(np.int64) - (firsts == here)) * of.move_cost[there]
        return np.where(fits, change, np.iinfo(np.int64).max // 2)

    def _open(self, process: int) -> Bools:
        """Machines that a process may go to, and that have room for it."""
        of, here, first = self.of, int(self.at[process]), int(self.of.first[process])
        need = np.broadcast_to(of.requires[process], self.usage.shape).copy()
        if here != first:
            need[first, of.transient] = 0  # there it keeps its room
        fits: Bools = ((self.usage + self.held + need) <= of.capacity).all(axis=1)
        return self._allowed(process) & fits

    def _allowed(self, process: int) -> Bools:
        """By all rules but that there must be room."""
        of, here, service = self.of, int(self.at[process]), int(self.of.service[process])
        open_: Bools = ~self.present[service]
        place = int(of.location[here])
        if self.places[service, place] == 1 and int((self.places[service] > 0).sum()) <= of.spread[service]:
            open_ &= (self.places[service][of.location] == 0) | (of.location == place)
        for other in of.needs[service]:
            open_ &= self.near[other][of.neighbourhood] > 0
        around = int(of.neighbourhood[here])
        if self.near[service, around] == 1 and any(self.near[other, around] for other in self.needed_by[service]):
            open_ &= of.neighbourhood == around
        return open_

    def _delta(self, process: int) -> Ints:
        """What the cost becomes more by, at each machine."""
        of, here, first = self.of, int(self.at[process]), int(self.of.first[process])
        need, service = of.requires[process], int(of.service[process])
        less = int(of.cost_of(self.usage[here] - need, of.capacity[here], of.safety[here])) - int(self.load[here])
        delta = of.machine_cost(self.usage + need) - self.load + less
        delta += of.weights[2] * (of.distance[first] - of.distance[first, here])
        if here == first:
            top = int(self.moved.max())
            delta += of.weights[0] * of.move_cost[process]
            delta += of.weights[1] * max(0, int(self.moved[service]) + 1 - top)
        else:
            fewer = self.moved[service] == self.moved.max() and (self.moved == self.moved.max()).sum() == 1
            delta[first] -= of.weights[0] * of.move_cost[process] + of.weights[1] * int(fewer)
        return np.asarray(delta)

    def _move(self, process: int, target: int) -> None:
        of, here, first = self.of, int(self.at[process]), int(self.of.first[process])
        need, service = of.requires[process], int(of.service[process])
        self.cost += int(self._delta(process)[target])
        self.usage[here] -= need
        self.usage[target] += need
        for machine in (here, target):
            self.load[machine] = of.cost_of(self.usage[machine], of.capacity[machine], of.safety[machine])
        step = int(here == first) - int(target == first)
        self.held[first] += step * need * of.transient
        self.moved[service] += step
        self.present[service, here], self.present[service, target] = False, True
        for counts, of_machine in ((self.places, of.location), (self.near, of.neighbourhood)):
            counts[service, of_machine[here]] -= 1
            counts[service, of_machine[target]] += 1
        self.at[process] = target
