"""What a row of the journal says: each field of all that is kept there, with anything in it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from typing import Any

import pytest
from dbos._serialization import DefaultSerializer
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile import is_harmless, replaced, whole
from tests.unit.test_agent_driver import ARRIVAL, CONNECTIONS, ENDINGS
from tests.unit.test_enumeration import WITH_DISK, stage
from vmacro.errors import AgentError, ClaimedError, JournalError, VmacroError
from vmacro.model.copies import Forecast
from vmacro.model.facts import CopyStatistics, Flows, Lingering
from vmacro.model.moves import (
    After,
    Before,
    Carriage,
    ConnectionOutcome,
    Ending,
    FlowsOutcome,
    Noted,
    Outcome,
    Phase,
    Verdict,
)
from vmacro.model.nouns import Host, ProbeTarget
from vmacro.services import journal_json
from vmacro.services.serializer import Json

STAGE = stage(WITH_DISK)
GUEST = replace(
    STAGE.plan.guest, probe=ProbeTarget("here"), names=("www.example.net",), taken_as_reached=("10.50.2.10",)
)


def translated(found: Any) -> Any:
    """With what clients know addresses of hosts as, wherever a host is."""
    if isinstance(found, tuple):
        return tuple(map(translated, found))
    if not dataclasses.is_dataclass(found) or isinstance(found, type):
        return found
    if isinstance(found, Host):
        return replace(found, public=(("10.50.2.9", "203.0.113.9"),))
    return replace(found, **{f.name: translated(getattr(found, f.name)) for f in dataclasses.fields(found)})


NAMED = replace(STAGE.plan, guest=GUEST, address6="fd00:1::9", linger_s=60.0, lingering=(Lingering("10.1.0.7", 9.5),))
FORECAST = Forecast(1, 2.5, 3, 4.5, "why")
PLAN = translated(replace(NAMED, earlier_legs=NAMED.old_legs, forecast=FORECAST))
FLOWS = Flows("10.1.0.7", 3, 1)
KEPT = ConnectionOutcome("0x1", "10.9.0.14:4000", True, Verdict.FOLLOWED, "why")
OUTCOME = Outcome(Ending.MOVED, "why", "what", CopyStatistics(1, 2, 3, 4), ARRIVAL, (KEPT,), 1.5, ("10.1.0.7",), True)
OUTCOME = replace(OUTCOME, flows=(FlowsOutcome(FLOWS, Flows("10.1.0.7", 2), True),))
CARRIAGE = Carriage("web-1", GUEST, "10.1.0.7", PLAN.source, PLAN.destination, PLAN.old_legs[0], 1.0, 2.0, 1.5)
BEFORE = Before("boot-1", CONNECTIONS.connections, "w-1", (FLOWS,), ("10.1.0.7",))
AFTER = After(CONNECTIONS.connections, ("10.1.0.7",), ENDINGS, (FLOWS,))
EXAMPLES: dict[str, Any] = {
    "Plan": PLAN,
    "Outcome": OUTCOME,
    "Carriage": CARRIAGE,
    "Before": BEFORE,
    "After": AFTER,
    "Arrival": ARRIVAL,
    "CopyStatistics": OUTCOME.statistics,
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_what_is_written_is_read_again(kind: str) -> None:
    right = EXAMPLES[kind]
    assert whole(right), "a field that no example has would go untested"
    written = json.loads(Json().serialize(journal_json.encoded(right)))
    assert journal_json.decoded(type(right), written, "it") == right


def test_an_outcome_from_before_there_were_verdicts_is_read() -> None:
    kinds = ((True, True, False), (True, False, True), (True, False, False), (False, False, False))
    old = [{"key": "0x1", "client": "c", "mptcp": True, "kept": k, "followed": f, "carried": c} for k, f, c in kinds]
    read = journal_json.outcome_from({**journal_json.encoded(OUTCOME), "connections": old}, "it")
    expected = [Verdict.FOLLOWED, Verdict.CARRIED, Verdict.UNKNOWN, Verdict.UNKNOWN]
    assert [c.verdict for c in read.connections] == expected
    assert [c.why for c in read.connections] == ["", "", "it had no address that was reached", "it was gone"]


@pytest.mark.parametrize("kind", EXAMPLES)
def test_no_field_with_anything_in_it_does_more_than_be_refused(kind: str) -> None:
    """Or it is within bounds, and in words that rule no terminal."""
    right, refused = EXAMPLES[kind], 0
    for place, odd, plain in replaced(right):
        try:
            read = journal_json.decoded(type(right), plain, "it")
        except JournalError as error:
            refused += 1
            assert is_harmless(error.message) and len(error.message) < 500, (place, odd)
        else:
            assert all(text.isprintable() for text in _texts(read)), (place, odd)
            assert all(abs(number) < 1 << 64 for number in _numbers(read)), (place, odd)
    assert refused


def test_of_every_step_it_is_known_what_it_gives() -> None:
    for phase in Phase:
        with pytest.raises(JournalError, match="it cannot be read"):
            journal_json.result_from(phase.value, {"x": 1}, "it")
    with pytest.raises(JournalError, match="no step of a move is called 'lunch'"):
        journal_json.result_from("lunch", True, "it")
    assert journal_json.result_from("verify", True, "it") is True


@pytest.mark.parametrize("error", [AgentError("a", "b"), ClaimedError("c"), JournalError("d\x1b[2J", "e\n")])
def test_errors_come_back_as_what_they_were(error: VmacroError) -> None:
    text = Json().serialize(error)
    back = Json().deserialize(text)
    assert type(back) is type(error) and isinstance(back, VmacroError)
    assert back.message == error.message and is_harmless(str(back))
    noted = journal_json.noted_from(
        json.loads(Json().serialize(journal_json.noted_as_plain(Noted("copy", error=error)))), "it"
    )
    assert type(noted.error) is type(error)


def test_a_step_that_is_none_is_named() -> None:
    with pytest.raises(JournalError, match=r"^it cannot be read: a step is no object"):
        journal_json.noted_from(["copy"], "it")
    with pytest.raises(JournalError, match=r"^it cannot be read: began_ms"):
        journal_json.noted_from({"name": "copy", "began_ms": "x"}, "it")
    with pytest.raises(JournalError, match=r"^the journal: an error cannot be read: message: must be a string"):
        journal_json.error_from({"__error__": "AgentError", "message": 7})


def test_what_does_not_belong_in_the_journal_is_not_written() -> None:
    with pytest.raises(TypeError, match=r"^object does not belong in the journal"):
        Json().serialize({"x": object()})


def test_a_pickle_is_told_and_not_read() -> None:
    told = "a value of the journal is a pickle; it was not read\n  hint: nothing of vmacro's writes any"
    with pytest.raises(JournalError, match=told):
        DefaultSerializer().deserialize("gASVBQAAAAAAAACMAXiULg==")
    with pytest.raises(JournalError, match=r"^a value of the journal cannot be read: it is not JSON: '{'"):
        Json().deserialize("{")


@pytest.mark.parametrize("kind", ["KeyError", "SystemExit", "os.system", "JournalError2", ""])
def test_an_error_that_is_not_ours_is_none_of_any_class(kind: str) -> None:
    back = Json().deserialize(json.dumps({"__error__": kind, "message": "said", "hint": ""}))
    assert type(back) is VmacroError and back.message == f"{kind}: said"


@given(
    st.dictionaries(
        st.sampled_from(["__error__", "message", "hint", "x"]),
        st.none() | st.integers() | st.text() | st.lists(st.text()),
    )
)
def test_no_error_of_a_row_raises_another(data: dict[str, object]) -> None:
    try:
        error = journal_json.error_from(data)
    except JournalError as refused:
        error = refused
    assert is_harmless(str(error))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "1" * 10_000, "\ud800", None, 7, b"{}"])
def test_what_is_no_json_is_told(text: Any) -> None:
    with pytest.raises(JournalError, match="it cannot be read") as told:
        journal_json.loaded(text, "it")
    assert is_harmless(told.value.message) and len(told.value.message) < 200


@pytest.mark.parametrize(
    ("kind", "odd", "why"),
    [(float, "x", "must be a number"), (bool, "yes", "must be true or false"), (str, 7, "must be")],
)
def test_a_value_that_is_itself_wrong_has_no_place(kind: type, odd: object, why: str) -> None:
    with pytest.raises(JournalError, match=rf"\Ait cannot be read: {why}"):
        journal_json.decoded(kind, odd, "it")


def test_what_is_too_long_is_not_parsed() -> None:
    with pytest.raises(JournalError, match="no text of at most"):
        journal_json.loaded(" " * (journal_json.MAX_CHARACTERS + 1), "it")


def test_a_plan_for_a_handoff_that_nobody_knows() -> None:
    with pytest.raises(JournalError, match="handoff: 'teleport' is unknown"):
        journal_json.plan_from(journal_json.encoded(replace(PLAN, handoff="teleport")), "it")


def _texts(value: Any) -> list[str]:
    return [found for found in _leaves(value) if isinstance(found, str)]


def _numbers(value: Any) -> list[float]:
    return [found for found in _leaves(value) if isinstance(found, (int, float))]


def _leaves(value: Any) -> list[Any]:
    if dataclasses.is_dataclass(value):
        return [leaf for f in dataclasses.fields(value) for leaf in _leaves(getattr(value, f.name))]
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, tuple) else [value]
