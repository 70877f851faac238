"""What placement is decided by: values over time, of one kind and in one unit, and whether they are to be trusted.

Carbon is average or marginal, and these are two kinds: nothing here turns one into the other, or compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from vmacro.errors import ConfigurationError
from vmacro.fleet.nouns import Horizon

G_PER_LB = 453.59237


class Kind(StrEnum):
    """What a signal is about, with the unit that its values have here."""

    PRICE = "price per kWh"
    CARBON_AVERAGE = "average gCO2 per kWh"
    CARBON_MARGINAL = "marginal gCO2 per kWh"
    SUN = "degrees of the sun above the horizon"
    LOAD = "share of the usual load"


class Unit(StrEnum):
    """What others' values are in."""

    PER_KWH = "1/kWh"
    PER_MWH = "1/MWh"
    G_PER_KWH = "gCO2/kWh"
    LBS_PER_MWH = "lbs/MWh"
    SHARE = "share"

    def factor(self, kind: Kind) -> float:
        """From this unit to that of a kind. Raises ConfigurationError where it is no unit of that kind."""
        carbon = {Unit.G_PER_KWH: 1.0, Unit.LBS_PER_MWH: G_PER_LB / 1000}
        factors = {
            Kind.PRICE: {Unit.PER_KWH: 1.0, Unit.PER_MWH: 1e-3},
            Kind.CARBON_AVERAGE: carbon,
            Kind.CARBON_MARGINAL: carbon,
            Kind.LOAD: {Unit.SHARE: 1.0},
        }.get(kind, {})
        if self not in factors:
            known = ", ".join(factors) or "none"
            raise ConfigurationError(f"signal: {self} is no unit of {kind}", f"units that are: {known}")
        return factors[self]


@dataclass(frozen=True)
class Reading:
    """A value from `begin` up to `end`. `estimated`: its source says that it is not measured, nor settled."""

    begin: datetime
    end: datetime
    value: float
    estimated: bool = False


@dataclass(frozen=True)
class Signal:
    """Readings in order of time, none of which overlaps another. `currency` is that of a price. `told`: when its source
    last said something."""

    name: str
    kind: Kind
    readings: tuple[Reading, ...]
    told: datetime | None
    currency: str = ""


class State(StrEnum):
    """Whether a signal can be decided by: only if it is live."""

    LIVE = "live"
    DEAD = "dead"
    STALE = "stale"
    GAPPY = "gappy"
    ESTIMATED = "estimated"


@dataclass(frozen=True)
class Trust:
    """How old a source's last word may be, and how much of a horizon may be estimated. `least`: how far ahead a signal
    must be known to be decided by; None: to the horizon's end."""

    most_age: timedelta = timedelta(hours=36)
    most_estimated: float = 0.5
    least: timedelta | None = None


@dataclass(frozen=True)
class Judged:
    """A signal over a horizon: a value for each slot up to the first that it does not cover, if it is live; else `why`
    it is not, which holds guests."""

    state: State
    why: str
    values: tuple[float, ...] = ()


def judge(signal: Signal, horizon: Horizon, now: datetime, trust: Trust = Trust()) -> Judged:
    """Means of slots, weighted by time. A slot that is not covered to its end is a gap: nothing is made up."""
    if signal.told is None or not signal.readings:
        return Judged(State.DEAD, f"{signal.name} is dead: it has said nothing")
    if now - signal.told > trust.most_age:
        age_h = (now - signal.told).total_seconds() / 3600
        most_h = trust.most_age.total_seconds() / 3600
        return Judged(State.STALE, f"{signal.name} is stale: told {age_h:.0f} h ago, {most_h:.0f} h are allowed")
    means = slot_means(signal.readings, horizon)
    known = next((slot for slot, (mean, _) in enumerate(means) if mean is None), horizon.slots)
    if known < _least_slots(horizon, trust):
        return Judged(State.GAPPY, f"{signal.name} is gappy: {_gaps(means, horizon)}")
    share = sum(estimated for _, estimated in means[:known]) / known
    if share > trust.most_estimated:
        allowed = f"{trust.most_estimated:.0%} may be"
        return Judged(State.ESTIMATED, f"{signal.name} is estimated: {share:.0%} of the horizon, {allowed}")
    return Judged(State.LIVE, "", tuple(mean for mean, _ in means[:known] if mean is not None))


def _least_slots(horizon: Horizon, trust: Trust) -> int:
    if trust.least is None:
        return horizon.slots
    return min(horizon.slots, max(1, -int(-trust.least.total_seconds() // horizon.slot_s)))


def _gaps(means: Sequence[tuple[float | None, float]], horizon: Horizon) -> str:
    missing = [slot for slot, (mean, _) in enumerate(means) if mean is None]
    return f"{len(missing)} of {horizon.slots} slots lack values, from {horizon.at(missing[0]):%d %b %H:%M %Z}"


def slot_means(readings: Sequence[Reading], horizon: Horizon) -> list[tuple[float | None, float]]:
    """Of each slot the mean, None where it is not covered, and the share of it that is estimated."""
    found: list[tuple[float | None, float]] = []
    first = 0
    for slot in range(horizon.slots):
        # In UTC: the difference of two times of one zone is that of its clocks, which summer time changes.
        begin, end = (horizon.at(at).astimezone(UTC) for at in (slot, slot + 1))
        while first < len(readings) and readings[first].end <= begin:
            first += 1
        covered = total = estimated = 0.0
        for reading in readings[first:]:
            if reading.begin >= end:
                break
            seconds = (min(end, reading.end) - max(begin, reading.begin)).total_seconds()
            covered += seconds
            total += seconds * reading.value
            estimated += seconds * reading.estimated
        whole = abs(covered - horizon.slot_s) < 1e-3
        found.append((total / covered if whole else None, estimated / horizon.slot_s))
    return found


def alike(signals: Sequence[Signal]) -> None:
    """Sites are compared by signals of one kind and currency only. Raises ConfigurationError."""
    for signal in signals[1:]:
        first = signals[0]
        if (signal.kind, signal.currency) != (first.kind, first.currency):
            said = [" ".join(filter(None, (s.name, f"({s.kind}", s.currency))) + ")" for s in (first, signal)]
            hint = (
                "all sites of a policy need the same: average and marginal carbon are never mixed, nor are currencies"
            )
            raise ConfigurationError(f"signals {said[0]} and {said[1]} cannot be compared", hint)
