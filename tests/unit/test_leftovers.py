"""What ended moves have left, and what is nobody's business to remove."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from tests.unit.faults import Crash, Faults
from tests.unit.test_enumeration import Stage, stage
from vmacro.drivers.system import side_by_side
from vmacro.model import marks
from vmacro.model.facts import Claim, Reservation
from vmacro.model.moves import Ending, Outcome
from vmacro.planning.handoffs import SEAMLESS
from vmacro.services import carry, leftovers
from vmacro.services.archive import Record
from vmacro.services.leftovers import Leftover

ENDED = Outcome(Ending.ROLLED_BACK)


@pytest.fixture
def broken() -> Stage:
    """A move whose orchestrator died with everything prepared."""
    found = stage(SEAMLESS)
    calls = Faults()
    stage(SEAMLESS).attempt(calls)

    def die(_call: object) -> None:
        raise Crash

    at = next(n for n, c in enumerate(calls.calls) if c.verb == "copy")
    assert found.attempt(Faults(at, "before", die)) is None
    return found


def find(found: Stage, outcome: Outcome | None) -> list[Leftover]:
    record = Record(found.plan, outcome, 1, 0, 0)
    carried = carry.carriages(found.plan, outcome, 0.0) if outcome is not None else []
    return leftovers.find(found.fake.inventory, [record], carried, found.fake.world)


def test_all_that_a_lost_move_left_is_found_and_goes(broken: Stage) -> None:
    world, inventory = broken.fake.world, broken.fake.inventory
    found = find(broken, ENDED)
    assert {left.kind for left in found} == {"leg", "reservation", "address", "claim"}
    assert all(left.ours and left.move_id == "web-1" for left in found)
    assert sum(left.kind == "leg" for left in found) == 4
    for left in found:
        leftovers.remove(inventory, left, world)
    assert find(broken, ENDED) == []
    assert broken.fake.guest.kept == [] and broken.fake.guest.claim is None


def test_an_entry_without_a_mark_is_told_with_the_guest_and_move_that_may_have_made_it() -> None:
    found = stage(SEAMLESS)
    found.plan = replace(found.plan, marked=False, reserve=True)
    there = found.fake.hosts[found.plan.destination.name]
    nobodys = Reservation("10.50.2.99", marks.placeholder_mac("10.50.2.99"))
    guests = Reservation(found.plan.new_address, found.plan.mac)
    there.networks["front"] = replace(there.networks["front"], reserved=(guests, nobodys))
    told = {left.address: left for left in find(found, ENDED) if left.kind == "reservation"}
    first, second = told[guests.address], told[nobodys.address]
    assert (first.guest, first.move_id, first.ours, first.perhaps) == ("web", "web-1", False, True)
    assert (second.guest, second.move_id, second.ours, second.perhaps) == ("", "", False, False)


def test_the_wide_way_of_a_move_goes_unless_it_goes_on_or_is_anothers(broken: Stage) -> None:
    side, there = broken.fake.world.host_network(broken.plan.source), broken.plan.destination.address
    for move in ("web-1", "another-2"):
        side.widen(move, there)
    found = {left.move_id: left for left in find(broken, ENDED) if left.kind == "way"}
    assert [(move, left.ours, left.address) for move, left in found.items()] == [
        ("web-1", True, there),
        ("", False, there),
    ]
    assert [left.ours for left in find(broken, None) if left.kind == "way"] == [False, False]
    leftovers.remove(broken.fake.inventory, found["web-1"], broken.fake.world)
    assert broken.fake.hosts["bucharest"].wide == {"another-2": there}


def test_a_move_that_can_be_resumed_keeps_what_it_has(broken: Stage) -> None:
    assert find(broken, None) and not any(left.ours for left in find(broken, None))
    assert not any(left.ours for left in find(broken, Outcome(Ending.UNCERTAIN, remains=True)))


def test_other_journals_moves_and_the_operators_own_stay(broken: Stage) -> None:
    found = leftovers.find(broken.fake.inventory, [], [], broken.fake.world)
    assert not any(left.ours for left in found)
    front = broken.fake.hosts["berlin"].networks
    front["front"] = replace(front["front"], reserved=(Reservation("10.50.2.50", "52:54:00:77:77:77"),))
    assert "10.50.2.50" not in {left.address for left in find(broken, ENDED)}


def keeps(found: Stage, host: str, *entries: Reservation) -> None:
    front = found.fake.hosts[host].networks
    front["front"] = replace(front["front"], reserved=entries)


def reservations(found: list[Leftover]) -> list[tuple[str, str, bool, bool]]:
    return [(x.host, x.move_id, x.ours, x.perhaps) for x in found if x.kind == "reservation"]


def test_what_an_operator_reserved_after_a_move_is_no_leftover() -> None:
    """For the very card and address that the move had reserved, in capital letters or not."""
    found = stage(SEAMLESS)
    outcome = found.attempt(Faults())
    assert outcome is not None
    keeps(found, "berlin", Reservation(found.plan.new_address, found.plan.mac, "web"))
    assert [left for left in find(found, outcome) if left.host == "berlin" and left.kind == "reservation"] == []


def test_an_entry_of_ours_that_somebody_has_given_to_another_card_stays(broken: Stage) -> None:
    (mine,) = broken.fake.hosts["berlin"].networks["front"].reserved
    assert marks.is_marked(mine)
    assert [x.ours for x in find(broken, ENDED) if x.kind == "reservation"] == [True]
    keeps(broken, "berlin", replace(mine, mac="52:54:00:77:77:77"))
    assert [x.ours for x in find(broken, ENDED) if x.kind == "reservation"] == [False]


def test_an_older_vmacros_reservations_are_told_and_stay(broken: Stage) -> None:
    """They bear no mark. One for nobody's card is surely of that kind, one for the guest's perhaps."""
    older = replace(broken.plan, marked=False)
    nobody = Reservation("10.50.1.97", marks.placeholder_mac("10.50.1.97"))
    keeps(broken, "bucharest", nobody)
    keeps(broken, "berlin", Reservation(older.new_address, older.mac))
    record = Record(older, ENDED, 1, 0, 0)
    found = leftovers.find(broken.fake.inventory, [record], [], broken.fake.world)
    assert reservations(found) == [("bucharest", "web-1", False, False), ("berlin", "web-1", False, True)]
    assert all("without a mark" in left.what for left in found if left.kind == "reservation")
    for left in found:
        if left.kind == "reservation":
            leftovers.remove(broken.fake.inventory, left, broken.fake.world)  # on request
    assert not any(h.networks["front"].reserved for h in broken.fake.hosts.values())


@pytest.mark.parametrize("planned", [True, False])
def test_a_move_that_died_while_it_was_planned_is_ours_if_it_was_planned_here(planned: bool) -> None:
    """The journal does not have it. Otherwise it may be another journal's, and under way."""
    found = stage(SEAMLESS)
    mine = marks.reservation("web-20261127-120000-3f9a", "10.50.2.10", found.plan.mac)
    foreign = marks.reservation("gone-20261127-120000-3f9a", "10.50.2.11", "52:54:00:00:00:09")
    keeps(found, "berlin", mine, foreign)
    left = leftovers.find(found.fake.inventory, [], [], found.fake.world, lambda _move: planned)
    assert reservations(left) == [
        ("berlin", "web-20261127-120000-3f9a", planned, False),
        ("berlin", "gone-20261127-120000-3f9a", False, False),
    ]
    assert [(x.guest, x.planned) for x in left] == [("web", True), ("", True)], "no such guest, so that none is locked"


def test_what_is_carried_is_no_leftover() -> None:
    found = stage(SEAMLESS)
    outcome = found.attempt(Faults())
    assert outcome is not None and outcome.carried
    assert find(found, outcome) == []
    assert {left.kind for left in find(found, replace(outcome, carried=()))} == {"leg", "reservation", "address"}


def test_paused_remains_go_only_where_the_guest_is_alive_elsewhere() -> None:
    found = stage(SEAMLESS)
    outcome = found.attempt(Faults())
    running = found.fake.hosts["berlin"].domains["web"]
    found.fake.hosts["bucharest"].domains["web"] = replace(running, state="paused")
    (remains,) = [left for left in find(found, outcome) if left.kind == "domain"]
    assert remains.ours and remains.host == "bucharest"
    leftovers.remove(found.fake.inventory, remains, found.fake.world)
    assert "web" not in found.fake.hosts["bucharest"].domains
    found.fake.hosts["bucharest"].domains["web"] = replace(running, state="paused")
    found.fake.guest.boot_id = "another"
    assert not any(left.ours for left in find(found, outcome) if left.kind == "domain")
    found.fake.hosts["bucharest"].domains["web"] = running
    assert not any(left.kind == "domain" for left in find(found, outcome)), "twice: a person must look"


def test_another_guest_of_its_name_is_no_remains_of_it() -> None:
    """Somebody has defined it since at the host that it left, and paused it."""
    found = stage(SEAMLESS)
    outcome = found.attempt(Faults())
    other = replace(found.fake.hosts["berlin"].domains["web"], state="paused", uuid="uuid-2")
    found.fake.hosts["bucharest"].domains["web"] = other
    assert not any(left.kind == "domain" for left in find(found, outcome))
    late = Leftover("domain", "bucharest", "web", "web-1", "remains", ours=True, uuid="uuid-1")
    leftovers.remove(found.fake.inventory, late, found.fake.world)
    assert found.fake.hosts["bucharest"].domains["web"] == other


@pytest.mark.parametrize("state", ["shut off", "paused", "running"])
def test_a_resume_leaves_another_guest_of_its_name(state: str) -> None:
    """The orchestrator died while it cleaned up."""
    found, calls = stage(SEAMLESS), Faults()
    stage(SEAMLESS).attempt(calls)

    def die(_call: object) -> None:
        raise Crash

    at = next(n for n, c in enumerate(calls.calls) if c.verb == "discard")
    assert found.attempt(Faults(at, "before", die)) is None
    other = replace(found.fake.hosts["berlin"].domains["web"], state=state, uuid="uuid-2")
    found.fake.hosts["bucharest"].domains["web"] = other
    assert found.finish().ending == Ending.MOVED
    assert found.fake.hosts["bucharest"].domains["web"] == other


def test_a_host_that_cannot_be_asked_is_told_of(broken: Stage) -> None:
    broken.fake.hosts["berlin"].reachable = False
    assert "trouble" in {left.kind for left in find(broken, ENDED)}


def test_hosts_are_asked_side_by_side(broken: Stage) -> None:
    fake, record = broken.fake, Record(broken.plan, ENDED, 1, 0, 0)
    one_by_one, both = find(broken, ENDED), threading.Barrier(2)

    def before(effect: str) -> None:
        if effect.startswith("network "):
            both.wait(30)

    fake.before = before
    world = replace(fake.world, side_by_side=side_by_side)
    assert leftovers.find(fake.inventory, [record], [], world) == one_by_one


def test_a_host_whose_answer_never_ends_is_told_of(broken: Stage) -> None:
    """The others' leftovers are found."""
    record = Record(broken.plan, ENDED, 1, 0, 0)
    world = replace(broken.fake.world, side_by_side=lambda questions, _s: [questions[0](), None])
    found = leftovers.find(broken.fake.inventory, [record], [], world)
    (trouble,) = [left for left in found if left.kind == "trouble"]
    assert (trouble.host, trouble.what, trouble.ours) == ("berlin", "host berlin: no answer within 20 s", False)
    assert "bucharest" in {left.host for left in found if left.kind == "leg"}


def test_another_moves_claim_stays() -> None:
    found = stage(SEAMLESS)
    found.fake.guest.claim = Claim("web-9", "them@there", 3.0)
    (claim,) = find(found, ENDED)
    assert claim.kind == "claim" and not claim.ours


def test_what_a_guest_keeps_stays_while_another_journals_move_has_it(broken: Stage) -> None:
    """That one may have prepared the very address, as a DHCP gives a card the same one again."""
    broken.fake.guest.claim = Claim("web-9", "them@there", 3.0)
    kept = [left for left in find(broken, ENDED) if left.kind in ("address", "claim")]
    assert len(kept) == 2 and not any(left.ours for left in kept)
