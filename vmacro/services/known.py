"""What is known for a policy: its signals, calendars and recordings, read from their files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from vmacro.fleet import calendars, reading
from vmacro.fleet.assemble import Closed, Known, Told
from vmacro.fleet.nouns import Horizon
from vmacro.fleet.policy import Calendar, FollowPolicy, Format, RecordedRtt, Source
from vmacro.fleet.recorded import SignalError
from vmacro.ports import Feeds, FeedText
from vmacro.rtt import recording, statistics

LEAST_ANSWERS = 10  # of a recording: fewer say nothing
MARGIN = timedelta(hours=1)


@dataclass(frozen=True)
class Looked:
    """What is known, and, by name, why something of it is not newer."""

    known: Known
    troubles: tuple[tuple[str, str], ...]


def look(policy: FollowPolicy, feeds: Feeds, horizon: Horizon, now: datetime | None) -> Looked:
    """`horizon`: the time of interest. `now`: by which it is judged how old recordings of round trips are; None: not at
    all, in a simulation. Nothing is raised: what cannot be read is not known."""
    troubles: list[tuple[str, str]] = []

    def read(name: str, feed_of: Source | Calendar | RecordedRtt, format: Format) -> FeedText:
        if feed_of.feed is None:
            raise SignalError(f"signal {name}: no file")
        begin, end = horizon.start - MARGIN, horizon.at(horizon.slots) + MARGIN
        found = feeds.read(name, feed_of.feed, format, begin, end)
        if found.trouble:
            troubles.append((name, found.trouble))
        return found

    known = Known(
        {source.name: _signal(source, horizon, read) for source in policy.sources},
        {calendar.name: _calendar(calendar, policy, horizon, read) for calendar in policy.calendars},
        {(r.region, r.site): _rtt(r, policy, now, read) for region in policy.regions for r in region.recorded},
    )
    return Looked(known, tuple(troubles))


_Read = Callable[[str, "Source | Calendar | RecordedRtt", Format], FeedText]


def _signal(source: Source, horizon: Horizon, read: _Read) -> Told:
    try:
        if source.feed is None:
            return reading.signal(source, horizon)
        found = read(source.name, source, source.format)
        return reading.signal(source, horizon, found.text, found.told)
    except SignalError as error:
        return error


def _calendar(calendar: Calendar, policy: FollowPolicy, horizon: Horizon, read: _Read) -> Closed:
    """A calendar that is old is no trouble: maintenance is planned long before."""
    try:
        text = read(calendar.name, calendar, Format.ICALENDAR).text
        begin, end = horizon.start, horizon.at(horizon.slots)
        return Closed(calendars.windows(calendar.name, text, begin, end, policy.timing.zone))
    except SignalError as error:
        return Closed(trouble=error.message)


def _rtt(recorded: RecordedRtt, policy: FollowPolicy, now: datetime | None, read: _Read) -> float | str:
    """The median, in ms; or why there is none."""
    try:
        found = read(recorded.key, recorded, Format.RECORDING)
        if now is not None and now - found.told > policy.most_rtt_age:
            return f"stale: recorded {(now - found.told).days} days ago, {policy.most_rtt_age.days} are allowed"
        taken = recording.parse(found.text.splitlines(keepends=True), recorded.feed.file)
    except SignalError as error:
        return error.message
    except recording.RecordingError as error:
        return str(error)
    spread = statistics.spread(taken.samples)
    if spread.median is None or spread.count < LEAST_ANSWERS:
        return f"{recorded.feed.file}: {spread.count} answers, {LEAST_ANSWERS} are needed"
    return spread.median
