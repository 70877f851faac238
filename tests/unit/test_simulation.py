"""Simulations: what was not known then is not used, nobody goes to and fro, and the figures can be added up by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from tests import recorded
from tests.unit.town import Vmacro
from vmacro import policies
from vmacro.drivers.feeds import Files
from vmacro.fleet import reading
from vmacro.fleet.feeds import Format
from vmacro.fleet.nouns import Horizon
from vmacro.fleet.policy import Known, Source
from vmacro.fleet.signals import Kind, Reading, Signal
from vmacro.fleet.simulation import BEST_NOW, OPTIMUM, PLANNED, RULE, STAY, Simulation, Simulator
from vmacro.services import known

START = datetime(2026, 6, 1, tzinfo=UTC)
TWO_SITES = """currency = "EUR"
[rules]
shortest_stay_hours = 2
worth = 2
[trust]
least_hours = 6
[sites.a]
price = { source = "csv", unit = "1/kWh", file = "a.csv" }
[sites.b]
price = { source = "csv", unit = "1/kWh", file = "b.csv" }
[[links]]
between = ["a", "b"]
mib_s = 100
price_per_gib = 0.1
[hosts]
a1 = { site = "a", memory_mib = 8192 }
b1 = { site = "b", memory_mib = 8192 }
[guests]
web = { host = "a1", memory_mib = 1024, watts = 1000 }
"""
Prices = Callable[[int], float | None]


def simulated(folder: Path, a: Prices, b: Prices, days: float = 2.0, policy: str = TWO_SITES) -> Simulation:
    (folder / "policy.toml").write_text(policy)
    for name, prices in (("a", a), ("b", b)):
        times = [START + timedelta(hours=n) for n in range(round(days * 24) + 25)]
        rows = [
            f"{t.isoformat()},{(t + timedelta(hours=1)).isoformat()},{_said(prices(n))}" for n, t in enumerate(times)
        ]
        (folder / f"{name}.csv").write_text("\n".join(("begin,end,price", *rows, "")))
    return run(folder / "policy.toml", START, days)


def _said(price: float | None) -> str:
    return "" if price is None else str(price)


def run(path: Path, start: datetime, days: float) -> Simulation:
    read = policies.load(path)
    horizon = Horizon(start, read.timing.slot_s, round(days * 86_400 / read.timing.slot_s) + read.timing.slots)
    found = known.look(read, Files(False), horizon, None).known
    return Simulator(read, found, start, days).run(lambda *_: None, lambda: 0.0)


def day(n: int) -> float:
    """Dear from noon to midnight."""
    return 1.0 if n % 24 >= 12 else 0.2


def night(n: int) -> float:
    return 1.2 - day(n)


def test_figures_can_be_added_up_by_hand(tmp_path: Path) -> None:
    found = simulated(tmp_path, day, night)
    assert found.way(STAY).cost.money == pytest.approx(24 * 1.0 + 24 * 0.2)
    for name in (PLANNED, OPTIMUM, BEST_NOW):
        way = found.way(name)
        assert [(m.slot, m.target) for m in way.moves] == [(12, 1), (24, 0), (36, 1)]
        assert way.cost.money == pytest.approx(48 * 0.2 + 3 * 0.1)
        assert way.moves[0].pays == pytest.approx(12 * 0.8 - 0.1)
    assert found.bound == pytest.approx(found.way(OPTIMUM).cost.weighed)
    assert found.held == () and found.left_out == 0


def test_small_differences_to_and_fro_move_nobody_but_who_always_wants_the_best(tmp_path: Path) -> None:
    found = simulated(tmp_path, lambda n: 0.5 + 0.02 * (n % 2), lambda n: 0.52 - 0.02 * (n % 2))
    restless = found.way(BEST_NOW)
    assert (len(restless.moves), restless.in_vain, restless.returns(24)) == (47, 47, 46)
    assert found.way(PLANNED).moves == () and found.way(OPTIMUM).moves == ()


def test_one_day_of_a_dead_source_holds_the_guest_and_says_so(tmp_path: Path) -> None:
    """B is cheaper all the time, and says nothing on the first day: A's guest stays as long, and 6 h before its price
    comes back (it is known 24 h ahead, but not without a gap) nothing is made up."""
    found = simulated(tmp_path, lambda _: 1.0, lambda n: None if n < 24 else 0.1)
    assert [m.slot for m in found.way(PLANNED).moves] == [24]
    (held,) = found.held
    assert (held.subject, held.slots) == ("site b", 24)
    assert held.why == "price of b is dead: it has said nothing"
    assert found.left_out == 24


def test_a_price_that_dies_holds_the_guest_where_it_is(tmp_path: Path) -> None:
    """Whether it is there or elsewhere."""
    found = simulated(tmp_path, day, lambda n: night(n) if n < 20 else None)
    assert [m.slot for m in found.way(PLANNED).moves] == [12]
    assert found.held[0].slots == 48 - 15, "once less than six hours of it are known"
    assert "gappy" in found.held[0].why


def test_more_is_not_known_than_was_published(tmp_path: Path) -> None:
    said = tuple(Reading(START + timedelta(hours=n), START + timedelta(hours=n + 1), float(n)) for n in range(72))
    whole = Signal("power", Kind.PRICE, said, START)
    source = Source("power", "x", Kind.PRICE, Format.CSV)
    noon = START + timedelta(hours=12)
    assert reading.as_known(whole, source, noon).readings[-1].end == noon + timedelta(hours=24)
    daily = replace(source, known=Known(published=noon.time()))
    assert reading.as_known(whole, daily, noon).readings[-1].end == START + timedelta(hours=48)
    before = reading.as_known(whole, daily, noon - timedelta(minutes=1))
    assert before.readings[-1].end == START + timedelta(hours=24)
    assert before.told == noon - timedelta(minutes=1)
    after = reading.as_known(whole, source, START + timedelta(hours=100))
    assert after.told == START + timedelta(hours=72), "it has died"
    assert reading.as_known(whole, source, START - timedelta(hours=50)).told is None


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded.write(tmp_path_factory.mktemp("month"))


@pytest.fixture(scope="module")
def week(month: Path) -> Simulation:
    """A week, with London's carbon unknown on three days of it, and maintenance there on another."""
    return run(month, recorded.START, 7.0)


def test_on_signals_of_the_real_shape_it_is_better_than_simple_ways(week: Simulation) -> None:
    cost = {way.name: way.cost.weighed for way in week.ways}
    assert week.bound <= cost[OPTIMUM] <= cost[PLANNED] < cost[RULE] < cost[BEST_NOW] < cost[STAY]
    assert cost[PLANNED] < cost[OPTIMUM] * 1.03
    moves = {way.name: len(way.moves) for way in week.ways}
    assert moves[PLANNED] * 2 < moves[RULE] < moves[BEST_NOW]


def test_no_guest_goes_to_and_fro(week: Simulation) -> None:
    """Who comes back within a day has left for maintenance, or gained by it."""
    way = week.way(PLANNED)
    for guest in range(len(week.guests)):
        slots = [move.slot for move in way.moves if move.guest == guest]
        assert all(b - a >= 4 for a, b in pairwise(slots))
    back = [
        m for n, m in enumerate(way.moves) if any(b.guest == m.guest and m.slot - b.slot < 24 for b in way.moves[:n])
    ]
    assert len(back) <= 2 and len(way.moves) < 3 * len(week.guests)


def test_it_says_who_was_held_and_who_must_leave(week: Simulation) -> None:
    (held,) = week.held
    assert held.subject == "site london" and held.why.startswith("carbon of london is gappy")
    assert 72 <= held.slots <= 84
    assert [(f.code, f.subject) for f in week.findings] == [("must-leave", "guest licence")]
    assert week.left_out == 72


def test_the_command_shows_it_all(vmacro: Vmacro, tmp_path: Path) -> None:
    simulated(tmp_path, day, night, 1.0)
    png, page, policy = tmp_path / "a.png", tmp_path / "a.html", tmp_path / "policy.toml"
    done = vmacro("simulate", str(policy), "--days", "1", "--png", str(png), "--html", str(page))
    assert done.returncode == 0, done.stderr
    for words in ("always the best site now", "offline optimum", "nothing is below", "web  AAAAAAAAAAAABBBBBBBBBBBB"):
        assert words in done.stdout
    assert png.read_bytes().startswith(b"\x89PNG") and "<svg" in page.read_text()
    plain = json.loads(vmacro("simulate", str(policy), "--days", "1", "--json").stdout)
    assert [way["name"] for way in plain["ways"]] == [STAY, BEST_NOW, RULE, PLANNED, OPTIMUM]
    assert plain["ways"][3]["moves"][0]["at"] == "2026-06-01T12:00:00+00:00"


def test_a_simulation_that_cannot_be(vmacro: Vmacro, month: Path, tmp_path: Path) -> None:
    told = vmacro("simulate", str(month), "--days", "60").stderr
    assert "--days 60: " in told and "41.67 days at most" in told and "slot_minutes" in told
    assert "is no time with a zone" in vmacro("simulate", str(month), "--from", "2026-10-01").stderr
    nothing = vmacro("simulate", str(month), "--days", "1", "--from", "2030-01-01T00:00:00Z")
    assert nothing.returncode == 2 and "nothing is recorded that can be simulated" in nothing.stderr
    assert "simulating 1 days of" in nothing.stderr and nothing.stdout == ""
    lost = tmp_path / "policy.toml"
    lost.write_text(month.read_text())
    done = vmacro("simulate", str(lost), "--days", "1")
    assert done.returncode == 2 and "berlin-prices.xml: cannot be read" in done.stderr
    contrary = month.with_name("contrary.toml")
    contrary.write_text(month.read_text().replace("[rules]", '[rules]\ntogether = [["db1", "db2"]]'))
    done = vmacro("simulate", str(contrary), "--days", "1")
    assert done.returncode == 3 and "rules-contradict: guest db1" in done.stderr


def test_the_hour_that_comes_twice_is_two_slots(month: Path) -> None:
    """Berlin's clocks go back at 3 on 25 October; the simulation's day has 25 hours there, and nothing shifts."""
    begin = datetime(2026, 10, 24, 22, tzinfo=UTC)
    found = run(month, begin, 25 / 24)
    assert found.held == () and found.left_out == 0
    assert [found.horizon.at(n).hour for n in (1, 2, 3, 4)] == [1, 2, 2, 3]
    assert found.horizon.at(25).astimezone(UTC) == begin + timedelta(hours=25)
