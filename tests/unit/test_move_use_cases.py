"""Moves as use cases, on the world in memory: what is refused, what is gone on with, what is reported. What a move does
is a fake here; test_api.py has whole ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.ledger import Ledger
from vmacro.drivers.fake import FakeWorld
from vmacro.errors import ClaimedError, ConfigurationError, JournalError, PlanRejectedError, RolledBackError
from vmacro.model.batches import Maintenance
from vmacro.model.copies import CopyStatistics
from vmacro.model.events import Event, Note
from vmacro.model.facts import Past, Survey
from vmacro.model.moves import Ending, Noted, Outcome, Plan
from vmacro.model.nouns import Compression, Guest, ProbeTarget
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request
from vmacro.ports import Unshared, World
from vmacro.services import measured, report
from vmacro.services.archive import Archive
from vmacro.services.checker import Checked
from vmacro.services.moves import Control, Moves, Tools

SITES = {"bucharest": ("buc1",), "berlin": ("ber1", "ber2")}
MOVED = Outcome(Ending.MOVED, statistics=CopyStatistics(120, 9000, 150 << 20, 2))
NAME = "web-20261128-120000-0001"


@dataclass
class Log:
    """Implements ports.EventLog."""

    events: list[Event] = field(default_factory=list)

    def append(self, event: Event) -> None:
        self.events.append(event)

    def read(self, move_id: str = "", after: int = 0) -> list[tuple[int, Event]]:
        found = [(n, e) for n, e in enumerate(self.events, 1) if n > after and move_id in ("", e.move_id)]
        return found


@dataclass
class Desk:
    """One process's: `did` is what it has done, in its order."""

    ledger: Ledger
    fake: FakeWorld = field(default_factory=lambda: FakeWorld(SITES, ("web", "db")))
    did: list[str] = field(default_factory=list)
    runs: list[tuple[Plan, int, list[Noted]]] = field(default_factory=list)
    worlds: list[World] = field(default_factory=list)
    says: Outcome = MOVED
    while_run: Callable[[World], None] = lambda _world: None
    log: Log = field(default_factory=Log)
    marks: tuple[Maintenance, ...] = ()
    claimed_by: str = ""
    prober: Any = None

    def __post_init__(self) -> None:
        tools = Tools(
            self.fake.inventory,
            self.world,
            self.archive,
            lambda: self.marks,
            lambda: self.did.append("opens the journal"),
            self.run,
            self.claim,
            lambda _guest: self.prober,
            lambda guest: f"{guest.name}-20261128-120000-0001",
            self.log,
        )
        self.moves = Moves(tools)

    @contextmanager
    def world(self, publish: Callable[[Event], None], cancelled: Callable[[], bool]) -> Iterator[World]:
        made = replace(self.fake.world, publish=publish, cancelled=cancelled)
        self.worlds.append(made)
        yield made

    @contextmanager
    def claim(self, guest: str) -> Iterator[Unshared]:
        if self.claimed_by:
            raise ClaimedError(f"guest {guest}: is being moved by {self.claimed_by}")
        self.did.append(f"claims {guest}")
        yield CLAIM
        self.did.append(f"gives {guest} back")

    @contextmanager
    def archive(self) -> Iterator[Archive]:
        with closing(self.ledger.archive()) as found:
            yield found

    def run(self, plan: Plan, world: World, attempt: int = 1, inherited: Iterable[Noted] = ()) -> Outcome:
        assert world.claim is CLAIM
        self.did.append("runs")
        self.runs.append((plan, attempt, [*inherited]))
        world.tell(plan.move_id, Note("it goes on"))
        self.while_run(world)
        return self.says

    def request(self, guest: str = "web", to: str = "berlin", **more: Any) -> Request:
        found, site = self.fake.inventory.guest(guest), self.fake.inventory.site(to)
        assert found is not None and site is not None
        return Request(found, site, SEAMLESS, self.fake.inventory.policy, **more)


CLAIM = Unshared()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(Ledger(tmp_path))


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: tmp_path / "report" / name


def showing(desk: Desk) -> Control:
    """As commands make one: what is published is in the log, too."""
    return Control(desk.log.append)


# Events of one move


def test_an_event_without_a_name_is_the_moves_own() -> None:
    shown: list[Event] = []
    control = Control(shown.append)
    control.publish(Event("", 1, Note("before it has a name")))
    control.publish(Event("web-1", 2, Note("begins")))
    control.publish(Event("", 3, Note("interrupted")))
    control.publish(Event("web-1", 4, Note("goes on")))
    assert [event.move_id for event in shown] == ["", "web-1", "", "web-1"]
    assert control.events == shown


def test_an_interrupt_names_its_move() -> None:
    control = Control()
    control.publish(Event("web-1", 2, Note("begins")))
    control.publish(Event("", 3, Note("interrupted")))
    assert [event.move_id for event in control.events] == ["web-1", "web-1"] and not control.cancelled()
    control.cancel()
    assert control.cancelled()


# Checks


def test_a_check_says_where_it_would_go_and_what_stands_against_it(desk: Desk) -> None:
    desk.fake.hosts["ber2"].facts = replace(desk.fake.hosts["ber2"].facts, free_memory_mib=4096)
    found = desk.moves.check(desk.request())
    assert not found.blocked and (found.host, found.because != "") == ("ber1", True)
    assert found.legs and found.copy.startswith(f"{Compression.OFF.value}: ")
    assert found.forecast == "", "nobody knows what it writes"
    desk.marks = (Maintenance("berlin", True, "ada@desk", 1.0),)
    found = desk.moves.check(desk.request())
    assert found.blocked and "in-maintenance" in {finding.code for finding in found.findings}
    assert desk.runs == [] and desk.did == [] and not desk.worlds[0].cancelled()
    desk.worlds[0].publish(Event("", 1, Note("of nobody's interest")))
    assert desk.log.events == []


def test_who_is_there_has_nothing_to_copy_or_carry(desk: Desk) -> None:
    found = desk.moves.check(desk.request(to="bucharest"))
    assert "already-there" in {finding.code for finding in found.findings}
    assert (found.legs, found.datagrams, found.copy, found.forecast) == ("", "", "", "")


def test_what_is_known_of_the_guests_past_is_reckoned_with(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Past] = []
    look, plan = measured.look, replace(desk.moves.plan(desk.request()), move_id="web-20261127-120000-0001")

    def and_note(*words: Any, **more: Any) -> Survey:
        seen.append(words[5])
        return look(*words, **more)

    monkeypatch.setattr(measured, "look", and_note)
    desk.ledger.attempt(plan, MOVED)
    assert "MiB" in desk.moves.check(desk.request()).forecast
    desk.moves.look_at([desk.request(), desk.request("db")])
    with desk.archive() as archive:
        past = archive.past(plan.guest)
    assert past.legs and seen[0] == past and sorted(len(each.legs) for each in seen[1:]) == [0, len(past.legs)]


def test_guests_are_looked_at_once_each_however_many_ways_are_asked(desk: Desk) -> None:
    asked = [desk.request("web"), desk.request("db"), desk.request("web", "bucharest")]
    found = desk.moves.check_all(asked)
    assert [(r.guest.name, r.destination.name, c.blocked) for r, c in found] == [
        ("web", "berlin", False),
        ("db", "berlin", False),
    ], "it is at bucharest already"
    assert len(desk.worlds) == 2 and found[0][1] == desk.moves.check(asked[0])


@pytest.mark.parametrize(("at", "names"), [("bucharest", ["web"]), ("berlin", [])])
def test_of_a_site_its_own_guests_are_checked_to_other_sites(desk: Desk, at: str, names: list[str]) -> None:
    desk.fake.hosts["buc1"].domains.pop("db")
    found = desk.moves.check_all([desk.request("web"), desk.request("db"), desk.request("web", "bucharest")], at)
    assert [request.guest.name for request, _ in found] == names
    assert all(request.destination.name == "berlin" for request, _ in found)


def test_many_looks_have_what_is_equal_once(desk: Desk) -> None:
    (first, one), (second, other) = desk.moves.look_at([desk.request("web"), desk.request("db")])
    assert (first.guest.name, second.guest.name) == ("web", "db")
    for mine, its in zip(one.views, other.views, strict=True):
        assert mine.facts is its.facts and mine.network is its.network and mine.pools is its.pools
        assert mine.domain != its.domain or mine.domain is None


# A move


def test_a_move_is_claimed_planned_carried_out_and_reported(desk: Desk, folder: Callable[[str], Path]) -> None:
    control = showing(desk)
    done = desk.moves.migrate(desk.request(), control, folder)
    assert desk.did == ["claims web", "opens the journal", "runs", "gives web back"]
    ((plan, attempt, inherited),) = desk.runs
    assert (plan.move_id, attempt, inherited) == (NAME, 1, []) and plan == done.plan and done.outcome == MOVED
    assert (done.move_id, done.folder) == (NAME, folder(NAME)) and (done.folder / "summary.json").is_file()
    assert done.figures == report.summary(plan, MOVED, None, 0)
    texts = [event.text for event in done.events]
    assert "it goes on" in texts and {event.move_id for event in done.events} == {NAME}
    assert (done.recording, done.recording_trouble, done.folder_trouble) == (None, "", "")
    assert control.events == desk.log.events


def test_what_the_plan_would_be_is_told_without_a_move(desk: Desk) -> None:
    assert desk.moves.plan(desk.request()).move_id == NAME and desk.did == [] and desk.runs == []
    desk.fake.guests["web"].answers = False
    with pytest.raises(PlanRejectedError, match="its agent"):
        desk.moves.plan(desk.request())


def test_whoever_has_the_guest_has_it(desk: Desk, folder: Callable[[str], Path]) -> None:
    desk.claimed_by = "bob"
    with pytest.raises(ClaimedError, match="is being moved by bob"):
        desk.moves.migrate(desk.request(), Control(), folder)
    move_id = unfinished(desk, None)
    with pytest.raises(ClaimedError, match="is being moved by bob"):
        desk.moves.resume(move_id, Control(), folder)
    assert desk.did == [] and desk.runs == []


def test_who_was_cancelled_before_it_began_has_changed_nothing(desk: Desk, folder: Callable[[str], Path]) -> None:
    control = Control()
    control.cancel()
    with pytest.raises(RolledBackError):
        desk.moves.migrate(desk.request(), control, folder)
    assert desk.runs == [] and not folder(NAME).exists()


def test_the_cancel_of_a_move_is_its_own(desk: Desk, folder: Callable[[str], Path]) -> None:
    control, seen = Control(), []

    def cancel(world: World) -> None:
        seen.append(world.cancelled())
        control.cancel()
        seen.append(world.cancelled())

    desk.while_run = cancel
    desk.moves.migrate(desk.request(), control, folder)
    assert seen == [False, True]


def unfinished(desk: Desk, outcome: Outcome | None, **of_plan: Any) -> str:
    plan = desk.moves.plan(desk.request())
    plan = replace(plan, move_id="web-20261127-120000-0001", operator="ada@desk")
    desk.ledger.attempt(replace(plan, **of_plan), outcome, at_ms=(1_000_000, 1_000_001))
    return plan.move_id


@pytest.mark.parametrize(
    ("outcome", "how"),
    [
        (None, "has not ended, and nobody works on it"),
        (Outcome(Ending.UNCERTAIN, remains=True), "left it uncertain"),
    ],
)
def test_a_move_that_never_ended_comes_first(
    desk: Desk, folder: Callable[[str], Path], outcome: Outcome | None, how: str
) -> None:
    move_id = unfinished(desk, outcome)
    with pytest.raises(ClaimedError) as told:
        desk.moves.migrate(desk.request(), Control(), folder)
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1000))
    assert told.value.message == f"guest web: move {move_id}, begun by ada@desk at {when}, {how}; nothing was changed"
    assert told.value.hint == f"vmacro resume {move_id}, or vmacro abort {move_id}" and desk.runs == []
    desk.moves.migrate(desk.request("db"), Control(), folder)


def test_of_a_move_that_names_nobody_somebody_began_it(desk: Desk, folder: Callable[[str], Path]) -> None:
    unfinished(desk, None, operator="")
    with pytest.raises(ClaimedError, match="begun by somebody at"):
        desk.moves.migrate(desk.request(), Control(), folder)


@pytest.mark.parametrize("outcome", [Outcome(Ending.INCOMPLETE, remains=True), Outcome(Ending.ROLLED_BACK)])
def test_work_that_an_earlier_move_has_left_stops_no_other(
    desk: Desk, folder: Callable[[str], Path], outcome: Outcome
) -> None:
    unfinished(desk, outcome)
    desk.moves.migrate(desk.request(), Control(), folder)
    assert len(desk.runs) == 1


# Gone on with


def test_a_move_that_was_cut_off_goes_on_with_what_it_has_done(desk: Desk, folder: Callable[[str], Path]) -> None:
    move_id = unfinished(desk, None)
    desk.ledger.step(move_id, 1, "survey", {"boot_id": "b", "connections": []}, at_ms=(3, 4))
    desk.log.append(Event(move_id, 1, Note("of the first attempt")))
    done = desk.moves.resume(move_id, showing(desk), folder)
    assert desk.did == ["claims web", "opens the journal", "runs", "gives web back"]
    ((plan, attempt, inherited),) = desk.runs
    assert (plan.move_id, attempt) == (move_id, 2) and "survey" in {noted.name for noted in inherited}
    assert [event.text for event in done.events] == ["of the first attempt", "it goes on"]
    assert (done.outcome, done.folder) == (MOVED, folder(move_id)) and (done.folder / "summary.json").is_file()
    (row,) = desk.ledger.rows().workflows("migrate")
    assert row.status == "CANCELLED", "nobody else takes the first attempt over"


def test_one_that_left_work_counts_its_attempts(desk: Desk, folder: Callable[[str], Path]) -> None:
    move_id = unfinished(desk, Outcome(Ending.INCOMPLETE, remains=True))
    with desk.archive() as archive:
        record = archive.move(move_id)
    assert record is not None
    desk.ledger.attempt(record.plan, Outcome(Ending.INCOMPLETE, remains=True), 2, at_ms=(2_000_000, 2_000_001))
    desk.moves.resume(move_id, Control(), folder)
    assert desk.runs[0][1] == 3


def test_one_that_rolled_back_and_left_work_goes_on_rolling_back(desk: Desk, folder: Callable[[str], Path]) -> None:
    """Why is in its outcome alone, where the journal could not keep the step that failed."""
    move_id = unfinished(desk, Outcome(Ending.ROLLED_BACK, "berlin burns", remains=True))
    desk.moves.resume(move_id, Control(), folder)
    ((_, _, inherited),) = desk.runs
    assert {noted.error.message for noted in inherited if noted.error is not None} == {"berlin burns"}


def test_one_that_has_ended_is_reported_as_it_ended(desk: Desk, folder: Callable[[str], Path]) -> None:
    move_id = unfinished(desk, MOVED)
    done = desk.moves.resume(move_id, Control(), folder)
    assert desk.runs == [] and done.outcome == MOVED and done.figures == report.summary(done.plan, MOVED, None)
    assert done.events == () and done.folder == folder(move_id) and not done.folder.exists()


def test_one_after_which_the_guest_has_moved_again_is_not_gone_on_with(
    desk: Desk, folder: Callable[[str], Path]
) -> None:
    move_id = unfinished(desk, Outcome(Ending.INCOMPLETE, remains=True))
    plan = replace(desk.moves.plan(desk.request()), move_id="web-20261128-120000-0002")
    desk.ledger.attempt(plan, MOVED, at_ms=(9_000_000, 9_000_001))
    with pytest.raises(ConfigurationError) as told:
        desk.moves.resume(move_id, Control(), folder)
    text = f"move {move_id}: guest web has moved again since, by {plan.move_id}; nothing was changed"
    assert told.value.message == text and desk.runs == []
    assert told.value.hint == f"vmacro resume {plan.move_id}, if that has left work; vmacro cleanup"


def test_one_that_an_older_vmacro_wrote_is_not_gone_on_with(desk: Desk, folder: Callable[[str], Path]) -> None:
    move_id = unfinished(desk, None)
    desk.ledger.write("""UPDATE workflow_input SET inputs = replace(inputs, '"address6"', '"leads": 1, "address6"')""")
    with pytest.raises(JournalError, match="written by an older vmacro"):
        desk.moves.resume(move_id, Control(), folder)
    assert desk.runs == []


def test_what_the_journal_does_not_have_is_told(desk: Desk, folder: Callable[[str], Path]) -> None:
    with pytest.raises(
        ConfigurationError, match="move 'web-1': not in the journal\n  hint: `vmacro history` lists them"
    ):
        desk.moves.resume("web-1", Control(), folder)


def test_to_abort_is_to_go_on_and_be_cancelled(desk: Desk, folder: Callable[[str], Path]) -> None:
    seen: list[bool] = []
    desk.while_run = lambda world: seen.append(world.cancelled())
    desk.moves.abort(unfinished(desk, None), Control(), folder)
    assert seen == [True]


def test_what_a_move_counts_on_nobody_else_is_promised_meanwhile(desk: Desk, folder: Callable[[str], Path]) -> None:
    move_id = unfinished(desk, None)
    counted: list[int] = []

    def look(_world: World) -> None:
        ((_, survey),) = desk.moves.look_at([desk.request("db")])
        counted.extend(view.facts.reserved_mib for view in survey.views if view.facts is not None)

    desk.while_run = look
    desk.moves.resume(move_id, Control(), folder)
    assert sorted(counted) == [0, 0, 256]
    look(desk.worlds[0])
    assert counted[3:] == [0, 0, 0]


# The one


def test_the_one_unfinished_move_needs_no_name(desk: Desk) -> None:
    with pytest.raises(ConfigurationError, match="there is nothing to go on with: no move is unfinished"):
        desk.moves.the_unfinished()
    move_id = unfinished(desk, None)
    assert desk.moves.the_unfinished() == move_id
    plan = replace(desk.moves.plan(desk.request("db")), move_id="db-20261127-120000-0001")
    desk.ledger.attempt(plan, None, at_ms=(5_000_000, 5_000_001))
    with pytest.raises(ConfigurationError, match=rf"which move\? {plan.move_id}, {move_id}\n"):
        desk.moves.the_unfinished()


@pytest.mark.parametrize("ending", [Ending.WITH_LOSSES, Ending.MOVED])
def test_the_last_move_is_the_one_where_it_has_lost_connections(desk: Desk, ending: Ending) -> None:
    move_id = unfinished(desk, Outcome(ending))
    if ending == Ending.WITH_LOSSES:
        assert desk.moves.the_unfinished() == move_id
        desk.ledger.attempt(
            replace(desk.moves.plan(desk.request("db")), move_id="db-20261127-120000-0001"), MOVED, at_ms=(5_000_000, 6)
        )
    with pytest.raises(ConfigurationError, match="no move is unfinished"):
        desk.moves.the_unfinished()


# What was measured


def test_a_recording_that_cannot_be_read_is_told_and_changes_nothing(desk: Desk, folder: Callable[[str], Path]) -> None:
    class Prober:
        def start(self, _address: str, _target: ProbeTarget, recording: Path) -> None:
            recording.parent.mkdir(parents=True, exist_ok=True)
            recording.write_text("no recording\n")

        def stop(self) -> None:
            pass

    desk.prober = Prober()
    guest: Guest = replace(desk.request().guest, probe=ProbeTarget("here"))
    done = desk.moves.migrate(replace(desk.request(), guest=guest), Control(), folder)
    assert done.outcome == MOVED and done.recording is None
    assert done.recording_trouble.startswith("what was measured cannot be read: ")


def test_a_check_is_blocked_by_blockers_alone(desk: Desk) -> None:
    findings = desk.moves.check(desk.request(to="bucharest")).findings
    assert Checked("h", "b", findings).blocked and not Checked("h", "b", ()).blocked
