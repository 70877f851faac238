"""Figures from made-up recordings whose truth is plain to see."""

import pytest

from vmacro.rtt import report, statistics
from vmacro.rtt.report import Span
from vmacro.rtt.samples import Recording, Sample

MS = 1_000_000


def recording(samples: list[Sample], order: list[int] | None = None, interval_ms: float = 10.0) -> Recording:
    answered = [s.seq for s in samples if s.rtt_ns is not None]
    return Recording("t", "mptcp", interval_ms, 1, 0, tuple(samples), tuple(order or answered))


def steady(count: int, rtt_ms: float, interval_ms: float = 10.0, start: int = 0) -> list[Sample]:
    return [Sample(start + i, round((start + i) * interval_ms * MS), round(rtt_ms * MS)) for i in range(count)]


@pytest.mark.parametrize("rtt_ms", [1.0, 9.9, 10.0, 50.0, 500.0])
def test_a_steady_connection_has_no_outage(rtt_ms: float) -> None:
    """But for the first response, which 500 ms of round trip keep everybody waiting for."""
    found = statistics.outage(recording(steady(200, rtt_ms)))
    assert found.ms == pytest.approx(max(0.0, rtt_ms - 10), abs=0.01)


def test_a_stall_counts_from_the_last_response_to_the_next() -> None:
    """Responses stop at 1000 ms, and all that is due meanwhile comes at 1800 ms."""
    samples = steady(100, 4)
    samples += [Sample(i, i * 10 * MS, (1800 - i * 10) * MS) for i in range(100, 180)]
    samples += steady(100, 4, start=180)
    found = statistics.outage(recording(samples))
    # The last response before came at 994 ms; the first request of the stall was due at 1000 ms.
    assert found.ms == pytest.approx(1800 - 1000 - 10)
    assert (found.start_ns, found.end_ns) == (1000 * MS, 1800 * MS)


def test_requests_that_are_never_answered_keep_the_outage_open() -> None:
    samples = steady(100, 4) + [Sample(i, i * 10 * MS, None) for i in range(100, 200)]
    assert statistics.outage(recording(samples)).ms == pytest.approx(980)


def test_nothing_measured_is_nothing_claimed() -> None:
    empty = recording([])
    assert statistics.outage(empty).ms == 0
    assert statistics.spread([]).median is None
    assert statistics.totals(empty) == statistics.Totals(0, 0, 0, 0)


def test_lost_and_reordered_requests_are_counted() -> None:
    samples = [*steady(5, 4), Sample(5, 50 * MS, None)]
    assert statistics.totals(recording(samples, order=[0, 2, 1, 4, 3])) == statistics.Totals(6, 5, 1, 2)


def test_quantiles_interpolate() -> None:
    assert statistics.quantile([1, 2, 3, 4], 0.5) == 2.5
    assert statistics.quantile([7], 0.99) == 7
    figures = statistics.spread(steady(100, 4))
    assert (figures.min, figures.median, figures.p99, figures.max, figures.jitter) == (4, 4, 4, 4, 0)


def test_before_during_and_after_are_cut_at_the_spans() -> None:
    samples = steady(100, 50) + steady(20, 300, start=100) + steady(100, 4, start=120)
    found = report.felt(recording(samples), [Span("copy", 1000 * MS, 1100 * MS), Span("settle", 1150 * MS, 1200 * MS)])
    assert (found.before.median, found.during.median, found.after.median) == (50, 300, 4)
    assert (found.before.count, found.during.count, found.after.count) == (100, 20, 100)


def test_without_spans_all_is_before() -> None:
    found = report.felt(recording(steady(50, 7)), [])
    assert found.before.count == 50 and found.after.count == 0 and found.recover_ms is None


def test_recovery_is_the_first_run_of_good_round_trips() -> None:
    samples = steady(10, 4) + steady(10, 400, start=10) + steady(30, 4, start=20)
    assert statistics.recovered_ns(recording(samples), 100 * MS, good_ms=5) == 200 * MS
    assert statistics.recovered_ns(recording(samples), 100 * MS, good_ms=1) is None
