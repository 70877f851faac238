"""What the kernel tells of sockets, as endings of connections (what it tells: tests/contract/test_kernel_events.py)."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest

from guest_agent import endings, watch
from guest_agent.agent import Agent
from guest_agent.endings import NOT_YET, UNHEARD_FOR_S, Endings
from guest_agent.ports import Closed, Ends, KernelEvent, SocketGone, SubflowClosed, SubflowOpened
from tests.unit.guest_fakes import AWAY, HOME, World, at_home, connection
from vmacro.wire import agent_verbs
from vmacro.wire.agent_verbs import ABORTED, CLOSED, CUT, RESET, TIMED_OUT, Connection, Ended
from vmacro.wire.messages import Request

ARRIVED_S, NOW_S = 100.0, 105.0
MPTCP, TCP = connection(1, HOME, AWAY), connection(0, HOME)
FIRST, SECOND = ((s.local, s.local_port, s.remote, s.remote_port) for s in MPTCP.subflows)
PLAIN: Ends = (HOME, 7000, "10.9.0.14", 40000)


ARGS: dict[str, dict[str, Any]] = {
    "arrive": {"left": HOME},
    "claim": {"move": "web-1", "seconds": 600},
    "release": {"move": "web-1"},
}


def gone(surplus: int = -5, retransmits: int = 0, silent_s: float = 60.0, ends: Ends = PLAIN) -> SocketGone:
    """Of one that waited for five bytes to be acknowledged, unless that is said otherwise."""
    return SocketGone(ends, surplus, retransmits, silent_s)


def ended(*events: KernelEvent, there: tuple[Connection, ...] = (), goodbyes: Any = (), at_s: float = NOW_S) -> Any:
    """How, and whether it was lost; of those that were watched."""
    found = Endings(NOW_S)
    found.watch([MPTCP, TCP], set())
    found.hear(events, at_s)
    for later_s in (0, UNHEARD_FOR_S):
        told = found.told(there, set(goodbyes), at_s + later_s, ARRIVED_S)
    return {e.key: (e.how, e.lost) for e in told}


@pytest.mark.parametrize(
    ("event", "how"),
    [
        (gone(surplus=1), (CLOSED, False)),
        (gone(), (RESET, True)),
        (gone(silent_s=2.0), (RESET, False)),
        (gone(retransmits=3), (TIMED_OUT, True)),
        (gone(surplus=0, retransmits=1), (TIMED_OUT, True)),
        (gone(surplus=0), (ABORTED, False)),
    ],
    ids=["said goodbye", "reset", "reset by a client that was heard", "timed out", "probed in vain", "idle"],
)
def test_plain_tcp(event: SocketGone, how: tuple[str, bool]) -> None:
    assert ended(event, there=(MPTCP,)) == {TCP.key: how}


@pytest.mark.parametrize(("surplus", "how"), [(0, (RESET, True)), (1, (ABORTED, False)), (2, (CLOSED, False))])
def test_one_that_the_guest_has_opened_has_sent_a_syn(surplus: int, how: tuple[str, bool]) -> None:
    found = Endings(NOW_S)
    found.watch([Connection(0, (agent_verbs.Subflow(*PLAIN, False, False, True, outgoing=True),))], set())
    found.hear([gone(surplus)], NOW_S)
    assert [(e.how, e.lost) for e in found.told((), set(), NOW_S, ARRIVED_S)] == [how]


def test_a_health_check_that_ends_with_a_reset_just_before_the_arrival_is_seen_was_not_lost() -> None:
    """It was answered, and has acknowledged that."""
    found = Endings(NOW_S)
    found.hear([gone(surplus=0, silent_s=0.001, ends=(HOME, 80, "10.9.0.15", 5))], NOW_S)
    assert found.told((), set(), NOW_S + 1, NOW_S + 1) == []


def test_plain_tcp_whose_socket_is_not_freed_yet() -> None:
    assert ended(there=(MPTCP,), goodbyes=[PLAIN]) == {TCP.key: (CLOSED, False)}
    assert ended(there=(MPTCP,)) == {TCP.key: (RESET, True)}, "its application has not looked"
    found = Endings(NOW_S)
    found.watch([TCP], set())
    assert found.told((), set(), NOW_S, ARRIVED_S) == [], "the kernel may be about to tell"


def closed(ends: Ends, error: int) -> SubflowClosed:
    return SubflowClosed(1, ends, error)


@pytest.mark.parametrize(
    ("events", "how"),
    [
        ([Closed(1)], (CLOSED, False)),
        ([], (ABORTED, False)),
        ([closed(FIRST, errno.ECONNRESET)], (ABORTED, False)),
        ([closed(FIRST, 0), closed(SECOND, errno.ECONNRESET)], (RESET, True)),
        ([closed(FIRST, 0), closed(SECOND, errno.ETIMEDOUT), Closed(1)], (TIMED_OUT, True)),
        ([closed(FIRST, errno.ECONNABORTED), closed(SECOND, 0)], (CUT, True)),
        ([closed(FIRST, errno.ECONNABORTED), Closed(1)], (CLOSED, False)),
    ],
    ids=["closed", "aborted", "aborted after one was reset", "reset", "timed out", "withdrawn", "cut, then closed"],
)
def test_mptcp(events: list[KernelEvent], how: tuple[str, bool]) -> None:
    assert ended(*events, there=(TCP,)) == {MPTCP.key: how}


def test_one_that_is_there_has_not_ended() -> None:
    assert ended(closed(FIRST, 104), closed(SECOND, 104), SubflowOpened(1, FIRST), there=(MPTCP, TCP)) == {}


def test_a_subflows_socket_is_no_plain_connection() -> None:
    third: Ends = ("10.3.0.9", 7000, "10.9.0.14", 44444)
    assert ended(gone(ends=SECOND), SubflowOpened(1, third), gone(ends=third), there=(MPTCP, TCP)) == {}


def test_a_join_that_came_to_nothing_is_no_plain_connection_either() -> None:
    """It is seen as sockets are looked at, and no event tells of it."""
    third: Ends = ("10.3.0.9", 7000, "10.9.0.14", 44444)
    joining = Connection(MPTCP.token, (*MPTCP.subflows, agent_verbs.Subflow(*third, False, False, True)))
    found = Endings(NOW_S)
    found.watch([MPTCP, TCP], set())
    assert found.told([joining, TCP], set(), NOW_S, ARRIVED_S) == []
    found.hear([gone(retransmits=3, ends=third)], NOW_S)
    assert found.told([MPTCP, TCP], set(), NOW_S, ARRIVED_S) == []


@pytest.mark.parametrize("arrived_s", [NOT_YET, NOW_S + 3])
def test_what_ends_before_the_arrival_was_not_lost_by_it(arrived_s: float) -> None:
    found = Endings(NOW_S)
    found.watch([MPTCP, TCP], set())
    found.hear([gone(), closed(FIRST, 104), closed(SECOND, 104)], NOW_S)
    told = found.told((), set(), NOW_S, arrived_s)
    assert {e.how for e in told} == {RESET} and not any(e.lost for e in told)


def test_one_whose_application_has_closed_it_was_not_lost_though_nobody_answers_its_goodbye() -> None:
    """As one whose client's machine was switched off: it times out whenever its last try is over."""
    other: Ends = ("10.1.0.9", 80, "10.9.0.15", 1)
    found = Endings(NOW_S)
    found.watch([TCP], {other})
    assert found.told([TCP], {other}, NOW_S, ARRIVED_S) == []
    (said,) = found.told([], {other, PLAIN}, NOW_S, ARRIVED_S)
    assert (said.how, said.lost) == (CLOSED, False)
    found.hear([gone(retransmits=8), gone(retransmits=8, ends=other)], NOW_S)
    assert found.told([], set(), NOW_S, ARRIVED_S) == [said]


def test_younger_ones_are_told_of_where_they_were_lost() -> None:
    found = Endings(NOW_S)
    one, two, three = (("10.1.0.9", 80, "10.9.0.15", port) for port in (1, 2, 3))
    found.hear([SubflowOpened(7, one), closed(one, 0), SubflowClosed(7, one, 104)], NOW_S)
    found.hear(
        [SubflowOpened(8, two), Closed(8), gone(ends=three), gone(1, ends=("10.1.0.9", 80, "10.9.0.15", 4))], NOW_S
    )
    assert set(found.told((), set(), NOW_S, ARRIVED_S)) == {
        Ended("0x00000007", "10.9.0.15:1", RESET, True),
        Ended("tcp 10.9.0.15:3 10.1.0.9:80", "10.9.0.15:3", RESET, True),
    }
    assert found.told((), set(), NOW_S, NOT_YET) == []


@pytest.mark.parametrize("remote", [HOME, "127.0.0.1", "::1"])
def test_connections_of_the_guest_with_itself_are_nobodys(remote: str) -> None:
    found, ends = Endings(NOW_S), (HOME, 80, remote, 5)
    found.hear([SubflowOpened(7, ends), SubflowClosed(7, ends, 104), gone(ends=ends)], NOW_S)
    assert found.told((), set(), NOW_S, ARRIVED_S) == []


def test_memory_is_bounded_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "MOST_KEPT", 3)
    crowd = Endings(NOW_S)
    crowd.watch([connection(n, HOME) for n in range(1, 6)], set())
    assert crowd.missed and len(crowd._mptcp) == 3 and len(crowd._subflows) == 3
    young = Endings(NOW_S)
    for port in range(1, 10):
        young.hear([SubflowOpened(port, (HOME, 80, "10.9.0.15", port))], NOW_S)
    assert young.missed and len(young._mptcp) == 3 and len(young._subflows) <= 3
    lost = Endings(NOW_S)
    lost.hear([gone(ends=(HOME, 80, "10.9.0.15", port)) for port in range(1, 10)], NOW_S)
    assert lost.missed and len(lost.told((), set(), NOW_S, ARRIVED_S)) == 3


@pytest.mark.parametrize("arrived_s", [NOT_YET, NOW_S + 3000])
def test_younger_ones_that_were_reset_long_before_the_arrival_take_no_room(
    monkeypatch: pytest.MonkeyPatch, arrived_s: float
) -> None:
    """A health check that ends with a reset, all through a long copy."""
    monkeypatch.setattr(endings, "MOST_KEPT", 100)
    found = Endings(NOW_S)
    for now_s in range(int(NOW_S), int(min(NOW_S + 10_000, arrived_s + 20)), 10):
        found.hear([gone(ends=(HOME, 80, "10.9.0.15", now_s))], now_s)
        found.told((), set(), now_s, arrived_s if now_s > arrived_s else NOT_YET)
    assert not found.missed and len(found._young) <= 1 + endings.SIGHT_WITHIN_S / 10
    assert arrived_s == NOT_YET or len(found.told((), set(), arrived_s + 20, arrived_s)) == len(found._young) == 2


def test_one_that_came_back_and_was_closed_was_not_lost() -> None:
    found, ends = Endings(NOW_S), ("10.1.0.9", 80, "10.9.0.15", 1)
    found.hear([SubflowOpened(7, ends), SubflowClosed(7, ends, 104), SubflowOpened(7, ends), Closed(7)], NOW_S)
    assert found.told((), set(), NOW_S, ARRIVED_S) == []


def test_a_busy_guest_does_not_have_the_subflows_of_the_living_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a first subflow the kernel does not tell when it goes, so that each visitor leaves one behind."""
    monkeypatch.setattr(endings, "MOST_KEPT", 10)
    found = Endings(NOW_S)
    found.watch([MPTCP], set())
    for port in range(1, 100):
        found.hear([SubflowOpened(port + 1, ("10.1.0.9", 80, "10.9.0.15", port)), Closed(port + 1)], NOW_S)
    found.hear([closed(FIRST, 0), gone(ends=FIRST)], NOW_S)  # its old address was withdrawn
    assert found.told((MPTCP,), set(), NOW_S, ARRIVED_S) == [] and not found.missed
    assert len(found._subflows) <= 10


def test_where_some_was_missed_nothing_is_a_loss_that_may_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subflow of whose beginning the kernel could not tell: neither is its socket a plain connection, nor its
    connection without a path; how that one ends is not known."""
    found = Endings(NOW_S)
    found.watch([MPTCP, TCP], set())
    found.missed = True
    found.hear([gone(ends=(HOME, 7000, "10.9.0.14", 5)), closed(FIRST, 0), closed(SECOND, 0)], NOW_S)
    assert found.told((MPTCP, TCP), set(), NOW_S, ARRIVED_S) == []
    found.hear([Closed(1), gone()], NOW_S)
    assert [e.key for e in found.told((), set(), NOW_S, ARRIVED_S)] == [TCP.key]
    monkeypatch.setattr(endings, "MOST_KEPT", 2)
    crowd = Endings(NOW_S)
    crowd.watch([MPTCP], set())
    crowd.hear([SubflowOpened(1, ("10.3.0.9", 80, "10.9.0.15", 1))], NOW_S)
    assert crowd.missed and len(crowd._subflows) == 2


def test_a_port_that_an_mptcp_connection_had_before_is_a_plain_ones_now() -> None:
    """Of a first subflow the kernel does not tell when it goes: it is remembered, and its port is used again."""
    found = Endings(NOW_S)
    found.hear([SubflowOpened(7, PLAIN), Closed(7)], NOW_S)
    found.watch([TCP], set())
    found.hear([gone(surplus=1)], NOW_S)
    for later_s in (0, UNHEARD_FOR_S):
        told = found.told((), set(), NOW_S + later_s, ARRIVED_S)
        assert [(e.key, e.how, e.lost) for e in told] == [(TCP.key, CLOSED, False)]


def test_one_that_begins_as_sockets_are_looked_at_is_lost_as_any() -> None:
    """The kernel has told of it, and the list of sockets is older than that."""
    found, ends = Endings(NOW_S), ("10.1.0.9", 80, "10.9.0.15", 1)
    found.hear([SubflowOpened(7, ends)], NOW_S)
    assert found.told((), set(), NOW_S, ARRIVED_S) == []
    found.hear([SubflowClosed(7, ends, 104)], NOW_S + 0.2)
    assert [e.lost for e in found.told((), set(), NOW_S + 0.2, ARRIVED_S)] == [True]


# The agent's watch


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = at_home(tmp_path)
    made.kernel.open = [MPTCP, TCP]
    return made


def run(world: World, *steps: Any) -> list[Any]:
    """Verbs by name, or with arguments, seconds that pass, and things to do, in this order; the verbs' results."""
    agent, said = Agent(world.guest), []

    async def story() -> None:
        for step in steps:
            if isinstance(step, tuple):
                reply = await world.clock.run(agent.handle(Request("a", *step)))
                assert reply.ok, reply
                said.append(agent_verbs.VERBS[step[0]].decode_result(reply))
            elif isinstance(step, str):
                args = (
                    {"left": HOME} if step == "arrive" else {"move": "web-1", "seconds": 600} if step == "claim" else {}
                )
                args = {"move": "web-1"} if step == "release" else args
                reply = await world.clock.run(agent.handle(Request("a", step, args)))
                assert reply.ok, reply
                said.append(agent_verbs.VERBS[step].decode_result(reply))
            elif callable(step):
                step()
            else:
                await world.clock.passes(step)

    asyncio.run(story())
    return said


def test_a_watch_tells_of_what_was_there_and_has_ended(world: World) -> None:
    def tcp_ends() -> None:
        world.kernel.open.remove(TCP)
        world.kernel.told = [gone(surplus=1)]

    began, nothing, ends = run(world, "watch", "endings", tcp_ends, 1.0, "endings")
    assert began.watch == nothing.watch == ends.watch != "" and len(began.connections) == 2
    assert (nothing.endings, nothing.missed) == ((), False)
    assert [(e.key, e.how) for e in ends.endings] == [(TCP.key, CLOSED)]


def test_no_connection_is_told_of_that_is_not_watched(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy guest another one comes whenever its connections are looked at."""
    look = world.kernel.connections

    def look_and_one_more() -> list[Connection]:
        found = look()
        world.kernel.open.append(connection(100 + len(found), HOME))
        return found

    monkeypatch.setattr(world.kernel, "connections", look_and_one_more)

    def all_are_closed() -> None:
        world.kernel.told = [*(Closed(c.token) for c in world.kernel.open if c.mptcp), gone(surplus=1)]
        world.kernel.open = []

    began, ends = run(world, "watch", all_are_closed, 1.0, "endings")
    assert {c.key for c in began.connections} == {e.key for e in ends.endings}


def test_a_loss_is_one_only_after_the_arrival_of_this_move(world: World) -> None:
    def is_reset() -> None:
        world.kernel.open = [MPTCP]
        world.kernel.told = [gone()]

    *_, ends = run(world, "arrive", 10.0, "watch", is_reset, 1.0, "endings")
    assert [e.lost for e in ends.endings] == [False], "of the move before"


@pytest.mark.parametrize("before", [True, False])
def test_a_reset_that_no_application_has_looked_at_is_as_old_as_it_is(world: World, before: bool) -> None:
    """The socket of an idle connection is freed when its application looks, perhaps never. Nobody asks the agent while
    the guest is copied."""

    def is_reset() -> None:
        world.kernel.open = [MPTCP]

    moves = (is_reset, 60.0, "arrive") if before else (60.0, "arrive", is_reset)
    *_, first, second = run(world, "claim", "watch", *moves, 1.0, "endings", 2.0, "endings")
    assert [(e.key, e.how, e.lost) for e in second.endings] == [(TCP.key, RESET, not before)]
    assert not before or first.endings == second.endings


def test_a_reset_after_the_arrival_is_a_loss(world: World) -> None:
    def is_reset() -> None:
        world.kernel.open = [MPTCP]
        world.kernel.told = [gone()]

    *_, ends = run(world, "watch", "arrive", is_reset, "endings")
    assert [e.lost for e in ends.endings] == [True]


@pytest.mark.parametrize("freed", [[], [gone(surplus=0)], [gone(surplus=0, silent_s=0.0)], [gone(surplus=1)]])
def test_what_the_agent_has_cut_was_lost_whatever_its_socket_looks_like(world: World, freed: list[KernelEvent]) -> None:
    """`renumber` cuts as it settles, and settles anew where that is broken off."""

    def is_freed() -> None:
        world.kernel.told = list(freed)

    cut = ("retire", {"address": HOME, "force": True})
    *_, ends = run(world, "watch", "arrive", cut, is_freed, 1.0, "endings", 2.0, "endings")
    assert [(e.key, e.how, e.lost) for e in ends.endings if e.key == TCP.key] == [(TCP.key, CUT, True)]
    *_, ends = run(world, "watch", is_freed, "endings", 2.0, "endings")
    assert not any(e.lost for e in ends.endings), "of the next move"


def test_an_overflow_is_told(world: World) -> None:
    def overflow() -> None:
        world.kernel.overflowed = True

    *_, ends = run(world, "watch", overflow, 1.0, "endings")
    assert ends.missed


def test_a_watch_goes_on_with_the_claim_and_ends_a_while_after_it(world: World) -> None:
    _, first, late, _, there, *_ = run(
        world, "claim", "watch", 500.0, "endings", "release", 50.0, "endings", watch.UNASKED_FOR_S + 1
    )
    assert first.watch == late.watch == there.watch != ""
    assert world.log.count("listen") == world.log.count("listen no more") == 1
    (none,) = run(world, "endings")
    assert none == agent_verbs.Endings("", False, (), 0)


def test_where_the_kernel_does_not_tell_there_is_no_watch(world: World) -> None:
    world.kernel.tells = False
    began, ends = run(world, "watch", "endings")
    assert began.watch == ends.watch == "" and len(began.connections) == 2


def test_a_kernel_that_tells_no_longer_ends_the_watch(world: World) -> None:
    def breaks() -> None:
        def heard() -> Any:
            raise OSError("netlink refused")

        world.kernel.heard = heard  # type: ignore[method-assign]

    began, ends = run(world, "watch", breaks, 1.0, "endings")
    assert began.watch != "" and ends.watch == ""
