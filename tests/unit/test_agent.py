"""The agent's verbs, its start, and the signs of a move that it sees by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from guest_agent import channel
from guest_agent.agent import Agent
from guest_agent.arrival import ALONE_AFTER_S, ALONE_EVERY_S, DEBOUNCE_S
from guest_agent.detect import Sighting
from guest_agent.memory import Memory
from guest_agent.state import State
from tests.unit.guest_fakes import AWAY, BORROWED, HOME, World, at_home, connection, lease
from vmacro.wire import agent_verbs, messages
from vmacro.wire.agent_verbs import VERBS, ArriveArgs, ClaimArgs, PrepareArgs, ReleaseArgs, RetireArgs
from vmacro.wire.messages import Nothing, Reply, Request, Verb


@pytest.fixture
def world(tmp_path: Path) -> World:
    return at_home(tmp_path)


def asked(world: World, verb: Verb[Any, Any], args: Any, agent: Agent | None = None) -> Any:
    """As over the channel: lines both ways, typed at both ends."""

    async def answered() -> bytes:
        return await channel.answer(verb.request("a1", args), (agent or Agent(world.guest)).handle)

    reply = messages.decode_reply(asyncio.run(world.clock.run(answered())))
    return verb.decode_result(reply) if reply.ok else (reply.error_code, reply.error_text)


def test_the_page_cache_is_dropped_and_what_that_has_freed_is_told(world: World, tmp_path: Path) -> None:
    (tmp_path / "sys/vm").mkdir(parents=True)
    (tmp_path / "meminfo").write_text("MemTotal:  262144 kB\nMemFree:    40960 kB\nCached:   90112 kB\n")

    class Kernel(Memory):
        def _drop(self) -> None:
            super()._drop()
            (self.proc / "meminfo").write_text("MemFree:    92160 kB\n")

    async def dropped() -> Any:  # by a thread, of which the world's clock knows nothing
        agent, request = Agent(world.guest, Kernel(tmp_path)), agent_verbs.DROP.request("a1", Nothing())
        replies = [messages.decode_reply(await channel.answer(request, agent.handle)) for _ in range(2)]
        return [agent_verbs.DROP.decode_result(reply).mib for reply in replies]

    assert asyncio.run(dropped()) == [50, 0]
    assert (tmp_path / "sys/vm/drop_caches").read_text() == "1\n", "of files alone, not what the kernel knows of them"


def test_status_tells_all_that_a_check_needs(world: World) -> None:
    world.kernel.kept, world.kernel.known6 = ["10.3.0.9"], {"fd00:1::9": True}
    world.kernel.announced = {3: "10.3.0.9", 4: "203.0.113.9"}
    said = asked(world, agent_verbs.STATUS, Nothing())
    assert (said.lease, said.address6, said.extra_addresses) == (lease(HOME), "fd00:1::9", ("10.3.0.9",))
    assert (said.interface, said.mac, said.rp_filter, said.claim) == ("eth0", "52:54:00:00:00:01", 2, None)
    assert said.endpoints == ("10.3.0.9", "203.0.113.9")
    assert said.uptime_s == 1000.0 and set(said.verbs) == set(VERBS)


def test_an_address_for_which_the_kernel_has_no_room_is_refused_with_its_cause(world: World) -> None:
    world.kernel.announced = {n: f"10.3.0.{n}" for n in range(1, 9)}
    code, text = asked(world, agent_verbs.PREPARE, PrepareArgs(AWAY))
    assert code == "full" and f"no room for {AWAY}: the kernel has 8 addresses for MPTCP already (10.3.0.1, " in text
    assert world.guest.state.prepared == (AWAY, ""), "it is taken back as any other"


def test_a_kernel_that_refuses_for_another_reason_is_not_called_full(world: World) -> None:
    world.kernel.refuses_announce = True
    assert asked(world, agent_verbs.PREPARE, PrepareArgs(AWAY)) == ("internal", "OSError: no more endpoints")


def test_status_is_answered_before_there_is_a_lease(world: World) -> None:
    world.guest.state.lease = None
    world.kernel.kept = ["10.3.0.9"]
    said = asked(world, agent_verbs.STATUS, Nothing())
    assert said.lease is None and said.extra_addresses == ()


def test_claim_and_release(world: World) -> None:
    assert asked(world, agent_verbs.CLAIM, ClaimArgs("web-1", 60, "me@here")).age_s == 0
    assert asked(world, agent_verbs.STATUS, Nothing()).claim.move == "web-1"
    code, text = asked(world, agent_verbs.CLAIM, ClaimArgs("web-2", 60))
    assert code == "claimed" and "move web-1 of me@here" in text
    assert asked(world, agent_verbs.RELEASE, ReleaseArgs("web-1")) == Nothing()
    assert asked(world, agent_verbs.STATUS, Nothing()).claim is None


def test_connections_and_consent(world: World) -> None:
    world.kernel.open = [connection(1, HOME), connection(0, HOME)]
    agent = Agent(world.guest)
    assert [c.willing for c in asked(world, agent_verbs.CONNECTIONS, Nothing(), agent).connections] == [False, False]
    world.kernel.on_announce = lambda address: world.kernel.joins(address, 1)
    said = asked(world, agent_verbs.CONSENT, agent_verbs.ConsentArgs(500), agent)
    assert [c.willing for c in said.connections] == [True, False] and f"borrow {BORROWED}" in world.log
    again = asked(world, agent_verbs.CONNECTIONS, Nothing(), agent)
    assert [c.willing for c in again.connections] == [True, False], "it is remembered"


def test_a_whole_move(world: World) -> None:
    agent = Agent(world.guest)
    assert asked(world, agent_verbs.PREPARE, PrepareArgs(AWAY), agent) == Nothing()
    assert asked(world, agent_verbs.ARRIVE, ArriveArgs(HOME), agent).new == AWAY
    assert asked(world, agent_verbs.RETIRE, RetireArgs(HOME), agent).retired
    assert asked(world, agent_verbs.RETIRE, RetireArgs(AWAY), agent)[0] == "in-use"


def test_no_dhcp_is_an_error_with_a_code_of_its_own(tmp_path: Path) -> None:
    world = at_home(tmp_path, "")
    assert asked(world, agent_verbs.ARRIVE, ArriveArgs(HOME)) == ("no-lease", "no DHCP lease")


@pytest.mark.parametrize(
    ("verb", "args", "code"),
    [
        ("exec", {}, "bad-verb"),
        ("claim", {"move": "a b", "seconds": 1}, "bad-args"),
        ("claim", {"move": 7, "seconds": 1}, "bad-args"),
        ("claim", {"move": "a", "by": "x" * 81, "seconds": 1}, "bad-args"),
        ("claim", {"move": "a", "by": "line\nbreak", "seconds": 1}, "bad-args"),
        ("claim", {"move": "a", "seconds": 0}, "bad-args"),
        ("claim", {"move": "a", "seconds": "60"}, "bad-args"),
        ("claim", {"move": "a", "seconds": 10**9}, "bad-args"),
        ("claim", {"move": "a"}, "bad-args"),
        ("status", {"more": 1}, "bad-args"),
        ("retire", {"address": "10.1.0.9; reboot"}, "bad-args"),
        ("retire", {"address": HOME, "force": 1}, "bad-args"),
        ("arrive", {"left": ""}, "bad-args"),
        ("prepare", {"address": AWAY, "address6": "fe80::1%eth0"}, "bad-args"),
        ("consent", {"timeout_ms": 60_000}, "bad-args"),
    ],
)
def test_odd_requests_are_refused_and_change_nothing(
    world: World, verb: str, args: dict[str, object], code: str
) -> None:
    reply = asyncio.run(Agent(world.guest).handle(Request("a", verb, args)))
    assert (reply.error_code, world.log) == (code, [])


def test_a_bug_in_a_verb_is_told_and_ends_nothing(world: World) -> None:
    world.kernel.rp_filter = lambda: 1 // 0  # type: ignore[method-assign]
    assert asked(world, agent_verbs.STATUS, Nothing()) == (
        "internal",
        "ZeroDivisionError: integer division or modulo by zero",
    )


# Start


def test_at_boot_it_asks_for_a_lease_until_there_is_one(tmp_path: Path) -> None:
    world = at_home(tmp_path, "", "", HOME)
    world.guest.state = State()
    asyncio.run(world.clock.run(Agent(world.guest).start()))
    assert world.log == ["raise limits", "up", "dhcp", "dhcp", "dhcp", f"move in {HOME}"]
    assert world.restarted().guest.state.lease == lease(HOME)


def test_a_restarted_agent_looks_where_it_is_and_its_claim_still_ends(world: World) -> None:
    asked(world, agent_verbs.CLAIM, ClaimArgs("web-1", 60))
    asked(world, agent_verbs.PREPARE, PrepareArgs(AWAY))
    after = world.restarted()
    after.leases.offers = [HOME]

    async def story() -> None:
        await after.clock.run(Agent(after.guest).start())
        await after.clock.passes(61)

    asyncio.run(story())
    assert after.log.count("dhcp") == 1 and after.kernel.kept == [] and after.guest.state.claim is None


def test_what_an_agent_had_muted_that_was_killed_is_heard_again(world: World) -> None:
    world.kernel.mute([(HOME, 80, "10.9.0.9", 4000)])
    after = world.restarted()
    asyncio.run(after.clock.run(Agent(after.guest).start()))
    assert not after.kernel.muted


# Signs of a move


class Announces:
    """Implements detect.Detector: the card announces itself at these times."""

    def __init__(self, world: World, *after_s: float) -> None:
        self._world, self._after_s = world, after_s

    async def sightings(self) -> AsyncIterator[Sighting]:
        for seconds in self._after_s:
            await self._world.clock.sleep(seconds)
            yield Sighting("announce")


def test_five_announces_are_one_arrival(world: World) -> None:
    async def story() -> None:
        await world.clock.run(Agent(world.guest).watch(Announces(world, 0, 0.2, 0.2, 0.2, 0.2)))
        await world.clock.passes(DEBOUNCE_S)

    asyncio.run(story())
    last = world.guest.state.last_arrival
    assert world.log.count("dhcp") == 1 and last is not None and (last.seen_by, last.new) == ("announce", AWAY)


def test_an_announce_before_the_first_lease_is_no_arrival(world: World) -> None:
    world.guest.state.lease = None
    asyncio.run(world.clock.run(Agent(world.guest).watch(Announces(world, 0))))
    assert world.log == []


@pytest.mark.parametrize(("verb", "settled"), [("status", False), ("connections", False), ("release", True)])
def test_who_only_looks_does_not_settle_an_arrival(world: World, verb: str, settled: bool) -> None:
    agent = Agent(world.guest)
    args = {"move": "web-1"} if verb == "release" else {}

    async def story() -> Reply:
        await world.clock.run(agent.handle(Request("a", "arrive", {"left": HOME})))
        await world.clock.passes(1)
        reply = await world.clock.run(agent.handle(Request("b", verb, args)))
        await world.clock.passes(ALONE_AFTER_S)
        return reply

    assert asyncio.run(story()).ok
    assert world.kernel.kept == ([HOME] if settled else [])


def moved_by_hand(world: World, *acts: tuple[float, Request]) -> None:
    """An announce brings the guest to AWAY, and no orchestrator has asked for that; then verbs, after so many
    seconds, and a while."""
    agent, passed = Agent(world.guest), 0.0

    async def story() -> None:
        nonlocal passed
        await world.clock.run(agent.watch(Announces(world, 0)))
        for at, request in acts:
            await world.clock.passes(at - passed)
            assert (await world.clock.run(agent.handle(request))).ok
            passed = at
        await world.clock.passes(ALONE_AFTER_S + 2 * ALONE_EVERY_S - passed)

    asyncio.run(story())


CLAIMED_BY = Request("c", "claim", {"move": "web-2", "by": "op@desk", "seconds": 3600})
RELEASED = Request("r", "release", {"move": "web-2"})


@pytest.mark.parametrize(
    ("acts", "kept"),
    [
        ([], []),
        ([(30.0, Request("w", "watch", {}))], []),
        ([(30.0, Request("x", "retire", {"address": "10.9.9.9"}))], []),
        ([(30.0, CLAIMED_BY), (60.0, RELEASED)], []),
        ([(30.0, CLAIMED_BY)], [HOME]),
        ([(30.0, Request("a", "arrive", {"left": HOME}))], [HOME]),
    ],
    ids=["nobody", "a look", "a carriage", "a move that came to nothing", "a move that has it", "resumed"],
)
def test_after_a_move_by_hand_it_is_left_to_itself_whoever_acts(
    tmp_path: Path, acts: list[tuple[float, Request]], kept: list[str]
) -> None:
    """Once an orchestrator has asked for the arrival, that is its own."""
    world = at_home(tmp_path, AWAY)
    moved_by_hand(world, *acts)
    assert world.guest.present_lease().address == AWAY and world.kernel.kept == kept


def test_every_verb_is_carried_out(world: World) -> None:
    assert set(Agent(world.guest)._handlers) == set(VERBS)
