"""Lines are bounded, fields typed: nothing that another party says gets further than the decoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmacro.wire import messages, names
from vmacro.wire.fields import Address, Choice, FieldError, Items, Matches, Number, Text, Word, decode, encode
from vmacro.wire.framing import LineReader
from vmacro.wire.messages import ProtocolError, Reply, Request, Verb


@dataclass(frozen=True)
class Inner:
    name: Annotated[str, Word(8)]


@dataclass(frozen=True)
class Outer:
    address: Annotated[str, Address()]
    way: Annotated[str, Choice(("up", "down"))] = "up"
    port: Annotated[int, Number(1, 65535)] = 1
    ratio: Annotated[float, Number(0, 1)] = 0.5
    said: Annotated[str, Text(5)] = ""
    path: Annotated[str, Matches("(/[^/]+)+", "a path", 8)] = "/a"
    sure: bool = False
    one: Inner | None = None
    many: Annotated[tuple[Inner, ...], Items(2)] = ()


WHOLE = Outer("10.0.0.1", "down", 80, 1.0, "hallo", "/a/b", True, Inner("a"), (Inner("b"), Inner("c")))
VERB: Verb[Outer, Inner] = Verb("go", Outer, Inner, 1.0)


def test_what_is_encoded_decodes_to_the_same() -> None:
    assert decode(Outer, json.loads(json.dumps(encode(WHOLE)))) == WHOLE
    assert decode(Outer, {"address": "fd00::1"}) == Outer("fd00::1")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"address": None}, "address: must be a string, not null"),
        ({"address": "10.0.0.1/8"}, "address: '10.0.0.1/8' is not an IP address"),
        ({"address": "fd00:0::1"}, "plain form, 'fd00::1'"),
        ({"address": "fe80::1%eth0"}, "address"),
        ({"address": ""}, "address"),
        ({"way": "left"}, "way: 'left' is not one of up, down"),
        ({"port": 0}, "port: must be 1 to 65535"),
        ({"port": 10**400}, "port: must be 1 to 65535"),
        ({"port": 1.0}, "port: must be an integer, not float"),
        ({"port": True}, "port: must be an integer, not bool"),
        ({"ratio": float("nan")}, "ratio: must be 0 to 1"),
        ({"ratio": "1"}, "ratio: must be a number, not str"),
        ({"said": "sixsix"}, "said: must be at most 5 printable"),
        ({"said": "\x1b[1m"}, "said"),
        ({"said": "\ud800"}, "said"),
        ({"path": "/a/"}, "path: '/a/' is not a path"),
        ({"path": "/a\n"}, "path: must be at most 8 printable"),
        ({"path": "/" + "a" * 8}, "path: must be at most 8 printable"),
        ({"sure": 1}, "sure: must be true or false"),
        ({"one": {"name": "a b"}}, "one.name: 'a b' is not a plain word"),
        ({"one": {"name": "a\n"}}, "one.name"),
        ({"one": {}}, "one.name: missing"),
        ({"many": [{"name": "a"}] * 3}, "many: 3 items, at most 2"),
        ({"many": [{"name": "a"}, 1]}, r"many\[1\]: must be an object, not int"),
        ({"many": "ab"}, "many: must be a list, not str"),
        ({"more": 1}, "unknown field 'more'"),
    ],
)
def test_what_is_off_is_named(change: dict[str, object], told: str) -> None:
    with pytest.raises(FieldError, match=told):
        decode(Outer, {"address": "10.0.0.1"} | change)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*encode(WHOLE), "x"]), _json))
def test_any_object_decodes_or_is_refused(data: dict[str, object]) -> None:
    try:
        assert decode(Outer, data) == decode(Outer, encode(decode(Outer, data)))
    except FieldError:
        pass


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(1, 16))
def test_lines_are_the_same_however_they_arrive(chunks: list[bytes], limit: int) -> None:
    pieces, whole = LineReader(limit), LineReader(limit)
    in_pieces = [line for chunk in chunks for line in pieces.feed(chunk)]
    assert in_pieces == whole.feed(b"".join(chunks))
    wanted = [None if len(x) > limit else x for x in b"".join(chunks).split(b"\n")[:-1] if x]
    assert in_pieces == wanted


def test_no_more_than_a_line_is_kept() -> None:
    reader = LineReader(10)
    for _ in range(1000):
        assert reader.feed(b"x" * 100) == []
    assert len(reader._partial) <= 10
    assert reader.feed(b"\nshort\n") == [None, b"short"]


def test_a_partial_line_of_one_sender_is_not_the_next_ones() -> None:
    reader = LineReader(10)
    reader.feed(b"half")
    reader.reset()
    assert reader.feed(b"whole\n") == [b"whole"]


def test_a_verb_types_both_ways() -> None:
    request = messages.decode_request(VERB.request("a1", WHOLE))
    assert VERB.decode_args(request) == WHOLE
    with pytest.raises(ProtocolError, match="port") as caught:
        VERB.decode_args(Request("a1", "go", {"address": "10.0.0.1", "port": "80"}))
    assert caught.value.code == "bad-args"
    assert VERB.decode_result(Reply("a1", {"name": "x"})) == Inner("x")
    with pytest.raises(ProtocolError, match="name") as caught:
        VERB.decode_result(Reply("a1", {"name": 5}))
    assert caught.value.code == "bad-reply"


def test_an_error_text_reaches_people_escaped() -> None:
    line = messages.encode_reply(Reply("a", {}, "kernel", "\x1b[2J\n\ud800" + "x" * 600))
    text = messages.decode_reply(line).error_text
    assert text.startswith("\\x1b[2J\\n\\ud800xxx") and len(text) == 500 and text.isprintable()


def test_an_overlay_is_told_by_its_name() -> None:
    assert names.base_and_id(names.overlay("/images/web.vmacro-1.qcow2", "ab12cd34")) == (
        "/images/web.vmacro-1.qcow2",
        "ab12cd34",
    )
    assert names.base_and_id("/images/web.qcow2") is None
    assert names.base_and_id("/images/web.qcow2.vmacro-ab12.part") is None


def test_so_much_is_heard_while_a_reply_is_waited_for_and_no_more() -> None:
    ways: tuple[tuple[int, Callable[[messages.Hearing], None], str], ...] = (
        (messages.MAX_HEARD_BYTES // 10, lambda heard: heard.more(bytes(10)), "over 4194304 bytes"),
        (messages.MAX_HEARD_LINES, lambda heard: heard.another(), "over 1000 lines"),
    )
    for most, one_more, told in ways:
        heard = messages.Hearing()
        for _ in range(most):
            one_more(heard)
        with pytest.raises(ProtocolError, match=f"{told}, and no answer among them") as caught:
            one_more(heard)
        assert caught.value.code == "flood"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("web.qcow2.vmacro", True), ("web.qcow2.vmacro.new", True), ("web.qcow2", False), ("vmacro.new.qcow2", False)],
)
def test_no_disk_has_the_name_of_a_note(name: str, is_one: bool) -> None:
    assert names.is_base_note(name) == is_one
    assert names.is_base_note(names.base_note("web.qcow2"))
