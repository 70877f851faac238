"""What is known for a policy: its signals, calendars and recordings, read from their files."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from vmacro.fleet import calendars, reading
from vmacro.fleet.assemble import Closed, Known, Told
from vmacro.fleet.feeds import FeedText, Format
from vmacro.fleet.nouns import Horizon
from vmacro.fleet.policy import Calendar, FollowPolicy, RecordedRtt, Source
from vmacro.fleet.recorded import SignalError
from vmacro.fleet.signals import Signal
from vmacro.ports import Feeds
from vmacro.rtt import recording, statistics

Parsed = TypeVar("Parsed")
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

    def read(
        name: str, feed_of: Source | Calendar | RecordedRtt, format: Format, parse: Callable[[FeedText], Parsed]
    ) -> Parsed:
        """What nobody can read of a source that was asked takes no good file's place."""
        if feed_of.feed is None:
            raise SignalError(f"signal {name}: no file")
        begin, end = horizon.start - MARGIN, horizon.at(horizon.slots) + MARGIN
        found = feeds.read(name, feed_of.feed, format, begin, end, parse)
        if found.trouble:
            troubles.append((name, found.trouble))
        return parse(found)

    known = Known(
        {source.name: _signal(source, horizon, read) for source in policy.sources},
        {calendar.name: _calendar(calendar, policy, horizon, read) for calendar in policy.calendars},
        {(r.region, r.site): _rtt(r, policy, now, read) for region in policy.regions for r in region.recorded},
    )
    return Looked(known, tuple(troubles))


class _Read(Protocol):
    def __call__(
        self,
        name: str,
        feed_of: Source | Calendar | RecordedRtt,
        format: Format,
        parse: Callable[[FeedText], Parsed],
        /,
    ) -> Parsed: ...


def _signal(source: Source, horizon: Horizon, read: _Read) -> Told:
    try:
        if source.feed is None:
            return reading.signal(source, horizon)
        return read(source.name, source, source.format, lambda found: _said(source, horizon, found))
    except SignalError as error:
        return error


def _said(source: Source, horizon: Horizon, found: FeedText) -> Signal:
    signal = reading.signal(source, horizon, found.text, found.told)
    if not signal.readings:
        raise SignalError(f"signal {source.name}: it has said nothing")
    return signal


def _calendar(calendar: Calendar, policy: FollowPolicy, horizon: Horizon, read: _Read) -> Closed:
    """A calendar that is old is no trouble: maintenance is planned long before."""
    try:
        begin, end = horizon.start, horizon.at(horizon.slots)

        def windows(found: FeedText) -> Closed:
            zone, text = policy.timing.zone, found.text
            return Closed(calendars.windows(calendar.name, text, begin, end, zone, time.thread_time))

        return read(calendar.name, calendar, Format.ICALENDAR, windows)
    except SignalError as error:
        return Closed(trouble=error.message)


def _rtt(recorded: RecordedRtt, policy: FollowPolicy, now: datetime | None, read: _Read) -> float | str:
    """The median, in ms; or why there is none."""
    try:
        return read(recorded.key, recorded, Format.RECORDING, lambda found: _median(recorded, found, policy, now))
    except SignalError as error:
        return error.message


def _median(recorded: RecordedRtt, found: FeedText, policy: FollowPolicy, now: datetime | None) -> float:
    if now is not None and now - found.told > policy.most_rtt_age:
        days = (now - found.told).days
        raise SignalError(f"stale: recorded {days} days ago, {policy.most_rtt_age.days} are allowed")
    try:
        taken = recording.parse(found.text.splitlines(keepends=True), recorded.feed.file)
    except recording.RecordingError as error:
        raise SignalError(str(error)) from error
    spread = statistics.spread(taken.samples)
    if spread.median is None or spread.count < LEAST_ANSWERS:
        raise SignalError(f"{recorded.feed.file}: {spread.count} answers, {LEAST_ANSWERS} are needed")
    return spread.median
