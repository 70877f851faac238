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


NAMED = "must be 1 to 64 letters, digits, '.', '_' or '-'"


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        ({"v": 1}, "bad-version", "protocol version '1', expected 2"),
        ({"v": "2" * 30}, "bad-version", f"protocol version '{'2' * 20}', expected 2"),
        ({"verb": "rm -rf"}, "bad-verb", f"verb {NAMED}"),
        ({"verb": ["arrive"]}, "bad-verb", f"verb {NAMED}"),
        ({"id": "x" * 65}, "bad-id", f"id {NAMED}"),
        ({"id": "a b"}, "bad-id", f"id {NAMED}"),
        ({"args": [1]}, "bad-args", "args must be an object"),
    ],
)
def test_what_is_off_in_a_request_is_named(change: dict[str, object], code: str, told: str) -> None:
    message = {"v": 2, "id": "a", "verb": "status", "args": {}} | change
    with pytest.raises(ProtocolError) as caught:
        messages.decode_request(json.dumps(message).encode())
    assert (caught.value.code, str(caught.value)) == (code, told)


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        (b"{", "not-json", "line is not JSON"),
        (b"[]", "not-json", "line is not a JSON object"),
        (
            b'{"v":2,"id":"a","ok":true}',
            "bad-reply",
            "a reply has either ok=true and a result, or ok=false and an error",
        ),
        (
            b'{"v":2,"id":"a","ok":false,"error":1}',
            "bad-reply",
            "a reply has either ok=true and a result, or ok=false and an error",
        ),
        (b"x" * 1048577, "too-long", "line of 1048577 bytes is over the limit of 1048576"),
    ],
)
def test_what_is_off_in_a_reply_is_named(line: bytes, code: str, told: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        messages.decode_reply(line)
    assert (caught.value.code, str(caught.value)) == (code, told)


def test_an_error_without_a_word_is_an_error_still() -> None:
    line = b'{"v":2,"id":"a","ok":false,"error":{"code":"no such","text":5}}'
    assert messages.decode_reply(line) == Reply("a", {}, "unknown", "5")
    assert messages.decode_reply(b'{"v":2,"id":"a","ok":false,"error":{}}') == Reply("a", {}, "unknown", "")


def test_a_request_without_arguments_has_none() -> None:
    assert messages.decode_request(b'{"v":2,"id":"a","verb":"status"}') == Request("a", "status", {})


def test_lines_are_bounded_both_ways() -> None:
    with pytest.raises(ProtocolError, match="line of 4097 bytes is over the limit of 4096"):
        messages.decode_request(b" " * (messages.MAX_REQUEST_BYTES + 1))
    with pytest.raises(ProtocolError, match="message of 1048621 bytes is over the limit of 1048576") as caught:
        messages.encode_reply(Reply("a", {"x": "y" * messages.MAX_REPLY_BYTES}))
    assert caught.value.code == "too-long"


def test_a_line_may_be_as_long_as_its_bound() -> None:
    line = b'{"v":2,"id":"a","verb":"status"}'
    assert messages.decode_request(line.ljust(messages.MAX_REQUEST_BYTES)) == Request("a", "status")
    short = len(messages.encode_reply(Reply("a", {"x": ""})))
    reply = Reply("a", {"x": "y" * (messages.MAX_REPLY_BYTES - short)})
    assert messages.decode_reply(messages.encode_reply(reply)) == reply


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
