"""Clients are asked by a borrowed address, which is given back whatever happens."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from guest_agent.claims import claim_guest, release_guest
from guest_agent.consent import GOODBYE_S, Consent
from guest_agent.ports import NoLeaseError
from tests.unit.guest_fakes import AWAY, BORROWED, HOME, World, at_home, connection
from vmacro.wire.agent_verbs import MAX_CONNECTIONS, MAX_SUBFLOWS, ClaimArgs, Connection, Connections
from vmacro.wire.messages import ProtocolError

ASKED = ["lease borrowed", f"borrow {BORROWED}", f"announce {BORROWED} as backup"]
GIVEN_BACK = [f"withdraw {BORROWED}", f"move out {BORROWED}", "lease given back"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = at_home(tmp_path)
    world.kernel.open = [connection(1, HOME), connection(2, HOME), connection(0, HOME)]
    return world


def asked(world: World, consent: Consent | None = None) -> Connections:
    return asyncio.run(world.clock.run((consent or Consent(world.guest)).ask(1.5)))


def claimed(world: World) -> None:
    async def claim() -> None:
        claim_guest(world.guest, ClaimArgs("web-1", 600, "me@here"))

    asyncio.run(claim())


def willing(said: Connections) -> dict[int, bool]:
    return {c.token: c.willing for c in said.connections}


def test_who_joins_is_willing_and_all_is_given_back_in_order(world: World) -> None:
    world.kernel.on_announce = lambda address: world.kernel.joins(address, 1)
    assert willing(asked(world)) == {1: True, 2: False, 0: False}
    assert world.log == ASKED + GIVEN_BACK
    assert world.kernel.announced == {} and world.kernel.kept == []


def test_nobody_is_waited_for_once_all_have_joined(world: World) -> None:
    world.kernel.on_announce = lambda address: world.kernel.joins(address, 1, 2)
    began = world.clock.now_s()
    asked(world)
    assert world.clock.now_s() == began


def test_who_connects_meanwhile_is_not_waited_for(world: World) -> None:
    def announced(address: str) -> None:
        world.kernel.joins(address, 1, 2)
        world.kernel.open.append(connection(9, HOME))

    world.kernel.on_announce = announced
    began = world.clock.now_s()
    assert willing(asked(world)) == {1: True, 2: True, 0: False, 9: False}
    assert world.clock.now_s() == began


def test_an_address_that_is_reserved_for_its_card_is_not_taken_from_the_guest(world: World) -> None:
    world.leases.reserved = HOME
    with pytest.raises(NoLeaseError, match=f"{HOME} is reserved"):
        asked(world)
    assert world.log == []


def test_an_address_that_it_keeps_is_not_borrowed(world: World) -> None:
    world.kernel.kept, world.leases.reserved = [AWAY], AWAY
    with pytest.raises(NoLeaseError, match=f"{AWAY} is reserved"):
        asked(world)
    assert world.log == [] and world.kernel.kept == [AWAY]


def test_clients_are_not_asked_while_a_move_has_the_guest(world: World) -> None:
    claimed(world)
    with pytest.raises(ProtocolError, match="move web-1 of me@here has it") as refused:
        asked(world)
    assert refused.value.code == "claimed" and world.log == []
    release_guest(world.guest, "web-1")
    asked(world)
    assert world.log == ASKED + GIVEN_BACK


def test_what_is_known_already_is_told_also_while_a_move_has_the_guest(world: World) -> None:
    world.kernel.on_announce = lambda address: world.kernel.joins(address, 1, 2)
    consent = Consent(world.guest)
    asked(world, consent)
    claimed(world)
    assert willing(asked(world, consent)) == {1: True, 2: True, 0: False}


def test_no_room_for_the_borrowed_address_leaves_nothing_of_it(world: World) -> None:
    world.kernel.announced = {n: f"10.3.0.{n}" for n in range(1, 9)}
    with pytest.raises(ProtocolError, match=f"no room for {BORROWED}"):
        asked(world)
    assert world.kernel.kept == [] and world.log[-1] == "lease given back"


def test_silence_ends_in_time(world: World) -> None:
    began = world.clock.now_s()
    asked(world)
    assert 1.5 <= world.clock.now_s() - began < 1.6


def test_who_joined_once_is_not_asked_again(world: World) -> None:
    world.kernel.on_announce = lambda address: world.kernel.joins(address, 1, 2)
    consent = Consent(world.guest)
    asked(world, consent)
    world.log.clear()
    assert willing(asked(world, consent)) == {1: True, 2: True, 0: False}
    assert world.log == [], "the borrowed address is gone, and the answer is remembered"


def test_who_holds_a_slot_is_asked_anew_as_it_may_have_none_left(world: World) -> None:
    world.kernel.open = [connection(1, HOME, "10.3.0.9"), connection(2, HOME, "10.3.0.9")]
    consent = Consent(world.guest)
    assert willing(consent.connections()) == {1: True, 2: True}
    world.kernel.on_announce = lambda address: world.kernel.joins(address, 2)
    assert willing(asked(world, consent)) == {1: False, 2: True}
    world.kernel.on_announce = lambda address: world.kernel.joins(address, 1, 2)
    assert willing(asked(world, consent)) == {1: True, 2: True}, "it has one again"


def test_who_needed_an_old_address_after_a_move_is_not_willing(world: World) -> None:
    world.kernel.open = [connection(1, HOME, "10.3.0.9")]
    world.guest.stuck = {1}
    assert willing(Consent(world.guest).connections()) == {1: False}


def test_a_token_that_is_gone_is_forgotten(world: World) -> None:
    consent = Consent(world.guest)
    world.kernel.open = [connection(1, HOME, "10.1.0.50")]
    assert willing(consent.connections()) == {1: True}
    world.kernel.open = []
    assert consent.connections() == Connections((), 0)
    world.kernel.open = [connection(1, HOME)]
    assert willing(consent.connections()) == {1: False}


def test_plain_tcp_is_not_asked(world: World) -> None:
    world.kernel.open = [connection(0, HOME)]
    asked(world)
    assert world.log == []


def test_all_is_given_back_where_the_kernel_refuses(world: World) -> None:
    world.kernel.refuses_announce = True
    with pytest.raises(OSError, match="no more endpoints"):
        asked(world)
    assert world.log == [*ASKED, f"move out {BORROWED}", "lease given back"]


def test_all_is_given_back_where_sockets_cannot_be_seen(world: World) -> None:
    def blind(_address: str) -> None:
        world.kernel.connections = _refuse  # type: ignore[method-assign]

    world.kernel.on_announce = blind
    with pytest.raises(OSError, match="sock_diag"):
        asked(world)
    assert world.log == ASKED + GIVEN_BACK


def _refuse() -> list[Connection]:
    raise OSError("sock_diag refused")


def test_all_is_given_back_where_nobody_waits_any_more(world: World) -> None:
    async def cancelled() -> None:
        task = asyncio.ensure_future(Consent(world.guest).ask(1.5))
        await world.clock.passes(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await world.clock.run(_result(task))

    asyncio.run(cancelled())
    assert world.log == ASKED + GIVEN_BACK


async def _result(task: asyncio.Task[Connections]) -> Connections:
    return await task


def test_subflows_may_say_goodbye_but_not_for_ever(world: World) -> None:
    world.kernel.on_announce = lambda address: world.kernel.joins(address, 1, 2)
    world.kernel.closing = {BORROWED}
    began = world.clock.now_s()
    asked(world)
    assert GOODBYE_S <= world.clock.now_s() - began < GOODBYE_S + 0.1
    assert world.log == ASKED + GIVEN_BACK


def test_nobody_is_asked_before_there_is_a_lease(world: World) -> None:
    world.guest.state.lease = None
    with pytest.raises(ProtocolError) as refused:
        asked(world)
    assert refused.value.code == "not-ready" and world.log == []


def test_a_reply_is_bounded_and_says_how_many_there_are(world: World) -> None:
    crowd = connection(1, *[f"10.7.0.{n}" for n in range(MAX_SUBFLOWS + 5)])
    world.kernel.open = [crowd, *[connection(n, HOME) for n in range(2, MAX_CONNECTIONS + 10)]]
    said = Consent(world.guest).connections()
    assert len(said.connections) == MAX_CONNECTIONS and said.total == MAX_CONNECTIONS + 9
    assert len(said.connections[0].subflows) == MAX_SUBFLOWS
