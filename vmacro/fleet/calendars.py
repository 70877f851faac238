"""Maintenance out of an iCalendar file (RFC 5545): when hosts are closed. Nothing of it is trusted."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any

import icalendar
import recurring_ical_events

from vmacro.fleet.nouns import Window
from vmacro.fleet.recorded import SignalError
from vmacro.wire.text import printable

MOST_CHARACTERS = 1 << 20
MOST_EVENTS, MOST_RULES, FIRST_YEAR = 2_000, 100, 2000
MOST_WINDOWS = 20_000
# Each occurrence is looked at: what repeats every minute since 1970 would take hours.
_TOO_OFTEN = re.compile(r"FREQ=(SECONDLY|MINUTELY|HOURLY)|BY(SECOND|MINUTE|HOUR)=", re.IGNORECASE)
_NO_STEP = re.compile(r"INTERVAL=(?!0*[1-9])", re.IGNORECASE)  # by which dateutil never gets on
# A parameter in quotes may have a colon; a date has none.
_BEGUN = re.compile(r"^DTSTART[^\r\n]*:([0-9]{4})", re.IGNORECASE | re.MULTILINE)
_ZONE_BEGINS = re.compile(r"^BEGIN:VTIMEZONE[ \t\r]*$", re.IGNORECASE | re.MULTILINE)
_ZONE_ENDS = re.compile(r"^END:VTIMEZONE[ \t\r]*$", re.IGNORECASE | re.MULTILINE)
MOST_S = 20.0  # 100 events that have repeated each day since 2000 take some 5, on a busy machine 10
_LOOK_EVERY = 256  # calls of functions
_CANCELLED = "CANCELLED"


def windows(
    name: str, text: str, begin: datetime, end: datetime, zone: tzinfo, clock: Callable[[], float]
) -> tuple[Window, ...]:
    """When something is on between two times. `zone`: that of days and of times without one. Cancelled events are none.
    No more than MOST_S of `clock`, in seconds, are spent on it. Raises SignalError."""
    if len(text) > MOST_CHARACTERS:
        raise SignalError(f"calendar {name}: has {len(text)} characters", f"{MOST_CHARACTERS} at most")
    if text.count("BEGIN:VEVENT") > MOST_EVENTS:
        raise SignalError(f"calendar {name}: has over {MOST_EVENTS} events")
    unfolded = re.sub(r"\r?\n[ \t]", "", text)
    unfolded = _without_zones(unfolded)  # whose rules begin in 1970
    if unfolded.upper().count("RRULE") > MOST_RULES:
        raise SignalError(f"calendar {name}: has over {MOST_RULES} rules of events that repeat")
    if any(int(year) < FIRST_YEAR for year in _BEGUN.findall(unfolded)):
        raise SignalError(f"calendar {name}: an event begins before {FIRST_YEAR}")
    if _TOO_OFTEN.search(unfolded):
        raise SignalError(f"calendar {name}: an event repeats within a day", "DAILY is as often as one may")
    if _NO_STEP.search(unfolded):
        raise SignalError(f"calendar {name}: an event repeats at no interval", "INTERVAL is 1 or more")
    try:
        with _bounded(clock):
            calendar = icalendar.Calendar.from_ical(text)
            events = recurring_ical_events.of(calendar).between(begin - timedelta(days=1), end + timedelta(days=1))
            found = [_window(event, zone) for event in events if str(event.get("STATUS", "")).upper() != _CANCELLED]
    except _TooMuch:
        hint = "does an event repeat on no day, or last for years?"
        raise SignalError(f"calendar {name}: takes over {MOST_S:g} s to read", hint) from None
    except Exception as error:  # two libraries, each with errors of its own and Python's, on text that others wrote
        raise SignalError(f"calendar {name}: is no iCalendar: {printable(str(error), 100)}") from error
    if len(found) > MOST_WINDOWS:
        raise SignalError(
            f"calendar {name}: is on {len(found)} times", f"{MOST_WINDOWS} at most; do events last for years?"
        )
    return tuple(sorted((w for w in found if w.touches(begin, end)), key=lambda w: w.begin))


def _without_zones(text: str) -> str:
    """Each from its first line to the next one that ends any; what nothing ends stays."""
    first, *others = _ZONE_BEGINS.split(text)
    return first + "".join(_ZONE_ENDS.split(part, maxsplit=1)[-1] for part in others)


class _TooMuch(BaseException):
    """So that no library takes it for an error of its own."""


@contextmanager
def _bounded(clock: Callable[[], float]) -> Iterator[None]:
    """What repeats on no day, such as 31 February, is looked for until the year 9999, and what repeats within a day can
    be written in many ways: neither library ends by itself. So it is looked at the clock as they call functions, by
    Python's profiler. Raises _TooMuch."""
    until, before, calls = clock() + MOST_S, sys.getprofile(), 0

    def count(_frame: object, _event: str, _argument: Any) -> None:
        nonlocal calls
        calls += 1
        if calls % _LOOK_EVERY == 0 and clock() > until:
            raise _TooMuch

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)


def _window(event: icalendar.Event, zone: tzinfo) -> Window:
    return Window(_moment(event.start, zone), _moment(event.end, zone))


def _moment(said: date | datetime, zone: tzinfo) -> datetime:
    moment = said if isinstance(said, datetime) else datetime.combine(said, time())
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)).astimezone(UTC)
