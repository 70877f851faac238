"""The protocol takes nothing for granted."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest_agent.channel import answer
from vmacro.wire import messages
from vmacro.wire.messages import ProtocolError, Reply, Request


def test_a_request_survives_the_wire() -> None:
    request = Request("a1", "retire", {"address": "10.0.0.1"})
    assert messages.decode_request(messages.encode_request(request)) == request


def test_replies_survive_the_wire() -> None:
    for reply in (Reply("a", {"x": [1]}), Reply("a", {}, "no-lease", "no DHCP")):
        assert messages.decode_reply(messages.encode_reply(reply)) == reply


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"v": 1}, "bad-version"),
        ({"v": "2"}, "bad-version"),
        ({"verb": "rm -rf"}, "bad-verb"),
        ({"verb": ["arrive"]}, "bad-verb"),
        ({"id": "x" * 65}, "bad-id"),
        ({"id": "a b"}, "bad-id"),
        ({"args": [1]}, "bad-args"),
    ],
)
def test_what_is_off_is_named(change: dict[str, object], code: str) -> None:
    message = {"v": 2, "id": "a", "verb": "status", "args": {}} | change
    with pytest.raises(ProtocolError) as caught:
        messages.decode_request(json.dumps(message).encode())
    assert caught.value.code == code


def test_lines_are_bounded_both_ways() -> None:
    with pytest.raises(ProtocolError, match="over the limit"):
        messages.decode_request(b" " * (messages.MAX_REQUEST_BYTES + 1))
    with pytest.raises(ProtocolError, match="over the limit"):
        messages.encode_reply(Reply("a", {"x": "y" * messages.MAX_REPLY_BYTES}))


@given(st.binary(max_size=5000))
def test_any_bytes_decode_or_raise_the_protocols_error(line: bytes) -> None:
    for decode in (messages.decode_request, messages.decode_reply):
        try:
            decode(line)
        except ProtocolError:
            pass


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["v", "id", "verb", "args", "ok", "result", "error"]), _json))
def test_any_object_decodes_or_raises_the_protocols_error(message: dict[str, object]) -> None:
    line = json.dumps(message).encode()
    for decode in (messages.decode_request, messages.decode_reply):
        try:
            decode(line)
        except ProtocolError:
            pass


@pytest.mark.parametrize("depth", [*range(930, 1000), 200_000])
def test_deep_nesting_is_no_crash(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    for line in (nested, b'{"v":%s}' % nested, b'{"v":2,"id":"a","ok":false,"error":{"code":"c","text":%s}}' % nested):
        try:
            messages.decode_reply(line)
        except ProtocolError:
            pass


async def _status(request: Request) -> Reply:
    return Reply(request.id, {"verb": request.verb})


async def _bug(_request: Request) -> Reply:
    raise ZeroDivisionError("oops")


def test_the_channel_answers_even_nonsense_and_bugs() -> None:
    good = messages.encode_request(Request("a", "status"))
    assert messages.decode_reply(asyncio.run(answer(good, _status))).result == {"verb": "status"}
    assert messages.decode_reply(asyncio.run(answer(b"nonsense", _status))).error_code == "not-json"
    assert messages.decode_reply(asyncio.run(answer(None, _status))).error_code == "too-long"
    assert messages.decode_reply(asyncio.run(answer(good, _bug))).error_code == "internal"
