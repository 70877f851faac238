"""A policy on recorded signals: what it would have done, slot by slot, beside simpler ways and the best of all.

Each slot knows what was published then, and no more (reading.as_known); of that it makes perfect forecasts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np

from vmacro.errors import ConfigurationError
from vmacro.fleet import faults, hindsight, reading, ways
from vmacro.fleet.assemble import Assembled, Hold, Known, assemble
from vmacro.fleet.grid import Ints
from vmacro.fleet.meter import Cost, Meter, Moved
from vmacro.fleet.nouns import Fleet, GuestNeeds, Horizon
from vmacro.fleet.placement import Decision, place
from vmacro.fleet.policy import FollowPolicy
from vmacro.fleet.signals import Reading, Signal, Trust, slot_means
from vmacro.model.moves import Finding

STAY, BEST_NOW, RULE, PLANNED, OPTIMUM = "stay", "always the best site now", "simple rule", "vmacro", "offline optimum"
MOST_SLOTS = 1000


@dataclass(frozen=True)
class Way:
    """What one way of following did. `sites` has a number of `Simulation.sites` for each guest and slot."""

    name: str
    cost: Cost
    moves: tuple[Moved, ...]
    sites: Ints

    @property
    def in_vain(self) -> int:
        """Moves that saved less than they cost, as it turned out."""
        return sum(move.pays < 0 for move in self.moves)

    def returns(self, slots: int) -> int:
        """Moves back to the site that the guest had left less than so many slots before."""
        last: dict[int, Moved] = {}
        found = 0
        for move in self.moves:
            before = last.get(move.guest)
            found += before is not None and before.source == move.target and move.slot - before.slot < slots
            last[move.guest] = move
        return found


@dataclass(frozen=True)
class Held:
    """Something that was not known for so many slots, and what was said of it first."""

    subject: str
    slots: int
    why: str


@dataclass(frozen=True)
class Simulation:
    """What came of it. `bound`: nothing can be cheaper, as it is weighed. `left_out`: slots in which a price or carbon
    was never recorded, which cost nothing in any way. `first`: what was decided in the first slot. With findings that
    block there is nothing else."""

    horizon: Horizon
    guests: tuple[str, ...]
    sites: tuple[str, ...]
    ways: tuple[Way, ...] = ()
    bound: float = 0.0
    left_out: int = 0
    held: tuple[Held, ...] = ()
    first: tuple[Decision, ...] = ()
    findings: tuple[Finding, ...] = ()

    def way(self, name: str) -> Way:
        """By its name."""
        return next(way for way in self.ways if way.name == name)


@dataclass
class _State:
    """Where guests are, since when, and when they moved."""

    host: dict[str, str]
    since: dict[str, datetime] = field(default_factory=dict)
    moved: dict[str, list[datetime]] = field(default_factory=dict)

    def needs(self, policy: FollowPolicy, now: datetime) -> list[GuestNeeds]:
        day = now - timedelta(days=1)
        return [
            replace(
                guest,
                host=self.host[guest.name],
                since=self.since.get(guest.name),
                moved=tuple(when for when in self.moved.get(guest.name, ()) if when > day),
            )
            for guest in policy.guests
        ]

    def go(self, moves: Mapping[str, str], now: datetime) -> None:
        for guest, host in moves.items():
            self.host[guest] = host
            self.since[guest] = now
            self.moved.setdefault(guest, []).append(now)


class Simulator:
    """Of one policy from `start` for so many days. `known`: all that was recorded, in full. Raises ConfigurationError
    where it is too long, or the policy does not say where guests are."""

    def __init__(self, policy: FollowPolicy, known: Known, start: datetime, days: float) -> None:
        slots = round(days * 86_400 / policy.timing.slot_s)
        if not 1 <= slots <= MOST_SLOTS:
            most = MOST_SLOTS * policy.timing.slot_s / 86_400
            text = f"--days {days:g}: {slots} slots of {policy.timing.slot_s / 60:g} minutes, {MOST_SLOTS} at most"
            hint = f"{most:.4g} days at most; more with a longer slot_minutes in {policy.path}"
            raise ConfigurationError(text, hint)
        homeless = [guest.name for guest in policy.guests if not guest.host or not guest.memory_mib]
        if homeless:
            hint = "a simulation asks no host: guests.NAME.host and memory_mib"
            raise ConfigurationError(f"{policy.path}: guests.{homeless[0]}: lacks host or memory_mib", hint)
        self.policy, self.known = policy, known
        self.horizon = Horizon(start.astimezone(policy.timing.zone), policy.timing.slot_s, slots)
        self._sources = {source.name: source for source in policy.sources}
        self._site_of = {host.name: host.site for host in policy.hosts}
        self._number = {site.name: n for n, site in enumerate(policy.sites)}
        self._held: dict[str, Held] = {}
        self._warned: dict[str, Finding] = {}
        self._first: tuple[Decision, ...] = ()

    def run(self, progress: Callable[[int, int], None], clock: Callable[[], float], seconds: float = 0.0) -> Simulation:
        """`progress` is told slots done and slots in all; `seconds` of `clock` are for the solver of the optimum.
        Raises ConfigurationError where nothing was recorded of the time."""
        names = tuple(g.name for g in self.policy.guests), tuple(self._number)
        truth, left_out = self._truth()
        if left_out == self.horizon.slots:
            ends = f"{self.horizon.start:%Y-%m-%d %H:%M} to {self.horizon.at(self.horizon.slots):%Y-%m-%d %H:%M %Z}"
            text = f"{self.policy.path}: of {ends} nothing is recorded that can be simulated"
            raise ConfigurationError(text, "another --from; by default it is when recordings begin")
        probe = self._assembled(self._home(), 0)
        wrong = faults.check(probe.fleet)
        if wrong:
            return Simulation(self.horizon, *names, findings=tuple(wrong))
        meter, rule = Meter(truth), partial(ways.simple_rule, slots=self.policy.timing.slots)
        paths = {STAY: self._followed(lambda _: {}), BEST_NOW: self._followed(ways.best_now, 1)}
        paths |= {RULE: self._followed(rule, 1), PLANNED: self._planned(progress)}
        optimum = hindsight.best(truth, (paths[RULE], paths[PLANNED]), seconds, clock)
        paths[OPTIMUM] = optimum.sites
        found = tuple(self._way(name, sites, meter) for name, sites in paths.items())
        held, warned = tuple(self._held.values()), tuple(self._warned.values())
        return Simulation(self.horizon, *names, found, optimum.bound, left_out, held, self._first, warned)

    def _way(self, name: str, sites: Ints, meter: Meter) -> Way:
        moves = tuple(meter.moves(sites, [self._at(guest.host) for guest in self.policy.guests]))
        return Way(name, meter.cost(sites, moves), moves, sites)

    def _home(self) -> _State:
        return _State({guest.name: guest.host for guest in self.policy.guests})

    def _at(self, host: str) -> int:
        return self._number[self._site_of[host]]

    def _assembled(self, state: _State, slot: int, slots: int = 0) -> Assembled:
        """As it was known in a slot."""
        now = self.horizon.at(slot)
        told = {
            name: reading.as_known(said, self._sources[name], now) if isinstance(said, Signal) else said
            for name, said in self.known.signals.items()
        }
        ahead = min(slots or self.policy.timing.slots, self.horizon.slots - slot)
        known, needs = replace(self.known, signals=told), state.needs(self.policy, now)
        return assemble(self.policy, known, needs, self.policy.hosts, now, slots=ahead)

    def _followed(self, decide: Callable[[Fleet], dict[str, str]], slots: int = 0) -> Ints:
        """By what is decided from each slot's fleet alone."""

        def step(state: _State, slot: int) -> Mapping[str, str]:
            return decide(self._assembled(state, slot, slots=slots).fleet) if slots else {}

        return self._walked(step)

    def _planned(self, progress: Callable[[int, int], None]) -> Ints:
        """By placement, anew in each slot; of each placement that slot is carried out."""

        def step(state: _State, slot: int) -> Mapping[str, str]:
            made = self._assembled(state, slot)
            self._note(made.holds)
            found = place(made.fleet)
            self._first = self._first or found.decisions
            for finding in found.findings:
                self._warned.setdefault(f"{finding.code} {finding.subject}", finding)
            progress(slot + 1, self.horizon.slots)
            return first_moves(found.decisions, made.fleet.horizon.start)

        return self._walked(step)

    def _walked(self, step: Callable[[_State, int], Mapping[str, str]]) -> Ints:
        state, sites = self._home(), np.zeros((len(self.policy.guests), self.horizon.slots), dtype=np.int64)
        for slot in range(self.horizon.slots):
            state.go(step(state, slot), self.horizon.at(slot))
            sites[:, slot] = [self._at(state.host[guest.name]) for guest in self.policy.guests]
        return sites

    def _note(self, holds: Sequence[Hold]) -> None:
        for hold in holds:
            before = self._held.get(hold.subject, Held(hold.subject, 0, hold.why))
            self._held[hold.subject] = replace(before, slots=before.slots + 1)

    def _truth(self) -> tuple[Fleet, int]:
        """What really was, and how many slots are left out as something of them was never recorded."""
        told = [said for said in self.known.signals.values() if isinstance(said, Signal)]
        means = {said.name: [mean for mean, _ in slot_means(said.readings, self.horizon)] for said in told}
        missing = {slot for values in means.values() for slot, mean in enumerate(values) if mean is None}
        whole = {said.name: self._patched(said, means[said.name], missing) for said in told}
        policy = replace(self.policy, trust=Trust(timedelta(days=36_500), 1.0))
        known = replace(self.known, signals={**self.known.signals, **whole})
        needs = self._home().needs(policy, self.horizon.start)
        made = assemble(policy, known, needs, policy.hosts, self.horizon.start, slots=self.horizon.slots)
        return made.fleet, len(missing)

    def _patched(self, said: Signal, means: Sequence[float | None], missing: set[int]) -> Signal:
        """A value for each slot, 0 where one of a signal's is missing."""
        readings = tuple(
            Reading(self.horizon.at(slot), self.horizon.at(slot + 1), 0.0 if slot in missing else mean or 0.0)
            for slot, mean in enumerate(means)
        )
        return replace(said, readings=readings, told=self.horizon.start)


def first_moves(decisions: Sequence[Decision], start: datetime) -> dict[str, str]:
    """Guests that are to move at once, and to which host."""
    begin = start.astimezone(UTC)
    found = {}
    for decision in decisions:
        for visit in decision.visits[1:2]:
            if visit.begin.astimezone(UTC) == begin:
                found[decision.guest] = visit.host
    return found
