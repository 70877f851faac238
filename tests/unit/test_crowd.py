"""Clients that may all join at once queue for as long as they come, and everything is as before then."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from guest_agent import crowd, listeners, state
from guest_agent.agent import Agent
from guest_agent.arrival import Arrivals, prepare
from guest_agent.consent import Consent
from guest_agent.slots import announce_again
from tests.unit.guest_fakes import AWAY, HOME, World, at_home, connection
from vmacro.provisioning import agent_package
from vmacro.wire.agent_verbs import PrepareArgs

ROOT = Path(__file__).parents[2]
PORT, BACKLOG = 7000, 4
QUEUE, AS_BEFORE = "no cookies", "cookies as before"
ANNOUNCED = f"announce {AWAY} as backup"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Of more clients than there is room for."""
    made = at_home(tmp_path)
    made.kernel.listeners = {PORT: BACKLOG}
    made.kernel.open = [connection(n, HOME) for n in range(1, BACKLOG + 2)]
    return made


def ran(world: World, what: Coroutine[Any, Any, Any], then_s: float = 0.0) -> None:
    async def story() -> None:
        await world.clock.run(what)
        await world.clock.passes(then_s)

    asyncio.run(story())


def queueing(world: World) -> list[str]:
    return [line for line in world.log if line in (QUEUE, AS_BEFORE) or line.startswith("announce")]


def prepared(world: World, then_s: float = 0.0) -> list[str]:
    ran(world, prepare(world.guest, PrepareArgs(AWAY)), then_s)
    return queueing(world)


def test_they_queue_before_they_are_told_until_nobody_has_been_turned_away_for_a_while(world: World) -> None:
    assert prepared(world, crowd.CALM_S - 1) == [QUEUE, ANNOUNCED]
    assert world.kernel.cookies_are == "0" and world.guest.state.queueing == {"cookies": "1"}


@pytest.mark.parametrize(
    ("change", "crowded"),
    [
        ({"open": [connection(n, HOME) for n in range(1, BACKLOG // 2 + 1)]}, False),
        ({"open": [connection(n, HOME) for n in range(1, BACKLOG // 2 + 2)]}, True),
        ({"open": [connection(0, HOME) for _ in range(BACKLOG + 2)]}, False),  # plain TCP joins nothing
        ({"listeners": {PORT + 1: 1}}, False),  # nobody listens there: they are refused as it is
        ({"listeners": {}}, False),
    ],
)
def test_only_where_half_a_queue_is_too_short_for_them(world: World, change: dict[str, Any], crowded: bool) -> None:
    vars(world.kernel).update(change)
    assert prepared(world, crowd.CALM_S) == ([QUEUE, ANNOUNCED, AS_BEFORE] if crowded else [ANNOUNCED])


@pytest.mark.parametrize(("busy_s", "over_after_s"), [(0.0, 10.0), (25.0, 40.0), (600.0, crowd.MOST_S)])
def test_for_as_long_as_they_come_but_not_for_ever(world: World, busy_s: float, over_after_s: float) -> None:
    async def story() -> float:
        await prepare(world.guest, PrepareArgs(AWAY))
        began_s = world.clock.now_s()
        while AS_BEFORE not in world.log:
            await world.clock.passes(1.0)
            world.kernel.dropped += world.clock.now_s() - began_s <= busy_s
        return world.clock.now_s() - began_s

    assert asyncio.run(story()) == pytest.approx(over_after_s, abs=1.0)
    assert world.kernel.cookies_are == "1" and world.guest.state.queueing == {}


def test_of_two_crowds_the_second_ends_it(world: World) -> None:
    async def story() -> None:
        await prepare(world.guest, PrepareArgs(AWAY))
        await world.clock.passes(crowd.CALM_S - 1)
        await crowd.announce(world.guest, "10.2.0.10")
        await world.clock.passes(crowd.CALM_S - 1)
        assert queueing(world) == [QUEUE, ANNOUNCED, "announce 10.2.0.10"]
        await world.clock.passes(1.0)

    asyncio.run(story())
    assert queueing(world)[3:] == [AS_BEFORE] and world.kernel.cookies_are == "1"


def test_whatever_it_is_that_they_are_told_of(world: World) -> None:
    asked: list[Coroutine[Any, Any, Any]] = [
        Arrivals(world.guest).arrive_from(HOME),
        Consent(world.guest).ask(1.0),
    ]
    for what in asked:
        world.log.clear()
        world.kernel.announced.clear()
        ran(world, what, crowd.CALM_S)
        assert [line.split()[0] for line in queueing(world)] == ["no", "announce", "cookies"]
    world.log.clear()
    world.kernel.announced.clear()
    world.kernel.open = [connection(n, "10.3.0.9") for n in range(1, BACKLOG + 2)]
    ran(world, announce_again(world.guest), crowd.CALM_S)
    assert queueing(world) == [QUEUE, f"announce {AWAY}", AS_BEFORE]


def test_a_killed_agent_is_put_right_by_the_next(world: World) -> None:
    prepared(world)
    after = world.restarted()
    assert after.guest.state.queueing == {"cookies": "1"}
    ran(after, Agent(after.guest).start())
    assert world.kernel.cookies_are == "1" and after.restarted().guest.state.queueing == {}


def test_an_agent_that_is_stopped_for_good_leaves_cookies_on(tmp_path: Path) -> None:
    """As with `vmacro-agent give-back`, or its package removed: there is no next agent."""
    story = f"""
import asyncio, signal, time
from pathlib import Path
from guest_agent import crowd
from guest_agent.__main__ import ended
from guest_agent.agent import Agent
from tests.unit.test_crowd import HOME, at_home, connection

async def main():
    world = at_home(Path({str(tmp_path)!r}))
    world.kernel.listeners = {{7000: 0}}
    world.kernel.open = [connection(1, HOME)]
    world.kernel.put_back = lambda before: print(f"put back: {{before}}", flush=True)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended, Agent(world.guest))
    await crowd.announce(world.guest, "10.2.0.9")
    print(world.kernel.cookies_are, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
    agent = subprocess.Popen([sys.executable, "-c", story], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with agent:
        assert agent.stdout is not None and agent.stdout.readline() == "0\n"
        agent.terminate()
        assert agent.stdout.read() == "put back: {'cookies': '1'}\n"
    assert agent.returncode == -signal.SIGTERM, "as systemd expects it"
    assert state.load(tmp_path / "state.json").queueing == {}


@pytest.mark.parametrize("what", ["rooms", "turned_away", "cookies", "have_them_queue"])
def test_what_a_kernel_does_not_let_the_agent_do_keeps_no_move_from_it(
    world: World, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def refused() -> None:
        raise OSError("not here")

    monkeypatch.setattr(world.kernel, what, refused)
    assert ANNOUNCED in prepared(world, crowd.MOST_S + crowd.CALM_S)
    assert world.kernel.cookies_are == "1" and world.guest.state.queueing == {}


def test_whatever_goes_wrong_cookies_are_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise IndexError("half a line")

    monkeypatch.setattr(world.kernel, "turned_away", broken)
    assert prepared(world, crowd.MOST_S) == [QUEUE, ANNOUNCED, AS_BEFORE] and world.kernel.cookies_are == "1"


# The kernel's files


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "sys/net/ipv4").mkdir(parents=True)
    (tmp_path / "net").mkdir()
    for name, value in (("tcp_syncookies", "1\n"), ("tcp_max_syn_backlog", "128\n")):
        (tmp_path / "sys/net/ipv4" / name).write_text(value)
    return tmp_path


def settings(proc: Path) -> list[str]:
    return [(proc / "sys" / name).read_text().strip() for name in sorted(listeners.WITHOUT_COOKIES)]


def test_cookies_are_as_they_were_before(proc: Path) -> None:
    before = listeners.cookies(proc)
    listeners.have_them_queue(proc)
    assert settings(proc) == ["65536", "0"]
    listeners.put_back(before, proc)
    assert settings(proc) == ["128", "1"]


def test_what_somebody_has_set_meanwhile_stays(proc: Path) -> None:
    before = listeners.cookies(proc)
    listeners.have_them_queue(proc)
    (proc / "sys/net/ipv4/tcp_max_syn_backlog").write_text("4096\n")
    listeners.put_back({**before, "kernel/hostname": "evil"}, proc)
    assert settings(proc) == ["4096", "1"] and not (proc / "sys/kernel").exists()


def test_the_counter_is_found_by_its_name(proc: Path) -> None:
    netstat = proc / "net/netstat"
    netstat.write_text("TcpExt: B TCPReqQFullDrop C\nTcpExt: 3 45 6\nIpExt: D\nIpExt: 7\n")
    assert listeners.turned_away(proc) == 45
    netstat.write_text("TcpExt: B C\nTcpExt: 3 6\n")
    assert listeners.turned_away(proc) == 0


def test_its_unit_lets_the_agent_write_what_it_writes() -> None:
    """ProtectKernelTunables has all of /proc/sys read-only but for these."""
    unit = (agent_package.PARTS / "vmacro-agent.service").read_text()
    writable = set(re.findall(r"-(/proc/sys/\S+)", unit))
    assert writable == {"/proc/sys/vm/drop_caches", *(f"/proc/sys/{name}" for name in listeners.WITHOUT_COOKIES)}
