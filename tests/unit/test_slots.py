"""Clients get a slot back before they are told of one more address, and nobody loses its last path for it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from guest_agent.arrival import prepare
from guest_agent.guest import WORD_SPREADS_S
from guest_agent.retirement import retire
from tests.unit.guest_fakes import AWAY, AWAY6, HOME, World, at_home, connection, lease
from vmacro.wire.agent_verbs import Connection, PrepareArgs

NEXT = "10.3.0.9"
FOLLOWER, TCP = connection(1, HOME, AWAY), connection(0, HOME)
BEGAN_HERE = connection(2, AWAY)


@pytest.fixture
def away(tmp_path: Path) -> World:
    """Moved from HOME, which is carried for a plain TCP client, to AWAY, which was announced."""
    world = at_home(tmp_path)
    world.guest.state.lease = lease(AWAY)
    world.kernel.main, world.kernel.kept, world.kernel.announced = AWAY, [HOME], {7: AWAY}
    world.kernel.open = [FOLLOWER, TCP]
    return world


def prepared(world: World, address6: str = "") -> list[str]:
    before = len(world.log)
    asyncio.run(world.clock.run(prepare(world.guest, PrepareArgs(NEXT, address6))))
    return world.log[before:]


ANNOUNCED = [f"borrow {NEXT}", f"announce {NEXT} as backup"]


def withdrawn(address: str) -> list[str]:
    return [f"mute {address}", f"withdraw {address}", f"unmute {address}"]


def test_a_follower_leaves_the_present_address_by_a_carried_one(away: World) -> None:
    assert prepared(away) == [*withdrawn(AWAY), *ANNOUNCED]
    follower, plain = away.kernel.open
    assert [s.local for s in follower.subflows] == [HOME] and plain == TCP


@pytest.mark.parametrize(
    "others",
    [[FOLLOWER, TCP, BEGAN_HERE], [connection(1, AWAY)], [replace(FOLLOWER, subflows=FOLLOWER.subflows[1:])]],
    ids=["one that began here", "no slot is taken", "it has no other path"],
)
def test_no_last_path_is_taken(away: World, others: list[object]) -> None:
    away.kernel.open = others  # type: ignore[assignment]
    assert prepared(away) == ANNOUNCED
    assert away.kernel.open == others


def test_a_path_that_is_not_there_yet_is_none(away: World) -> None:
    initial, joined = FOLLOWER.subflows
    away.kernel.open = [replace(FOLLOWER, subflows=(replace(initial, established=False), joined))]
    assert prepared(away) == ANNOUNCED


def test_old_addresses_go_first_and_one_slot_is_enough(away: World) -> None:
    older = "10.4.0.9"
    away.kernel.announced = {7: AWAY, 8: older}
    away.kernel.open = [connection(1, HOME, AWAY, older)]
    assert prepared(away) == [*withdrawn(older), *ANNOUNCED]
    assert [s.local for s in away.kernel.open[0].subflows] == [HOME, AWAY]


def test_asked_again_it_withdraws_nothing(away: World) -> None:
    prepared(away)
    away.kernel.joins(NEXT, 1)
    assert prepared(away) == [f"borrow {NEXT}"]
    assert [s.local for s in away.kernel.open[0].subflows] == [HOME, NEXT]


def test_of_both_families_too(away: World) -> None:
    assert prepared(away, AWAY6)[:3] == withdrawn(AWAY)
    assert set(away.kernel.announced.values()) == {NEXT, AWAY6}


def test_after_a_move_that_did_not_come_about_the_present_address_is_announced_again(away: World) -> None:
    prepared(away)
    away.kernel.on_announce = lambda address: away.kernel.joins(address, 1)
    assert asyncio.run(retire(away.guest, NEXT)).retired
    assert away.log[-1] == f"announce {AWAY}"
    assert [s.local for s in away.kernel.open[0].subflows] == [HOME, AWAY]


def test_after_one_that_was_not_even_prepared_it_is_announced_again_too(
    away: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(_address: str) -> None:
        raise OSError("no buffer space")

    with monkeypatch.context() as broken:
        broken.setattr(away.guest.link, "borrow", refused)
        with pytest.raises(OSError, match="buffer"):
            prepared(away)
    assert away.kernel.announced == {}
    assert asyncio.run(retire(away.guest, NEXT)).retired
    assert AWAY in away.kernel.announced.values()


def test_the_end_of_a_subflow_waits_for_the_word_that_goes_the_longer_way(away: World) -> None:
    began = away.clock.now_s()
    prepared(away)
    assert WORD_SPREADS_S <= away.clock.now_s() - began < WORD_SPREADS_S + 0.1 and not away.kernel.muted


@pytest.mark.parametrize(
    "open_",
    [
        [connection(1, AWAY, HOME)],
        [replace(FOLLOWER, subflows=(connection(1, HOME, NEXT).subflows[1], FOLLOWER.subflows[1]))],
        [TCP],
    ],
    ids=["the first is on the present address", "the first is gone", "plain TCP"],
)
def test_nobody_else_is_muted(away: World, open_: list[Connection]) -> None:
    away.kernel.open, away.kernel.announced = open_, {7: AWAY, 8: HOME}
    asyncio.run(away.guest.withdraw_all(HOME))
    asyncio.run(away.guest.withdraw_all(AWAY))
    assert away.log == [f"withdraw {HOME}", f"withdraw {AWAY}"]


def test_a_kernel_that_cannot_mute_withdraws_all_the_same(away: World) -> None:
    away.kernel.can_mute = False
    assert prepared(away) == [*withdrawn(AWAY)[1:], *ANNOUNCED]


def test_nobody_stays_muted(away: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(_endpoint_id: int, _address: str = "") -> None:
        raise OSError("no buffer space")

    monkeypatch.setattr(away.guest.endpoints, "withdraw", refused)
    with pytest.raises(OSError, match="buffer"):
        prepared(away)
    assert not away.kernel.muted and away.log[-1] == f"unmute {AWAY}"
