"""From what a source says, or what is computed, to a signal; and what was known of a recorded one at a time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from vmacro.fleet import computed, recorded
from vmacro.fleet.feeds import COMPUTED, Format
from vmacro.fleet.nouns import Horizon
from vmacro.fleet.policy import Source
from vmacro.fleet.recorded import LONGEST, SignalError
from vmacro.fleet.signals import Reading, Signal


def signal(source: Source, horizon: Horizon, text: str = "", told: datetime | None = None) -> Signal:
    """`text`: what its source says, for those that are not computed, and when it was told. Raises SignalError, also
    where what it says is of another kind or currency than the policy wants."""
    if source.format in COMPUTED:
        return _computed(source, horizon)
    found = _read(source, text, told)
    if found.kind is not source.kind:
        raise SignalError(f"signal {source.name}: says {found.kind}", f"{source.key} is to be {source.kind}")
    if found.currency != source.currency:
        raise SignalError(
            f"signal {source.name}: is in {found.currency!r}", f"the policy's currency: {source.currency}"
        )
    return found


def _computed(source: Source, horizon: Horizon) -> Signal:
    name, kind, currency = source.name, source.kind, source.currency
    if source.format is Format.SUN:
        height = computed.sun(name, source.latitude, source.longitude, horizon)
        return computed.by_day(height, kind, source.above, source.high, source.low, currency)
    if source.schedule is not None:
        return computed.by_schedule(name, kind, source.schedule, source.high, source.low, horizon, currency)
    return computed.fixed(name, kind, source.high, horizon, currency)


def _read(source: Source, text: str, told: datetime | None) -> Signal:
    name, kind = source.name, source.kind
    if source.format is Format.CSV and source.unit is not None:
        return recorded.values_csv(name, text, kind, source.unit, source.currency, told)
    if source.format is Format.ENTSOE:
        return recorded.entsoe_xml(name, text, told)
    if source.format is Format.CARBON_AWARE:
        return recorded.carbon_aware_json(name, text, kind)
    if source.format is Format.GB_CARBON:
        return recorded.gb_carbon_json(name, text, told)
    if source.format is Format.ELECTRICITY_MAPS:
        return recorded.electricity_maps_json(name, text, told)
    if source.format is Format.WATTTIME:
        return recorded.watttime_json(name, text, told)
    raise SignalError(f"signal {name}: nothing reads {source.format}")


def as_known(found: Signal, source: Source, now: datetime) -> Signal:
    """A recorded signal as it was known at `now`, which is in the zone whose days are meant: what lies further ahead
    was not published yet. It was told just now, unless it has said nothing of this moment: then when its last value
    ended."""
    if source.format in COMPUTED:
        return replace(found, told=now)
    if found.told is None:
        return found
    until = _until(source, now)
    first = bisect_left(found.readings, now.astimezone(UTC) - LONGEST, key=_begin)
    end = bisect_left(found.readings, until, key=_begin)
    readings = tuple(r if r.end <= until else replace(r, end=until) for r in found.readings[first:end])
    past = bisect_right(found.readings, now, key=_begin)
    told = min(now, found.readings[past - 1].end) if past else None
    return replace(found, readings=readings, told=told)


def _begin(reading: Reading) -> datetime:
    return reading.begin


def _until(source: Source, now: datetime) -> datetime:
    published = source.known.published
    if published is None:
        return now.astimezone(UTC) + source.known.ahead
    days = 2 if now.time() >= published else 1
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=days)
    return midnight.astimezone(UTC)
