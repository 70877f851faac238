"""One move has the guest, and none for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from guest_agent import claims
from guest_agent.arrival import prepare
from guest_agent.state import KeptClaim
from tests.unit.guest_fakes import AWAY, HOME, World, at_home, connection
from vmacro.wire.agent_verbs import Claim, ClaimArgs, PrepareArgs
from vmacro.wire.messages import ProtocolError

MINE, THEIRS = ClaimArgs("web-1", 60, "me@here"), ClaimArgs("web-2", 60, "they@there")
WITHDRAWN = [f"withdraw initial {AWAY}", f"withdraw {AWAY}", f"move out {AWAY}", "forget round trips"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return at_home(tmp_path)


def claimed(world: World, after_s: float, then: Callable[[], object] = lambda: None) -> list[str]:
    """Claim, prepare AWAY, and what happens in so much time; `then` after half a minute of it."""

    async def story() -> None:
        claims.claim_guest(world.guest, MINE)
        await prepare(world.guest, PrepareArgs(AWAY))
        world.log.clear()
        await world.clock.passes(30)
        then()
        await world.clock.passes(after_s - 30)

    asyncio.run(story())
    return world.log


def test_one_move_has_the_guest_and_may_ask_again(world: World) -> None:
    async def story() -> None:
        assert claims.claim_guest(world.guest, MINE) == Claim("web-1", "me@here", 0.0)
        await world.clock.passes(5)
        assert claims.claim_guest(world.guest, MINE) == Claim("web-1", "me@here", 5.0)
        with pytest.raises(ProtocolError, match="move web-1 of me@here has it for 5 s") as refused:
            claims.claim_guest(world.guest, THEIRS)
        assert refused.value.code == "claimed"

    asyncio.run(story())


def test_a_claim_that_is_over_is_nobodys(world: World) -> None:
    async def story() -> None:
        claims.claim_guest(world.guest, MINE)
        await world.clock.passes(59.9)
        assert claims.present_claim(world.guest) == Claim("web-1", "me@here", 59.9)
        await world.clock.passes(0.1)
        assert claims.present_claim(world.guest) is None
        assert claims.claim_guest(world.guest, THEIRS).move == "web-2"

    asyncio.run(story())


def test_a_claim_ends_at_its_end_even_before_it_is_cleared_away(world: World) -> None:
    world.guest.state.claim = KeptClaim("web-1", "me@here", 0.0, world.clock.now_s())
    assert claims.present_claim(world.guest) is None


def test_only_who_has_it_releases_it(world: World) -> None:
    async def story() -> None:
        claims.claim_guest(world.guest, MINE)
        claims.release_guest(world.guest, "web-2")
        assert claims.present_claim(world.guest) is not None
        for _ in range(2):
            claims.release_guest(world.guest, "web-1")
            assert claims.present_claim(world.guest) is None

    asyncio.run(story())
    assert world.restarted().guest.state.claim is None


def test_a_claim_that_expires_withdraws_what_was_prepared(world: World) -> None:
    assert claimed(world, 59) == []
    assert claimed(world.restarted(), 60) == WITHDRAWN
    assert world.kernel.kept == []


def test_a_claim_that_expires_while_an_address_is_prepared_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    borrow = world.kernel.borrow

    async def slowly(address: str) -> None:
        await world.clock.sleep(61)
        await borrow(address)

    async def story() -> None:
        monkeypatch.setattr(world.kernel, "borrow", slowly)
        claims.claim_guest(world.guest, MINE)
        preparing = asyncio.ensure_future(prepare(world.guest, PrepareArgs(AWAY)))
        await world.clock.passes(62)
        with pytest.raises(ProtocolError, match="claim of move web-1 ended") as refused:
            await preparing
        assert refused.value.code == "claimed"

    asyncio.run(story())
    assert world.log[-4:] == WITHDRAWN and world.kernel.kept == []


def test_a_claim_that_expires_takes_nothing_from_connections_that_need_it(world: World) -> None:
    world.kernel.open = [connection(5, AWAY)]
    assert claimed(world, 60) == [] and world.kernel.open == [connection(5, AWAY)]


def test_a_claim_that_is_renewed_lasts_longer(world: World) -> None:
    assert claimed(world, 89, then=lambda: claims.claim_guest(world.guest, MINE)) == []


def test_a_claim_that_is_renewed_ends_too(world: World) -> None:
    assert claimed(world, 90, then=lambda: claims.claim_guest(world.guest, MINE)) == WITHDRAWN


def test_what_was_prepared_stays_where_its_claim_was_released(world: World) -> None:
    assert claimed(world, 300, then=lambda: claims.release_guest(world.guest, "web-1")) == []


def test_a_claim_outlives_its_agent_and_ends_in_time(world: World) -> None:
    claimed(world, 30)
    after = world.restarted()
    claim = after.guest.state.claim
    assert claim is not None
    asyncio.run(after.clock.run(claims.expire(after.guest, claim)))
    assert after.log == WITHDRAWN and after.clock.now_s() == claim.until_s
    assert after.guest.state.claim is None and after.guest.state.lease is not None
    assert after.guest.state.lease.address == HOME
