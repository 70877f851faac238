"""Connections are counted where there are too many to tell of each, and a guest is not kept busy by being asked."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guest_agent.pages import KEPT_FOR_S, Pages
from guest_agent.ports import Closed, SubflowClosed
from tests.unit.guest_fakes import AWAY, HOME, World, at_home, connection
from tests.unit.test_endings import run
from tests.unit.test_migrate import Straight
from tests.unit.test_seamless import plan
from vmacro.drivers.fake import FakeWorld
from vmacro.model.facts import Counts
from vmacro.model.moves import Before
from vmacro.model.nouns import MOST_JOIN_S
from vmacro.planning.outcome import all_counted
from vmacro.services import handoff, migrate
from vmacro.wire.agent_verbs import (
    CUT,
    MAX_CONNECTIONS,
    RESET,
    UNANSWERED,
    Beyond,
    Connection,
    CountArgs,
    Ended,
    PageArgs,
)
from vmacro.wire.counting import Began, began_with, counted
from vmacro.wire.messages import ProtocolError

MANY = [connection(n, HOME) for n in range(1, MAX_CONNECTIONS + 11)]
LAST = MANY[-1]


def mute(found: Connection) -> Connection:
    return replace(found, subflows=tuple(replace(s, unanswered=UNANSWERED) for s in found.subflows))


def test_what_is_there_is_counted_by_addresses() -> None:
    now = [connection(1, HOME, AWAY), connection(2, HOME), connection(0, HOME)]
    found = counted(CountArgs((AWAY,)), Began(), now, {}, told=True)
    assert (found.total, found.mptcp, found.joined, found.apart) == (3, 2, 1, 1)
    assert (found.awaited, found.untold, found.beyond) == (0, 0, Beyond()), "nobody is watched"


def test_who_is_awaited() -> None:
    """Who had joined, or who was willing, until it joins again, or the kernel has told of its end."""
    joined = [connection(n, HOME, AWAY) for n in (1, 2, 3, 4)]
    willing = replace(connection(5, HOME), willing=True)
    began = began_with([*joined, willing])
    now = [joined[0], connection(2, HOME), willing]
    ended = {joined[2].key: Ended(joined[2].key, "c", CUT, True)}
    for told, awaited, untold in ((True, 2, 1), (False, 1, 0)):
        found = counted(CountArgs((AWAY,)), began, now, ended, told)
        assert (found.awaited, found.untold) == (awaited, untold)
    assert counted(CountArgs((AWAY,), willing=True), began, now, ended, True).awaited == 1


@pytest.mark.parametrize(
    ("new", "end", "verdict"),
    [
        (replace(LAST, subflows=connection(1, AWAY).subflows), None, "followed"),
        (mute(replace(LAST, subflows=connection(1, AWAY).subflows)), None, "unknown"),
        (replace(LAST, subflows=connection(1, "10.3.0.9").subflows), None, "carried"),
        (LAST, None, "lost"),
        (replace(LAST, subflows=connection(1, "10.7.0.9").subflows), None, "unknown"),
        (None, Ended(LAST.key, "c", CUT, False), "ended"),
        (None, None, "unknown"),
    ],
)
def test_one_that_no_reply_had_room_for_is_judged_all_the_same(
    new: Connection | None, end: Ended | None, verdict: str
) -> None:
    others = MANY[:MAX_CONNECTIONS]
    now, ended = [*others, *filter(None, [new])], {end.key: end} if end else {}
    args = CountArgs((AWAY,), ("10.3.0.9",), known=(HOME, "10.3.0.9"))
    found = counted(args, began_with([*others, LAST]), now, ended, told=True)
    assert found.beyond == Beyond(**{verdict: 1})


# The agent


@pytest.fixture
def world(tmp_path: Path) -> World:
    return at_home(tmp_path)


def test_of_many_those_are_told_of_that_the_watch_has_told_of(world: World) -> None:
    world.kernel.open = list(MANY)

    def turns_round() -> None:
        world.kernel.open.reverse()

    began, then, asked = run(world, "watch", turns_round, "connections", ("count", {"addresses": [AWAY]}))
    assert {c.key for c in then.connections} == {c.key for c in began.connections} and then.total == len(MANY)
    assert (asked.watch, asked.total, asked.apart, asked.beyond) == (began.watch, len(MANY), len(MANY), Beyond(lost=10))


def test_losses_are_told_before_all_else(world: World) -> None:
    world.kernel.open = list(MANY)

    def many_end() -> None:
        world.kernel.told = [Closed(c.token) for c in MANY[:-1]]
        subflow = LAST.subflows[0]
        ends = (subflow.local, subflow.local_port, subflow.remote, subflow.remote_port)
        world.kernel.told.append(SubflowClosed(LAST.token, ends, errno.ECONNRESET))
        world.kernel.open = []

    *_, ends, asked = run(world, "watch", "arrive", many_end, "endings", ("count", {"addresses": [AWAY]}))
    assert ends.total == len(MANY) and ends.endings[0] == Ended(LAST.key, LAST.client, RESET, True)
    assert (asked.untold, asked.beyond) == (0, Beyond(ended=9)), "it is told of by name"


def test_where_there_is_no_watch_those_there_are_counted(world: World) -> None:
    world.kernel.open = [connection(1, HOME)]
    world.kernel.tells = False
    *_, asked = run(world, "watch", ("count", {"addresses": [AWAY]}))
    assert (asked.watch, asked.total, asked.awaited, asked.untold) == ("", 1, 0, 0)


def test_an_agent_says_what_its_look_took(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    look = world.kernel.look

    def slow_look() -> Any:
        world.clock._now += 0.25
        return look()

    monkeypatch.setattr(world.kernel, "look", slow_look)
    (asked,) = run(world, ("count", {"addresses": [AWAY]}))
    assert asked.took_ms == 250


def test_pages_are_of_one_moment_which_is_kept_for_a_while(world: World) -> None:
    world.kernel.open = list(MANY)
    pages = Pages(world.guest, world.kernel.connections)

    async def story() -> None:
        first = pages.page(PageArgs())
        world.kernel.open = []
        second = pages.page(PageArgs(first.snapshot, len(first.connections)))
        assert [*first.connections, *second.connections] == MANY and first.total == second.total == len(MANY)
        await world.clock.passes(KEPT_FOR_S + 1)
        with pytest.raises(ProtocolError, match="not kept any more"):
            pages.page(PageArgs(first.snapshot, 5))
        assert pages.page(PageArgs()).total == 0

    asyncio.run(story())


def test_a_page_says_who_is_willing(world: World) -> None:
    world.kernel.open = [connection(1, HOME, AWAY), connection(2, HOME)]
    (page,) = run(world, "page")
    assert [c.willing for c in page.connections] == [True, False]


# The orchestrator


def counts_of(fake: FakeWorld, took_ms: int, remembers: bool) -> tuple[list[float], Counts]:
    """When a guest was asked in one second, and the last answer, of one whose agent `remembers` the watch."""
    asked_s: list[float] = []
    with fake.world.agent(plan(fake).source, "web") as agent:
        watched, count = agent.watch(), agent.count

        def counting(*args: Any) -> Counts:
            asked_s.append(fake.now_s)
            return replace(count(*args), took_ms=took_ms)

        agent.count = counting  # type: ignore[method-assign, assignment]
        before = Before("boot-1", watched.connections, watched.name if remembers else "")
        args = CountArgs(("10.50.2.97",))
        until_s = fake.world.clock.monotonic_s() + 1.0
        return asked_s, handoff.counted_until(
            lambda c: not c.apart, fake.world, agent, before, args, 0.1, lambda _: until_s
        )


@pytest.mark.parametrize(("took_ms", "times"), [(0, 11), (10, 11), (50, 4), (60_000, 2)])
@pytest.mark.parametrize("remembers", [True, False])
def test_a_guest_counts_for_a_tenth_of_its_time_at_most(took_ms: int, times: int, remembers: bool) -> None:
    """Also one whose kernel does not tell of ends."""
    asked_s, counts = counts_of(FakeWorld(), took_ms, remembers)
    assert times <= len(asked_s) <= times + 1 and asked_s[-1] - asked_s[0] == pytest.approx(1.0)
    assert counts.apart == counts.total == 1


@pytest.mark.parametrize(
    ("each_s", "took_ms", "quiet_s", "waited_s"),
    [
        (0.5, 0, 3.0, 53.0),  # the last of a hundred came after 50 s
        (0.0, 0, 3.0, 3.0),  # nobody comes
        (0.7, 0, 3.0, MOST_JOIN_S),
        (4.0, 0, 3.0, 3.0),  # who comes so slowly is not waited for
        (0.25, 1000, 3.0, 39.0),  # it looks once in nine seconds, and finds more each time, but for the last
        (0.5, 1000, 0.0, 0.0),
    ],
)
def test_clients_are_waited_for_as_long_as_they_come(
    each_s: float, took_ms: int, quiet_s: float, waited_s: float
) -> None:
    """One each so often; another one never does."""
    fake = FakeWorld()
    began_s = fake.world.clock.monotonic_s()

    def now(_: CountArgs) -> Counts:
        passed_s = fake.world.clock.monotonic_s() - began_s
        joined = min(100, int(passed_s / each_s)) if each_s else 0
        return Counts(101, 101, joined, 101 - joined, 0, 0, Beyond(), "w", took_ms)

    with fake.world.agent(plan(fake).source, "web") as agent:
        agent.count = now  # type: ignore[method-assign, assignment]
        deadline_s = handoff.WhileTheyJoin(fake.world, quiet_s)
        nobody, args = Before("boot-1", (), "w"), CountArgs(("10.50.2.97",))
        handoff.counted_until(lambda c: not c.apart, fake.world, agent, nobody, args, 0.05, deadline_s)
    assert fake.world.clock.monotonic_s() - began_s == pytest.approx(waited_s, abs=0.2)


def test_a_guest_that_looks_for_long_rests_for_long(world: World) -> None:
    looks: list[float] = []

    def slow_look() -> bool:
        looks.append(world.clock.now_s())
        world.clock._now += 0.1
        return False

    began_s = world.clock.now_s()
    asyncio.run(world.clock.run(world.guest.until(slow_look, 10.0, 0.05)))
    assert looks == pytest.approx([began_s + n for n in range(11)])


def test_one_that_has_forgotten_the_watch_is_asked_for_each_connection() -> None:
    fake = FakeWorld()
    with fake.world.agent(plan(fake).source, "web") as agent:
        watched = agent.watch()
        fake.guest.restart_agent()
        before = Before("boot-1", tuple(replace(c, willing=True) for c in watched.connections), watched.name)
        args = CountArgs(("10.50.2.97",), willing=True)
        counts = handoff.counted_until(lambda c: False, fake.world, agent, before, args, 0.1, lambda _: 0.0)
    assert (counts.awaited, counts.untold) == (1, 0), "it is there, and may still come"


@pytest.mark.parametrize("lost", [False, True])
def test_a_move_judges_more_than_it_is_told_of(lost: bool) -> None:
    """A connection without a path is a loss although no reply has room for it."""
    fake = FakeWorld()
    there = [replace(connection(n, "10.50.1.97"), willing=True) for n in range(1, MAX_CONNECTIONS + 4)]
    fake.guest.connections = [*there, connection(9999, "fd50:7::7")] if lost else there
    outcome = migrate.run_move(plan(fake), fake.world, Straight())
    assert len(outcome.connections) == MAX_CONNECTIONS and outcome.beyond == Beyond(followed=3, lost=int(lost))
    assert outcome.exit_code == (5 if lost else 0)
    assert outcome.reason == ("1 more were lost, of those only counted" if lost else "")
    assert all_counted(outcome)["followed"] == MAX_CONNECTIONS + 3
