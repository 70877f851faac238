"""What the journal tells of moves, attempts, steps and carriages, by rows that were written by hand (ledger.py).
test_strange_rows.py holds this reading to DBOS's own, and has rows of strangers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.ledger import Ledger
from tests.unit.test_enumeration import stage
from vmacro.errors import CopyError, JournalError
from vmacro.model.batches import Became, PlannedMove, Try
from vmacro.model.copies import CopyStatistics, PastCopy
from vmacro.model.facts import HomedAddress, Lingering
from vmacro.model.moves import Carriage, Ending, Noted, Outcome, Plan
from vmacro.model.nouns import Compression
from vmacro.planning.handoffs import SEAMLESS
from vmacro.services import upkeep
from vmacro.services.archive import MOST_COPIES, Archive, Record, Unreadable, UnreadableCarriage
from vmacro.services.journal_json import encoded
from vmacro.services.journal_rows import CARRY, MIGRATE, MOST_ROWS, StepRow, Value

FOUND = stage(SEAMLESS)
PLAN = replace(FOUND.plan, move_id="web-20261127-120000-0001")
MOVED = Outcome(Ending.MOVED, statistics=CopyStatistics(120, 9000, 150 << 20, 2))
ROLLED_BACK = Outcome(Ending.ROLLED_BACK)
LEFT_WORK = Outcome(Ending.INCOMPLETE, remains=True)
CARRIAGE = Carriage(PLAN.move_id, PLAN.guest, "10.50.1.97", PLAN.source, PLAN.destination, None, 1.0, 9.0)


def named(number: int, guest: str = "web") -> Plan:
    """The plan of a guest's move."""
    return replace(PLAN, move_id=f"{guest}-20261127-{number:06}-00aa", guest=replace(PLAN.guest, name=guest))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


@pytest.fixture
def archive(ledger: Ledger) -> Iterator[Archive]:
    with closing(ledger.archive()) as found:
        yield found


def ids(records: list[Record | Unreadable] | list[Record]) -> list[str]:
    return [record.move_id for record in records]


# Rows


def test_workflows_are_read_newest_first(ledger: Ledger) -> None:
    for name, at_ms in (("b", 5), ("a", 9), ("a+2", 5), ("c", 7)):
        ledger.workflow("migrate", name, at_ms=(at_ms, at_ms + 1))
    ledger.workflow("carry", "z", at_ms=(6, 7))
    rows = ledger.rows()
    assert [row.name for row in rows.workflows("migrate")] == ["a", "c", "a+2", "b"], "of one moment the longer name"
    assert [row.name for row in rows.workflows("migrate", 2)] == ["a", "c"]
    assert [row.name for row in rows.workflows("carry")] == ["z"] and [*rows.workflows("try")] == []


def test_no_question_brings_more_rows_than_anybody_reads(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmacro.services.journal_rows.MOST_ROWS", 2)
    for number in range(4):
        ledger.workflow("migrate", f"a+{number}", at_ms=(number, number))
        ledger.step("a+1", number, "survey")
    rows = ledger.rows()
    assert len([*rows.workflows("migrate", MOST_ROWS)]) == len([*rows.executions("migrate", "a")]) == 2
    assert len([*rows.these("migrate", [f"a+{number}" for number in range(4)])]) == 2
    assert len([*rows.steps("a+1")]) == 2


def test_workflows_are_chosen_by_how_their_names_begin_and_how_they_stand(ledger: Ledger) -> None:
    for name, status in (("web-1", "PENDING"), ("web-2", "SUCCESS"), ("we", "PENDING"), ("weba", "ERROR"), ("x", "")):
        ledger.workflow("migrate", name, status=status)
    rows = ledger.rows()
    assert {row.name for row in rows.workflows("migrate", prefix="web")} == {"web-1", "web-2", "weba"}
    assert {row.name for row in rows.workflows("migrate", prefix="web-")} == {"web-1", "web-2"}
    assert {row.name for row in rows.workflows("migrate", statuses=("PENDING", "ERROR"))} == {"web-1", "we", "weba"}
    assert [row.name for row in rows.workflows("migrate", prefix="web-", statuses=("PENDING",))] == ["web-1"]


@pytest.mark.parametrize("odd", ["%", "_", "/"])
def test_no_letter_of_a_name_stands_for_others(ledger: Ledger, odd: str) -> None:
    for name in (f"a{odd}-1", "aa-2", "a-3"):
        ledger.workflow("migrate", name)
    assert [row.name for row in ledger.rows().workflows("migrate", prefix=f"a{odd}")] == [f"a{odd}-1"]


def test_of_many_names_all_are_found(ledger: Ledger) -> None:
    wanted = [f"w-{number}" for number in range(1001)]
    for name in (wanted[0], wanted[499], wanted[500], wanted[1000], "other"):
        ledger.workflow("try", name)
    ledger.workflow("carry", wanted[1])
    found = [row.name for row in ledger.rows().these("try", wanted)]
    assert sorted(found) == sorted((wanted[0], wanted[499], wanted[500], wanted[1000]))


def test_executions_are_a_move_and_its_further_attempts(ledger: Ledger) -> None:
    for name, at_ms in (("web-1", 1), ("web-1+2", 2), ("web-1+10", 2), ("web-10", 4), ("web-1-x+2", 5)):
        ledger.workflow("migrate", name, at_ms=(at_ms, at_ms))
    ledger.workflow("carry", "web-1+3")
    assert [row.name for row in ledger.rows().executions("migrate", "web-1")] == ["web-1+10", "web-1+2", "web-1"]


def test_a_workflows_row_is_read_as_it_is(ledger: Ledger) -> None:
    ledger.workflow("try", "a", {"x": 1}, 2, status="PENDING", output=[3], at_ms=(1_700_000_000_000, 7), executor="w")
    ledger.workflow("try", "b", at_ms=(1, 2), executor="")
    ledger.write("UPDATE workflow_status SET executor_id = NULL WHERE workflow_uuid = 'b'")
    first, second = ledger.rows().workflows("try")
    assert (first.name, first.status, first.executor) == ("a", "PENDING", "w")
    assert (first.began_ms, first.ended_ms) == (1_700_000_000_000, 7)
    assert (first.inputs.loaded("it"), first.output.loaded("it")) == ({"args": [{"x": 1}, 2], "kwargs": {}}, [3])
    assert (second.executor, second.output.loaded("it")) == ("", None)


@pytest.mark.parametrize(
    ("written", "read"),
    [("99999999999999", 99_999_999_999_999), ("100000000000000", 0), ("-1", 0), ("1.5", 0), ("x", 0), ("\u0661", 0)],
)
def test_a_time_that_no_clock_has_is_none(ledger: Ledger, written: str, read: int) -> None:
    ledger.workflow("try", "a")
    ledger.write("UPDATE workflow_status SET created_at = ?, updated_at = ?", written, written)
    (row,) = ledger.rows().workflows("try")
    assert (row.began_ms, row.ended_ms) == (read, read)


def test_texts_of_rows_have_bounds(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmacro.services.journal_rows.MAX_CHARACTERS", 1000)
    ledger.workflow("try", "n" * 300, "i" * 2000, status="s" * 300, output="o" * 2000, executor="e" * 300)
    ledger.step("n" * 300, 1, "f" * 300, "o" * 2000, "e" * 2000)
    rows = ledger.rows()
    (row,), (step,) = rows.workflows("try"), rows.steps("n" * 300)
    assert [len(text) for text in (row.name, row.status, row.executor, step.name)] == [200] * 4
    values = (row.inputs, row.output, step.output, step.error)
    assert [len(str(value.text)) for value in values] == [1001] * 4, "one more than is read: so it is seen as too long"


def test_steps_are_read_in_their_order_but_for_those_that_began_others(ledger: Ledger) -> None:
    ledger.workflow("migrate", "web-1")
    ledger.step("web-1", 3, "copy", {"x": 1}, at_ms=(5, 6))
    ledger.step("web-1", 1, "survey", error={"kind": "CopyError"}, at_ms=(3, 4))
    ledger.step("web-1", 2, "carry", begins="carry-1")
    ledger.step("web-2", 1, "survey")
    survey, copy = ledger.rows().steps("web-1")
    assert survey == StepRow("survey", Value(None, "vmacro_json"), Value('{"kind": "CopyError"}', "vmacro_json"), 3, 4)
    assert copy == StepRow("copy", Value('{"x": 1}', "vmacro_json"), Value(None, "vmacro_json"), 5, 6)


def test_rows_that_no_release_would_have_written_differently_are_read(ledger: Ledger) -> None:
    """DBOS had inputs and outputs in the workflow's own row once, and names no serialization where it is its own."""
    ledger.workflow("migrate", "old")
    ledger.write("DELETE FROM workflow_input")
    ledger.write("UPDATE workflow_status SET inputs = '[1]', output = '[2]', serialization = NULL")
    (row,) = ledger.rows().workflows("migrate")
    assert (row.inputs.loaded("it"), row.output.loaded("it")) == ([1], [2])


def test_what_is_written_as_something_else_is_not_read() -> None:
    with pytest.raises(JournalError, match=r"it cannot be read: it is written as 'p{40}'\Z".replace("p{40}", "p" * 40)):
        Value("{}", "p" * 50).loaded("it")
    assert Value(None, "pickle").loaded("it") is None


# Moves


def test_moves_are_listed_newest_first_and_no_more_than_were_asked_for(ledger: Ledger, archive: Archive) -> None:
    for number in range(1, 5):
        ledger.attempt(named(number), MOVED, at_ms=(number, number))
    assert ids(archive.moves()) == [named(number).move_id for number in (4, 3, 2, 1)]
    assert ids(archive.moves(2)) == [named(4).move_id, named(3).move_id]


def test_of_a_move_with_many_attempts_the_others_are_listed_too(ledger: Ledger, archive: Archive) -> None:
    ledger.attempt(named(1), MOVED)
    for attempt in range(1, 4):
        ledger.attempt(named(2), LEFT_WORK, attempt, at_ms=(10 + attempt, 20))
    assert ids(archive.moves(2)) == [named(2).move_id, named(1).move_id]


def test_a_move_is_its_first_attempts_plan_and_its_last_ones_outcome(ledger: Ledger, archive: Archive) -> None:
    ledger.attempt(PLAN, LEFT_WORK, 1, (10, 20))
    ledger.attempt(replace(PLAN, operator="somebody else"), MOVED, 2, (30, 40))
    found = archive.move(PLAN.move_id)
    assert found == Record(PLAN, MOVED, 2, 10, 40) and not found.unfinished
    assert (found.move_id, found.guest) == (PLAN.move_id, "web")
    assert archive.move("web-nobody") is None


@pytest.mark.parametrize(("outcome", "unfinished"), [(None, True), (LEFT_WORK, True), (MOVED, False)])
def test_a_move_that_has_not_ended_or_left_work_is_unfinished(
    ledger: Ledger, archive: Archive, outcome: Outcome | None, unfinished: bool
) -> None:
    ledger.attempt(PLAN, outcome)
    (found,) = archive.moves()
    assert isinstance(found, Record) and found.unfinished is unfinished and found.outcome == outcome
    assert ids(archive.unfinished()) == ids(archive.unfinished("web")) == ([PLAN.move_id] if unfinished else [])
    assert archive.unfinished("db") == []


def test_of_each_guest_only_the_last_move_counts_as_unfinished(ledger: Ledger, archive: Archive) -> None:
    for plan, outcome, at_ms in ((named(1), None, 1), (named(2), MOVED, 2), (named(1, "web-2"), None, 3)):
        ledger.attempt(plan, outcome, at_ms=(at_ms, at_ms))
    assert ids(archive.unfinished()) == [named(1, "web-2").move_id]
    assert archive.unfinished("web") == [], "whose name begins alike is another"


def unreadable(ledger: Ledger, plan: Plan, at_ms: int = 50) -> None:
    ledger.workflow(MIGRATE, plan.move_id, {"not": "a plan"}, [], at_ms=(at_ms, at_ms))


def test_a_move_that_cannot_be_read_stands_against_its_guest_alone(ledger: Ledger, archive: Archive) -> None:
    ledger.attempt(named(1), None, at_ms=(1, 1))
    ledger.attempt(named(1, "db"), None, at_ms=(2, 2))
    unreadable(ledger, named(2))
    odd, *_ = archive.moves()
    assert isinstance(odd, Unreadable) and (odd.guest, odd.attempts, odd.began_ms) == ("web", 1, 50)
    assert odd.is_of("web") and not odd.is_of("web-2") and not odd.is_of("we")
    assert odd.trouble.startswith("what the journal has of it cannot be read: ")
    assert ids(archive.readable(50)) == ids(archive.unfinished()) == [named(1, "db").move_id]
    trouble = f"move {named(2).move_id}: {odd.trouble}; nothing was changed"
    for ask in (lambda: archive.unfinished("web"), lambda: archive.last("web"), lambda: archive.move(odd.move_id)):
        with pytest.raises(JournalError) as told:
            ask()
        assert (told.value.message, told.value.hint) == (trouble, odd.error().hint)
    assert ids(archive.unfinished("db")) == [named(1, "db").move_id]


def test_a_move_of_no_guest_stands_against_none(ledger: Ledger, archive: Archive) -> None:
    """Whoever writes to the database may name one as he likes."""
    ledger.attempt(named(1), None, at_ms=(1, 1))
    ledger.workflow(MIGRATE, "-20261128-1", {"not": "a plan"}, [], at_ms=(50, 50))
    assert isinstance(archive.moves()[0], Unreadable) and ids(archive.unfinished()) == [named(1).move_id]


def test_a_move_that_cannot_be_read_and_is_over_stands_against_nobody(ledger: Ledger, archive: Archive) -> None:
    unreadable(ledger, named(1), 1)
    ledger.attempt(named(2), None, at_ms=(2, 2))
    assert ids(archive.unfinished("web")) == [named(2).move_id]
    last = archive.last("web")
    assert last is not None and last.move_id == named(2).move_id


def test_names_of_guests_are_cut_in_those_of_moves(ledger: Ledger, archive: Archive) -> None:
    long = "g" * 50
    plan = replace(named(1, long), move_id=f"{long[:40]}-20261127-000001-00aa")
    ledger.attempt(plan, None)
    assert ids(archive.unfinished(long)) == [plan.move_id] and archive.unfinished("g" * 45) == []
    last = archive.last(long)
    assert last is not None and last.guest == long and archive.last("g" * 45) is None
    assert ids(archive.recent(long, 100)) == [plan.move_id]
    assert str(Unreadable("web-1", 1, 0, "its plan: odd").error()) == (
        "move web-1: its plan: odd; nothing was changed\n  hint: a newer vmacro may be able to read it: vmacro history"
    )
    assert Unreadable(plan.move_id, 1, 0, "").is_of(long) and Unreadable(plan.move_id, 1, 0, "").is_of("g" * 45)
    assert UnreadableCarriage(plan.move_id, "", "").is_of(long) and not UnreadableCarriage(plan.move_id, "", "").is_of(
        "g"
    )


def test_the_last_move_of_a_guest(ledger: Ledger, archive: Archive) -> None:
    assert archive.last("web") is None
    for plan, at_ms in ((named(1), 1), (named(2), 2), (named(3, "web-2"), 3)):
        ledger.attempt(plan, MOVED, at_ms=(at_ms, at_ms))
    last = archive.last("web")
    assert last is not None and last.move_id == named(2).move_id


def test_recent_moves_are_those_that_had_not_ended_and_the_last_in_any_case(ledger: Ledger, archive: Archive) -> None:
    for number in range(1, 5):
        ledger.attempt(named(number), MOVED, at_ms=(10 * number, 10 * number + 5))
    ledger.attempt(named(9, "web-2"), MOVED, at_ms=(99, 99))
    assert ids(archive.recent("web", 30)) == [named(number).move_id for number in (4, 3, 2)]
    assert ids(archive.recent("web", 25)) == [named(number).move_id for number in (4, 3, 2, 1)], "ended at 25"
    assert ids(archive.recent("web", 1000)) == [named(4).move_id]
    unreadable(ledger, named(5))
    assert ids(archive.recent("web", 1000)) == [named(5).move_id] and archive.recent("db", 0) == []


def test_one_that_never_ended_ends_no_search_for_recent_moves(ledger: Ledger, archive: Archive) -> None:
    for number, ended_ms in ((1, 500), (2, 0)):
        ledger.attempt(named(number), MOVED, at_ms=(10 * number, ended_ms))
    assert ids(archive.recent("web", 400)) == [named(2).move_id, named(1).move_id]


def test_a_later_move_is_one_that_was_not_rolled_back(ledger: Ledger, archive: Archive) -> None:
    ledger.attempt(PLAN, LEFT_WORK, at_ms=(1000, 1500))
    for plan, outcome, at_ms in (
        (named(0), MOVED, 999),
        (named(1), ROLLED_BACK, 5000),
        (named(2, "web-2"), MOVED, 6000),
    ):
        ledger.attempt(plan, outcome, at_ms=(at_ms, at_ms))
    (record,) = [r for r in archive.moves() if r.move_id == PLAN.move_id]
    assert isinstance(record, Record) and archive.later(record) == ""
    ledger.attempt(named(3), MOVED, at_ms=(1000, 1000))
    assert archive.later(record) == named(3).move_id, "SQLite knows whole seconds"
    ledger.attempt(named(4), None, at_ms=(7000, 7000))
    assert archive.later(record) == named(4).move_id, "the last one, which has not ended"
    unreadable(ledger, named(5, "web-2"), 8000)
    assert archive.later(record) == named(4).move_id
    unreadable(ledger, named(5), 8000)
    with pytest.raises(JournalError, match=named(5).move_id):
        archive.later(record)


# Steps


def test_steps_are_what_the_last_attempt_took_over_and_its_own(ledger: Ledger, archive: Archive) -> None:
    taken = Noted("disks", True, None, 1, 2)
    ledger.attempt(PLAN, LEFT_WORK, 1)
    ledger.step(PLAN.move_id, 1, "disks", True)
    ledger.attempt(PLAN, None, 2, took_over=[taken])
    ledger.step(f"{PLAN.move_id}+2", 1, "copy", encoded(MOVED.statistics), at_ms=(3, 4))
    error = CopyError("the link broke", "mend it")
    broken = {"__error__": "CopyError", "message": error.message, "hint": error.hint}
    ledger.step(f"{PLAN.move_id}+2", 2, "verify", error=broken, at_ms=(5, 6))
    first, copied, verified = archive.steps(PLAN.move_id)
    assert first == taken and copied == Noted("copy", encoded(MOVED.statistics), None, 3, 4)
    assert (verified.name, verified.result, verified.began_ms, verified.ended_ms) == ("verify", None, 5, 6)
    assert isinstance(verified.error, CopyError) and (verified.error.message, verified.error.hint) == (
        error.message,
        error.hint,
    )
    assert archive.steps("web-nobody") == []


@pytest.mark.parametrize(("step", "output"), [("lunch", True), ("copy", {"x": 1}), ("verify", "yes")])
def test_a_step_that_cannot_be_read_is_named(ledger: Ledger, archive: Archive, step: str, output: Any) -> None:
    ledger.attempt(PLAN, None)
    ledger.step(PLAN.move_id, 1, step, output)
    with pytest.raises(
        JournalError, match=rf"\Amove {PLAN.move_id}: what the journal has of it: step {step} cannot be read: "
    ):
        archive.steps(PLAN.move_id)


@pytest.mark.parametrize("arguments", [[], [{"no": "plan"}, "no list"]])
def test_an_attempt_without_steps_of_earlier_ones_has_its_own(
    ledger: Ledger, archive: Archive, arguments: list[Any]
) -> None:
    ledger.workflow(MIGRATE, PLAN.move_id, *arguments)
    ledger.step(PLAN.move_id, 1, "verify", True)
    if arguments:
        assert [noted.name for noted in archive.steps(PLAN.move_id)] == ["verify"]
    else:
        with pytest.raises(JournalError, match="cannot be read: it lacks the arguments of a workflow"):
            archive.steps(PLAN.move_id)


def test_only_attempts_that_have_not_ended_are_given_up(ledger: Ledger, archive: Archive) -> None:
    ledger.attempt(PLAN, LEFT_WORK, 1)
    for number in (2, 3):
        ledger.attempt(PLAN, None, number)
    ledger.attempt(named(7), None)
    upkeep.give_up(archive, PLAN.move_id)
    statuses = {row.name: row.status for row in ledger.rows().workflows(MIGRATE)}
    gone = {f"{PLAN.move_id}+{number}": "CANCELLED" for number in (2, 3)}
    assert statuses == {PLAN.move_id: "SUCCESS", named(7).move_id: "PENDING", **gone}


# Carriages


def test_carriages_are_those_under_way_oldest_first_and_one_for_each_address(ledger: Ledger, archive: Archive) -> None:
    second, other = replace(CARRIAGE, began_s=2.0), replace(CARRIAGE, address="10.50.1.98")
    ledger.carriage(CARRIAGE, at_ms=(1, 1))
    ledger.workflow(CARRY, "carry-again", encoded(second), status="ENQUEUED", at_ms=(2, 2))
    ledger.carriage(other, at_ms=(3, 3))
    ledger.carriage(replace(CARRIAGE, address="10.50.1.99"), "SUCCESS")
    assert archive.carriages() == [CARRIAGE, other]


def test_a_carriage_that_cannot_be_read_is_known_by_its_workflows_name(ledger: Ledger, archive: Archive) -> None:
    name = f"carry-10.50.1.97-{PLAN.move_id}"
    ledger.workflow(CARRY, f"{name}+2", {"x": 1}, status="PENDING")
    (found,) = archive.carriages()
    assert isinstance(found, UnreadableCarriage)
    assert (found.move_id, found.address) == (PLAN.move_id, "10.50.1.97")
    assert found.is_of("web") and not found.is_of("db")
    assert found.trouble.startswith(f"{name}+2: what the journal has of it cannot be read: ")
    with pytest.raises(JournalError) as told:
        archive.past(PLAN.guest)
    assert told.value.message == f"carriage {found.trouble}; nothing was changed"
    assert archive.past(replace(PLAN.guest, name="db")).legs == ()


def test_what_a_guests_moves_have_made(ledger: Ledger, archive: Archive) -> None:
    open_one = replace(CARRIAGE, address="10.50.1.98", lingers_until_s=5.0)
    named_one = replace(CARRIAGE, address="10.50.1.99", named=True, lingers_until_s=7.0)
    for carriage in (
        CARRIAGE,
        open_one,
        named_one,
        replace(CARRIAGE, guest=replace(PLAN.guest, name="db"), address="::2"),
    ):
        ledger.carriage(carriage)
    compressed = replace(named(1), policy=replace(PLAN.policy, compression=Compression.ZSTD))
    unasked = replace(named(2), policy=replace(PLAN.policy, compression=Compression.AUTO))
    for number, (plan, outcome) in enumerate(
        ((PLAN, MOVED), (compressed, MOVED), (unasked, MOVED), (named(3), ROLLED_BACK), (named(4), None))
    ):
        ledger.attempt(plan, outcome, at_ms=(10 - number, 10 - number))
    ledger.attempt(named(1, "db"), MOVED)
    past = archive.past(PLAN.guest)
    assert past.legs == (*PLAN.new_legs, *PLAN.old_legs) * 5 and PLAN.new_legs and PLAN.old_legs
    assert sorted(carried.address for carried in past.carried) == ["10.50.1.97", "10.50.1.98", "10.50.1.99"]
    assert HomedAddress("10.50.1.97", PLAN.source) in past.carried
    assert sorted(past.lingering, key=lambda each: each.address) == [
        Lingering("10.50.1.98", 5.0),
        Lingering("10.50.1.99", 0.0),
    ]
    assert MOVED.statistics is not None
    ends, figures = ("bucharest", "berlin"), (PLAN.memory_mib, MOVED.statistics)
    assert past.copies == tuple(
        PastCopy(*ends, method, *figures) for method in (PLAN.policy.compression, Compression.ZSTD)
    )


def test_forecasts_look_at_the_last_copies(ledger: Ledger, archive: Archive) -> None:
    assert MOVED.statistics is not None
    for number in range(1, MOST_COPIES + 3):
        outcome = replace(MOVED, statistics=replace(MOVED.statistics, downtime_ms=number))
        ledger.attempt(named(number), outcome, at_ms=(number, number))
    copies = archive.past(PLAN.guest).copies
    assert [each.statistics.downtime_ms for each in copies] == [*range(MOST_COPIES + 2, 2, -1)]


# What is forgotten

TRIED = Try("follow-x-1", 0, 1, 0.0, 0.0, PlannedMove("g1", "a", "x", "b", "y", 1.0, 1.0, 1.0))


def test_what_ended_long_ago_is_forgotten_but_the_last_move_of_each_guest(ledger: Ledger, archive: Archive) -> None:
    for number in range(1, 6):
        plan = replace(named(number), new_legs=(), old_legs=(), earlier_legs=())
        ledger.attempt(plan, MOVED if number != 2 else LEFT_WORK, at_ms=(number, 10 * number))
    ledger.attempt(replace(named(1), new_legs=(), old_legs=(), earlier_legs=()), MOVED, 2, at_ms=(1, 11))
    unreadable(ledger, named(1, "db"), 1)
    ledger.attempt(named(6), None, at_ms=(0, 0))
    assert upkeep.forget(archive, 40) == 3, "also what has left work: the guest has moved since"
    kept = [named(number).move_id for number in (4, 5, 6)]
    assert ledger.names() == sorted([*kept, named(1, "db").move_id]), "ended at that time, is the last, has not ended"
    assert upkeep.forget(archive, 40) == 0


def test_moves_that_are_carried_or_whose_legs_are_in_use_are_not_forgotten(ledger: Ledger, archive: Archive) -> None:
    leg = replace(PLAN.old_legs[0], move_id=named(2).move_id)
    plans = [replace(named(number), new_legs=(), old_legs=(), earlier_legs=()) for number in (1, 2, 3)]
    plans.append(replace(named(4), new_legs=(), old_legs=(), earlier_legs=(leg,)))
    for number, plan in enumerate(plans, 1):
        ledger.attempt(plan, MOVED, at_ms=(number, number))
    ledger.carriage(replace(CARRIAGE, move_id=named(3).move_id))
    assert upkeep.forget(archive, 100) == 1
    assert named(1).move_id not in ledger.names() and len(archive.moves()) == 3


def test_carriages_and_tries_that_ended_long_ago_are_forgotten(ledger: Ledger, archive: Archive) -> None:
    old, kept = replace(TRIED, batch_id="follow-x-1"), replace(TRIED, batch_id="follow-x-2")
    for tried in (old, replace(old, number=1, attempt=3), kept):
        ledger.tried(tried, Became(Ending.MOVED), at_ms=(1, 10))
    ledger.tried(replace(old, number=2), Became(Ending.MOVED), at_ms=(1, 20))
    ledger.tried(replace(old, number=3), at_ms=(1, 10))
    ledger.carriage(CARRIAGE, "SUCCESS", at_ms=(1, 10))
    ledger.carriage(replace(CARRIAGE, address="10.50.1.98"), "ERROR", at_ms=(1, 20))
    ledger.carriage(replace(CARRIAGE, address="10.50.1.99"), at_ms=(1, 10))
    ledger.carriage(replace(CARRIAGE, address="10.50.1.96"), "CANCELLED", at_ms=(1, 0))
    assert upkeep.forget(archive, 20, frozenset({"follow-x-2"})) == 0
    carried = [f"carry-10.50.1.{last}-{PLAN.move_id}" for last in (96, 98, 99)]
    assert ledger.names() == sorted([kept.name, "follow-x-1-2+1", "follow-x-1-3+1", *carried]), "or has no time"


def test_before_there_is_a_database_there_is_nothing(tmp_path: Path) -> None:
    archive = Archive(f"sqlite:///{tmp_path}/none.sqlite")
    record = Record(PLAN, None, 1, 0, 0)
    assert (archive.moves(), archive.readable(5), archive.unfinished(), archive.carriages()) == ([], [], [], [])
    assert (archive.move("web-1"), archive.last("web"), archive.recent("web", 0)) == (None, None, [])
    assert (archive.later(record), archive.steps("web-1"), upkeep.forget(archive, 1 << 50)) == ("", [], 0)
    upkeep.give_up(archive, "web-1")
    archive.close()
    assert not [*tmp_path.iterdir()]


def test_a_plan_of_an_older_vmacro_is_told_before_work_goes_on_with_it(ledger: Ledger, archive: Archive) -> None:
    ledger.workflow(MIGRATE, PLAN.move_id, {**encoded(PLAN), "leads": []}, [])
    (found,) = archive.moves()
    assert isinstance(found, Record) and found.older
    with pytest.raises(
        JournalError, match=f"move {PLAN.move_id}: written by an older vmacro; nothing was changed"
    ) as caught:
        found.see_that_it_is_whole()
    assert caught.value.hint == "finish it with that one: vmacro resume, or vmacro abort"
    replace(found, older=False).see_that_it_is_whole()
