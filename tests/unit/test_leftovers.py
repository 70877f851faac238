"""What ended moves have left, and what is nobody's business to remove."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from tests.unit.faults import Crash, Faults
from tests.unit.test_enumeration import Stage, stage
from vmacro.drivers.system import side_by_side
from vmacro.model.facts import Claim
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


def test_a_move_that_can_be_resumed_keeps_what_it_has(broken: Stage) -> None:
    assert find(broken, None) and not any(left.ours for left in find(broken, None))
    assert not any(left.ours for left in find(broken, Outcome(Ending.UNCERTAIN, remains=True)))


def test_other_journals_moves_and_the_operators_own_stay(broken: Stage) -> None:
    found = leftovers.find(broken.fake.inventory, [], [], broken.fake.world)
    assert not any(left.ours for left in found)
    front = broken.fake.hosts["berlin"].networks
    front["front"] = replace(front["front"], reserved=(("10.50.2.50", "52:54:00:77:77:77"),))
    assert "10.50.2.50" not in {left.address for left in find(broken, ENDED)}


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
