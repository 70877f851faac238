"""Typed events: their texts and their JSON, which is read again, whoever wrote it; and phases read off them."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest

from vmacro.errors import EventError
from vmacro.model.events import (
    KINDS,
    DomainChanged,
    Event,
    Joined,
    JournalTrouble,
    Note,
    PhaseBegan,
    PhaseEnded,
    PhaseFailed,
    Tunnelled,
    Turned,
    What,
)
from vmacro.model.moves import Phase
from vmacro.services import report
from vmacro.services.event_json import MAX_CHARACTERS, as_plain, decoded, from_plain
from vmacro.wire.text import escaped

DOCS = Path(__file__).parents[2] / "docs/events.md"
SOME: dict[str, Any] = {
    "Phase": Phase.COPY,
    "str": "web",
    "int": 7,
    "int | None": 7,
    "float | None": 1.5,
    "float": 1.5,
    "Side": "source",
    "tuple[str, ...]": ("10.0.0.7", "fd00::7"),
}
ALL = [what(**{field.name: SOME[str(field.type)] for field in fields(what)}) for what in KINDS.values()]


def test_every_kind_is_in_the_table_and_in_the_docs() -> None:
    assert set(KINDS.values()) == set(get_args(What)) and len(KINDS) == len(get_args(What))
    rows = re.findall(r"^\| `([a-z.]+)` \| ([^|]*) \|", DOCS.read_text(), re.MULTILINE)
    assert {kind: data.replace("`", "").strip() for kind, data in rows} == {
        kind: ", ".join(field.name for field in fields(what)) for kind, what in KINDS.items()
    }


@pytest.mark.parametrize("what", ALL, ids=lambda what: type(what).__name__)
def test_what_is_written_is_read_again(what: What) -> None:
    event = Event("web-1", 12, what)
    plain = json.loads(json.dumps(as_plain(event)))
    assert (plain["kind"], plain["text"], plain["move_id"]) == (event.kind, event.text, "web-1")
    assert from_plain(plain) == event


def test_the_shape_that_programs_read() -> None:
    event = Event("web-1", 12, DomainChanged("destination", "b1", "resumed", "migrated"))
    data = {"side": "destination", "host": "b1", "event": "resumed", "detail": "migrated"}
    plain = {"move_id": "web-1", "wall_ns": 12, "kind": "domain", "text": "resumed at b1", "data": data}
    assert as_plain(event) == plain
    assert json.loads(json.dumps(as_plain(Event("", 1, PhaseBegan(Phase.COPY)))))["data"] == {"phase": "copy"}


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (PhaseFailed(Phase.COPY, "no way"), "copy: no way"),
        (Tunnelled(("10.2.0.9",), "vxlan"), "through vxlan (neither encrypted nor authenticated)"),
        (
            Tunnelled(("10.2.0.9", "fd00::9"), "wireguard"),
            "10.2.0.9 and fd00::9 goes to the guest at home, through wireg",
        ),
        (Joined(follow=2, carried=1, unwilling=0), "2 of 3 connections joined"),
        (Turned("b1", "guest", 5, 1500, rescued=3), "within 1.5 ms of its event; 3 packets sent after the guest"),
        (Turned("b1", "guest", 5, 0, trouble="no tap"), "b1 could not turn: no tap"),
    ],
)
def test_texts(what: What, text: str) -> None:
    assert text in what.text


def test_a_field_of_a_newer_version_is_left_out() -> None:
    plain = {**as_plain(Event("m", 1, Note("hello"))), "colour": "red"}
    plain["data"] = {"text": "hello", "loudness": 11}
    assert from_plain(plain) == Event("m", 1, Note("hello"))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("m", 1, "phase.paused", "{}"), "kind: unknown (value: 'phase.paused')"),
        (("m", 1, None, "{}"), "kind: unknown"),
        ((7, 1, "note", "{}"), "move_id"),
        (("m" * 999, 1, "note", "{}"), "move_id"),
        (("m", -1, "note", "{}"), "wall_ns"),
        (("m", 1 << 63, "note", "{}"), "wall_ns"),
        (("m", True, "note", "{}"), "wall_ns"),
        (("m", 1, "note", None), "data of note"),
        (("m", 1, "note", "{}"), "data of note.text"),
        (("m", 1, "note", '{"text": 7}'), "data of note.text"),
        (("m", 1, "note", '{"text": "' + "x" * MAX_CHARACTERS + '"}'), "not JSON of"),
        (("m", 1, "note", "[" * 9999), "data of note"),
        (("m", 1, "note", '{"text": "\\ud800"}'), "data of note"),
        (("m", 1, "note", '{"text": "\ud800'), "data of note"),
        (("m", 1, "phase.begin", '{"phase": "lunch"}'), "data of phase.begin.phase"),
        (("m", 1, "turn", f'{{"host":"b","to":"guest","at_wall_ns":{"9" * 4000},"took_us":1}}'), "at_wall_ns"),
        (("m", 1, "turn", '{"host":"b","to":"guest","at_wall_ns":true,"took_us":1}'), "at_wall_ns"),
    ],
)
def test_what_is_no_event_is_a_clear_and_short_error(row: tuple[Any, ...], said: str) -> None:
    with pytest.raises(EventError, match=re.escape(said)) as raised:
        decoded(*row)
    assert len(raised.value.message) < 300


@pytest.mark.parametrize("item", [None, [], "note", {}, {"kind": ["note"]}])
def test_what_is_not_even_an_object(item: object) -> None:
    with pytest.raises(
        EventError, match=r"^event: (not an object \(value: |move_id: no name of a move \(value: 'None')"
    ):
        from_plain(item)


def test_a_kind_that_nobody_knows_may_be_a_newer_one() -> None:
    with pytest.raises(EventError) as raised:
        decoded("m", 1, "phase.paused", "{}")
    assert raised.value.hint == "a newer vmacro may know it"


def test_the_largest_numbers_and_names_of_an_event_are_taken() -> None:
    assert decoded("m" * 200, 0, "note", '{"text": "x"}') == Event("m" * 200, 0, Note("x"))
    assert decoded("m", (1 << 63) - 1, "note", '{"text": "x"}').wall_ns == (1 << 63) - 1
    room = MAX_CHARACTERS - len('{"text": ""}')
    assert decoded("m", 1, "note", '{"text": "' + "x" * room + '"}') == Event("m", 1, Note("x" * room))


def test_text_of_strangers_cannot_rule_a_terminal() -> None:
    assert escaped("a\x1b[2Jb\r\n\u202e\ud800é") == "a\\x1b[2Jb\\r\\n\\u202e\\ud800é"
    plain = as_plain(Event("m", 1, Note("bad \ud800")))
    assert plain["text"] == plain["data"]["text"] == "bad \\ud800"


def _at(*told: tuple[int, What]) -> list[Event]:
    return [Event("m", at, what) for at, what in told]


def test_phases_of_a_move_that_was_cut_off_and_resumed() -> None:
    """What an attempt only reads in the journal took no time; what it does once more counts as it was last."""
    copy, arrive = Phase.COPY, Phase.ARRIVE
    first = _at((1, PhaseBegan(copy)), (9, PhaseEnded(copy)), (9, PhaseBegan(arrive)))
    second = _at((50, PhaseBegan(copy)), (50, PhaseEnded(copy)), (51, PhaseBegan(arrive)), (55, PhaseEnded(arrive)))
    assert [(s.name, s.start_ns, s.end_ns) for s in report.spans(first + second)] == [
        ("copy", 1, 9),
        ("arrive", 51, 55),
    ]


def test_a_phase_that_failed_and_is_under_way_again_has_no_span_yet() -> None:
    failed = _at((1, PhaseBegan(Phase.COPY)), (2, PhaseFailed(Phase.COPY, "x")), (3, JournalTrouble(Phase.COPY, "y")))
    assert [s.name for s in report.spans(failed)] == ["copy"]
    assert report.spans([*failed, *_at((5, PhaseBegan(Phase.COPY)))]) == []
