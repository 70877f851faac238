"""What placement is asked about: guests and their needs, hosts, what a site costs over a horizon, links and rules.

Units end names. A price is in the operator's currency; everything that is weighed becomes that currency.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum


@dataclass(frozen=True)
class Horizon:
    """The time that is planned, in slots of equal length. A guest is at one host for all of a slot; moves begin with a
    slot. `start` has a time zone, at whose midnights days begin; slots are counted in elapsed time: no summer time
    stretches one."""

    start: datetime
    slot_s: int = 3600
    slots: int = 24

    def at(self, slot: int) -> datetime:
        """When a slot begins."""
        begin = self.start.astimezone(UTC) + timedelta(seconds=slot * self.slot_s)
        return begin.astimezone(self.start.tzinfo)

    @property
    def slot_hours(self) -> float:
        """How long a slot is."""
        return self.slot_s / 3600


@dataclass(frozen=True)
class Window:
    """From `begin` up to, and without, `end`."""

    begin: datetime
    end: datetime

    def touches(self, begin: datetime, end: datetime) -> bool:
        """Whether any of that time is in it."""
        return self.begin < end and begin < self.end

    def covers(self, begin: datetime, end: datetime) -> bool:
        """Whether all of that time is in it."""
        return self.begin <= begin and end <= self.end


@dataclass(frozen=True)
class GuestNeeds:
    """A guest at a host: what it takes there, and what may become of it.

    `disk_gib` are its own disks, which move with it; `dirty_mib_s` is how fast it changes its memory, as measured.
    `clients`: the regions that they are in, each with the share that it has. `residency`: labels, one of which its site
    must have; none: it may be anywhere. `licences` are those that it takes one of at its site. `pinned` says why it
    must stay, '' if it need not; `hold`, what is not known that would be needed to decide. `since`: when it came;
    `moved`: when it moved lately."""

    name: str
    host: str
    memory_mib: int
    cpus: float = 0.0
    disk_gib: float = 0.0
    dirty_mib_s: float = 0.0
    watts: float = 0.0
    clients: tuple[tuple[str, float], ...] = ()
    residency: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    pinned: str = ""
    hold: str = ""
    since: datetime | None = None
    moved: tuple[datetime, ...] = ()


@dataclass(frozen=True)
class HostRoom:
    """What a host has for guests, with those that it has. While it is `closed` it has none."""

    name: str
    site: str
    memory_mib: int
    cpus: float
    disk_gib: float = 0.0
    closed: tuple[Window, ...] = ()


@dataclass(frozen=True)
class SiteOutlook:
    """What a site will cost, slot by slot, and what it offers. `price_per_kwh` and `carbon_g_per_kwh` have a value for
    each slot. `pue`: kWh that the site takes for one that a guest takes. `licences`: how many of each. `hold` says why
    nothing is known of it (a signal that is dead or stale), '' where all is: who is there stays, and nobody comes."""

    name: str
    price_per_kwh: tuple[float, ...] = ()
    carbon_g_per_kwh: tuple[float, ...] = ()
    pue: float = 1.0
    labels: tuple[str, ...] = ()
    licences: tuple[tuple[str, int], ...] = ()
    hold: str = ""


@dataclass(frozen=True)
class Link:
    """What moves from one site to another may use. `windows`: when it is open to them; none: always."""

    source: str
    target: str
    mib_s: float
    price_per_gib: float = 0.0
    kwh_per_gib: float = 0.0
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True)
class Region:
    """Where clients are: round trips to each site, and how busy they are in each slot (none: 1 in all)."""

    name: str
    rtt_ms: tuple[tuple[str, float], ...]
    activity: tuple[float, ...] = ()


class Level(StrEnum):
    """What guests must not share."""

    HOST = "host"
    SITE = "site"


@dataclass(frozen=True)
class Apart:
    """Guests of which no two may be at the same host, or site."""

    guests: tuple[str, ...]
    level: Level = Level.HOST


@dataclass(frozen=True)
class Rules:
    """What holds for all. `together`: guests that must be at one site. `most_moves_a_day` for each guest, from
    midnight to midnight by the clocks of the horizon's time zone. `worth`: how many times its cost a
    move must save, and `least_gain` how much besides. `most_pause_ms`: a copy that would need a longer pause is not
    begun."""

    together: tuple[tuple[str, ...], ...] = ()
    apart: tuple[Apart, ...] = ()
    most_moves_a_day: int = 2
    shortest_stay_s: int = 3 * 3600
    worth: float = 2.0
    least_gain: float = 0.0
    most_pause_ms: int = 300


@dataclass(frozen=True)
class Weights:
    """What each thing is worth, in the currency of prices. `price` is a factor: 0 where money does not matter."""

    price: float = 1.0
    carbon_per_kg: float = 0.0
    rtt_per_ms_hour: float = 0.0
    pause_per_s: float = 0.0


@dataclass(frozen=True)
class Fleet:
    """All that a placement is made from."""

    horizon: Horizon
    guests: tuple[GuestNeeds, ...]
    hosts: tuple[HostRoom, ...]
    sites: tuple[SiteOutlook, ...]
    links: tuple[Link, ...]
    regions: tuple[Region, ...] = ()
    rules: Rules = Rules()
    weights: Weights = Weights()
