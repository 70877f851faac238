"""A policy: where guests should be, and what decides it. `vmacro.policies` reads one from a file."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import time, timedelta
from zoneinfo import ZoneInfo

from vmacro.fleet.computed import Schedule
from vmacro.fleet.feeds import Feed, Format
from vmacro.fleet.nouns import GuestNeeds, HostRoom, Link, Rules, Weights
from vmacro.fleet.signals import Kind, Trust, Unit


@dataclass(frozen=True)
class Known:
    """How far ahead a recorded signal was known when it was new: so many hours; or, if it is `published` at a time of
    the day, to the end of the day after that (day-ahead prices)."""

    ahead: timedelta = timedelta(hours=24)
    published: time | None = None


@dataclass(frozen=True)
class Source:
    """One signal. `name` is what it is called in sentences; `key` where the policy has it. `high` and `low` are the
    values of a schedule that is on or off, or of day and night; `high` alone is a fixed one."""

    name: str
    key: str
    kind: Kind
    format: Format
    feed: Feed | None = None
    unit: Unit | None = None
    currency: str = ""
    high: float = 0.0
    low: float = 0.0
    schedule: Schedule | None = None
    latitude: float = 0.0
    longitude: float = 0.0
    above: float = 0.0
    known: Known = Known()


@dataclass(frozen=True)
class Calendar:
    """When a site, or a host, is closed for maintenance. `host` is '' for all of a site's."""

    name: str
    key: str
    feed: Feed
    site: str
    host: str = ""


@dataclass(frozen=True)
class SitePolicy:
    """What a policy says of a site; price and carbon are None where they do not count."""

    name: str
    price: Source | None = None
    carbon: Source | None = None
    pue: float = 1.0
    labels: tuple[str, ...] = ()
    licences: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class LinkPolicy:
    """A link, and when moves may use it: always, where there is no schedule."""

    link: Link
    open: tuple[Schedule, ...] = ()


@dataclass(frozen=True)
class RecordedRtt:
    """Round trips from a region to a site, out of a recording of `vmacro rtt probe`."""

    region: str
    site: str
    key: str
    feed: Feed


@dataclass(frozen=True)
class RegionPolicy:
    """Where clients are. `rtt_ms` are those that the policy itself says; `recorded` are others."""

    name: str
    rtt_ms: tuple[tuple[str, float], ...]
    recorded: tuple[RecordedRtt, ...] = ()
    activity: Source | None = None


@dataclass(frozen=True)
class Timing:
    """How long slots are and how far is planned; `zone`: of the policy's schedules and calendars, and of sentences;
    `every`: how often is decided."""

    slot_s: int = 3600
    horizon_h: int = 24
    every: timedelta = timedelta(hours=1)
    zone: ZoneInfo = ZoneInfo("UTC")  # noqa: RUF009

    @property
    def slots(self) -> int:
        """Of a whole horizon."""
        return max(1, self.horizon_h * 3600 // self.slot_s)


@dataclass(frozen=True)
class FollowPolicy:
    """All of a policy. `path` is its file; guests' `host` is where they are in a simulation, '' where only a real
    inventory says it; of `hosts` the same holds."""

    path: str
    currency: str
    timing: Timing
    rules: Rules
    weights: Weights
    trust: Trust
    sites: tuple[SitePolicy, ...]
    guests: tuple[GuestNeeds, ...]
    hosts: tuple[HostRoom, ...] = ()
    links: tuple[LinkPolicy, ...] = ()
    regions: tuple[RegionPolicy, ...] = ()
    calendars: tuple[Calendar, ...] = ()
    most_rtt_age: timedelta = timedelta(days=30)

    @property
    def sources(self) -> tuple[Source, ...]:
        """Of all signals."""
        found = [source for site in self.sites for source in (site.price, site.carbon)]
        found += [region.activity for region in self.regions]
        return tuple(source for source in found if source is not None)
