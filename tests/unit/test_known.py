"""What is known for a policy besides its signals: recordings of round trips, and maintenance."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.recorded import CALENDAR
from vmacro import policies
from vmacro.drivers.feeds import Files
from vmacro.fleet.assemble import Assembled, Known, assemble
from vmacro.fleet.feeds import Feed, FeedText, Format
from vmacro.fleet.nouns import Horizon, Window
from vmacro.fleet.recorded import SignalError
from vmacro.rtt import recording
from vmacro.rtt.samples import Sample
from vmacro.services import known

POLICY = """currency = "EUR"
[sites.a]
price = { source = "fixed", unit = "1/kWh", value = 1 }
[sites.b]
price = { source = "fixed", unit = "1/kWh", value = 0.1 }
maintenance = { file = "b.ics" }
[[links]]
between = ["a", "b"]
mib_s = 100
open = [{ cron = "0 22 * * *", hours = 6, time_zone = "Europe/Berlin" }]
[regions.r]
rtt_ms = { a = 5, b = { file = "r-b.ndjson" } }
[hosts]
a1 = { site = "a", memory_mib = 8192 }
b1 = { site = "b", memory_mib = 8192 }
[guests]
web = { host = "a1", memory_mib = 1024, watts = 100, clients = { r = 1.0 } }
"""
BEGIN = datetime(2026, 10, 6, 12, tzinfo=UTC)


def record(path: Path, answers: int, ms: int = 20) -> None:
    samples = [Sample(n, n * 10**7, ms * 10**6) for n in range(answers)]
    lines = [recording.header("10.0.0.5:7000", "mptcp", 10.0, 1, 0), *map(recording.sample_line, samples)]
    path.write_text("".join(line if line.endswith("\n") else f"{line}\n" for line in lines))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "policy.toml").write_text(POLICY)
    (tmp_path / "b.ics").write_text(CALENDAR)
    record(tmp_path / "r-b.ndjson", 50)
    return tmp_path


def look(folder: Path, now: datetime | None = None) -> tuple[Known, Assembled]:
    policy = policies.load(folder / "policy.toml")
    found = known.look(policy, Files(False), Horizon(BEGIN, 3600, 24), now).known
    return found, assemble(policy, found, policy.guests, policy.hosts, BEGIN)


def test_all_of_it_comes_together(folder: Path) -> None:
    found, made = look(folder)
    assert found.rtt_ms == {("r", "b"): 20.0} and made.holds == ()
    assert dict(made.fleet.regions[0].rtt_ms) == {"a": 5.0, "b": 20.0}
    rooms = {room.name: room.closed for room in made.fleet.hosts}
    night = Window(datetime(2026, 10, 6, 21, tzinfo=UTC), datetime(2026, 10, 7, 1, tzinfo=UTC))
    assert rooms == {"a1": (), "b1": (night,)}
    (window,) = made.fleet.links[0].windows
    assert (window.begin, window.end) == (BEGIN.replace(hour=20), BEGIN.replace(hour=20) + timedelta(hours=6))


class Source:
    """Implements ports.Feeds: what was fetched is this, and only taken if it is any good."""

    def __init__(self, text: str) -> None:
        self.found, self.refused = FeedText(text, BEGIN), ""

    def read(
        self, name: str, feed: Feed, format: Format, begin: datetime, end: datetime, see: Callable[[FeedText], object]
    ) -> FeedText:
        try:
            see(self.found)
        except SignalError as error:
            self.refused = error.message
        return self.found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<html>come back later</html>", "heading is"),
        ("", "heading is"),
        ("begin,end,price\n", "it has said nothing"),
        ("begin,end,price\n2026-10-06T12:00Z,2026-10-06T13:00Z,1\n", ""),
    ],
)
def test_an_answer_that_says_nothing_is_refused_before_it_is_kept(folder: Path, text: str, why: str) -> None:
    price = 'price = { source = "fixed", unit = "1/kWh", value = 0.1 }\nmaintenance = { file = "b.ics" }'
    by_file = 'price = { source = "csv", unit = "1/MWh", file = "p.csv" }'
    (folder / "policy.toml").write_text(POLICY.replace(price, by_file).replace('{ file = "r-b.ndjson" }', "9"))
    source = Source(text)
    known.look(policies.load(folder / "policy.toml"), source, Horizon(BEGIN, 3600, 24), BEGIN)
    assert why in source.refused and bool(source.refused) == bool(why)


def test_a_link_whose_schedule_never_comes_is_never_open(folder: Path) -> None:
    path = folder / "policy.toml"
    path.write_text(POLICY.replace("0 22 * * *", "0 22 1 1 *"))
    (window,) = look(folder)[1].fleet.links[0].windows
    assert not window.covers(BEGIN, BEGIN + timedelta(hours=1)) and not window.touches(BEGIN, BEGIN + timedelta(days=1))


def test_a_recording_that_says_too_little_or_is_too_old_holds_its_site(folder: Path) -> None:
    path = folder / "r-b.ndjson"
    record(path, 9)
    assert look(folder)[1].holds[0].why == f"round trips from r: {path}: 9 answers, 10 are needed"
    path.write_text("nonsense\n")
    assert "not a line of a recording" in look(folder)[1].holds[0].why
    record(path, 50)
    os.utime(path, (time.time() - 40 * 86_400,) * 2)
    assert look(folder)[1].holds == (), "in a simulation its age says nothing"
    (hold,) = look(folder, datetime.now(UTC))[1].holds
    assert hold.subject == "site b" and "stale: recorded 40 days ago, 30 are allowed" in hold.why


def test_a_calendar_that_cannot_be_read_holds_its_site(folder: Path) -> None:
    (folder / "b.ics").unlink()
    (hold,) = look(folder)[1].holds
    assert hold.subject == "site b" and "b.ics: cannot be read: No such file" in hold.why


class Late:
    """Feeds of which none is newer than what a fetch has left."""

    def read(
        self,
        name: str,
        feed: Feed,
        format: Format,
        begin: datetime,
        end: datetime,
        see: Callable[[FeedText], object],
    ) -> FeedText:
        return replace(Files(False).read(name, feed, format, begin, end, see), trouble=f"{name}: 503")


def test_what_is_not_newer_is_told_by_its_name(folder: Path) -> None:
    found = known.look(policies.load(folder / "policy.toml"), Late(), Horizon(BEGIN, 3600, 24), None)
    assert found.known.rtt_ms == {("r", "b"): 20.0}, "what there is is used"
    assert found.troubles and all(why == f"{name}: 503" for name, why in found.troubles)
