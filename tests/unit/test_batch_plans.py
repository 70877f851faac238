"""Batches planned, begun and brought back, on the world in memory and a journal written by hand: nobody is at work.
test_batches.py has them carried out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.ledger import Ledger, fleet_tables
from tests.unit.test_enumeration import stage
from vmacro.drivers.fake import FakeWorld
from vmacro.errors import ConfigurationError, JournalError, PlanRejectedError
from vmacro.model.batch_events import BatchChanged
from vmacro.model.batches import MOST_MOVES, Batch, Became, Limits, Maintenance, PlannedMove, Purpose, Try, Wish
from vmacro.model.copies import CopyStatistics
from vmacro.model.events import Event
from vmacro.model.facts import Survey
from vmacro.model.moves import Ending, Outcome
from vmacro.model.nouns import ProbeTarget
from vmacro.planning import closed, evacuation
from vmacro.planning.dispatch import expected_s
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request
from vmacro.services import batches as services
from vmacro.services import measured
from vmacro.services.archive import Archive
from vmacro.services.batches import Batches, BatchProgress, Ourselves, Tools
from vmacro.services.fleet_tables import FleetTables
from vmacro.services.journal_rows import Rows
from vmacro.services.leader import Tally

SITES = {"bucharest": ("buc1", "buc2"), "berlin": ("ber1", "ber2"), "oslo": ("osl1",)}
GUESTS = ("ada", "bob", "cleo")
STAMP = ("20261128-020000", "3f9a")
MOVED = Became(Ending.MOVED)
PLAN = stage(SEAMLESS).plan


@dataclass
class Desk:
    """An operator's: batches on the world in memory, where all guests are at buc1."""

    ledger: Ledger
    tables: FleetTables
    fake: FakeWorld = field(default_factory=lambda: FakeWorld(SITES, GUESTS))
    seen: list[Event] = field(default_factory=list)
    us: Ourselves = field(default_factory=Ourselves)
    alone: list[str] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        moves: Any = self
        inventory, limits = self.fake.inventory, Limits(per_host=1, per_link=1, in_all=1)
        tools = Tools(
            *(inventory, limits, moves, self.tables, self.rows, self.archive, self.request, self.seen.append),
            *("ada@desk", self.us, self.by_itself, lambda: STAMP),
        )
        self.batches = Batches(tools)

    @contextmanager
    def rows(self) -> Iterator[Rows]:
        with closing(self.ledger.rows()) as found:
            yield found

    @contextmanager
    def archive(self) -> Iterator[Archive]:
        with closing(self.ledger.archive()) as found:
            yield found

    @contextmanager
    def by_itself(self) -> Iterator[None]:
        self.alone.append("alone")
        yield
        self.alone.append("over")

    def request(self, guest: str, site: str) -> Request:
        self.asked.append((guest, site))
        found, to = self.fake.inventory.guest(guest), self.fake.inventory.site(site)
        assert found is not None and to is not None
        return Request(found, to, SEAMLESS, self.fake.inventory.policy)

    def look_at(self, requests: Iterable[Request]) -> list[tuple[Request, Survey]]:
        """In place of services.moves.Moves.look_at."""
        found = [(wanted, measured.look(self.fake.inventory, wanted, self.fake.world, False)) for wanted in requests]
        marks = self.tables.maintenance()
        return [(wanted, replace(seen, views=closed.marked(seen.views, marks))) for wanted, seen in found]

    def put(self, guest: str, host: str) -> None:
        """It runs there now."""
        (at,) = self.fake.running_at(guest)
        self.fake.hosts[host].domains[guest] = self.fake.hosts[at].domains.pop(guest)
        known = self.fake.guests[guest]
        self.fake.hosts[at].leases.pop(known.mac)
        known.address, known.connections = self.fake.leased(host, known), []

    def carried_out(self, batch: Batch, became: Became = MOVED, but: Iterable[str] = ()) -> None:
        """All its moves have become this, but for these guests', which were refused; and it has ended."""
        for number, move in enumerate(batch.moves):
            what = Became(None) if move.guest in but else became
            self.ledger.tried(Try(batch.batch_id, number, 1, batch.made_s, 0.0, move), what)
            if what.moved:
                self.put(move.guest, move.destination)
        self.tables.want(batch.batch_id, Wish.ENDED)

    def emptied(self, batch: Batch, **more: Any) -> Batch:
        """Begun, and carried out."""
        self.batches.begin(batch)
        self.carried_out(batch, **more)
        return batch


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    ledger = Ledger(tmp_path)
    with closing(fleet_tables(ledger)) as tables:
        yield Desk(ledger, tables)


def guests(batch: Batch) -> dict[str, tuple[str, str]]:
    return {move.guest: (move.source, move.destination) for move in batch.moves}


def by_hand(*moves: PlannedMove, name: str = "follow-x-1", made_s: float = 1.0) -> Batch:
    return Batch(name, Purpose.FOLLOW, "x", moves, made_s=made_s)


MOVE = PlannedMove("ada", "buc1", "bucharest", "osl1", "oslo", 256.0, 2.0, 10.0)


# Plans


def test_a_site_is_emptied_to_all_others(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "time", SimpleNamespace(time=lambda: 7.0))
    desk.put("cleo", "ber1")
    batch = desk.batches.plan_evacuation("bucharest", deadline_s=9.0)
    assert {guest: source for guest, (source, _) in guests(batch).items()} == {"ada": "buc1", "bob": "buc1"}
    assert {move.destination_site for move in batch.moves} == {"berlin", "oslo"} and batch.stays == ()
    assert batch.batch_id == "evacuate-bucharest-20261128-020000-3f9a"
    assert (batch.purpose, batch.subject) == (Purpose.EVACUATE, "bucharest")
    assert (batch.made_s, batch.deadline_s, batch.operator) == (7.0, 9.0, "ada@desk")
    assert batch.expected_s == expected_s(batch.moves, Limits(per_host=1, per_link=1, in_all=1))
    assert desk.batches.plan_evacuation("oslo").moves == () and not desk.seen


@pytest.mark.parametrize(
    ("to", "hosts"), [(["oslo"], {"osl1"}), (["berlin/ber2"], {"ber2"}), (["berlin/ber1", "oslo"], {"ber1", "osl1"})]
)
def test_it_is_emptied_to_where_its_operator_says(desk: Desk, to: list[str], hosts: set[str]) -> None:
    assert {host for _, host in guests(desk.batches.plan_evacuation("bucharest", to)).values()} == hosts


@pytest.mark.parametrize("name", ["atlantis", "berlin/atlantis", "oslo/ber1", "ber1"])
def test_a_place_that_there_is_not_is_told_with_those_there_are(desk: Desk, name: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        desk.batches.plan_evacuation("bucharest", ["oslo", name])
    assert told.value.message == f"--to {name!r}: no such site or host"
    assert told.value.hint == "known sites: bucharest, berlin, oslo; or SITE/HOST"


def test_a_host_is_emptied_to_other_sites_and_its_neighbours_guests_stay(desk: Desk) -> None:
    desk.put("cleo", "buc2")
    batch = desk.batches.plan_drain("buc1", deadline_s=9.0)
    assert set(guests(batch)) == {"ada", "bob"}
    assert {move.destination_site for move in batch.moves} == {"berlin", "oslo"}
    assert (batch.purpose, batch.subject, batch.deadline_s) == (Purpose.DRAIN, "buc1", 9.0)
    assert batch.batch_id == "drain-buc1-20261128-020000-3f9a"
    again = desk.batches.plan_drain("bucharest/buc1")
    assert (again.subject, again.moves) == ("buc1", batch.moves), "as tables and --to name it"
    assert {host for _, host in guests(desk.batches.plan_drain("buc2", ["bucharest/buc1", "oslo"])).values()} == {
        "osl1"
    }
    with pytest.raises(ConfigurationError) as told:
        desk.batches.plan_drain("berlin/buc1")
    assert told.value.message == "host 'berlin/buc1': not in the inventory"
    with pytest.raises(ConfigurationError) as told:
        desk.batches.plan_drain("atlantis")
    assert told.value.message == "host 'atlantis': not in the inventory"
    assert told.value.hint == "known hosts: buc1, buc2, ber1, ber2, osl1"


def test_who_may_run_where_nobody_could_look_stays_and_is_named(desk: Desk) -> None:
    """And who runs nowhere stays out of it, as does who runs elsewhere."""
    desk.put("cleo", "osl1")
    desk.put("bob", "buc2")
    desk.fake.hosts["buc2"].reachable = False
    batch = desk.batches.plan_evacuation("bucharest")
    assert list(guests(batch)) == ["ada"] and [stay.guest for stay in batch.stays] == ["bob"]
    desk.fake.hosts["buc2"].reachable = True
    desk.fake.power_off("bob")
    batch = desk.batches.plan_evacuation("bucharest")
    assert list(guests(batch)) == ["ada"] and batch.stays == ()


def test_we_ourselves_stay(desk: Desk) -> None:
    uuid = desk.fake.hosts["buc1"].domains["bob"].uuid
    address = desk.look_at([desk.request("cleo", "oslo")])[0][1].agent
    assert uuid and address is not None
    for us, stays in (
        (Ourselves(uuid.upper()), ["bob"]),
        (Ourselves("", frozenset({address.address})), ["cleo"]),
        (Ourselves("", frozenset({"192.0.2.1"})), []),
        (Ourselves("00000000-0000-0000-0000-000000000000"), []),
    ):
        desk.us = us
        desk.__post_init__()
        assert [stay.guest for stay in desk.batches.plan_evacuation("bucharest").stays] == stays


def test_what_others_have_chosen_is_a_batch_in_their_order(desk: Desk) -> None:
    moves = [replace(MOVE, guest="bob"), MOVE]
    batch = desk.batches.planned(Purpose.FOLLOW, "näht & tag", moves, 5.0)
    assert (batch.moves, batch.stays, batch.deadline_s) == (tuple(moves), (), 5.0)
    assert (batch.purpose, batch.subject) == (Purpose.FOLLOW, "näht & tag")
    with pytest.raises(
        ConfigurationError,
        match=r"batch of x: guest ada: named twice\n  hint: one move for each guest; several batches",
    ):
        desk.batches.planned(Purpose.FOLLOW, "x", [*moves, MOVE, replace(MOVE, guest="bob")])


def test_a_batch_has_a_bound(desk: Desk) -> None:
    moves = [replace(MOVE, guest=f"g{number}") for number in range(MOST_MOVES + 1)]
    assert len(desk.batches.planned(Purpose.FOLLOW, "x", moves[:-1]).moves) == MOST_MOVES
    with pytest.raises(ConfigurationError, match=rf"batch of x: {MOST_MOVES + 1} moves: at most {MOST_MOVES}\n"):
        desk.batches.planned(Purpose.FOLLOW, "x", moves)


# How fast it is expected to be


def copied(elapsed_ms: int, mib: float, number: int, wall_s: float = 0.0) -> Outcome:
    return Outcome(Ending.MOVED, statistics=CopyStatistics(1, elapsed_ms, int(mib * (1 << 20)), 1), wall_s=wall_s)


def test_the_last_moves_tell_how_fast_links_are(desk: Desk) -> None:
    for number, (elapsed_ms, mib, wall_s) in enumerate(
        ((2000, 20, 5.0), (1000, 30, 4.0), (1000, 50, 1.5), (0, 9, 9.0))
    ):
        plan = replace(PLAN, move_id=f"web-20261127-{number:06}-00aa")
        desk.ledger.attempt(plan, copied(elapsed_ms, mib, number, wall_s), at_ms=(number, number))
    desk.ledger.attempt(replace(PLAN, move_id="web-20261127-000009-00aa"), Outcome(Ending.ROLLED_BACK))
    desk.ledger.attempt(replace(PLAN, move_id="web-20261127-000008-00aa"), None)
    pace = desk.batches._pace()
    ends = PLAN.source.site, PLAN.destination.site
    assert dict(pace.mib_s) == {ends: 30.0}, "MiB/s: 10, 30 and 50"
    assert pace.around_s == 3.0, "3, 3 and 0.5 s beside the copy"
    assert pace.at_most_mib_s == float(desk.fake.inventory.policy.bandwidth_mib_s)


def test_the_last_tries_tell_what_a_move_takes_before_it_begins_and_after_it_has_ended(desk: Desk) -> None:
    batch = desk.batches.plan_evacuation("bucharest")
    first, second = batch.moves[0], replace(batch.moves[0], guest="nobody")
    for number, (move, ended_ms) in enumerate(((first, 30_000), (first, 31_000), (first, 50_000), (second, 99_000))):
        tried = Try(batch.batch_id, number, 1, batch.made_s, 0.0, move)
        desk.ledger.tried(tried, Became(Ending.MOVED, wall_s=18.0), at_ms=(1000, 1000 + ended_ms))
    pace = replace(desk.batches._pace(), around_s=8.0)
    assert pace.looks_s == 13.0, "12, 13 and 32 s"
    plain = desk.fake.inventory.guest(first.guest)
    assert plain is not None and plain.probe is None
    assert pace.beside_copy_s(plain) == 21.0
    assert pace.beside_copy_s(replace(plain, probe=ProbeTarget("client"))) == 28.0, "measured 3 s before it, 4 after it"


def test_before_anything_was_measured_it_is_assumed(desk: Desk) -> None:
    pace = desk.batches._pace()
    assert (dict(pace.mib_s), pace.around_s) == ({}, evacuation.ASSUMED_AROUND_S)
    assert pace.looks_s == evacuation.ASSUMED_LOOKS_S
    desk.ledger.attempt(PLAN, copied(1000, 0, 1, 0.5))
    pace = desk.batches._pace()
    assert (dict(pace.mib_s), pace.around_s) == ({}, 0.0), "nothing was sent; clocks may differ"


# Begun


def test_what_begins_is_in_the_tables_and_its_subject_in_maintenance(desk: Desk) -> None:
    evacuation_of, drain = desk.batches.plan_evacuation("bucharest"), desk.batches.plan_drain("ber1")
    desk.batches.begin(evacuation_of)
    desk.batches.begin(drain)
    assert desk.alone == ["alone", "over"] * 2
    assert desk.tables.open() == [(evacuation_of, Wish.RUN), (drain, Wish.RUN)]
    assert sorted(desk.batches.maintenance(), key=lambda mark: mark.subject) == [
        Maintenance("ber1", False, "ada@desk", drain.made_s),
        Maintenance("bucharest", True, "ada@desk", evacuation_of.made_s),
    ]
    told = [(event.move_id, event.what) for event in desk.seen]
    assert told == [
        (evacuation_of.batch_id, BatchChanged("planned", "3 moves, 0 guests stay")),
        (drain.batch_id, BatchChanged("planned", "0 moves, 0 guests stay")),
    ]


def test_a_policys_batch_leaves_maintenance_as_it_is(desk: Desk) -> None:
    desk.tables.close_for_guests(Maintenance("x", True, "ada@desk", 1.0))
    desk.batches.begin(by_hand(MOVE))
    assert [mark.subject for mark in desk.batches.maintenance()] == ["x"]


def test_a_site_and_a_host_of_one_name_are_two(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    drain = replace(desk.batches.plan_drain("ber1"), subject="berlin")
    desk.batches.begin(drain)
    assert [mark.is_site for mark in desk.batches.maintenance()] == [False], "it is a host that is drained"


def test_a_guest_has_one_batch_at_a_time(desk: Desk) -> None:
    desk.batches.begin(by_hand(replace(MOVE, guest="bob")))
    desk.batches.begin(by_hand(replace(MOVE, guest="cleo"), replace(MOVE, guest="ada"), name="follow-x-2"))
    with pytest.raises(PlanRejectedError) as told:
        desk.batches.begin(by_hand(MOVE, name="follow-x-3"))
    assert told.value.message == "guest ada: has a move in batch follow-x-2, which goes on; nothing was changed"
    assert told.value.hint == "wait for it, or: vmacro batch abort follow-x-2"
    assert list(desk.tables.wishes()) == ["follow-x-1", "follow-x-2"]
    desk.tables.want("follow-x-2", Wish.ENDED)
    desk.batches.begin(by_hand(MOVE, name="follow-x-3"))


@pytest.mark.parametrize("purpose", [Purpose.EVACUATE, Purpose.DRAIN])
def test_nothing_is_filled_while_it_is_emptied_nor_emptied_while_it_is_filled(desk: Desk, purpose: Purpose) -> None:
    empty = Batch(f"{purpose.value}-ber1-1", purpose, "ber1", (replace(MOVE, guest="bob"),))
    fill = Batch("restore-ber1-2", Purpose.RESTORE, "ber1", (MOVE,))
    for first, second in ((empty, fill), (fill, empty)):
        desk.batches.begin(first)
        with pytest.raises(PlanRejectedError) as told:
            desk.batches.begin(second)
        text = f"{second.purpose.value} ber1: batch {first.batch_id} goes on; nothing was changed"
        assert (told.value.message, told.value.hint) == (text, f"wait for it, or: vmacro batch abort {first.batch_id}")
        desk.tables.want(first.batch_id, Wish.ENDED)
        desk.ledger.write("DELETE FROM vmacro_batches")
    desk.batches.begin(empty)
    desk.batches.begin(replace(fill, subject="ber2"))


def test_what_cannot_be_kept_changes_nothing(desk: Desk) -> None:
    batch = replace(desk.batches.plan_evacuation("bucharest"), batch_id="a b")
    with pytest.raises(JournalError):
        desk.batches.begin(batch)
    assert desk.batches.maintenance() == () and not desk.seen


# What is wanted, and how far it is


def test_what_an_operator_wants_is_told(desk: Desk) -> None:
    desk.batches.begin(by_hand(MOVE))
    desk.seen.clear()
    for wish in (Wish.PAUSE, Wish.RUN, Wish.ABORT, Wish.ENDED):
        desk.batches.want("follow-x-1", wish)
    said = [(event.move_id, event.what) for event in desk.seen]
    words = ("paused", "resumed", "aborted")
    assert said == [("follow-x-1", BatchChanged(word, "by ada@desk")) for word in words], "its end the leader tells"


def test_how_far_a_batch_is(desk: Desk) -> None:
    batch = by_hand(*(replace(MOVE, guest=f"g{number}") for number in range(5)))
    desk.batches.begin(batch)
    tries = [Try(batch.batch_id, number, 1, 1.0, 0.0, move) for number, move in enumerate(batch.moves)]
    for tried, what in zip(tries, (MOVED, Became(Ending.UNCERTAIN), MOVED, Became(None, put_off=True)), strict=False):
        desk.ledger.tried(tried, what)
    desk.ledger.tried(replace(tries[2], attempt=2), None, "ENQUEUED")
    progress = desk.batches.progress(batch.batch_id)
    assert (progress.batch, progress.wish, progress.under_way) == (batch, Wish.RUN, frozenset({2}))
    assert (progress.moved, progress.unmoved) == (1, 4), "g2 is under way again"
    assert [progress.state(n) for n in range(5)] == ["moved", "uncertain", "under way", "waits", "waits"]
    for wish in (Wish.ABORT, Wish.ENDED):
        over = replace(progress, wish=wish)
        assert [over.state(n) for n in range(5)] == ["moved", "uncertain", "under way", "not begun", "not begun"]
    assert BatchProgress(batch, Wish.PAUSE, Tally(), frozenset()).state(0) == "waits"


def test_batches_are_listed_and_one_is_found_without_its_name(desk: Desk) -> None:
    with pytest.raises(
        ConfigurationError, match="there is no batch to do this to: none goes on\n  hint: vmacro batch list"
    ):
        desk.batches.the_open_one()
    first, second = by_hand(MOVE), by_hand(replace(MOVE, guest="bob"), name="follow-x-2", made_s=2.0)
    desk.batches.begin(first)
    assert desk.batches.the_open_one() == desk.batches.the_one_to_show() == first.batch_id
    desk.batches.begin(second)
    assert desk.batches.newest() == [(second, Wish.RUN), (first, Wish.RUN)]
    assert desk.batches.newest(1) == [(second, Wish.RUN)] and desk.batches.going_on() == (first, second)
    assert desk.batches.wishes() == {first.batch_id: Wish.RUN, second.batch_id: Wish.RUN}
    for find in (desk.batches.the_open_one, desk.batches.the_one_to_show):
        with pytest.raises(ConfigurationError, match=r"which batch\? follow-x-1, follow-x-2\n  hint: name it$"):
            find()
    for batch in (first, second):
        desk.batches.want(batch.batch_id, Wish.ENDED)
    assert desk.batches.the_one_to_show() == second.batch_id and desk.batches.going_on() == ()


# Brought back


def restored(desk: Desk, subject: str = "bucharest") -> dict[str, tuple[str, str]]:
    return guests(desk.batches.plan_restore(subject))


def test_what_was_taken_comes_back_each_to_its_own_host(desk: Desk) -> None:
    desk.put("cleo", "buc2")
    away = guests(desk.emptied(desk.batches.plan_evacuation("bucharest", ["berlin"])))
    batch = desk.batches.plan_restore("bucharest", 9.0)
    assert guests(batch) == {guest: (to, at) for guest, (at, to) in away.items()} and batch.stays == ()
    assert (batch.purpose, batch.subject, batch.deadline_s) == (Purpose.RESTORE, "bucharest", 9.0)
    desk.batches.begin(batch)
    assert desk.batches.maintenance() == ()


def test_only_what_has_moved_is_brought_back(desk: Desk) -> None:
    desk.emptied(desk.batches.plan_evacuation("bucharest", ["oslo"]), but=["bob"])
    assert restored(desk) == {"ada": ("osl1", "buc1"), "cleo": ("osl1", "buc1")}
    desk.put("ada", "buc1")
    assert list(restored(desk)) == ["cleo"], "it is there already"


def test_what_a_drained_host_lost_comes_back_to_it(desk: Desk) -> None:
    desk.put("cleo", "buc2")
    desk.emptied(desk.batches.plan_drain("buc1", ["oslo"]))
    assert restored(desk, "buc1") == dict.fromkeys(("ada", "bob"), ("osl1", "buc1"))
    with pytest.raises(ConfigurationError, match="restore buc2: no batch has emptied it\n  hint: vmacro batch list"):
        desk.batches.plan_restore("buc2")


def test_of_two_batches_that_took_a_guest_the_first_tells_its_home_and_the_last_where_it_is(desk: Desk) -> None:
    first = desk.emptied(desk.batches.plan_evacuation("bucharest", ["oslo"]))
    onward = tuple(
        replace(m, source="osl1", source_site="oslo", destination="ber1", destination_site="berlin")
        for m in first.moves
    )
    second = replace(first, batch_id="evacuate-bucharest-2", moves=onward, made_s=first.made_s + 1)
    desk.emptied(second)
    assert restored(desk) == dict.fromkeys(GUESTS, ("ber1", "buc1"))


def test_who_was_moved_on_since_stays(desk: Desk) -> None:
    desk.emptied(desk.batches.plan_evacuation("bucharest", ["oslo"]))
    desk.put("ada", "ber2")
    batch = desk.batches.plan_restore("bucharest")
    assert list(guests(batch)) == ["bob", "cleo"]
    assert [(stay.guest, stay.at, stay.code) for stay in batch.stays] == [("ada", "ber2", "moved-since")]


def test_a_move_that_somebody_finished_after_its_batch_counts(desk: Desk) -> None:
    batch = desk.batches.plan_evacuation("bucharest", ["oslo"])
    desk.emptied(batch, became=Became(Ending.UNCERTAIN, move_id=PLAN.move_id))
    for guest in GUESTS:
        desk.put(guest, "osl1")
    for outcome, count in ((None, 0), (Outcome(Ending.UNCERTAIN), 0), (Outcome(Ending.WITH_LOSSES), 3)):
        desk.ledger.write("DELETE FROM workflow_status WHERE name = 'migrate'")
        desk.ledger.write("DELETE FROM workflow_input WHERE workflow_uuid = ?", PLAN.move_id)
        desk.ledger.write("DELETE FROM workflow_output WHERE workflow_uuid = ?", PLAN.move_id)
        if count or outcome:
            desk.ledger.attempt(PLAN, outcome)
        assert len(restored(desk)) == count
    desk.ledger.write("UPDATE workflow_output SET output = '[1]' WHERE workflow_uuid = ?", PLAN.move_id)
    assert restored(desk) == {}, "what cannot be read has moved nobody"


def test_what_an_earlier_restore_has_brought_back_is_not_its_concern(desk: Desk) -> None:
    desk.emptied(replace(desk.batches.plan_evacuation("bucharest", ["oslo"]), made_s=10.0))
    desk.emptied(replace(desk.batches.plan_restore("bucharest"), made_s=20.0))
    desk.put("ada", "osl1")
    again = replace(desk.batches.plan_evacuation("bucharest", ["oslo"]), batch_id="evacuate-bucharest-2", made_s=30.0)
    desk.emptied(again)
    assert sorted(restored(desk)) == ["bob", "cleo"], "since it is in maintenance"


def test_without_maintenance_the_last_emptying_counts_and_a_restore_may_be_tried_again(desk: Desk) -> None:
    """What the last restore was to bring back, it may not have."""
    desk.emptied(replace(desk.batches.plan_evacuation("bucharest", ["oslo"]), made_s=10.0))
    desk.emptied(replace(desk.batches.plan_restore("bucharest"), made_s=20.0))
    again = replace(desk.batches.plan_evacuation("bucharest", ["berlin/ber1"]), made_s=30.0)
    desk.emptied(replace(again, batch_id="evacuate-bucharest-2", moves=again.moves[:2]))
    gone = sorted(move.guest for move in again.moves[:2])
    second = replace(desk.batches.plan_restore("bucharest"), batch_id="restore-bucharest-2", made_s=40.0)
    desk.emptied(second, but=gone)
    desk.put("cleo" if "cleo" not in gone else "ada", "osl1")
    assert sorted(restored(desk)) == gone


def test_guests_that_the_inventory_has_no_more_stay_away(desk: Desk) -> None:
    batch = desk.batches.plan_evacuation("bucharest", ["oslo"])
    extra = replace(batch.moves[0], guest="zoe")
    desk.batches.begin(replace(batch, moves=(*batch.moves, extra)))
    for number, move in enumerate((*batch.moves, extra)):
        desk.ledger.tried(Try(batch.batch_id, number, 1, batch.made_s, 0.0, move), MOVED)
        if move.guest != "zoe":
            desk.put(move.guest, move.destination)
    assert sorted(restored(desk)) == sorted(GUESTS)
