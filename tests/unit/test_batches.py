"""Batches on the fake world, with the real journal, claims, queue and event log."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.support import eventually
from tests.unit.town import Town
from vmacro import crews, wiring
from vmacro.errors import ConfigurationError, CopyError, PlanRejectedError
from vmacro.model.batch_events import BatchChanged, TryBegan, TryEnded
from vmacro.model.batches import Batch, Became, PlannedMove, Purpose, Wish
from vmacro.model.events import Event
from vmacro.model.moves import Ending
from vmacro.services import batch_report
from vmacro.services.batches import Batches, BatchProgress
from vmacro.services.crew import Crew

PATIENCE_S = 60.0


@dataclass
class AtWork:
    """A process that plans batches and works on them."""

    batches: Batches
    crew: Crew
    seen: list[Event] = field(default_factory=list)

    def wait_for_the_end(self, batch: Batch) -> BatchProgress:
        eventually(lambda: batch.batch_id not in self.batches.wishes(), "the end", within_s=PATIENCE_S)
        return self.batches.progress(batch.batch_id)

    def begun(self) -> list[str]:
        return [e.what.guest for e in self.seen if isinstance(e.what, TryBegan)]

    def ended(self) -> dict[str, str]:
        return {e.what.guest: e.what.ending for e in self.seen if isinstance(e.what, TryEnded)}


@contextmanager
def at_work(town: Town, folder: Path, more: str = "") -> Iterator[AtWork]:
    """`more`: keys of [fleet]."""
    seen: list[Event] = []
    text = town.file.read_text()
    fleet = f"[fleet]\nretry_after_s = 0\n{more}"
    town.file.write_text(text if "[fleet]" in text else f"{text}\n{fleet}\n")
    settings = wiring.load(town.file)
    with ExitStack() as stack:
        log = stack.enter_context(wiring.event_log(settings, print))

        def publish(event: Event) -> None:
            seen.append(event)
            log.append(event)

        worlds = stack.enter_context(wiring.drivers(settings))
        working = stack.enter_context(crews.working(settings, worlds, log, publish, print, folder))
        batches = stack.enter_context(crews.batches(settings, working.moves, publish))
        yield AtWork(batches, working.crew, seen)


def at_home(town: Town) -> list[str]:
    return [g for g in town.guests if town.fake.running_at(g) == ["bucharest"]]


def test_a_site_is_evacuated_and_restored(town: Town, tmp_path: Path) -> None:
    with at_work(town, tmp_path) as work:
        batch = work.batches.plan_evacuation("bucharest")
        assert [m.guest for m in batch.moves] == ["g1", "g2", "g3", "g4"] and batch.stays == ()
        assert at_home(town) == [*town.guests] and work.batches.maintenance() == (), "a plan changes nothing"
        work.batches.begin(batch)
        progress = work.wait_for_the_end(batch)
        assert progress.moved == 4 and at_home(town) == []
        states = [e.what.state for e in work.seen if isinstance(e.what, BatchChanged)]
        assert states == ["planned", "ended"]
        assert [(m.subject, m.is_site) for m in work.batches.maintenance()] == [("bucharest", True)]
        back = work.batches.plan_restore("bucharest")
        assert {(m.guest, m.destination) for m in back.moves} == {(g, "bucharest") for g in town.guests}
        work.batches.begin(back)
        assert work.wait_for_the_end(back).moved == 4 and at_home(town) == [*town.guests]
        assert work.batches.maintenance() == ()


def test_what_was_restored_and_moved_on_purpose_since_stays_there(town: Town, tmp_path: Path) -> None:
    """Of two evacuations only the one that has not been restored counts."""
    with at_work(town, tmp_path) as work:
        for act in (work.batches.plan_evacuation, work.batches.plan_restore):
            first = act("bucharest")
            work.batches.begin(first)
            work.wait_for_the_end(first)
        chosen = work.batches.planned(Purpose.FOLLOW, "by-hand", first_of(town, work))
        work.batches.begin(chosen)
        work.wait_for_the_end(chosen)
        assert at_home(town) == ["g2", "g3", "g4"]
        second = work.batches.plan_evacuation("bucharest")
        work.batches.begin(second)
        work.wait_for_the_end(second)
        assert sorted(m.guest for m in work.batches.plan_restore("bucharest").moves) == ["g2", "g3", "g4"]


def test_restore_leaves_alone_who_was_moved_on_since_and_names_him(town: Town, tmp_path: Path) -> None:
    """By hand, after the evacuation; the others come back, and the maintenance is over."""
    with at_work(town, tmp_path) as work:
        batch = work.batches.plan_evacuation("bucharest")
        work.batches.begin(batch)
        work.wait_for_the_end(batch)
        (at,) = town.fake.running_at("g1")
        elsewhere = "berlin-4" if at != "berlin-4" else "berlin-3"
        town.fake.hosts[elsewhere].domains["g1"] = town.fake.hosts[at].domains.pop("g1")
        back = work.batches.plan_restore("bucharest")
        assert sorted(m.guest for m in back.moves) == ["g2", "g3", "g4"]
        (stays,) = back.stays
        assert (stays.guest, stays.at, stays.code) == ("g1", elsewhere, "moved-since")
        work.batches.begin(back)
        work.wait_for_the_end(back)
        assert at_home(town) == ["g2", "g3", "g4"] and work.batches.maintenance() == ()


def test_a_guest_that_was_moved_before_its_turn_stays_where_it_is(town: Town, tmp_path: Path) -> None:
    """Nor does that count as this batch's work, so that nothing brings it back."""
    with at_work(town, tmp_path) as work:
        batch = work.batches.plan_evacuation("bucharest")
        town.fake.hosts["berlin-4"].domains["g1"] = town.fake.hosts["bucharest"].domains.pop("g1")
        work.batches.begin(batch)
        progress = work.wait_for_the_end(batch)
        (number,) = [n for n, move in enumerate(batch.moves) if move.guest == "g1"]
        assert (
            progress.moved == 3 and "moved there from bucharest by somebody else" in progress.tally.last[number].reason
        )
        assert town.fake.running_at("g1") == ["berlin-4"]
        assert sorted(m.guest for m in work.batches.plan_restore("bucharest").moves) == ["g2", "g3", "g4"]


def first_of(town: Town, work: AtWork) -> list[PlannedMove]:
    """A move of g1 alone."""
    return [move for move in work.batches.plan_evacuation("bucharest").moves if move.guest == town.guests[0]]


def test_maintenance_keeps_single_moves_away_too(town: Town, tmp_path: Path) -> None:
    with at_work(town, tmp_path) as work:
        batch = work.batches.plan_drain("bucharest", ["berlin/berlin-1"])
        assert {m.destination for m in batch.moves} == {"berlin-1"}
        work.batches.begin(batch)
        work.wait_for_the_end(batch)
        (finding,) = work.batches._tools.checker.check(work.batches._tools.request("g1", "bucharest")).findings
        assert finding.code == "in-maintenance" and "host bucharest" in finding.subject


def test_one_failure_cancels_nothing_and_is_tried_again_within_its_bound(town: Town, tmp_path: Path) -> None:
    failures: list[str] = []

    def fail() -> None:
        failures.append("g2")
        town.at("copy bucharest", "g2", fail)
        raise CopyError("host bucharest: the link broke")

    town.at("copy bucharest", "g2", fail)
    with at_work(town, tmp_path, "tries = 3") as work:
        batch = work.batches.plan_evacuation("bucharest")
        work.batches.begin(batch)
        progress = work.wait_for_the_end(batch)
    assert at_home(town) == ["g2"] and progress.moved == 3 and len(failures) == 3
    number = [m.guest for m in batch.moves].index("g2")
    last = progress.tally.last[number]
    assert (last.ending, progress.tally.attempts[number]) == (Ending.ROLLED_BACK, 3)
    assert "the link broke" in last.reason and progress.state(number) == "rolled back"
    assert work.begun().count("g2") == 3 and all(work.begun().count(g) == 1 for g in ("g1", "g3", "g4"))


def test_one_that_fails_once_moves_in_the_end(town: Town, tmp_path: Path) -> None:
    def fail() -> None:
        raise CopyError("host bucharest: the link broke")

    town.at("copy bucharest", "g2", fail)
    with at_work(town, tmp_path) as work:
        batch = work.batches.plan_evacuation("bucharest")
        work.batches.begin(batch)
        assert work.wait_for_the_end(batch).moved == 4
    assert at_home(town) == [] and work.begun().count("g2") == 2


def test_paused_nothing_begins_and_what_is_under_way_goes_on(town: Town, tmp_path: Path) -> None:
    with at_work(town, tmp_path, "moves_in_all = 1") as work:
        gate = town.gate("copy bucharest", "g1")
        batch = work.batches.plan_evacuation("bucharest")
        work.batches.begin(batch)
        gate.wait_until_reached()
        work.batches.want(batch.batch_id, Wish.PAUSE)
        gate.open()
        eventually(lambda: work.ended() == {"g1": "moved"} and not work.crew.under_way, "g1's end")
        before = work.batches.progress(batch.batch_id)
        assert before.wish == Wish.PAUSE and before.state(1) == "waits" and work.begun() == ["g1"]
        work.batches.want(batch.batch_id, Wish.RUN)
        assert work.wait_for_the_end(batch).moved == 4


def test_aborted_what_is_under_way_is_undone(town: Town, tmp_path: Path) -> None:
    with at_work(town, tmp_path, "moves_in_all = 1") as work:
        batch = work.batches.plan_evacuation("bucharest")

        def wait_to_be_cancelled() -> None:
            eventually(lambda: all(c.cancelled() for _, c in work.crew._under_way.values()), "the cancel")

        gate = town.gate("copy bucharest", "g1")
        work.batches.begin(batch)
        gate.wait_until_reached()
        work.batches.want(batch.batch_id, Wish.ABORT)
        wait_to_be_cancelled()
        gate.open()
        progress = work.wait_for_the_end(batch)
        assert progress.moved == 0 and at_home(town) == [*town.guests] and work.ended() == {"g1": "rolled back"}
        assert [progress.state(n) for n in range(4)] == ["rolled back", *["not begun"] * 3]
        for wish in (Wish.RUN, Wish.PAUSE):
            with pytest.raises(ConfigurationError, match="has ended"):
                work.batches.want(batch.batch_id, wish)


def test_after_its_deadline_nothing_begins(town: Town, tmp_path: Path) -> None:
    with at_work(town, tmp_path) as work:
        batch = work.batches.plan_evacuation("bucharest", deadline_s=1.0)
        work.batches.begin(batch)
        assert work.wait_for_the_end(batch).moved == 0 and work.begun() == []


def test_a_guest_has_one_batch_at_a_time_and_one_move_in_it(town: Town, tmp_path: Path) -> None:
    with at_work(town, tmp_path, "moves_in_all = 1") as work:
        gate = town.gate("copy bucharest", "g1")
        batch, other = (work.batches.plan_evacuation("bucharest") for _ in range(2))
        work.batches.begin(batch)
        gate.wait_until_reached()
        with pytest.raises(PlanRejectedError, match=r"guest g1: has a move in batch evacuate-bucharest-"):
            work.batches.begin(other)
        gate.open()
        work.wait_for_the_end(batch)
        with pytest.raises(ConfigurationError, match="guest g1: named twice"):
            work.batches.planned(Purpose.FOLLOW, "policy", [batch.moves[0], batch.moves[0]])


def test_of_two_who_begin_at_once_one_is_refused(town: Town, tmp_path: Path) -> None:
    with at_work(town, tmp_path) as work:
        plans = [work.batches.plan_evacuation("bucharest") for _ in range(2)]
        together = threading.Barrier(2)

        def begin(batch: Batch) -> str:
            together.wait(PATIENCE_S)
            try:
                work.batches.begin(batch)
            except PlanRejectedError as error:
                return error.message
            return ""

        with ThreadPoolExecutor(2) as pool:
            said = [*pool.map(begin, plans)]
        assert sorted(map(bool, said)) == [False, True], said
        work.wait_for_the_end(plans[said.index("")])
        assert sorted(work.begun()) == [*town.guests]


def test_limits_hold_as_the_events_say(town: Town, tmp_path: Path) -> None:
    with at_work(town, tmp_path, "moves_per_host = 3\nmoves_per_link = 2\nmoves_in_all = 4") as work:
        batch = work.batches.plan_evacuation("bucharest")
        work.batches.begin(batch)
        work.wait_for_the_end(batch)
    most = batch_report.peaks(batch_report.bars(work.seen))
    assert (most.host, most.link, most.in_all) == (2, 2, 2)


def test_somebody_elses_move_is_not_touched(town: Town, tmp_path: Path) -> None:
    """It never ended: a batch does not go on with what an operator has begun, and says who."""
    with at_work(town, tmp_path) as work:
        batch = work.batches.plan_evacuation("bucharest")
        with wiring.claimed(wiring.load(town.file), "g1"):
            work.batches.begin(batch)
            progress = work.wait_for_the_end(batch)
        assert progress.moved == 3
        (number,) = [n for n, m in enumerate(batch.moves) if m.guest == "g1"]
        assert progress.state(number) == "refused" and "is being moved by" in progress.tally.last[number].reason


def test_a_report_has_all_of_it(town: Town, tmp_path: Path) -> None:
    town.fake.hosts["bucharest"].domains["g3"] = replace(
        town.fake.hosts["bucharest"].domains["g3"], has_agent_channel=False
    )
    with at_work(town, tmp_path) as work:
        batch = work.batches.plan_evacuation("bucharest")
        work.batches.begin(batch)
        progress = work.wait_for_the_end(batch)
    figures, trouble = batch_report.write(tmp_path / "batch", progress, work.seen)
    assert trouble == "" and figures["moved"] == 3 and figures["stayed"] == 1
    assert {p.name for p in (tmp_path / "batch").iterdir()} == {
        *("summary.json", "events.ndjson", "report.html", "batch.png")
    }
    page = (tmp_path / "batch/report.html").read_text()
    assert "no-channel" in page and "<svg" in page and all(g in page for g in town.guests)


def test_nobody_has_emptied_it() -> None:
    assert not Became(None).moved and Became(Ending.INCOMPLETE).moved and not Became(Ending.UNCERTAIN).moved


def test_mistakes(town: Town, tmp_path: Path) -> None:
    with at_work(town, tmp_path) as work:
        for act, said in (
            (lambda: work.batches.plan_restore("bucharest"), "no batch has emptied it"),
            (lambda: work.batches.plan_drain("atlantis"), "host 'atlantis'"),
            (lambda: work.batches.plan_evacuation("bucharest", ["atlantis"]), "--to 'atlantis'"),
            (lambda: work.batches.progress("nobody"), "there is none"),
            (lambda: work.batches.progress("a b"), "there is none"),
            (lambda: work.batches.the_open_one(), "none goes on"),
        ):
            with pytest.raises(ConfigurationError, match=said):
                act()
        batch = work.batches.plan_evacuation("berlin")
        assert batch.moves == () and batch.stays == ()
