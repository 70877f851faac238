"""What a guest says is refused in one place, and keeps nobody: the driver of its agent, over a hostile byte stream."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from tests.hostile import HOSTILE, replaced, whole
from vmacro.drivers.agent import ChannelAgent
from vmacro.errors import AgentError
from vmacro.model.facts import Arrival, Claim, Connection, Subflow
from vmacro.wire import agent_verbs, fields, messages
from vmacro.wire.agent_verbs import BRIEF_S, LOOK_S, Lease, Status
from vmacro.wire.messages import MAX_REPLY_BYTES

STATUS = Status(
    agent="0.1.0",
    boot_id="f5d6",
    kernel="6.12",
    hostname="web",
    uptime_s=60.5,
    interface="eth0",
    mac="52:54:00:00:00:01",
    lease=Lease("10.1.0.9", 24, "10.1.0.1", "10.1.0.1", 3600),
    address6="fd00:1::9",
    extra_addresses=("10.2.0.9",),
    verbs=("arrive", "claim"),
    claim=Claim("web-1", "me@here", 3.5),
    rp_filter=2,
    endpoints=("10.1.0.9", "10.2.0.9"),
)
SUBFLOW = Subflow("10.1.0.9", 7000, "10.9.0.14", 40001, False, False, True, 99)
CONNECTIONS = agent_verbs.Connections((Connection(1, (SUBFLOW,), True), Connection(0, (SUBFLOW,))), 2)
ENDED = agent_verbs.Ended("0x00000001", "10.9.0.14:40001", agent_verbs.RESET, True)
ENDINGS = agent_verbs.Endings("w-1", False, (ENDED,), 1)
PAGE = agent_verbs.Page(CONNECTIONS.connections, 2, "page-1")
COUNTS = agent_verbs.Counts(9, 5, 4, 1, 2, 3, agent_verbs.Beyond(1, 2, 3, 4, 5), "w-1", 12)
ARRIVAL = Arrival("channel", "10.1.0.9", "10.2.0.9", "10.2.0.1", 2, 300, 400, "fd00:1::9", "fd00:2::9")
CLAIM = Claim("web-1", "me@here", 0.0)
Call = Callable[[ChannelAgent], object]
CALLS: dict[str, tuple[Call, Any]] = {
    "status": (lambda a: a.status(), STATUS),
    "claim": (lambda a: a.claim("web-1", "me@here", 60), CLAIM),
    "release": (lambda a: a.release("web-1"), messages.Nothing()),
    "connections": (lambda a: a.connections(), CONNECTIONS),
    "page": (lambda a: a.all_connections(), PAGE),
    "consent": (lambda a: a.consent(1500), CONNECTIONS),
    "watch": (lambda a: a.watch(), dataclasses.replace(CONNECTIONS, watch="w-1")),
    "endings": (lambda a: a.endings(), ENDINGS),
    "count": (lambda a: a.count(agent_verbs.CountArgs(("10.2.0.9",), ("10.1.0.9",), True, ("10.1.0.9",))), COUNTS),
    "prepare": (lambda a: a.prepare("10.2.0.9", "fd00:2::9"), messages.Nothing()),
    "arrive": (lambda a: a.arrive("10.1.0.9"), ARRIVAL),
    "retire": (lambda a: a.retire("10.1.0.9"), agent_verbs.Retired(True, 0)),
    "drop": (lambda a: a.drop_page_cache(), agent_verbs.Dropped(12)),
    "publish": (lambda a: a.publish("10.1.0.9", "203.0.113.9"), messages.Nothing()),
}


class Guest:
    """Implements ports.AgentStream: what `says` gives for a request comes back; a receive takes `takes_s`."""

    def __init__(self, says: Callable[[dict[str, Any]], Iterator[bytes]], takes_s: float = 0.0) -> None:
        self._says, self._takes_s = says, takes_s
        self._speech: Iterator[bytes] = iter(())
        self.now_s = 0.0
        self.received = 0

    def send(self, data: bytes, deadline_s: float) -> None:
        self._speech = self._says(json.loads(data))

    def recv(self, deadline_s: float) -> bytes:
        self.now_s += self._takes_s
        said = next(self._speech, None)
        if said is None:
            self.now_s = deadline_s
            raise TimeoutError
        self.received += len(said)
        return said

    def agent(self) -> ChannelAgent:
        return ChannelAgent("web", self, lambda: self.now_s)


def reply(request: dict[str, Any], result: object, **change: object) -> bytes:
    message = {"v": messages.VERSION, "id": request["id"], "ok": True, "result": result} | change
    return json.dumps(message).encode() + b"\n"


def saying(result: object, **change: object) -> ChannelAgent:
    return Guest(lambda request: iter([reply(request, result, **change)])).agent()


@pytest.mark.parametrize("verb", CALLS)
def test_what_is_right_is_understood(verb: str) -> None:
    call, right = CALLS[verb]
    call(saying(fields.encode(right)))


def test_what_is_understood_is_what_was_said() -> None:
    facts = saying(fields.encode(STATUS)).status()
    assert (facts.version, facts.address, facts.gateway, facts.claim) == ("0.1.0", "10.1.0.9", "10.1.0.1", STATUS.claim)
    same = [f.name for f in dataclasses.fields(facts) if f.name not in ("version", "address", "gateway")]
    assert all(getattr(facts, name) == getattr(STATUS, name) for name in same)
    assert saying(fields.encode(CONNECTIONS)).connections() == CONNECTIONS.connections
    assert saying(fields.encode(ARRIVAL)).arrive("10.1.0.9") == ARRIVAL
    assert saying({"retired": False, "stuck": 3}).retire("10.1.0.9") is False


def test_a_guest_without_a_lease_or_a_claim() -> None:
    facts = saying(fields.encode(dataclasses.replace(STATUS, lease=None, claim=None))).status()
    assert (facts.address, facts.gateway, facts.claim) == ("", "", None)


def test_a_connection_that_is_ending_is_left_out() -> None:
    assert saying({"connections": [{"token": 7, "subflows": []}], "total": 1}).connections() == ()


@pytest.mark.parametrize("verb", CALLS)
def test_no_field_with_anything_in_it_does_more_than_be_refused(verb: str) -> None:
    """Either it is within the field's bounds, or AgentError names the guest; in printable words, and not too many."""
    call, right = CALLS[verb]
    assert whole(right), "a field that no example has would go untested"
    refused = 0
    for place, odd, said in replaced(right):
        try:
            call(saying(said))
        except AgentError as error:
            text = error.message
            refused += 1
            assert text.startswith("guest web: its agent ") and text.isprintable() and len(text) < 1000, (place, odd)
    assert refused


@pytest.mark.parametrize("verb", [v for v in CALLS if v not in ("release", "prepare")])
def test_no_field_may_be_missing_and_none_be_added(verb: str) -> None:
    call, right = CALLS[verb]
    plain = fields.encode(right)
    required = {f.name for f in dataclasses.fields(right) if f.default is dataclasses.MISSING}
    for name in required:
        with pytest.raises(AgentError, match=f"something odd to '{verb}': {name}: missing"):
            call(saying({k: v for k, v in plain.items() if k != name}))
    with pytest.raises(AgentError, match="unknown field 'more'"):
        call(saying({**plain, "more": 1}))


def test_more_than_the_bounds_is_refused() -> None:
    crowd = [fields.encode(Connection(0, ()))] * (agent_verbs.MAX_CONNECTIONS + 1)
    with pytest.raises(AgentError, match="connections: 2049 items, at most 2048"):
        saying({"connections": crowd, "total": 1}).connections()


def test_all_connections_are_read_by_pages_that_end() -> None:
    """However many the guest says there are."""
    asked: list[tuple[str, int]] = []

    def says(request: dict[str, Any]) -> Iterator[bytes]:
        args = request["args"]
        asked.append((args["snapshot"], args["at"]))
        one = Connection(args["at"] + 1, (SUBFLOW,))
        yield reply(request, fields.encode(dataclasses.replace(PAGE, connections=(one,) * last, total=1 << 50)))

    last = agent_verbs.MAX_CONNECTIONS
    found = Guest(says).agent().all_connections()
    assert len(found) == agent_verbs.MOST_LISTED and len(asked) == agent_verbs.MOST_LISTED // last
    assert asked[:3] == [("", 0), ("page-1", last), ("page-1", 2 * last)]
    asked.clear()
    last = 7
    assert len(Guest(says).agent().all_connections()) == 7 and asked == [("", 0)]


def test_a_refusal_is_told_with_its_code() -> None:
    guest = saying(None, ok=False, error={"code": "claimed", "text": "by another\x1b[2J"})
    with pytest.raises(AgentError, match=r"guest web: agent refused 'claim': by another\\x1b") as refused:
        guest.claim("web-1", "me@here", 60)
    assert refused.value.code == "claimed"


@pytest.mark.parametrize("odd", HOSTILE)
def test_odd_refusals_are_agent_errors_too(odd: object) -> None:
    for error in (odd, {"code": odd, "text": "x"}, {"code": "x", "text": odd}):
        with pytest.raises(AgentError):
            saying(None, ok=False, error=error).status()


def test_an_agent_of_another_version_says_what_to_do() -> None:
    with pytest.raises(AgentError, match="protocol version '1', expected 2") as refused:
        saying({}, v=1).status()
    assert "install the agent" in refused.value.hint


def test_others_replies_and_nonsense_are_passed_over() -> None:
    def says(request: dict[str, Any]) -> Iterator[bytes]:
        yield reply({"id": "of-an-earlier-caller"}, {})
        yield b"\x00\xff\n[]\n\n" + b"[" * 3000 + b"\n"
        right = reply(request, fields.encode(STATUS))
        yield right[:10]
        yield right[10:]

    assert Guest(says).agent().status().hostname == "web"


@pytest.mark.parametrize(
    "flood",
    [b"\n", b"\n" * 9000, b"[]\n" * 90, reply({"id": "another"}, {}) * 100, b"x", b""],
    ids=["empty line", "empty lines", "nonsense", "replies to nobody", "a line without an end", "nothing"],
)
@pytest.mark.parametrize(("verb", "seconds"), [("status", BRIEF_S), ("consent", LOOK_S + 1.5), ("arrive", 45)])
def test_a_guest_that_never_ends_keeps_nobody_past_the_deadline(flood: bytes, verb: str, seconds: float) -> None:
    def says(_request: dict[str, Any]) -> Iterator[bytes]:
        while flood:
            yield flood

    guest = Guest(says, takes_s=0.5)
    silent = f"does not answer \\('{verb}', {seconds:g} s\\)"
    with pytest.raises(AgentError, match=f"{silent}|over 1000 lines, and no answer among them") as ended:
        CALLS[verb][0](guest.agent())
    assert ended.value.code in ("silent", "flood") and guest.now_s <= seconds + 0.5


def test_the_deadline_is_looked_at_between_lines_too() -> None:
    """One receive may bring as many as are put up with."""
    guest = Guest(lambda _request: iter([b"[]\n" * 1000]))
    looked = iter(range(10_000))
    agent = ChannelAgent("web", guest, lambda: next(looked) / 20)
    with pytest.raises(AgentError, match="does not answer"):
        agent.status()
    assert next(looked) < BRIEF_S / 0.05 + 10, "at 0.05 s a look"


def test_a_line_over_the_bound_ends_the_call() -> None:
    guest = Guest(lambda _request: iter([b"x" * (MAX_REPLY_BYTES + 1) + b"\n"]))
    with pytest.raises(AgentError, match=f"a line of over {MAX_REPLY_BYTES} bytes"):
        guest.agent().status()


def test_a_line_without_an_end_is_not_kept() -> None:
    guest = Guest(lambda _request: iter([b"x" * (1 << 16)] * 200))
    agent = guest.agent()
    with pytest.raises(AgentError):
        agent.status()
    kept = cast(Any, agent)._reader._partial
    assert guest.received > 4 * MAX_REPLY_BYTES and len(kept) <= MAX_REPLY_BYTES


def test_every_verb_of_the_wire_is_called() -> None:
    assert set(CALLS) == set(agent_verbs.VERBS)
