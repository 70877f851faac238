"""Signals that nobody has to publish: the sun, schedules, and what never changes. They are never old."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from astral import Observer
from astral.sun import elevation
from croniter import CroniterError, croniter

from vmacro.errors import ConfigurationError
from vmacro.fleet.nouns import Horizon, Window
from vmacro.fleet.recorded import SignalError
from vmacro.fleet.signals import Kind, Reading, Signal

STEP = timedelta(minutes=15)  # in which the sun moves by 4 degrees at most
MOST_STARTS = 50_000


@dataclass(frozen=True)
class Schedule:
    """On for `lasts` from each time that a cron expression (five fields) names on the clocks of a zone: where these go
    forward, what is left out begins at the change; where they go back, what comes twice begins twice."""

    cron: str
    lasts: timedelta
    zone: ZoneInfo

    def __post_init__(self) -> None:
        """Raises ConfigurationError where cron would not take it."""
        if len(self.cron.split()) != 5 or not croniter.is_valid(self.cron):
            hint = "five fields: minute hour day month weekday, such as 0 8 * * 1-5"
            raise ConfigurationError(f"schedule: {self.cron!r} is no cron expression", hint)

    def windows(self, begin: datetime, end: datetime) -> tuple[Window, ...]:
        """When it is on between two times, in order; none of them touches another."""
        found: list[Window] = []
        for start in self._starts((begin - self.lasts).astimezone(self.zone), end):
            first, last = max(start, begin), min(start + self.lasts, end)
            if found and first <= found[-1].end:
                found[-1] = Window(found[-1].begin, max(found[-1].end, last))
            elif first < last:
                found.append(Window(first, last))
        return tuple(found)

    def _starts(self, after: datetime, end: datetime) -> Iterator[datetime]:
        times = croniter(self.cron, after - timedelta(minutes=1))
        for _ in range(MOST_STARTS):
            try:
                start = times.get_next(datetime).astimezone(UTC)
            except CroniterError:  # such a day never comes
                return
            if start >= end:
                return
            yield start
        raise ConfigurationError(f"schedule: {self.cron!r} begins over {MOST_STARTS} times in so long")


def sun(name: str, latitude: float, longitude: float, horizon: Horizon) -> Signal:
    """How high the sun stands at a place, each quarter of an hour."""
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise SignalError(
            f"signal {name}: no place is at {latitude}, {longitude}", "degrees; east and north are positive"
        )
    observer = Observer(latitude, longitude)
    readings, begin, end = [], horizon.start.astimezone(UTC), horizon.at(horizon.slots).astimezone(UTC)
    while begin < end:
        after = min(begin + STEP, end)
        readings.append(Reading(begin, after, float(elevation(observer, begin + (after - begin) / 2))))
        begin = after
    return Signal(name, Kind.SUN, tuple(readings), horizon.start)


def by_day(signal: Signal, kind: Kind, above: float, day: float, night: float, currency: str = "") -> Signal:
    """One value while the sun stands higher than so many degrees, another while it does not."""
    readings = tuple(Reading(r.begin, r.end, day if r.value > above else night) for r in signal.readings)
    return Signal(signal.name, kind, readings, signal.told, currency)


def by_schedule(
    name: str, kind: Kind, schedule: Schedule, on: float, off: float, horizon: Horizon, currency: str = ""
) -> Signal:
    """One value while a schedule is on, another while it is off."""
    begin, end = horizon.start.astimezone(UTC), horizon.at(horizon.slots).astimezone(UTC)
    readings, at = [], begin
    for window in schedule.windows(begin, end):
        if at < window.begin:
            readings.append(Reading(at, window.begin, off))
        readings.append(Reading(window.begin, window.end, on))
        at = window.end
    if at < end:
        readings.append(Reading(at, end, off))
    return Signal(name, kind, tuple(readings), horizon.start, currency)


def fixed(name: str, kind: Kind, value: float, horizon: Horizon, currency: str = "") -> Signal:
    """What never changes."""
    begin, end = horizon.start.astimezone(UTC), horizon.at(horizon.slots).astimezone(UTC)
    return Signal(name, kind, (Reading(begin, end, value),), horizon.start, currency)
