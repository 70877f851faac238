"""Figures of a recording. Pure: samples in, figures out.

An outage is the longest time in which requests were outstanding and no response came, less one
send interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vmacro.rtt.samples import Recording, Sample


@dataclass(frozen=True)
class Spread:
    """Round trips in ms; all None without samples. Jitter is the mean difference of neighbours (RFC 3550)."""

    count: int
    min: float | None = None
    median: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    jitter: float | None = None


@dataclass(frozen=True)
class Outage:
    """`ms` is 0 where responses never stopped; `start_ns` and `end_ns` on the prober's monotonic clock."""

    ms: float
    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class Totals:
    """How many requests were sent, answered, lost, and answered out of order."""

    sent: int
    answered: int
    lost: int
    reordered: int


def spread(samples: Sequence[Sample]) -> Spread:
    """Of the requests that were answered."""
    ordered = [s.rtt_ns / 1e6 for s in samples if s.rtt_ns is not None]
    if not ordered:
        return Spread(0)
    steps = [abs(a - b) for a, b in zip(ordered, ordered[1:])]
    values = sorted(ordered)
    return Spread(
        count=len(values),
        min=_rounded(values[0]),
        median=_rounded(quantile(values, 0.5)),
        p95=_rounded(quantile(values, 0.95)),
        p99=_rounded(quantile(values, 0.99)),
        max=_rounded(values[-1]),
        jitter=_rounded(sum(steps) / len(steps)) if steps else 0.0,
    )


def quantile(ordered: Sequence[float], q: float) -> float:
    """By linear interpolation between the neighbours in a sorted sequence."""
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def totals(recording: Recording) -> Totals:
    """A response is out of order when one to a later request came before it."""
    newest, reordered = -1, 0
    for seq in recording.arrival_order:
        reordered += seq < newest
        newest = max(newest, seq)
    answered = len(recording.arrival_order)
    return Totals(len(recording.samples), answered, len(recording.samples) - answered, reordered)


def outage(recording: Recording) -> Outage:
    """The longest silence, as defined above. Requests that were never answered keep it open to the last one sent."""
    steps = [(s.due_ns, 1) for s in recording.samples]
    steps += [(s.answered_ns, -1) for s in recording.samples if s.answered_ns is not None]
    steps.sort()
    outstanding, since = 0, 0
    worst = Outage(0.0, recording.start_ns, recording.start_ns)
    interval_ns = recording.interval_ms * 1e6
    for at, change in steps:
        if outstanding == 0:
            since = at
        elif change < 0 or at == steps[-1][0]:
            silent_ms = max(0.0, (at - since - interval_ns) / 1e6)
            if silent_ms > worst.ms:
                worst = Outage(_rounded(silent_ms), since, at)
        if change < 0:
            since = at
        outstanding += change
    return worst


def between(recording: Recording, start_ns: float, end_ns: float) -> list[Sample]:
    """Requests that were due in [start, end), on the prober's monotonic clock."""
    return due_between(recording.samples, start_ns, end_ns)


_Some = TypeVar("_Some", bound=Sample)


def due_between(samples: Iterable[_Some], start_ns: float, end_ns: float) -> list[_Some]:
    """Those that were due in [start, end), on the prober's monotonic clock."""
    return [s for s in samples if start_ns <= s.due_ns < end_ns]


def recovered_ns(recording: Recording, after_ns: int, good_ms: float, run: int = 20) -> int | None:
    """When round trips first were at most good_ms for `run` requests in a row, sent after a moment."""
    streak: list[Sample] = []
    for sample in recording.samples:
        if sample.due_ns < after_ns:
            continue
        if sample.rtt_ns is not None and sample.rtt_ns / 1e6 <= good_ms:
            streak.append(sample)
            if len(streak) == run:
                return streak[0].due_ns
        else:
            streak.clear()
    return None


def _rounded(value: float) -> float:
    return round(value, 3)
