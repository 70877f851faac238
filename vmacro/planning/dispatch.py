"""Which moves of batches may begin now, so that no limit is ever passed and no link waits for nothing. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vmacro.model.batches import Limits, PlannedMove

_Route = tuple[str, str]  # source and destination host


@dataclass
class Load:
    """Moves under way, counted."""

    hosts: Counter[str] = field(default_factory=Counter)
    links: Counter[tuple[str, str]] = field(default_factory=Counter)
    total: int = 0

    @classmethod
    def of(cls, moves: Iterable[PlannedMove]) -> Load:
        """Those that are under way."""
        load = cls()
        for move in moves:
            load.add(move)
        return load

    def add(self, move: PlannedMove) -> None:
        """It has begun."""
        self.hosts.update(move.hosts)
        self.links[move.link] += 1
        self.total += 1

    def over(self, limits: Limits) -> list[str]:
        """What is above its limit."""
        found = [f"host {h}: {n}" for h, n in self.hosts.items() if n > limits.per_host]
        found += [f"link {a}-{b}: {n}" for (a, b), n in self.links.items() if n > limits.per_link]
        return found + ([f"in all: {self.total}"] if self.total > limits.in_all else [])

    def has_room(self, move: PlannedMove, limits: Limits) -> bool:
        """Whether it may begin beside these."""
        if self.total >= limits.in_all or self.links[move.link] >= limits.per_link:
            return False
        return all(self.hosts[host] < limits.per_host for host in move.hosts)


class Waiting:
    """Moves that have not begun, each with its number, in their order. Those of one route are a queue of their own, so
    that a choice costs as much as there are routes, however many moves wait."""

    def __init__(self, moves: Mapping[int, PlannedMove]) -> None:
        self._queues: dict[_Route, deque[int]] = {}
        self._moves = dict(moves)
        for number in sorted(moves):
            self._queues.setdefault(moves[number].hosts, deque()).append(number)

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def back(self, number: int, move: PlannedMove) -> None:
        """It is to be tried again, after all others of its route."""
        self._moves[number] = move
        self._queues.setdefault(move.hosts, deque()).append(number)

    def take(self, load: Load, limits: Limits) -> list[int]:
        """The numbers of those that begin now, which no longer wait; `load` counts them from now on."""
        taken = []
        while (number := self._first(load, limits)) is not None:
            move = self._moves.pop(number)
            self._queues[move.hosts].popleft()
            load.add(move)
            taken.append(number)
        return taken

    def _first(self, load: Load, limits: Limits) -> int | None:
        heads = (queue[0] for queue in self._queues.values() if queue)
        return min((n for n in heads if load.has_room(self._moves[n], limits)), default=None)


def expected_s(moves: Iterable[PlannedMove], limits: Limits) -> float:
    """How long all of them should take, in seconds. A link sends one byte at a time, however many moves share it; of
    what else belongs to a move, as many are at it at once as may be; and nothing is over before its longest move."""
    copies: defaultdict[tuple[str, str], float] = defaultdict(float)
    links: defaultdict[tuple[str, str], float] = defaultdict(float)
    hosts: defaultdict[str, float] = defaultdict(float)
    total = longest = 0.0
    for move in moves:
        copies[move.link] += move.copy_s
        links[move.link] += move.seconds / limits.per_link
        for host in move.hosts:
            hosts[host] += move.seconds / limits.per_host
        total, longest = total + move.seconds / limits.in_all, max(longest, move.seconds)
    return round(max([*copies.values(), *links.values(), *hosts.values(), total, longest]), 1)
