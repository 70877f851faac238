"""A policy, where guests are and what signals say make a fleet that can be placed. What is not known holds guests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from vmacro.errors import VmacroError
from vmacro.fleet.computed import Schedule
from vmacro.fleet.nouns import (
    Fleet,
    GuestNeeds,
    Horizon,
    HostRoom,
    Link,
    Region,
    SiteOutlook,
    Window,
)
from vmacro.fleet.policy import Calendar, FollowPolicy, LinkPolicy, RegionPolicy, SitePolicy, Source
from vmacro.fleet.signals import Judged, Signal, State, judge

Told = Signal | VmacroError  # what a source says, or why nothing could be made of it


@dataclass(frozen=True)
class Closed:
    """When something is closed for maintenance; `trouble` says why that is not known, '' where it is."""

    windows: tuple[Window, ...] = ()
    trouble: str = ""


@dataclass(frozen=True)
class Known:
    """What is known besides the policy: signals by the names of their sources, calendars by theirs, and round trips
    from recordings by region and site, each of them a number, or why there is none."""

    signals: Mapping[str, Told]
    calendars: Mapping[str, Closed] = field(default_factory=dict)
    rtt_ms: Mapping[tuple[str, str], float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Hold:
    """Something that is not known, and whom that holds: a site, or the clients of a region."""

    subject: str
    why: str


@dataclass(frozen=True)
class Assembled:
    """A fleet, and what holds guests in it."""

    fleet: Fleet
    holds: tuple[Hold, ...]


def assemble(
    policy: FollowPolicy,
    known: Known,
    guests: Sequence[GuestNeeds],
    hosts: Sequence[HostRoom],
    start: datetime,
    unknown: Mapping[str, str] | None = None,
    slots: int = 0,
) -> Assembled:
    """The fleet as it is at `start`. Its horizon has so many slots, by default the policy's, or as many as all signals
    reach that can be decided by. `unknown`: sites of which something else is not known, and why."""
    horizon = whole_horizon(policy, start)
    horizon = replace(horizon, slots=slots or horizon.slots)
    judged = {source.name: _judged(policy, source, known, horizon) for source in policy.sources}
    holds = {site.name: _site_trouble(site, policy, judged, known) for site in policy.sites}
    holds |= {site: why for site, why in (unknown or {}).items() if not holds.get(site)}
    busy = {r.name: _region_trouble(r, judged) for r in policy.regions}
    live = [_values(judged, s) for site in policy.sites if not holds[site.name] for s in (site.price, site.carbon)]
    live += [_values(judged, region.activity) for region in policy.regions if not busy[region.name]]
    slots = min((len(values) for values in live if values), default=horizon.slots)
    horizon = replace(horizon, slots=slots)
    fleet = Fleet(
        horizon,
        tuple(_held(guest, busy) for guest in guests),
        tuple(_with_maintenance(host, policy, known) for host in hosts),
        tuple(_outlook(site, judged, holds[site.name], slots) for site in policy.sites),
        tuple(_link(link, horizon) for link in policy.links),
        tuple(_region(region, judged, known, busy[region.name], slots) for region in policy.regions),
        policy.rules,
        policy.weights,
    )
    found = [Hold(f"site {name}", why) for name, why in holds.items() if why]
    found += [Hold(f"clients of {name}", why) for name, why in busy.items() if why]
    return Assembled(fleet, tuple(found))


def whole_horizon(policy: FollowPolicy, start: datetime) -> Horizon:
    """As far as the policy plans, in its time zone."""
    return Horizon(start.astimezone(policy.timing.zone), policy.timing.slot_s, policy.timing.slots)


def _judged(policy: FollowPolicy, source: Source, known: Known, horizon: Horizon) -> Judged:
    told = known.signals.get(source.name)
    if told is None:
        return Judged(State.DEAD, f"{source.name} is dead: nobody has asked for it")
    if isinstance(told, VmacroError):
        return Judged(State.DEAD, f"{source.name} is dead: {told.message.removeprefix(f'signal {source.name}: ')}")
    return judge(told, horizon, horizon.start.astimezone(UTC), policy.trust)


def _site_trouble(site: SitePolicy, policy: FollowPolicy, judged: Mapping[str, Judged], known: Known) -> str:
    sources = [s for s in (site.price, site.carbon) if s is not None]
    trouble = [judged[s.name].why for s in sources if judged[s.name].state is not State.LIVE]
    trouble += [_closed(calendar, known).trouble for calendar in policy.calendars if calendar.site == site.name]
    for region in policy.regions:
        for recording in region.recorded:
            found = known.rtt_ms.get((region.name, site.name), "nobody has asked for it")
            if recording.site == site.name and isinstance(found, str):
                trouble.append(f"round trips from {region.name}: {found}")
    return "; ".join(filter(None, trouble))


def _region_trouble(region: RegionPolicy, judged: Mapping[str, Judged]) -> str:
    if region.activity is None or judged[region.activity.name].state is State.LIVE:
        return ""
    return judged[region.activity.name].why


def _closed(calendar: Calendar, known: Known) -> Closed:
    return known.calendars.get(calendar.name, Closed(trouble=f"{calendar.name}: nobody has asked for it"))


def _values(judged: Mapping[str, Judged], source: Source | None) -> tuple[float, ...]:
    return judged[source.name].values if source is not None else ()


def _held(guest: GuestNeeds, busy: Mapping[str, str]) -> GuestNeeds:
    why = next((busy[region] for region, _ in guest.clients if busy.get(region)), "")
    return replace(guest, hold=f"how busy its clients are is not known: {why}") if why and not guest.hold else guest


def _with_maintenance(host: HostRoom, policy: FollowPolicy, known: Known) -> HostRoom:
    mine = [c for c in policy.calendars if c.site == host.site and c.host in ("", host.name)]
    return replace(host, closed=(*host.closed, *(w for c in mine for w in _closed(c, known).windows)))


def _outlook(site: SitePolicy, judged: Mapping[str, Judged], hold: str, slots: int) -> SiteOutlook:
    price, carbon = (_values(judged, source)[:slots] for source in (site.price, site.carbon))
    if hold:
        price, carbon = (), ()
    return SiteOutlook(site.name, price, carbon, site.pue, site.labels, site.licences, hold)


def _link(given: LinkPolicy, horizon: Horizon) -> Link:
    if not given.open:
        return given.link
    windows = open_windows(given.open, horizon.start, horizon.at(horizon.slots))
    never = Window(horizon.start, horizon.start)  # no window at all would mean always
    return replace(given.link, windows=windows or (never,))


def open_windows(schedules: Sequence[Schedule], begin: datetime, end: datetime) -> tuple[Window, ...]:
    """When one of them is on."""
    found: list[Window] = []
    for window in sorted((w for s in schedules for w in s.windows(begin, end)), key=lambda w: w.begin):
        if found and window.begin <= found[-1].end:
            found[-1] = Window(found[-1].begin, max(found[-1].end, window.end))
        else:
            found.append(window)
    return tuple(found)


def _region(region: RegionPolicy, judged: Mapping[str, Judged], known: Known, busy: str, slots: int) -> Region:
    recorded = {r.site: known.rtt_ms.get((region.name, r.site)) for r in region.recorded}
    measured = tuple((site, ms) for site, ms in recorded.items() if isinstance(ms, float))
    activity = () if busy else _values(judged, region.activity)[:slots]
    return Region(region.name, (*region.rtt_ms, *measured), activity)
