"""Batches in hands that do what nobody has thought of: at once, twice, too late; and rows that a stranger wrote."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import eventually
from tests.unit.test_batches import at_home, at_work
from tests.unit.town import Town, Vmacro
from vmacro import wiring
from vmacro.cli import batch_view, fleet
from vmacro.cli.batch_view import View
from vmacro.errors import ConfigurationError, CopyError, JournalError, PlanRejectedError
from vmacro.model.batch_events import TryBegan, TryEnded
from vmacro.model.batches import Batch, Became, Limits, Maintenance, PlannedMove, Purpose, Try, Wish, batch_id
from vmacro.model.events import Event
from vmacro.model.moves import Ending
from vmacro.planning.dispatch import Load
from vmacro.services import journal, workflows
from vmacro.services.batches import Batches
from vmacro.services.fleet_tables import FleetTables
from vmacro.services.journal_json import encoded
from vmacro.services.leader import Leader, Open, Tally

MOVE = PlannedMove("g1", "a", "x", "b", "y", 256.0, 2.0, 10.0)


def test_a_policy_of_any_name_gets_a_batch_that_can_be_carried_out(town: Town, tmp_path: Path) -> None:
    """It was kept under a name by which nobody could find it, neither to move anybody nor to abort it."""
    with at_work(town, tmp_path) as work:
        (move,) = [m for m in work.batches.plan_evacuation("bucharest").moves if m.guest == "g1"]
        batch = work.batches.planned(Purpose.FOLLOW, "näht & tag", [move])
        work.batches.begin(batch)
        assert work.wait_for_the_end(batch).moved == 1


@pytest.mark.parametrize(
    "wrong",
    [
        lambda batch: replace(batch, deadline_s=1e13),
        lambda batch: replace(batch, deadline_s=float("nan")),
        lambda batch: replace(batch, moves=(replace(batch.moves[0], seconds=float("inf")),)),
        lambda batch: replace(batch, batch_id="a b"),
    ],
)
def test_what_nobody_could_read_is_not_begun(town: Town, tmp_path: Path, wrong: Callable[[Batch], Batch]) -> None:
    """It went on for ever: no worker could carry it out, no operator abort it, and its site was in maintenance."""
    with at_work(town, tmp_path) as work:
        with pytest.raises(JournalError):
            work.batches.begin(wrong(work.batches.plan_evacuation("bucharest")))
        assert work.batches.wishes() == {} and work.batches.maintenance() == ()


@pytest.mark.parametrize("text", ["0m", "99999999999d", "99999999999999999999d", "9999-12-31T00:00", "-5m", "1e3s"])
def test_deadlines_that_are_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--deadline"):
        fleet._deadline_s(text)
    assert time.time() < fleet._deadline_s("1m") < time.time() + 61


def test_of_two_operators_none_brings_back_what_the_other_has_aborted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, other = (FleetTables(f"sqlite:///{tmp_path}/journal.sqlite") for _ in range(2))
    name = batch_id(Purpose.EVACUATE, "x", "20261128-020000", "3f9a")
    tables.add(Batch(name, Purpose.EVACUATE, "x", (MOVE,)))
    seen = tables.batch

    def and_then(asked: str) -> tuple[Batch, Wish]:
        found = seen(asked)
        if other.wishes() == {name: Wish.RUN}:
            other.want(name, Wish.ABORT)
        return found

    monkeypatch.setattr(tables, "batch", and_then)
    with pytest.raises(ConfigurationError, match="was aborted"):
        tables.want(name, Wish.RUN)
    assert other.wishes() == {name: Wish.ABORT}


def test_maintenance_began_with_the_earlier_of_two_batches(tmp_path: Path) -> None:
    """Else what the earlier one has taken away is not brought back: of two plans the later may begin first."""
    tables = FleetTables(f"sqlite:///{tmp_path}/journal.sqlite")
    for since_s in (200.0, 100.0, 300.0):
        tables.close_for_guests(Maintenance("x", True, "ada@desk", since_s))
    assert [mark.since_s for mark in tables.maintenance()] == [100.0]


def test_a_site_is_not_filled_again_while_it_is_emptied(town: Town, tmp_path: Path) -> None:
    with at_work(town, tmp_path, "moves_in_all = 1") as work:
        gate = town.gate("copy bucharest", "g1")
        batch = work.batches.plan_evacuation("bucharest")
        work.batches.begin(batch)
        gate.wait_until_reached()
        back = work.batches.plan_restore("bucharest")
        assert back.moves == (), "nobody has left yet"
        with pytest.raises(PlanRejectedError, match="restore bucharest: batch evacuate-bucharest-"):
            work.batches.begin(back)
        assert [mark.subject for mark in work.batches.maintenance()] == ["bucharest"]
        gate.open()
        work.wait_for_the_end(batch)
    assert at_home(town) == []


def test_what_a_restore_has_not_brought_back_the_next_one_does(town: Town, tmp_path: Path) -> None:
    """Of two batches that had emptied the site only the last one counted then."""

    def fail() -> None:
        raise CopyError("the link broke")

    with at_work(town, tmp_path, "tries = 1") as work:
        for guests in (("g1", "g2"), ("g3", "g4")):
            plan = work.batches.plan_evacuation("bucharest")
            part = replace(plan, moves=tuple(m for m in plan.moves if m.guest in guests))
            work.batches.begin(part)
            work.wait_for_the_end(part)
        back = work.batches.plan_restore("bucharest")
        (first,) = [move for move in back.moves if move.guest == "g1"]
        town.at(f"copy {first.source}", "g1", fail)
        work.batches.begin(back)
        assert work.wait_for_the_end(back).moved == 3 and at_home(town) == ["g2", "g3", "g4"]
        assert [move.guest for move in work.batches.plan_restore("bucharest").moves] == ["g1"]


def test_a_try_at_a_move_that_the_batch_does_not_have_ends_no_leader() -> None:
    batch = Batch("evacuate-x-1", Purpose.EVACUATE, "x", (MOVE,))
    found = Open(batch, Tally(), Limits(), [7])
    found.ended(Try(batch.batch_id, 7, 1, 0.0, 0.0, MOVE), Became(None, again=True, put_off=True), 0.0)
    assert [tried.number for tried in found.next_tries(Load(), 1.0)] == [0]


def test_a_new_leader_waits_for_a_further_try_as_long_as_the_last_one() -> None:
    """And no longer, where clocks of machines differ."""
    batch = Batch("evacuate-x-1", Purpose.EVACUATE, "x", (MOVE,))
    tried, failed = Try(batch.batch_id, 0, 1, 0.0, 0.0, MOVE), Became(Ending.ROLLED_BACK, again=True)
    for ended_s, due_s in ((100.0, 130.0), (1e9, 140.0), (0.0, 110.0)):
        tally = Tally()
        tally.note(tried, failed, ended_s)
        found = Open(batch, tally, Limits(retry_after_s=30.0), [], 110.0)
        assert not found.is_over
        assert found.next_tries(Load(), due_s - 0.1) == [] or due_s == 110.0
        found = Open(batch, tally, Limits(retry_after_s=30.0), [], 110.0)
        assert [tried.attempt for tried in found.next_tries(Load(), due_s)] == [2]


def test_a_strangers_row_hides_no_batch_and_keeps_no_move_from_being_counted(town: Town, tmp_path: Path) -> None:
    """A try under another name than its own is no leader's to count, so that nobody begins it."""
    with at_work(town, tmp_path, "moves_in_all = 1") as work:
        gate = town.gate("copy bucharest", "g1")
        batch = work.batches.plan_evacuation("bucharest")
        work.batches.begin(batch)
        gate.wait_until_reached()
        forged = Try(batch.batch_id, 1, 1, batch.made_s, 0.0, batch.moves[1])
        name = f"{batch.batch_id}-9+9"
        journal.submit(workflows._try, name, encoded(forged))
        assert work.batches.progress(batch.batch_id).under_way == {0}
        eventually(lambda: status(work.batches, name) == "ERROR", "its end")
        assert work.begun() == ["g1"]
        gate.open()
        assert work.wait_for_the_end(batch).moved == 4


def status(batches: Batches, name: str) -> str:
    with batches._tools.rows() as rows:
        return next((row.status for row in rows.these("try", {name})), "")


def test_who_leaves_gives_itself_no_moves(town: Town, tmp_path: Path) -> None:
    """Its last copy may take an hour: each other move was tried a thousand times meanwhile, and then given up."""
    url = wiring.load(town.file).database_url
    with at_work(town, tmp_path) as work, work.batches._tools.rows() as rows:
        work.crew.leave()
        batch = work.batches.plan_evacuation("bucharest")
        work.batches.begin(batch)
        leader = Leader(url, work.batches._tools.tables, rows, Limits(), work.seen.append, print, lambda: True)
        leader.look()
        assert leader.waiting == 4 and work.batches.progress(batch.batch_id).under_way == frozenset()
        work.batches.want(batch.batch_id, Wish.ABORT)
        leader.look()
        assert work.batches.wishes() == {}, "what has ended is seen all the same"


def test_the_live_view_counts_nobody_as_moved_of_whom_that_is_not_known() -> None:
    view = View("batch-1", 2)
    for guest, ending in (("g1", "moved"), ("g2", "uncertain")):
        view.see(Event("batch-1", 1, TryBegan(guest, "a", "b", "x", "y", 1, "w")))
        view.see(Event("batch-1", 2, TryEnded(guest, "a", "b", "x", "y", 1, "w", ending, "", "")))
    assert "1 of 2 moved" in str(batch_view._table(view).title)


def test_a_batch_that_others_have_ended_already_is_no_mistake(vmacro: Vmacro, town: Town, tmp_path: Path) -> None:
    """A worker elsewhere may be done before this process has opened its journal: the exit code said that nothing was
    begun."""
    begin = Batches.begin

    def and_it_ends(batches: Batches, batch: Batch) -> None:
        begin(batches, batch)
        batches.want(batch.batch_id, Wish.ENDED)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VMACRO_INVENTORY", str(town.file))
        patch.setattr(Batches, "begin", and_it_ends)
        for more in ((), ("--detach",)):
            done = vmacro("evacuate", "berlin", "--yes", *more)
            assert done.returncode == 0, done.stderr
