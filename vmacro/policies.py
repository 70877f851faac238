"""The operator's policy for `vmacro follow` and `vmacro simulate`: one TOML file; all errors in it are told at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from vmacro import config
from vmacro.addresses import Plain
from vmacro.config import Strict
from vmacro.fleet import nouns
from vmacro.fleet.computed import Schedule
from vmacro.fleet.policy import (
    Calendar,
    FollowPolicy,
    LinkPolicy,
    RecordedRtt,
    RegionPolicy,
    SitePolicy,
    Source,
    Timing,
)
from vmacro.fleet.signals import Trust
from vmacro.inventory import Name
from vmacro.sources import CARBON, LOAD, PRICE, FeedTable, SourceTable, schedule, zone_named
from vmacro.wording import spelled

Zone = Annotated[str, AfterValidator(lambda name: zone_named(name).key)]
Currency = Annotated[str, AfterValidator(spelled(r"[A-Z]{3}", "must be three capital letters, such as EUR"))]
Milliseconds = Annotated[float, Field(ge=0, le=60_000)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Share = Annotated[float, Field(ge=0, le=1e6)]


class WeightsTable(Strict):
    """What each thing is worth, in the policy's currency."""

    price: float = Field(default=1.0, ge=0, le=1e6, description="factor of money; 0: it does not matter")
    carbon_per_kg: float = Field(default=0.0, ge=0, le=1e6, description="of a kg of CO2")
    rtt_per_ms_hour: float = Field(default=0.0, ge=0, le=1e6, description="of 1 ms of round trip, for an hour")
    pause_per_s: float = Field(default=0.0, ge=0, le=1e6, description="of a second in which a guest stands still")


class ApartTable(Strict):
    """Guests of which no two may share a host, or a site."""

    guests: tuple[Name, ...] = Field(min_length=2, description="their names")
    level: nouns.Level = Field(default=nouns.Level.HOST, description="what they must not share: `host` or `site`")


class RulesTable(Strict):
    """What holds for all guests."""

    most_moves_a_day: int = Field(default=2, ge=0, le=24, description="of each guest, from midnight to midnight")
    shortest_stay_hours: float = Field(default=3.0, ge=0, le=720, description="after a move")
    worth: float = Field(default=2.0, ge=1, le=1000, description="how many times its cost a move must save")
    least_gain: float = Field(default=0.0, ge=0, le=1e9, description="what it must save besides")
    most_pause_ms: int = Field(default=300, ge=1, le=60_000, description="longest pause that a copy may plan for")
    together: tuple[tuple[Name, ...], ...] = Field(default=(), description="lists of guests that share a site")
    apart: tuple[ApartTable, ...] = Field(default=(), description="tables of `guests` and `level`")


class TrustTable(Strict):
    """When a signal is believed; one that is not holds guests where they are."""

    most_age_hours: float = Field(default=36.0, gt=0, le=8760, description="since its source last said something")
    most_estimated: float = Field(default=0.5, ge=0, le=1, description="share of the horizon")
    least_hours: float = Field(default=6.0, gt=0, le=720, description="how far ahead it must be known, without gaps")
    most_rtt_age_days: float = Field(default=30.0, gt=0, le=3660, description="of recordings of round trips")


class SiteTable(Strict):
    """A site, as the inventory calls it."""

    price: SourceTable | None = Field(default=None, description="of electricity: a source; default: it costs nothing")
    carbon: SourceTable | None = Field(default=None, description="of electricity: a source; default: it has none")
    pue: float = Field(default=1.0, ge=1, le=10, description="kWh that the site takes for one that a guest takes")
    labels: tuple[Name, ...] = Field(default=(), description="which guests' `residency` may ask for")
    licences: dict[Name, Count] = Field(default_factory=dict, description="how many there are of each")
    maintenance: FeedTable | None = Field(default=None, description="iCalendar file: when its hosts are closed")


class HostTable(Strict):
    """A host. `vmacro follow` asks the real one; what stands here counts where it cannot tell."""

    site: Name = Field(description="where it stands")
    memory_mib: int = Field(ge=1, le=1 << 40, description="for guests, in a simulation")
    cpus: float = Field(default=1e6, gt=0, le=1e6, description="for guests; default: as many as they want")
    disk_gib: float = Field(default=1e9, ge=0, le=1e9, description="for guests; default: as much as they want")
    maintenance: FeedTable | None = Field(default=None, description="iCalendar file: when it is closed")


class ScheduleTable(Strict):
    """On for a while from each time that cron names."""

    cron: str = Field(max_length=200, description="five fields: minute, hour, day, month, weekday")
    hours: float = Field(gt=0, le=24 * 366, description="how long it is on")
    time_zone: Zone | None = Field(default=None, description="default: the policy's")

    @model_validator(mode="after")
    def _is_cron(self) -> ScheduleTable:
        self.made("UTC")
        return self

    def made(self, zone: str) -> Schedule:
        """The schedule. Raises ValueError."""
        return schedule(self.cron, self.hours, self.time_zone or zone)


class LinkTable(Strict):
    """What moves between two sites may use."""

    between: tuple[Name, Name] = Field(description="two sites, in both directions")
    mib_s: float = Field(gt=0, le=1e7, description="that moves may send, all together")
    price_per_gib: float = Field(default=0.0, ge=0, le=1e6, description="in the policy's currency")
    kwh_per_gib: float = Field(default=0.0, ge=0, le=1e6, description="energy, at the price and carbon of the source")
    open: tuple[ScheduleTable, ...] = Field(default=(), description="when moves may use it; default: always")


class RegionTable(Strict):
    """Where clients are."""

    rtt_ms: dict[Name, Milliseconds | FeedTable] = Field(
        description="to each site: milliseconds, or a recording of `vmacro rtt probe`: { file = ... }"
    )
    activity: SourceTable | None = Field(default=None, description="how busy they are, 1 is usual; default: always 1")


class GuestTable(Strict):
    """A guest, as the inventory calls it."""

    host: Name | Literal[""] = Field(default="", description="where it is in a simulation")
    memory_mib: int = Field(default=0, ge=0, le=1 << 40, description="default: what its host says")
    cpus: float = Field(default=0.0, ge=0, le=1e6, description="that it takes of a host's")
    disk_gib: float = Field(default=0.0, ge=0, le=1e9, description="of its own disks, which move with it")
    dirty_mib_s: float = Field(default=0.0, ge=0, le=1e6, description="how fast it changes its memory, as measured")
    watts: float = Field(default=0.0, ge=0, le=1e6, description="that it takes")
    clients: dict[Name, Share] = Field(default_factory=dict, description="regions, each with the share that it has")
    residency: tuple[Name, ...] = Field(default=(), description="labels, one of which its site must have")
    licences: tuple[Name, ...] = Field(default=(), description="of which it takes one each at its site")
    pinned: Plain = Field(default="", description="why it must stay")


class PolicyFile(Strict):
    """The whole file."""

    currency: Currency = Field(description="of all prices and weights, such as EUR")
    time_zone: Zone = Field(default="UTC", description="of schedules and calendars, such as Europe/Berlin")
    slot_minutes: int = Field(default=60, ge=5, le=1440, description="moves begin with a slot; a divisor of a day")
    horizon_hours: int = Field(default=24, ge=1, le=240, description="how far is planned")
    every_minutes: int = Field(default=60, ge=1, le=1440, description="how often `follow --daemon` decides")
    weights: WeightsTable = Field(default=WeightsTable(), description="a table, see below; so are those that follow")
    rules: RulesTable = Field(default=RulesTable(), description="what holds for all guests")
    trust: TrustTable = Field(default=TrustTable(), description="when a signal is believed")
    sites: dict[Name, SiteTable] = Field(min_length=1, description="by name")
    links: tuple[LinkTable, ...] = Field(default=(), description="between sites; without one nobody goes there")
    regions: dict[Name, RegionTable] = Field(default_factory=dict, description="where clients are, by name")
    hosts: dict[Name, HostTable] = Field(default_factory=dict, description="by name; a simulation needs them")
    guests: dict[Name, GuestTable] = Field(min_length=1, description="by name; nobody else is moved")

    @model_validator(mode="after")
    def _consistent(self) -> PolicyFile:
        problems = [*self._names(), *self._sources(), *self._kinds(), *self._twice()]
        if 1440 % self.slot_minutes:
            problems.append(f"slot_minutes: {self.slot_minutes} is no divisor of a day's 1440 minutes")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _names(self) -> Iterator[str]:
        for n, link in enumerate(self.links):
            yield from (f"links.{n}.between: no site {site!r}" for site in link.between if site not in self.sites)
        for name, host in self.hosts.items():
            if host.site not in self.sites:
                yield f"hosts.{name}.site: no site {host.site!r}"
        for name, region in self.regions.items():
            yield from (f"regions.{name}.rtt_ms: no site {site!r}" for site in region.rtt_ms if site not in self.sites)
            missing = [site for site in self.sites if site not in region.rtt_ms]
            yield from (f"regions.{name}.rtt_ms: lacks site {site}" for site in missing)
        for name, guest in self.guests.items():
            yield from (f"guests.{name}.clients: no region {r!r}" for r in guest.clients if r not in self.regions)
            if guest.host and guest.host not in self.hosts:
                yield f"guests.{name}.host: no host {guest.host!r}"
        named = [("rules.together", names) for names in self.rules.together]
        for key, names in [*named, *(("rules.apart", rule.guests) for rule in self.rules.apart)]:
            yield from (f"{key}: no guest {name!r}" for name in names if name not in self.guests)

    def _sources(self) -> Iterator[str]:
        for name, site in self.sites.items():
            for what, table in ((PRICE, site.price), (CARBON, site.carbon)):
                if table is not None:
                    yield from (f"sites.{name}.{what}.{problem}" for problem in table.problems(what))
        for name, region in self.regions.items():
            if region.activity is not None:
                yield from (f"regions.{name}.activity.{problem}" for problem in region.activity.problems(LOAD))

    def _kinds(self) -> Iterator[str]:
        """Average and marginal carbon say different things of the same grid."""
        kinds = {name: site.carbon.carbon_kind for name, site in self.sites.items() if site.carbon is not None}
        for name, kind in kinds.items():
            first = next(iter(kinds))
            if kind is not kinds[first]:
                yield f"sites.{name}.carbon: is {kind}, that of site {first} {kinds[first]}: these are never mixed"
        for table in ("price", "carbon"):
            lacking = [name for name, site in self.sites.items() if getattr(site, table) is None]
            if 0 < len(lacking) < len(self.sites):
                yield f"sites.{lacking[0]}.{table}: is missing, and other sites have one: they cannot be compared"

    def _twice(self) -> Iterator[str]:
        pairs = [frozenset(link.between) for link in self.links]
        for n, pair in enumerate(pairs):
            if len(pair) < 2 or pair in pairs[:n]:
                yield f"links.{n}.between: {' and '.join(sorted(pair))} are linked already, or one"


def load(path: Path) -> FollowPolicy:
    """Read a policy. Raises ConfigurationError with everything that is wrong."""
    read = config.load(path, PolicyFile, "docs/follow.md begins with one to copy")
    return FollowPolicy(
        path=str(path),
        currency=read.currency,
        timing=Timing(
            read.slot_minutes * 60, read.horizon_hours, timedelta(minutes=read.every_minutes), ZoneInfo(read.time_zone)
        ),
        rules=_rules(read.rules),
        weights=nouns.Weights(**read.weights.model_dump()),
        trust=Trust(
            timedelta(hours=read.trust.most_age_hours),
            read.trust.most_estimated,
            timedelta(hours=read.trust.least_hours),
        ),
        sites=tuple(_site(name, site, read, path.parent) for name, site in read.sites.items()),
        guests=tuple(_guest(name, guest) for name, guest in read.guests.items()),
        hosts=tuple(
            nouns.HostRoom(name, host.site, host.memory_mib, host.cpus, host.disk_gib)
            for name, host in read.hosts.items()
        ),
        links=tuple(made for link in read.links for made in _links(link, read.time_zone)),
        regions=tuple(_region(name, region, read, path.parent) for name, region in read.regions.items()),
        calendars=tuple(_calendars(read, path.parent)),
        most_rtt_age=timedelta(days=read.trust.most_rtt_age_days),
    )


def _rules(read: RulesTable) -> nouns.Rules:
    return nouns.Rules(
        read.together,
        tuple(nouns.Apart(rule.guests, rule.level) for rule in read.apart),
        read.most_moves_a_day,
        round(read.shortest_stay_hours * 3600),
        read.worth,
        read.least_gain,
        read.most_pause_ms,
    )


def _site(name: str, site: SiteTable, read: PolicyFile, folder: Path) -> SitePolicy:
    def made(table: SourceTable | None, what: str) -> Source | None:
        if table is None:
            return None
        return table.made(f"{what} of {name}", f"sites.{name}.{what}", what, read.time_zone, folder)

    price, carbon = made(site.price, PRICE), made(site.carbon, CARBON)
    price = replace(price, currency=read.currency) if price is not None else None
    return SitePolicy(name, price, carbon, site.pue, site.labels, tuple(site.licences.items()))


def _links(read: LinkTable, zone: str) -> list[LinkPolicy]:
    schedules = tuple(table.made(zone) for table in read.open)
    both = (read.between, read.between[::-1])
    return [LinkPolicy(nouns.Link(a, b, read.mib_s, read.price_per_gib, read.kwh_per_gib), schedules) for a, b in both]


def _region(name: str, region: RegionTable, read: PolicyFile, folder: Path) -> RegionPolicy:
    said = tuple((site, ms) for site, ms in region.rtt_ms.items() if isinstance(ms, float))
    recorded = tuple(
        RecordedRtt(name, site, f"regions.{name}.rtt_ms.{site}", feed.made(folder))
        for site, feed in region.rtt_ms.items()
        if isinstance(feed, FeedTable)
    )
    activity = None
    if region.activity is not None:
        key = f"regions.{name}.activity"
        activity = region.activity.made(f"{LOAD} of {name}", key, LOAD, read.time_zone, folder)
    return RegionPolicy(name, said, recorded, activity)


def _guest(name: str, guest: GuestTable) -> nouns.GuestNeeds:
    given = guest.model_dump() | {"clients": tuple(guest.clients.items())}
    return nouns.GuestNeeds(name=name, **given)


def _calendars(read: PolicyFile, folder: Path) -> Iterator[Calendar]:
    for name, site in read.sites.items():
        if site.maintenance is not None:
            feed = site.maintenance.made(folder)
            yield Calendar(f"maintenance of {name}", f"sites.{name}.maintenance", feed, name)
    for name, host in read.hosts.items():
        if host.maintenance is not None:
            feed = host.maintenance.made(folder)
            yield Calendar(f"maintenance of {name}", f"hosts.{name}.maintenance", feed, host.site, name)
