"""Reports of a move, of a batch and of a simulation as people and programs read them: all of their words and figures.

Each is of one made-up story, and stands in reports.txt. Changed on purpose? python -m tests.unit.test_reports, and read
what changed.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from vmacro.drivers.fake import FakeWorld
from vmacro.errors import JournalError
from vmacro.fleet.meter import Cost, Moved
from vmacro.fleet.nouns import Horizon
from vmacro.fleet.simulation import OPTIMUM, PLANNED, STAY, Held, Simulation, Way
from vmacro.model.batch_events import TryBegan, TryEnded
from vmacro.model.batches import Batch, Became, PlannedMove, Purpose, Stay, Wish
from vmacro.model.copies import CopyStatistics, Forecast
from vmacro.model.events import (
    CopyProgress,
    DomainChanged,
    Event,
    PhaseBegan,
    PhaseEnded,
    PhaseFailed,
    Unreadable,
    What,
)
from vmacro.model.facts import Arrival, Flows
from vmacro.model.moves import ConnectionOutcome, Ending, Finding, FlowsOutcome, Outcome, Phase, Plan, Severity, Verdict
from vmacro.planning import planner
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request
from vmacro.rtt import report as pages
from vmacro.rtt.report import Table
from vmacro.rtt.samples import Recording, Sample, Visit
from vmacro.services import batch_report, fleet_report, measured, report
from vmacro.services.batches import BatchProgress
from vmacro.services.leader import Tally
from vmacro.wire.agent_verbs import Beyond

SECOND = 10**9
WORDS = Path(__file__).with_name("reports.txt")
ARRIVAL = Arrival("channel", "10.50.1.97", "10.50.2.10", "10.50.2.1", 2, 17, 25)
OUTCOME = Outcome(
    Ending.WITH_LOSSES,
    "connections lost: 1: 198.51.100.4:9 (reset)",
    statistics=CopyStatistics(120, 10_000, 50 << 20, 4),
    arrival=ARRIVAL,
    connections=tuple(
        ConnectionOutcome(str(n), f"198.51.100.{n}:9", verdict == Verdict.FOLLOWED, verdict, f"why {verdict.value}")
        for n, verdict in enumerate(Verdict)
    ),
    wall_s=14.25,
    carried=("10.50.1.97",),
    flows=(FlowsOutcome(Flows("10.50.1.97", 3, 1), Flows("10.50.1.97", 2, 0), True),),
    beyond=Beyond(followed=1000, lost=2),
)


def plan() -> Plan:
    fake = FakeWorld()
    wanted = Request(fake.inventory.guests[0], fake.inventory.sites[1], SEAMLESS, fake.inventory.policy, "me@here")
    found = planner.plan("web-1", fake.inventory, wanted, measured.look(fake.inventory, wanted, fake.world, True))
    expected = Forecast(60 << 20, 12.0, 150, None, "as its last copy went")
    return replace(found, forecast=expected, compression_because="auto: the link takes 19 MiB/s")


def attempts() -> list[Event]:
    """Two of them. The first one's copy failed; of the second the journal had the arrival already when it began."""
    told: list[tuple[int, What]] = [
        (1, PhaseBegan(Phase.COPY)),
        (2, PhaseFailed(Phase.COPY, "no SSH")),
        (3, PhaseBegan(Phase.COPY)),
        (4, CopyProgress(50, 1, 2, 3, 0.5, 1.0, 1, 20)),
        (5, CopyProgress(60, 1, 2, 3, 0.5, 1.0, 2, 60)),
        (6, DomainChanged("source", "a1", "suspended", "migrated")),
        (7, DomainChanged("source", "a1", "resumed", "not the destination's")),
        (8, DomainChanged("destination", "b1", "resumed", "migrated")),
        (9, PhaseEnded(Phase.COPY)),
        (9, PhaseBegan(Phase.ARRIVE)),
        (10, PhaseEnded(Phase.ARRIVE)),
        (11, PhaseBegan(Phase.COPY)),
        (11, PhaseEnded(Phase.COPY)),
        (11, PhaseBegan(Phase.ARRIVE)),
        (11, PhaseEnded(Phase.ARRIVE)),
        (12, PhaseBegan(Phase.SETTLE)),
        (13, PhaseEnded(Phase.SETTLE)),
        (13, PhaseBegan(Phase.VERIFY)),
    ]
    return [Event("web-1", second * SECOND, what) for second, what in told]


def recording() -> Recording:
    """Twenty seconds, ten requests in each; one is never answered, another comes late, and visitors come."""
    lost, late = 65, 70
    samples = tuple(
        Sample(n, n * SECOND // 10, None if n == lost else SECOND // 4 if n == late else 10**6) for n in range(200)
    )
    visits = (
        Visit(1, SECOND // 2, 5 * 10**6),
        Visit(2, 7 * SECOND, None, mptcp=False, why="timed out"),
        Visit(3, 18 * SECOND, 7 * 10**6),
    )
    order = (*range(late), late + 1, late + 2, late, *range(late + 3, 200))
    arrived = tuple(n for n in order if n != lost)
    return Recording("10.50.1.97:7", "mptcp", 100.0, 1, 0, samples, arrived, visits=visits)


def of_a_move() -> Iterable[str]:
    spans = report.spans(attempts())
    felt = pages.felt(recording(), spans)
    yield from (f"{span.name}: {span.start_ns / SECOND:g} to {span.end_ns / SECOND:g} s" for span in spans)
    figures = report.summary(plan(), OUTCOME, felt, report.slowed_percent(attempts()))
    yield from (json.dumps(figures, indent=1), *map(as_text, report.tables(figures, felt)))
    nothing = replace(plan(), forecast=None, compression_because="")
    figures = report.summary(nothing, Outcome(Ending.ROLLED_BACK), None)
    bare = replace(felt, visitors={}, during=pages.felt(replace(recording(), samples=()), []).during)
    yield from (json.dumps(figures, indent=1), *map(as_text, report.tables(figures, bare)))
    figures = report.summary(plan(), Outcome(Ending.MOVED, statistics=CopyStatistics(0, 8_000, 100 << 20, 1)), None, 5)
    yield from map(as_text, report.tables(figures, bare))


def batch() -> BatchProgress:
    """Each way in which a move may be over, or not."""
    moves = tuple(
        PlannedMove(f"g{n}", f"a{n % 2}", "oslo", f"b{n % 3}", "berlin", 100.0 + n, 5.0, 8.0, f"room for {n}")
        for n in range(7)
    )
    stays = (Stay("g7", "a1", "no-channel", "its domain has no channel", "add one"),)
    made = Batch("evacuate-oslo-1", Purpose.EVACUATE, "oslo", moves, stays, expected_s=42.5, operator="me@here")
    last = {
        0: Became(Ending.MOVED, move_id="g0-1", downtime_ms=120, outage_ms=390.5, mib=110.04, wall_s=9.5),
        1: Became(Ending.WITH_LOSSES, "connections lost", "see its report", "g1-1", 340, 90.0, 12.0),
        2: Became(Ending.ROLLED_BACK, "no SSH", "is it up?", "g2-1", 1, 5.0, 3.0),
        3: Became(None, "is being moved", "wait"),
        4: Became(None, put_off=True),
        5: Became(Ending.MOVED, move_id="g5-1", downtime_ms=1, mib=1.0, wall_s=1.0),
    }
    tally = Tally(attempts={0: 1, 1: 2, 2: 1, 3: 1, 5: 1}, last=last)
    return BatchProgress(made, Wish.RUN, tally, frozenset({5}))


def tries() -> list[Event]:
    """g1 was tried twice, and another worker went on with its second try; g3 has not ended."""

    def told(second: int, guest: int, attempt: int, ending: str = "") -> Event:
        move = batch().batch.moves[guest]
        names = (move.guest, move.source, move.destination, move.source_site, move.destination_site, attempt, "me@here")
        what: What = TryEnded(*names, ending, f"g{guest}-1", "", 100) if ending else TryBegan(*names)
        return Event("evacuate-oslo-1", (100 + second) * SECOND, what)

    return [
        told(0, 0, 1),
        told(1, 1, 1),
        told(4, 0, 1, "moved"),
        told(4, 2, 1),
        told(5, 1, 1, "rolled back"),
        told(6, 1, 2),
        told(7, 1, 2),
        told(8, 3, 1),
        told(9, 1, 2, "moved, with losses"),
        told(11, 2, 1, "refused"),
        told(12, 4, 1, "put off"),
    ]


def of_a_batch() -> Iterable[str]:
    yield from map(str, batch_report.bars(tries()))
    figures = batch_report.summary(batch(), tries())
    yield from (json.dumps(figures, indent=1), *map(as_text, batch_report.tables(figures)))
    yield from map(as_text, batch_report.tables(figures, most=0))
    nobody = Batch("drain-a1-1", Purpose.DRAIN, "a1", ())
    figures = batch_report.summary(BatchProgress(nobody, Wish.ENDED, Tally(), frozenset()), [])
    yield from (json.dumps(figures, indent=1), *map(as_text, batch_report.tables(figures)))


def simulation() -> Simulation:
    """Three guests at two sites, for two days; the second guest goes back within a day, which was in vain."""
    sites = np.zeros((3, 48), dtype=np.int64)
    sites[1, 10:20], sites[2, 30:] = 1, 1
    moves = (Moved(1, 0, 1, 10, 2.5), Moved(1, 1, 0, 20, -0.5), Moved(2, 0, 1, 30, 4.0))
    ways = (
        Way(STAY, Cost(100.0, 90.123, 12.34, 21.04, 0.0), (), np.zeros((3, 48), dtype=np.int64)),
        Way(PLANNED, Cost(80.5, 70.0, 10.0, None, 1.26), moves, sites),
        Way(OPTIMUM, Cost(75.0, 66.0, 9.0, 20.0, 0.5), moves[2:], sites),
    )
    held = (Held("site a", 3, "stale: told 9 h ago"),)
    found = (Finding("must-leave", Severity.WARNING, "guest g1", "has nowhere else to go"),)
    horizon = Horizon(datetime(2026, 6, 1, tzinfo=UTC), 3600, 48)
    return Simulation(horizon, ("g1", "guest2", "g3"), ("oslo", "rome"), ways, 70.0, 2, held, (), found)


def of_a_simulation() -> Iterable[str]:
    found = simulation()
    yield from map(as_text, fleet_report.tables(found, "EUR"))
    yield json.dumps(fleet_report.as_plain(found, "EUR"), indent=1)
    yield from (fleet_report.strips(found, 24), fleet_report.strips(found, 1000), fleet_report.strips(found, 1))
    free = replace(found.ways[0], cost=replace(found.ways[0].cost, weighed=0.0))
    plain = replace(found, ways=(free,), bound=0.0, left_out=0, held=(), findings=())
    yield from map(as_text, fleet_report.tables(plain, "EUR"))


def as_text(table: Table) -> str:
    lines = [" | ".join(map(str, cells)) for cells in (table.columns, *table.rows)]
    return "\n".join([f"[{table.heading}]", *lines, table.note, ""])


def rendered() -> str:
    parts = {"a move": of_a_move(), "a batch": of_a_batch(), "a simulation": of_a_simulation()}
    return "".join(f"# {name}\n" + "".join(f"{text}\n" for text in texts) + "\n" for name, texts in parts.items())


def test_all_words_and_figures_are_as_they_were_read_last() -> None:
    assert rendered() == WORDS.read_text()


def drawn(svg: str) -> tuple[list[str], set[str]]:
    """The texts of a picture, which matplotlib leaves in comments beside their glyphs, and its colours."""
    return re.findall(r"<!-- (.+?) -->", svg), set(re.findall(r"fill: (#[0-9a-f]{6})", svg))


def test_a_batch_is_drawn(tmp_path: Path) -> None:
    figures, trouble = batch_report.write(tmp_path, batch(), tries())
    assert trouble == "" and json.loads((tmp_path / "summary.json").read_text()) == figures
    page = (tmp_path / "report.html").read_text()
    texts, colours = drawn(page)
    assert {"evacuate oslo", "moves under way", "s", "berlin - oslo", "g0", "g1", "g2"} <= set(texts)
    assert "g3" not in texts, "which has not ended"
    assert {"#228833", "#ee6677", "#ccbb44"} <= colours, "moved, and rolled back or refused, and with losses"
    assert all(table.heading in page for table in batch_report.tables(figures))


def test_a_picture_has_room_for_so_many_guests() -> None:
    def texts(guests: int) -> list[str]:
        bars = [batch_report.Bar(f"guest{n}", ("a", "b"), ("a1", "b1"), n, n + 1.0, "moved") for n in range(guests)]
        svg = io.BytesIO()
        batch_report._draw(bars, "all of $them$", svg, "svg")
        return drawn(svg.getvalue().decode())[0]

    most = batch_report.MOST_BARS
    assert f"guest{most - 1}" in texts(most) and "guest0" not in texts(most + 1) and "all of $them$" in texts(0)


def test_a_simulation_is_drawn() -> None:
    texts, colours = drawn(fleet_report.page(replace(simulation(), guests=("$x", "guest2", "g3")), "of $two$", "EUR"))
    said = {"of $two$", "vmacro: 3 moves", "offline optimum: 1 moves", "$x", "guest2", "oslo", "rome", "01 Jun"}
    assert said <= set(texts), texts
    assert {"#4477aa", "#ee6677"} <= colours


class _Unread:
    """Implements ports.EventLog: it cannot be read."""

    def append(self, event: Event) -> None:
        raise AssertionError

    def read(self, move_id: str = "", after: int = 0) -> list[tuple[int, Event]]:
        raise JournalError("event log: cannot be read: gone")


def test_a_log_that_cannot_be_read_is_the_only_event() -> None:
    assert report.story(_Unread(), "web-1") == [Event("web-1", 0, Unreadable("event log: cannot be read: gone"))]


def test_a_report_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    for figures, trouble in (
        batch_report.write(taken, batch(), tries()),
        report.write(taken, plan(), OUTCOME, attempts(), recording()),
    ):
        assert figures and f"the report in {taken} is not complete" in trouble


if __name__ == "__main__":
    WORDS.write_text(rendered())
