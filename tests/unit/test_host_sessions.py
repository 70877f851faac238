"""How hosts are asked: what hostile or dead ones do to us and to each other. Neither SSH nor root needed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from vmacro.drivers.host_side import HostSides, Session, SshHostSide
from vmacro.errors import HostError, UnreachableError
from vmacro.host.dispatch import Dispatcher, handler
from vmacro.model.facts import BaseFacts, DiskCopy, Fetching, Leaving, Leg, LinkFacts, Offer, Turn
from vmacro.model.nouns import Host
from vmacro.wire import fields, host_verbs, messages, way_verbs
from vmacro.wire.messages import Nothing, Reply, Request, Verb
from vmacro.wire.taken_verbs import Port, Taken, Taking

BERLIN = Host("berlin", "berlin", "", "", "10.9.0.6", "berlin", "front", ssh="root@10.9.0.6")
TOKYO = replace(BERLIN, name="tokyo", address="10.9.0.10", ssh="10.9.0.10")
KEY = "A" * 43 + "="
LEG = Leg("web-1", "web", "52:54:00:00:00:01", "10.1.0.7", "wireguard", BERLIN, TOKYO, "front0", "br7", "10.1.0.0/24")
END = host_verbs.FoundLegEnd(
    "home", "vxlan", "web-1", "web", "10.1.0.7", "52:54:00:00:00:01", "front0", "10.9.0.6", points_to="tunnel"
)
PORT = Port("tcp", 5942, "10.9.0.6")
DISK = DiskCopy("ab12cd34ef56", "vda", "/images/web.qcow2", "qcow2")
RESULTS: dict[str, Any] = {
    "facts": LinkFacts("0.1.0", ("vxlan",), "52:54:00:aa:aa:aa", 1500, 1500, True, "52:54:00:aa:aa:ab", (END,)),
    "open": Offer(KEY, 51820),
    "turned": host_verbs.Turned((Turn("tunnel", 1_800_000_000_000_000_000, 1500, 3, "why"),)),
    "leaving": host_verbs.Departure("fenced"),
    "flows": host_verbs.Tracked(True, (host_verbs.Flows("10.1.0.7", 3, 1),)),
    "reach": host_verbs.HeardOf((host_verbs.Heard("10.1.0.7", ("52:54:00:00:00:01",), 64, 64),)),
    "taken": Taken((PORT,), (7,)),
    "disk-files": host_verbs.Files((host_verbs.FileFacts("/isos/a.iso", host_verbs.PLAIN, 9, 4096),)),
    "disk-look": BaseFacts(True, True, False, 1 << 40),
    "disk-serve": host_verbs.Served(49215),
    "disk-fetched": Fetching(False, 1 << 30, "why"),
}
CALLS: dict[str, Callable[[SshHostSide], object]] = {
    "facts": lambda side: side.facts("front0", "10.9.0.10", "10.1.0.7"),
    "open": lambda side: side.open(LEG),
    "join": lambda side: side.join(LEG, Offer(KEY, 51820)),
    "arm": lambda side: side.arm("web"),
    "widen": lambda side: side.widen("web-1", "10.9.0.10"),
    "narrow": lambda side: side.narrow("web-1"),
    "turned": lambda side: side.turned("web"),
    "turn": lambda side: side.turn("web", to_guest=True),
    "point": lambda side: side.point(LEG, to_guest=False),
    "leaving": lambda side: side.leaving("web"),
    "close": lambda side: side.close("web-1"),
    "flows": lambda side: side.flows(("10.1.0.7",)),
    "reach": lambda side: side.reach(host_verbs.Reach("web-1", ("10.1.0.7",), "front0", 7000)),
    "taken": lambda side: side.taken(Taking((PORT,), (7, 8))),
    "disk-files": lambda side: side.files(("/isos/a.iso",)),
    "disk-look": lambda side: side.look(DISK),
    "disk-serve": lambda side: side.serve(DISK, TOKYO),
    "disk-fetch": lambda side: side.fetch(DISK, TOKYO, 49215, 1 << 20),
    "disk-fetched": lambda side: side.fetched(DISK),
    "disk-create-overlay": lambda side: side.create_overlay(DISK),
    "disk-stop": lambda side: side.stop(DISK, drop_overlay=True),
    "disk-remove": lambda side: side.remove(DISK),
}
_DISK = host_verbs.Disk(DISK.id, DISK.base, DISK.format)
_HOME = host_verbs.End("home", "wireguard", "web-1", "web", "10.1.0.7", "52:54:00:00:00:01", "front0", peer="10.9.0.10")
HEARD: dict[str, object] = {
    "facts": host_verbs.Facts("front0", "10.9.0.10", "10.1.0.7"),
    "open": host_verbs.Open(_HOME, "10.1.0.0/24"),
    "join": host_verbs.Join("web-1", "10.1.0.7", Offer(KEY, 51820)),
    "arm": host_verbs.Domain("web"),
    "widen": way_verbs.Widen("web-1", "10.9.0.10"),
    "narrow": way_verbs.Narrow("web-1"),
    "turned": host_verbs.Domain("web"),
    "turn": host_verbs.TurnAll("web", "guest"),
    "point": host_verbs.Point("web-1", "10.1.0.7", "tunnel"),
    "leaving": host_verbs.Domain("web"),
    "close": host_verbs.Close("web-1", ""),
    "flows": host_verbs.FlowsOf(("10.1.0.7",)),
    "reach": host_verbs.Reach("web-1", ("10.1.0.7",), "front0", 7000),
    "taken": Taking((PORT,), (7, 8)),
    "disk-files": host_verbs.Paths(("/isos/a.iso",)),
    "disk-look": _DISK,
    "disk-serve": host_verbs.Serve(_DISK, BERLIN.address, TOKYO.name),
    "disk-fetch": host_verbs.Fetch(_DISK, TOKYO.address, 49215, "berlin", 1 << 20),
    "disk-fetched": _DISK,
    "disk-create-overlay": _DISK,
    "disk-stop": host_verbs.Stop(_DISK, drop_overlay=True),
    "disk-remove": _DISK,
}
HOSTILE: list[Any] = [None, True, -1, 1.5, 10**30, float("nan"), "", "x" * 5000, "\x1b[2J", "\ud800", "a b"]
HOSTILE += [[], [[]], {}, {"x": 1}]


@dataclass
class FakeProgram:
    """Implements Program: answers lines by `answer`, takes `takes` bytes at a time, gives `gives` at a time."""

    answer: Callable[[bytes], bytes]
    takes: int = 1 << 20
    gives: int = 1 << 20
    complaining: str = ""
    alive: bool = True
    closed: int = 0
    coming: bytes = b""
    partial: bytes = b""

    def send(self, data: bytes, timeout_s: float) -> int:
        if not self.alive:
            raise OSError("Socket is closed")
        if not self.takes:
            raise TimeoutError
        self.partial += data[: self.takes]
        *lines, self.partial = self.partial.split(b"\n")
        self.coming += b"".join(self.answer(line) for line in lines)
        return min(self.takes, len(data))

    def receive(self, timeout_s: float) -> bytes:
        assert timeout_s > 0
        given, self.coming = self.coming[: self.gives], self.coming[self.gives :]
        return given

    def complaint(self) -> str:
        return self.complaining

    def close(self) -> None:
        self.alive = False
        self.closed += 1


@dataclass
class Endless(FakeProgram):
    """It sends the same for ever."""

    def receive(self, timeout_s: float) -> bytes:
        return self.answer(b"")


@dataclass
class Mute(FakeProgram):
    """It says nothing until it is closed."""

    asked: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)

    def receive(self, timeout_s: float) -> bytes:
        self.asked.set()
        assert self.let_go.wait(30), "nobody closed it"
        return b""

    def close(self) -> None:
        super().close()
        self.let_go.set()


def saying(result: object) -> FakeProgram:
    def answer(line: bytes) -> bytes:
        reply = {"v": messages.VERSION, "id": json.loads(line)["id"], "ok": True, "result": result}
        return json.dumps(reply).encode() + b"\n"

    return FakeProgram(answer)


def side(program: FakeProgram) -> SshHostSide:
    return SshHostSide(BERLIN, Session("berlin", program))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("pace", [1, 7, 1 << 20])
def test_what_is_asked_is_what_is_heard(name: str, pace: int) -> None:
    """Both ends' own code, however the bytes arrive."""
    heard: list[object] = []

    def carry_out(args: object) -> object:
        heard.append(args)
        return RESULTS.get(name, Nothing())

    verb: Verb[Any, Any] = host_verbs.VERBS[name]
    host = Dispatcher([handler(verb, carry_out)])
    result = CALLS[name](side(FakeProgram(host.answer, takes=pace, gives=pace)))
    assert heard == [HEARD[name]]
    unpacked = {
        "turned": RESULTS["turned"].turns,
        "reach": RESULTS["reach"].heard,
        "leaving": Leaving.FENCED,
        "disk-files": RESULTS["disk-files"].files,
        "disk-serve": 49215,
    }
    assert result == unpacked.get(name, RESULTS.get(name))


def test_many_paths_take_as_many_requests_as_they_need() -> None:
    """Each request is bounded; one path that no request can hold is left out, and so is what nobody asked for."""
    heard: list[int] = []

    def carry_out(args: host_verbs.Paths) -> host_verbs.Files:
        heard.append(len(args.paths))
        known = (*args.paths, "/etc/shadow")[: host_verbs.MOST_FILES]
        return host_verbs.Files(tuple(host_verbs.FileFacts(path, host_verbs.ABSENT) for path in known))

    host = Dispatcher([handler(host_verbs.DISK_FILES, carry_out)])
    long, short = [f"/{n}/{'ü' * 500}" for n in range(5)], [f"/isos/{n}.iso" for n in range(100)]
    told = side(FakeProgram(host.answer)).files((*long, "/" + "ü" * 999, *short))
    assert [file.path for file in told] == [*long, *short] and len(heard) > 5


def test_each_end_of_a_leg_gets_its_own_words() -> None:
    asked: list[host_verbs.End] = []

    def opened(args: host_verbs.Open) -> Offer:
        asked.append(args.end)
        return Offer()

    program = FakeProgram(Dispatcher([handler(host_verbs.OPEN, opened)]).answer)
    SshHostSide(BERLIN, Session("berlin", program)).open(LEG)
    SshHostSide(TOKYO, Session("tokyo", program)).open(LEG)
    home, away = asked
    assert (home.side, home.bridge, home.peer) == ("home", "front0", "10.9.0.10")
    assert (away.side, away.bridge, away.peer) == ("away", "br7", "10.9.0.6")


def broken(data: Any) -> Iterator[Any]:
    """`data` with one value after the other replaced by what is hostile, at any depth."""
    yield from HOSTILE
    for key, inner in data.items() if isinstance(data, dict) else enumerate(data if isinstance(data, list) else ()):
        for bad in broken(inner):
            copy = dict(data) if isinstance(data, dict) else list(data)
            copy[key] = bad
            yield copy
    if isinstance(data, dict):
        yield from ({k: v for k, v in data.items() if k != key} for key in data)


@pytest.mark.parametrize("name", CALLS)
def test_hostile_results_are_errors_of_the_host_and_nothing_else(name: str) -> None:
    whole = json.loads(json.dumps(fields.encode(RESULTS.get(name, Nothing()))))
    refused = 0
    for result in broken(whole):
        try:
            CALLS[name](side(saying(result)))
        except HostError as error:
            refused += 1
            assert "host berlin" in error.message and error.message.isprintable() and len(error.message) < 600
    assert refused > len(HOSTILE) / 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"\n\xff\xfe\n", "not JSON"),
        (b"[]\n", "not a JSON object"),
        (b"[" * 100_000 + b"\n", "not JSON"),
        (b'{"v": 1, "id": "a", "ok": true, "result": {}}\n', "protocol version '1', expected 2"),
        (b'{"v": 2, "id": "../a", "ok": true, "result": {}}\n', "id must be"),
        (b'{"v": 2, "id": "a", "ok": "yes", "result": {}}\n', "either ok=true"),
        (b"x" * (messages.MAX_REPLY_BYTES + 1) + b"\n", "over 1048576 bytes"),
    ],
)
def test_hostile_lines_are_errors_of_the_host_and_end_the_session(line: bytes, said: str) -> None:
    program = FakeProgram(lambda _: line)
    with pytest.raises(HostError, match=said):
        side(program).arm("web")
    assert not program.alive


def test_a_refusal_reaches_people_escaped_and_ends_nothing() -> None:
    program = FakeProgram(lambda line: messages.encode_reply(Reply(json.loads(line)["id"], {}, "no-leg", "no\x1b[2J")))
    with pytest.raises(HostError, match=r"its host side refused 'point': no.x1b") as caught:
        side(program).point(LEG, to_guest=True)
    assert caught.value.message.isprintable() and program.alive


@pytest.mark.parametrize(("code", "is_old"), [("bad-args", True), ("unknown-verb", True), ("kernel", False)])
def test_one_of_an_older_vmacro_is_to_be_installed_anew(code: str, is_old: bool) -> None:
    """It knows no field that its request has since."""
    old = "Facts: unknown field 'devices'"
    program = FakeProgram(lambda line: messages.encode_reply(Reply(json.loads(line)["id"], {}, code, old)))
    with pytest.raises(HostError, match="refused 'facts': Facts: unknown field 'devices'") as caught:
        side(program).facts("front0", "", "")
    assert ("vmacro provision hosts --tags host_side" in caught.value.hint) == is_old


def test_one_that_ends_says_why() -> None:
    program = FakeProgram(lambda _: b"", complaining="Traceback\n  needs root\x1b")
    with pytest.raises(UnreachableError, match="it ended") as caught:
        side(program).arm("web")
    assert caught.value.hint == "Traceback needs root\\x1b" and not program.alive


@pytest.mark.parametrize(
    "program",
    [
        Endless(lambda _: messages.encode_reply(Reply("another", {}))),
        Endless(lambda _: b"x" * 4096),
        FakeProgram(lambda _: b"", takes=0),
    ],
)
def test_the_deadline_holds_whatever_comes(program: FakeProgram) -> None:
    soon = replace(host_verbs.ARM, deadline_s=0.05)
    session = Session("berlin", program)
    with pytest.raises(HostError, match=r"no answer to 'arm' within 0.05 s|over \d+ bytes|over 1000 lines"):
        session.ask(soon, host_verbs.Domain("web"))
    assert not session.alive


@dataclass
class Slow(FakeProgram):
    """`allowed`: how long each answer was waited for at most."""

    allowed: list[float] = field(default_factory=list)

    def receive(self, timeout_s: float) -> bytes:
        self.allowed.append(timeout_s)
        return super().receive(timeout_s)


@pytest.mark.parametrize(("uri", "besides_s"), [("xen+tls://10.9.0.6/system", 45), ("qemu+tls://10.9.0.6/system", 0)])
def test_a_host_side_of_xen_may_take_its_time_to_start_and_no_more(uri: str, besides_s: int) -> None:
    """A first domain with one processor had it say nothing for 28 s."""
    program = Slow(saying({}).answer)
    sides = HostSides(FakeShell({"10.9.0.6": lambda: program}))
    for _ in range(2):
        sides.get(replace(BERLIN, uri=uri)).arm("web")
    within_s = host_verbs.ARM.deadline_s
    assert program.allowed == [pytest.approx(within_s + besides_s, abs=1), pytest.approx(within_s, abs=1)]


@dataclass
class FakeShell:
    """Implements Shell; `programs` by address."""

    programs: dict[str, Callable[[], FakeProgram]]
    started: list[str] = field(default_factory=list)

    def start(self, subject: str, user: str, address: str, program: str, slow_s: float = 0.0) -> FakeProgram:
        self.started.append(f"{subject} {user}@{address} {program}" + (f" +{slow_s:g} s" if slow_s else ""))
        return self.programs[address]()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def test_a_session_per_host_opened_once_and_again_where_it_broke() -> None:
    opened: list[FakeProgram] = []

    def open_() -> FakeProgram:
        opened.append(saying({}))
        return opened[-1]

    shell = FakeShell({"10.9.0.6": open_, "10.9.0.10": open_})
    sides = HostSides(shell)
    sides.get(BERLIN).arm("web")
    sides.get(BERLIN).arm("web")
    sides.get(TOKYO).arm("web")
    wanted = ["host berlin root@10.9.0.6 vmacro-host", "host tokyo root@10.9.0.10 vmacro-host"]
    assert shell.started == wanted
    opened[0].alive = False
    sides.get(BERLIN).arm("web")
    assert shell.started == [*wanted, wanted[0]] and opened[0].closed == 1
    sides.close()
    assert not any(program.alive for program in opened)


def test_a_host_of_xen_may_take_longer_to_let_in() -> None:
    shell = FakeShell({"10.9.0.6": lambda: saying({})})
    HostSides(shell).get(replace(BERLIN, uri="xen:///system")).arm("web")
    assert shell.started == ["host berlin root@10.9.0.6 vmacro-host +45 s"]


def test_a_host_without_ssh_is_named() -> None:
    with pytest.raises(UnreachableError, match="host berlin: no SSH to its host side is configured"):
        HostSides(FakeShell({})).get(replace(BERLIN, ssh=""))


def test_a_host_that_does_not_let_us_in_delays_no_other(threads: ThreadPoolExecutor) -> None:
    knocking, let_in = threading.Event(), threading.Event()

    def slow() -> FakeProgram:
        knocking.set()
        assert let_in.wait(30)
        return saying({})

    shell = FakeShell({"10.9.0.6": slow, "10.9.0.10": lambda: saying({})})
    sides = HostSides(shell)
    first = threads.submit(sides.get, BERLIN)
    second = threads.submit(sides.get, BERLIN)
    assert knocking.wait(30)
    sides.get(TOKYO).arm("web")
    assert not first.done() and not second.done(), "berlin still keeps them waiting"
    let_in.set()
    first.result(30).arm("web")
    second.result(30).arm("web")
    assert len(shell.started) == 2, "the two who wanted berlin share a session"


def test_who_waited_for_a_host_that_does_not_let_us_in_does_not_knock_once_more(threads: ThreadPoolExecutor) -> None:
    knocking, give_up = threading.Event(), threading.Event()

    def shut() -> FakeProgram:
        knocking.set()
        assert give_up.wait(30)
        raise UnreachableError("host berlin: no SSH")

    shell = FakeShell({"10.9.0.6": shut})
    sides = HostSides(shell)
    first = threads.submit(sides.get, BERLIN)
    assert knocking.wait(30)
    queued = Watching(sides)
    second = threads.submit(queued.get, BERLIN)
    assert queued.at_the_door.wait(30)
    give_up.set()
    for asked in (first, second):
        with pytest.raises(UnreachableError, match="host berlin: no SSH"):
            asked.result(30)
    assert len(shell.started) == 1
    with pytest.raises(UnreachableError):
        sides.get(BERLIN)
    assert len(shell.started) == 2, "who comes later does"


class Watching:
    """Tells when somebody has begun to wait for a host."""

    def __init__(self, sides: HostSides) -> None:
        self._sides, self.at_the_door = sides, threading.Event()

    def get(self, host: Host) -> SshHostSide:
        slot = self._sides._slots[host.name]
        plain, slot.connecting = slot.connecting, self  # type: ignore[assignment]
        self._plain = plain
        return self._sides.get(host)

    def __enter__(self) -> None:
        self.at_the_door.set()
        self._plain.acquire()

    def __exit__(self, *_: object) -> None:
        self._plain.release()


def test_a_host_that_never_answers_delays_no_other(threads: ThreadPoolExecutor) -> None:
    mute = Mute(lambda _: b"")
    sides = HostSides(FakeShell({"10.9.0.6": lambda: mute, "10.9.0.10": lambda: saying({})}))
    waiting = threads.submit(sides.get(BERLIN).arm, "web")
    assert mute.asked.wait(30)
    queued = threads.submit(sides.get(BERLIN).arm, "db")
    sides.get(TOKYO).arm("web")
    assert not waiting.done() and not queued.done()
    sides.close()
    for asked in (waiting, queued):
        with pytest.raises(UnreachableError, match="host berlin"):
            asked.result(30)


def test_closing_waits_for_nobody_who_connects(threads: ThreadPoolExecutor) -> None:
    knocking, let_in, late = threading.Event(), threading.Event(), saying({})

    def slow() -> FakeProgram:
        knocking.set()
        assert let_in.wait(30)
        return late

    shell = FakeShell({"10.9.0.6": slow})
    sides = HostSides(shell)
    connecting = threads.submit(sides.get, BERLIN)
    assert knocking.wait(30)
    sides.close()
    let_in.set()
    with pytest.raises(HostError, match="host berlin"):
        connecting.result(30)
    assert not late.alive
    with pytest.raises(HostError, match="host berlin"):
        sides.get(BERLIN)
    assert len(shell.started) == 1, "nobody connects afterwards"


def test_a_session_asks_one_thing_at_a_time(threads: ThreadPoolExecutor) -> None:
    lines: list[bytes] = []
    second_asked = threading.Event()

    def answer(line: bytes) -> bytes:
        lines.append(line)
        if len(lines) == 1:
            assert not second_asked.wait(0.1), "the second has to wait for the first's reply"
        else:
            second_asked.set()
        return messages.encode_reply(Reply(json.loads(line)["id"], {}))

    shared = side(FakeProgram(answer))
    for asked in [threads.submit(shared.arm, domain) for domain in ("web", "db")]:
        asked.result(30)
    assert len(lines) == 2


def test_threads_that_share_a_session_get_their_own_answers(threads: ThreadPoolExecutor) -> None:
    def told(request: Request) -> Reply:
        turn = Turn("guest", 1, 2, trouble=request.args["domain"])
        return Reply(request.id, fields.encode(host_verbs.Turned((turn,))))

    program = FakeProgram(lambda line: messages.encode_reply(told(messages.decode_request(line))), takes=5, gives=5)
    shared = side(program)
    domains = [f"web{number}" for number in range(40)]
    told_to = threads.map(lambda domain: shared.turned(domain)[0].trouble, domains)
    assert list(told_to) == domains
