"""What the guest does at a new site, in which order, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from guest_agent.arrival import (
    AGAIN_AFTER_S,
    ALONE_AFTER_S,
    ALONE_EVERY_S,
    DEBOUNCE_S,
    LEASE_TIMEOUT_S,
    Arrivals,
    prepare,
)
from guest_agent.ports import NoLeaseError
from tests.unit.guest_fakes import AWAY, AWAY6, HOME, HOME6, World, at_home, connection
from vmacro.wire.agent_verbs import Arrival, PrepareArgs
from vmacro.wire.messages import ProtocolError

GATEWAY = "10.2.0.1"
FORGOTTEN = "forget round trips"
SWITCHED = [f"prefer {AWAY}", f"spare {HOME}", FORGOTTEN]
SETTLED = [f"move in {AWAY}", f"forget neighbours but {GATEWAY}"]
Result = TypeVar("Result")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return at_home(tmp_path)


def ran(world: World, what: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(world.clock.run(what))


def prepared(world: World, address6: str = "") -> World:
    ran(world, prepare(world.guest, PrepareArgs(AWAY, address6)))
    world.log.clear()
    return world


# Before the move


def test_the_addresses_to_come_are_answered_for_and_then_announced_as_backup(world: World) -> None:
    ran(world, prepare(world.guest, PrepareArgs(AWAY, AWAY6)))
    assert world.log == [
        f"borrow {AWAY}",
        f"announce {AWAY} as backup",
        f"borrow {AWAY6}",
        f"announce {AWAY6} as backup",
    ]
    assert world.restarted().guest.state.prepared == (AWAY, AWAY6)


def test_preparing_again_announces_nothing_again(world: World) -> None:
    prepared(world)
    ran(world, prepare(world.guest, PrepareArgs(AWAY)))
    assert world.log == [f"borrow {AWAY}"]


def test_the_present_address_is_not_prepared(world: World) -> None:
    with pytest.raises(ProtocolError) as refused:
        ran(world, prepare(world.guest, PrepareArgs(HOME)))
    assert refused.value.code == "in-use" and world.log == []


# Arrivals


@pytest.mark.parametrize(("still_s", "still_ms"), [(3.25, 3250), (0.01, 0)])
def test_an_arrival_says_for_how_long_the_guest_stood_still(world: World, still_s: float, still_ms: int) -> None:
    arrivals = Arrivals(world.guest)
    world.clock.still_s += still_s
    assert ran(world, arrivals.arrive_from(HOME)).stood_still_ms == still_ms


def test_a_pause_without_a_move_is_not_counted_to_the_next_move(world: World) -> None:
    world.leases.offers[:] = [HOME, AWAY]
    arrivals = Arrivals(world.guest)
    world.clock.still_s = 60.0
    assert ran(world, arrivals.arrive_from(HOME)).stood_still_ms == 0
    ran(world, world.clock.sleep(60.0))
    world.clock.still_s = 62.0
    assert ran(world, arrivals.arrive_from(HOME)).stood_still_ms == 2000


def test_without_preparation_dhcp_tells_the_address_and_clients_are_told(world: World) -> None:
    arrival = ran(world, Arrivals(world.guest).arrive_from(HOME))
    assert arrival == Arrival("channel", HOME, AWAY, GATEWAY, 1, 200, 200)
    assert world.log == ["forget neighbours", FORGOTTEN, "dhcp", *SETTLED, f"announce {AWAY}"]
    assert world.kernel.kept == [HOME], "connections still use it"


def test_prepared_addresses_are_used_before_dhcp_has_answered(world: World) -> None:
    prepared(world)
    arrival = ran(world, Arrivals(world.guest).arrive_from(HOME))
    assert world.log == [*SWITCHED, "dhcp", *SETTLED], "neighbours are kept until the new route is in"
    assert (arrival.new, arrival.endpoint_id, world.kernel.announced) == (AWAY, 1, {1: AWAY})
    assert world.guest.state.prepared == ("", "")


def test_both_families_change_over(world: World) -> None:
    world.kernel.known6 = {HOME6: True}
    prepared(world, AWAY6)
    arrival = ran(world, Arrivals(world.guest).arrive_from(HOME))
    assert world.log[:6] == [*SWITCHED, f"prefer {AWAY6}", f"spare {HOME6}", f"move in {AWAY6}"]
    assert (arrival.old6, arrival.new6) == (HOME6, AWAY6)
    assert ran(world, world.guest.address6()) == AWAY6


def test_dhcp_that_gives_the_old_address_means_still_at_home(tmp_path: Path) -> None:
    world = prepared(at_home(tmp_path, HOME))
    arrival = ran(world, Arrivals(world.guest).arrive_from(HOME))
    assert world.log[:6] == [*SWITCHED, "dhcp", f"prefer {HOME}", f"spare {AWAY}"]
    assert (arrival.new, arrival.endpoint_id) == (HOME, 0)
    assert world.guest.state.prepared == (AWAY, ""), "the move is still to come"


def test_still_at_home_no_family_changes(tmp_path: Path) -> None:
    world = at_home(tmp_path, HOME)
    world.kernel.known6 = {HOME6: True}
    prepared(world, AWAY6)
    arrival = ran(world, Arrivals(world.guest).arrive_from(HOME))
    assert arrival.new6 == "" and ran(world, world.guest.address6()) == HOME6


def test_an_orchestrator_that_asks_after_a_false_alarm_is_not_told_of_that(tmp_path: Path) -> None:
    world = prepared(at_home(tmp_path, HOME, AWAY))
    arrivals = Arrivals(world.guest)

    async def story() -> Arrival:
        assert (await world.clock.run(_of(arrivals.arrive("announce")))).new == HOME
        await world.clock.passes(DEBOUNCE_S + 1)
        return await world.clock.run(arrivals.arrive_from(HOME))

    assert asyncio.run(story()).new == AWAY


def test_a_false_alarm_after_a_move_announces_nothing_again(world: World) -> None:
    arrivals = Arrivals(world.guest)

    async def story() -> Arrival:
        await world.clock.run(arrivals.arrive_from(HOME))
        await world.clock.passes(DEBOUNCE_S + 1)
        world.log.clear()
        return await world.clock.run(_of(arrivals.arrive("announce")))

    alarm = asyncio.run(story())
    assert (alarm.seen_by, alarm.old, alarm.new, alarm.endpoint_id) == ("announce", AWAY, AWAY, 0)
    assert world.log == ["forget neighbours", FORGOTTEN, "dhcp", *SETTLED]
    assert world.kernel.announced == {1: AWAY} and world.kernel.kept == [HOME]


def test_dhcp_that_gives_another_address_than_prepared_is_believed(tmp_path: Path) -> None:
    world = prepared(at_home(tmp_path, "10.2.0.50"))
    arrival = ran(world, Arrivals(world.guest).arrive_from(HOME))
    assert arrival.new == "10.2.0.50" and world.log[-1] == "announce 10.2.0.50"


def test_an_address_that_comes_again_is_withdrawn_under_its_old_id_first(world: World) -> None:
    world.kernel.announced = {9: AWAY}
    arrival = ran(world, Arrivals(world.guest).arrive_from(HOME))
    assert world.log[-2:] == [f"withdraw {AWAY}", f"announce {AWAY}"]
    assert arrival.endpoint_id != 9, "an id used again would meet its own retransmissions"


def test_an_arrival_runs_once_however_many_report_it(world: World) -> None:
    arrivals = Arrivals(world.guest)

    async def reported() -> tuple[Arrival, Arrival, Arrival]:
        return await asyncio.gather(
            arrivals.arrive("announce"), arrivals.arrive_from(HOME), arrivals.arrive("announce")
        )

    first, second, third = ran(world, reported())
    assert first == second == third and first.seen_by == "announce"
    assert world.log.count("dhcp") == 1
    ran(world, arrivals.arrive_from(HOME))
    assert world.log.count("dhcp") == 1, "it is known which address was left"


def test_announces_of_one_move_are_one_arrival_and_a_later_one_is_another(world: World) -> None:
    arrivals = Arrivals(world.guest)

    async def twice() -> tuple[bool, int, bool, int]:
        await world.clock.run(_of(arrivals.arrive("announce")))
        await world.clock.passes(DEBOUNCE_S)
        close, again = arrivals.just_arrived, await world.clock.run(_of(arrivals.arrive("announce")))
        assert again == world.guest.state.last_arrival
        runs = world.log.count("dhcp")
        await world.clock.passes(0.1)
        far = arrivals.just_arrived
        await world.clock.run(_of(arrivals.arrive("announce")))
        return close, runs, far, world.log.count("dhcp")

    assert asyncio.run(twice()) == (True, 1, False, 2)


def test_a_caller_that_goes_away_does_not_end_the_arrival(world: World) -> None:
    async def left() -> None:
        caller = asyncio.ensure_future(Arrivals(world.guest).arrive_from(HOME))
        await world.clock.passes(0.1)
        caller.cancel()
        await world.clock.passes(1.0)

    asyncio.run(left())
    assert world.guest.present_lease().address == AWAY


def test_without_dhcp_it_is_tried_again_by_itself(tmp_path: Path) -> None:
    world = at_home(tmp_path, "", AWAY)

    async def story() -> None:
        with pytest.raises(NoLeaseError):
            await world.clock.run(Arrivals(world.guest).arrive_from(HOME))
        assert world.log.count("dhcp") == 1
        await world.clock.passes(AGAIN_AFTER_S + 1)

    asyncio.run(story())
    last = world.guest.state.last_arrival
    assert last is not None and (last.seen_by, last.new) == ("retry", AWAY)


def test_a_failed_arrival_is_not_tried_twice_when_somebody_asks_again(tmp_path: Path) -> None:
    world = at_home(tmp_path, "", AWAY)
    arrivals = Arrivals(world.guest)

    async def story() -> None:
        with pytest.raises(NoLeaseError):
            await world.clock.run(arrivals.arrive_from(HOME))
        await world.clock.run(arrivals.arrive_from(HOME))
        await world.clock.passes(AGAIN_AFTER_S + 1)

    asyncio.run(story())
    assert world.log.count("dhcp") == 2


def test_nothing_arrives_before_there_is_a_lease(world: World) -> None:
    world.guest.state.lease = None
    with pytest.raises(ProtocolError) as refused:
        ran(world, Arrivals(world.guest).arrive_from(HOME))
    assert refused.value.code == "not-ready" and world.log == []


# A restarted agent


def test_a_restarted_agent_that_is_still_at_home_changes_nothing(tmp_path: Path) -> None:
    world = prepared(at_home(tmp_path, HOME)).restarted()
    ran(world, _of_restart(world))
    assert world.log[0] == "dhcp", "where it is tells DHCP alone: nothing is preferred before"
    assert AWAY in world.kernel.kept and world.guest.state.prepared == (AWAY, "")


def test_a_restarted_agent_finds_out_that_the_guest_has_moved_meanwhile(world: World) -> None:
    after = prepared(world).restarted()
    arrival = ran(after, _of_restart(after))
    assert after.log == ["dhcp", *SWITCHED, *SETTLED]
    assert (arrival.seen_by, arrival.old, arrival.new, arrival.endpoint_id) == ("restart", HOME, AWAY, 1)


def test_a_restart_after_an_arrival_is_not_another_arrival(world: World) -> None:
    arrival = ran(world, Arrivals(world.guest).arrive_from(HOME))
    after = world.restarted()
    assert ran(after, _of_restart(after)) == arrival
    assert ran(after, Arrivals(after.guest).arrive_from(HOME)) == arrival, "an orchestrator that asks later is told"


def test_a_move_back_is_told_from_the_arrival_before(tmp_path: Path) -> None:
    world = at_home(tmp_path, AWAY, HOME)
    arrivals = Arrivals(world.guest)

    async def there_and_back() -> Arrival:
        await world.clock.run(arrivals.arrive_from(HOME))
        await world.clock.passes(DEBOUNCE_S + 1)
        return await world.clock.run(arrivals.arrive_from(AWAY))

    back = asyncio.run(there_and_back())
    assert (back.old, back.new) == (AWAY, HOME) and world.kernel.kept == [AWAY]


# Alone


def alone(world: World, arrivals: Arrivals, *acts_after_s: float) -> list[str]:
    """What the guest does by itself in two minutes after an arrival, an orchestrator acting at these times."""

    async def story() -> None:
        await world.clock.run(arrivals.arrive_from(HOME))
        world.log.clear()
        passed = 0.0
        for at in acts_after_s:
            await world.clock.passes(at - passed)
            arrivals.orchestrator_acts()
            passed = at
        await world.clock.passes(120 - passed)

    asyncio.run(story())
    return world.log


def test_a_guest_left_alone_takes_its_old_address_back_once(world: World) -> None:
    assert alone(world, Arrivals(world.guest)) == [f"withdraw initial {HOME}", f"move out {HOME}", FORGOTTEN]


def test_not_before_its_time(world: World) -> None:
    arrivals = Arrivals(world.guest)

    async def story() -> None:
        await world.clock.run(arrivals.arrive_from(HOME))
        await world.clock.passes(ALONE_AFTER_S - 0.1)
        assert world.kernel.kept == [HOME]
        await world.clock.passes(0.2)
        assert world.kernel.kept == []

    asyncio.run(story())


def test_not_while_an_orchestrator_acts(world: World) -> None:
    assert alone(world, Arrivals(world.guest), ALONE_AFTER_S - 1) == []


def test_alone_too_an_address_stays_that_a_connection_needs_until_that_ends(world: World) -> None:
    world.kernel.open = [connection(2, HOME)]
    arrivals = Arrivals(world.guest)

    async def story() -> None:
        await world.clock.run(arrivals.arrive_from(HOME))
        await world.clock.passes(ALONE_AFTER_S + 3 * ALONE_EVERY_S)
        assert world.kernel.kept == [HOME] and [c.token for c in world.kernel.open] == [2]
        world.kernel.open = []
        await world.clock.passes(ALONE_EVERY_S)
        assert world.kernel.kept == []

    asyncio.run(story())


def test_the_next_arrival_ends_the_watch_of_the_last(tmp_path: Path) -> None:
    world = at_home(tmp_path, AWAY, "10.3.0.9")
    arrivals = Arrivals(world.guest)

    async def story() -> None:
        await world.clock.run(arrivals.arrive_from(HOME))
        await world.clock.passes(ALONE_AFTER_S - 5)
        await world.clock.run(arrivals.arrive_from(AWAY))
        await world.clock.passes(ALONE_AFTER_S - 5)
        assert sorted(world.kernel.kept) == sorted([HOME, AWAY])
        await world.clock.passes(6)
        assert world.kernel.kept == []

    asyncio.run(story())


def test_silence_of_dhcp_is_bounded(tmp_path: Path) -> None:
    world = at_home(tmp_path, "")
    began = world.clock.now_s()
    with pytest.raises(NoLeaseError):
        ran(world, Arrivals(world.guest).arrive_from(HOME))
    assert world.clock.now_s() - began == LEASE_TIMEOUT_S


async def _of(task: asyncio.Task[Arrival]) -> Arrival:
    return await task


async def _of_restart(world: World) -> Arrival:
    return await Arrivals(world.guest).arrive("restart")


def test_a_false_announce_takes_no_old_address_back_that_lingers(tmp_path: Path) -> None:
    """An orchestrator has settled the arrival, and left it for new connections, or for datagrams, of which the guest
    knows nothing. Whoever carries it only looks."""
    world = at_home(tmp_path, AWAY)
    arrivals = Arrivals(world.guest)

    async def story() -> None:
        await world.clock.run(arrivals.arrive_from(HOME))
        await world.clock.passes(10)
        arrivals.orchestrator_acts()
        await world.clock.passes(200)
        assert (await world.clock.run(_announced(arrivals))).new == AWAY
        await world.clock.passes(200)

    asyncio.run(story())
    assert world.kernel.kept == [HOME]


def test_nor_does_it_leave_an_arrival_alone_that_nobody_has_settled(tmp_path: Path) -> None:
    world = at_home(tmp_path, AWAY)
    arrivals = Arrivals(world.guest)

    async def story() -> None:
        await world.clock.run(arrivals.arrive_from(HOME))
        await world.clock.passes(10)
        await world.clock.run(_announced(arrivals))
        await world.clock.passes(ALONE_AFTER_S)

    asyncio.run(story())
    assert world.kernel.kept == []


async def _announced(arrivals: Arrivals) -> Arrival:
    return await arrivals.arrive("announce")


def test_alone_at_home_it_keeps_what_is_prepared_for_a_move_to_come(tmp_path: Path) -> None:
    """A false announce, or a restarted agent, while a long copy goes on and its orchestrator only waits."""
    world = prepared(at_home(tmp_path, HOME))
    arrivals = Arrivals(world.guest)

    async def story() -> None:
        await world.clock.run(arrivals.arrive_from(HOME))
        await world.clock.passes(120)

    asyncio.run(story())
    assert world.kernel.kept == [AWAY] and world.guest.state.prepared == (AWAY, "")
