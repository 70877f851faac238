"""What an agent does on Xen: it sees by xenstore that it has moved, and is spoken to by two nodes of it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from guest_agent import __main__, xen
from guest_agent.agent import Agent
from guest_agent.detect import Sighting
from guest_agent.xen import XenstoreDetector, XenstoreServer
from tests.support import eventually
from tests.unit.guest_fakes import FakeClock
from tests.unit.xenbus import HOME, FakeXenstore
from vmacro.host import agents, dom0
from vmacro.host.agents import AgentRelay
from vmacro.host.errors import RefusedError
from vmacro.wire import messages, xenbus
from vmacro.wire.agent_way import AGENT, AgentOf
from vmacro.wire.mailbox import MOST_PIECE, TO_GUEST, TO_HOST, Mailbox, OutOfStepError
from vmacro.wire.messages import MAX_REPLY_BYTES, Reply, Request
from vmacro.wire.xenbus import Xenbus

SOON_S = 10.0


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeXenstore]:
    monkeypatch.setattr(agents, "RUN", tmp_path / "run")
    monkeypatch.setattr(xen, "AGAIN_AFTER_S", 0.01)
    found = FakeXenstore()
    yield found
    found.close()


async def until(holds: Callable[[], bool]) -> None:
    async def look() -> None:
        while not holds():
            await asyncio.sleep(0.002)

    await asyncio.wait_for(look(), SOON_S)


def watching(
    fake: FakeXenstore, told: Callable[[list[Sighting]], Awaitable[None]], clock: FakeClock | None = None
) -> None:
    """A detector that is ready; `told` gets what it sees."""

    async def run() -> None:
        seen: list[Sighting] = []

        async def watch() -> None:
            async for sighting in XenstoreDetector(fake.connect, clock or FakeClock()).sightings():
                seen.append(sighting)

        task = asyncio.ensure_future(watch())
        await until(lambda: len(fake.watched(HOME)) == 2)
        await told(seen)
        task.cancel()

    asyncio.run(run())


async def a_while() -> None:
    """Long enough for whatever is on its way here."""
    await asyncio.sleep(0.1)


def test_the_first_event_is_none(fake: FakeXenstore) -> None:
    async def told(seen: list[Sighting]) -> None:
        await a_while()
        assert not seen

    watching(fake, told)


def test_every_later_one_is_whatever_the_value_and_in_whatever_order(fake: FakeXenstore) -> None:
    async def told(seen: list[Sighting]) -> None:
        fake.resume()  # the same domid, and the watch set last fires first
        await until(lambda: len(seen) == 1)
        fake.write(f"{HOME}/domid", b"8")
        await until(lambda: len(seen) == 2)
        fake.resume()
        await until(lambda: len(seen) == 3)

    watching(fake, told)


def test_a_warning_is_no_move(fake: FakeXenstore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def told(seen: list[Sighting]) -> None:
        await a_while()
        fake.write(f"{HOME}/control/shutdown", b"suspend")
        await until(lambda: "about to suspend" in caplog.text)
        assert not seen

    watching(fake, told)


def test_the_clocks_say_for_how_long_it_stood_still(fake: FakeXenstore) -> None:
    clock = FakeClock()

    async def told(seen: list[Sighting]) -> None:
        await a_while()
        clock.still_s = 3.5
        fake.resume()
        await until(lambda: len(seen) == 1)
        fake.resume()
        await until(lambda: len(seen) == 2)
        assert seen == [Sighting("xenstore", 3.5), Sighting("xenstore", 0.0)]

    watching(fake, told, clock)


@pytest.mark.parametrize(("grown_s", "seen_moves"), [(2.0, 1), (0.0, 0)])
def test_a_move_while_the_connection_was_broken_is_seen_by_the_clocks(
    fake: FakeXenstore, grown_s: float, seen_moves: int
) -> None:
    clock = FakeClock()

    async def told(seen: list[Sighting]) -> None:
        await a_while()
        clock.still_s = grown_s
        fake.break_off()
        await until(lambda: len(fake.watched(HOME)) == 2)
        await a_while()
        assert len(seen) == seen_moves

    watching(fake, told, clock)


async def echo(request: Request) -> Reply:
    return Reply(request.id, {"said": str(request.args.get("say", "")) * int(str(request.args.get("times", 1)))})


class Talk:
    """An agent that serves, and a host that talks to it by pipes."""

    def __init__(self, fake: FakeXenstore, polite: bool = False) -> None:
        self.given, self.say_to = os.pipe()
        self.hear_from, self.taken = os.pipe()
        self.relay = AgentRelay(Xenbus(fake.descriptor()), 7, polite)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.relay.run(self.given, self.taken)
        finally:
            os.close(self.taken)

    def ask(self, say: str, times: int = 1) -> Reply:
        os.write(self.say_to, messages.encode_request(Request("a", "echo", {"say": say, "times": times})))
        line = b""
        while not line.endswith(b"\n"):
            data = os.read(self.hear_from, 1 << 16)
            assert data, "the relay has ended"
            line += data
        return messages.decode_reply(line[:-1])

    def end(self) -> None:
        os.close(self.say_to)
        self.thread.join(SOON_S)
        assert not self.thread.is_alive()


def serving(fake: FakeXenstore, told: Callable[[], None]) -> None:
    async def run() -> None:
        server = asyncio.ensure_future(XenstoreServer(fake.connect, echo).serve())
        try:
            await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(None, told), 3 * SOON_S)
        finally:
            server.cancel()

    asyncio.run(run())


def test_a_question_is_answered(fake: FakeXenstore) -> None:
    def told() -> None:
        talk = Talk(fake)
        assert talk.ask("x").result == {"said": "x"}
        assert talk.ask("y" * 3000).result == {"said": "y" * 3000}, "longer than a piece, both ways"
        talk.end()
        assert f"{HOME}/{TO_GUEST}" not in fake.nodes

    serving(fake, told)


def test_a_way_to_a_guest_that_is_silent_ends_with_who_has_asked(fake: FakeXenstore) -> None:
    """Else a program of root's stays for as long as the guest says nothing, and keeps polite ones from its agent."""
    talk = Talk(fake)
    os.write(talk.say_to, b"is anybody there?\n")
    talk.end()
    Talk(fake, polite=True).end()


def test_the_largest_answer_comes_whole_in_pieces_that_a_guest_may_write(fake: FakeXenstore) -> None:
    sizes: list[int] = []

    def told() -> None:
        talk = Talk(fake)
        reply = talk.ask("z" * 1000, MAX_REPLY_BYTES // 1000 - 1)
        assert len(str(reply.result["said"])) > MAX_REPLY_BYTES - 3000
        sizes.extend(fake.sizes)
        talk.end()

    serving(fake, told)
    assert max(sizes) < 2048, "quota of xenstored"
    assert len(sizes) > MAX_REPLY_BYTES / MOST_PIECE


def test_who_comes_next_takes_the_agent_over_and_half_a_line_is_forgotten(fake: FakeXenstore) -> None:
    def told() -> None:
        first = Talk(fake)
        assert first.ask("one").ok
        os.write(first.say_to, b'{"half a')
        second = Talk(fake)
        assert second.ask("two").result == {"said": "two"}
        first.thread.join(SOON_S)
        assert not first.thread.is_alive(), "it sees that its session has ended"
        second.end()

    serving(fake, told)


def test_who_began_before_does_not_write_over_who_came_next(fake: FakeXenstore) -> None:
    """It may be about to, as the next one comes."""

    def told() -> None:
        first = AgentRelay(Xenbus(fake.descriptor()), 7, polite=False)
        second = Talk(fake)
        first._box.say(b"late")
        first._tell()
        assert second.ask("x").ok
        second.end()

    serving(fake, told)


def test_who_leaves_takes_nothing_from_who_comes(fake: FakeXenstore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Just as the first one removes what was its own."""

    def told() -> None:
        first, came = Talk(fake), list[Talk]()
        remove = first.relay._store.remove

        def remove_late(path: str) -> None:
            beginning = threading.Thread(target=lambda: came.append(Talk(fake)))
            beginning.start()
            beginning.join(0.2)
            remove(path)

        monkeypatch.setattr(first.relay._store, "remove", remove_late)
        first.end()
        eventually(lambda: bool(came), "the second one to begin")
        assert came[0].ask("x").ok
        came[0].end()

    serving(fake, told)


class Session:
    """A whole session of the host side that begins with this request."""

    def __init__(self, fake: FakeXenstore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, domain: str) -> None:
        caps = tmp_path / "capabilities"
        caps.write_text("control_d\n")
        monkeypatch.setattr(dom0, "CAPABILITIES", caps)
        monkeypatch.setattr(agents, "opened", lambda: Xenbus(fake.descriptor()))
        fake.write(f"{HOME}/name", b"web")
        fake.write("/local/domain/0/name", b"Domain-0")
        given, self.say_to = os.pipe()
        self.hear_from, taken = os.pipe()
        line = AGENT.request("a", AgentOf(domain))
        assert agents.is_asked_for(line)
        self.thread = threading.Thread(target=agents.serve, args=(line, given, taken), daemon=True)
        self.thread.start()
        self.reply = messages.decode_reply(os.read(self.hear_from, 1 << 16)[:-1])


def test_a_session_that_asks_for_an_agent_leads_to_it(
    fake: FakeXenstore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def told() -> None:
        session = Session(fake, monkeypatch, tmp_path, "web")
        assert session.reply.ok
        os.write(session.say_to, messages.encode_request(Request("b", "echo", {"say": "x"})))
        assert messages.decode_reply(os.read(session.hear_from, 1 << 16)[:-1]) == Reply("b", {"said": "x"})
        os.close(session.say_to)
        session.thread.join(SOON_S)
        assert not session.thread.is_alive()

    serving(fake, told)


def test_an_agent_of_nobody_is_refused_and_the_session_ends(
    fake: FakeXenstore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session = Session(fake, monkeypatch, tmp_path, "we")
    assert session.reply.error_text == "no domain 'we' runs here"
    session.thread.join(SOON_S)
    assert not session.thread.is_alive()


@pytest.mark.parametrize("line", [b"", b"\n", b"{", b'{"v": 2, "id": "a", "verb": "facts"}\n', b"\xff" * 5000])
def test_all_other_sessions_are_not_for_an_agent(line: bytes) -> None:
    assert not agents.is_asked_for(line)


def test_a_way_to_an_agent_starts_without_what_it_does_not_need() -> None:
    """They are most of a start, which takes seconds where a processor is emulated."""
    code = "import sys, vmacro.host.__main__; print({'pyroute2', 'libvirt', 'asyncio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_who_is_polite_leaves_it_to_whoever_has_it(fake: FakeXenstore) -> None:
    def told() -> None:
        talk = Talk(fake)
        with pytest.raises(RefusedError, match="somebody else talks to the agent of domain 7"):
            Talk(fake, polite=True)
        talk.end()
        again = Talk(fake, polite=True)
        assert again.ask("x").ok
        again.end()

    serving(fake, told)


def test_a_guest_that_leaves_ends_the_talk_and_answers_at_the_next_host(fake: FakeXenstore) -> None:
    def told() -> None:
        talk = Talk(fake)
        assert talk.ask("x").ok
        fake.remove(f"{HOME}/data")  # its home is another one now, and empty
        fake.resume()
        talk.thread.join(SOON_S)
        assert not talk.thread.is_alive()
        there = Talk(fake)
        assert there.ask("y").ok
        there.end()

    serving(fake, told)


@pytest.mark.parametrize(
    "record", [b"", b"nonsense", b"0123456789abcdef 9 0\nx", b"0123456789abcdef 0 9\n", b"\xff" * 4000]
)
def test_what_somebody_else_writes_there_is_survived(fake: FakeXenstore, record: bytes) -> None:
    def told() -> None:
        fake.write(f"{HOME}/{TO_GUEST}", record)
        talk = Talk(fake)
        assert talk.ask("x").ok
        talk.end()

    serving(fake, told)


@pytest.mark.parametrize("record", [b"", b"nonsense", b"SESSION 5 0\nx", b"SESSION 0 5\n", b"\xff" * 4000])
def test_a_guest_that_writes_nonsense_ends_its_talk_and_no_more(fake: FakeXenstore, record: bytes) -> None:
    talk = Talk(fake)
    session = fake.nodes[f"{HOME}/{TO_GUEST}"].split(b" ")[0]
    fake.write(f"{HOME}/{TO_HOST}", record.replace(b"SESSION", session))
    if record:
        talk.thread.join(SOON_S)
        assert not talk.thread.is_alive() and os.read(talk.hear_from, 9) == b""
    else:
        talk.end()


def test_pieces_wait_for_each_other() -> None:
    one, other = Mailbox("0" * 16), Mailbox("0" * 16)
    one.say(b"a" * MOST_PIECE + b"b")
    first = one.record()
    assert first is not None and one.record() is None and not one.idle
    assert other.hear(first) == b"a" * MOST_PIECE and other.hear(first) == b""
    seen = other.record()
    assert seen is not None and one.hear(seen) == b""
    second = one.record()
    assert second is not None and other.hear(second) == b"b"
    with pytest.raises(OutOfStepError):
        other.hear(first)


def test_another_session_is_no_news() -> None:
    box = Mailbox("0" * 16)
    assert box.hear(b"1" * 16 + b" 7 7\nx") == b"" and box.record() is not None


def test_the_guest_finds_out_what_it_runs_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first of the two devices that is there; a virtio channel comes first, where there is one."""
    new, old = tmp_path / "xenbus", tmp_path / "xenfs"
    monkeypatch.setattr(xenbus, "PATHS", (new, old))
    assert [type(d).__name__ for d in __main__._detectors("eth0")] == ["AnnounceDetector"]
    with pytest.raises(FileNotFoundError):
        __main__._server(cast(Agent, SimpleNamespace(handle=echo)))
    old.touch()
    assert xenbus.device() == old
    new.touch()
    assert xenbus.device() == new
    assert [type(d).__name__ for d in __main__._detectors("eth0")] == ["AnnounceDetector", "XenstoreDetector"]
    assert isinstance(__main__._server(cast(Agent, SimpleNamespace(handle=echo))), XenstoreServer)
