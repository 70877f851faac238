"""Plans and steps that a stranger has written into the journal, each of them well typed: an attempt ends in an outcome
all the same, and one that has rolled back goes on doing so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.test_enumeration import stage
from tests.unit.test_migrate import Straight
from vmacro.drivers.fake import FakeWorld
from vmacro.errors import InterruptedMoveError
from vmacro.model.facts import Arrival, Connection
from vmacro.model.moves import After, Before, Ending, Noted, Outcome, Phase, Plan
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.resuming import inherited
from vmacro.services import carry, migrate
from vmacro.services.reservations import Reservations
from vmacro.services.survey import look_at

FORGED: dict[str, Callable[[Plan], Plan]] = {
    "what it was": lambda p: p,
    "no leg of the new address": lambda p: replace(p, new_legs=()),
    "nothing of the old ones": lambda p: replace(p, old_legs=(), addresses=()),
    "IPv6 where IPv4 should be": lambda p: replace(p, new_address="fd50::7", address="::"),
    "one host": lambda p: replace(p, destination=p.source),
    "legs from a host to itself": lambda p: replace(p, new_legs=tuple(replace(g, home=g.away) for g in p.new_legs)),
    "a tunnel of no kind": lambda p: replace(p, old_legs=tuple(replace(g, kind="x") for g in p.old_legs)),
}
NOBODY = (Connection(0, ()), Connection(7, ()))
SETTLED = {
    Phase.SURVEY: Before("", NOBODY),
    Phase.PREPARE: Before("", NOBODY),
    Phase.COPY: None,
    Phase.ARRIVE: Arrival("channel", "10.0.0.1", "10.0.0.2", "10.0.0.3", 0, 0, 0),
    Phase.SETTLE: After(NOBODY, ("10.9.9.9", "8.8.8.8")),
}


class Said(Straight):
    """What a journal has of the first so many steps; the others are done."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._said: dict[str, Any] = {phase.value: said for phase, said in [*SETTLED.items()][:count]}

    def step(self, name: str, kind: type[Any], act: Callable[[], Any]) -> Any:
        return self._said[name] if name in self._said else super().step(name, kind, act)


@pytest.mark.parametrize("count", range(len(SETTLED) + 1))
@pytest.mark.parametrize("name", FORGED)
def test_an_attempt_at_any_plan_ends_in_an_outcome(name: str, count: int) -> None:
    found = stage(SEAMLESS)
    plan = FORGED[name](found.plan)
    outcome = migrate.run_move(plan, found.fake.world, Said(count))
    assert outcome.ending in Ending
    assert {c.address for c in carry.carriages(plan, outcome, 0.0)} <= {homed.address for homed in plan.addresses}


@pytest.mark.parametrize("name", FORGED)
def test_what_a_plan_counts_on_is_counted_whatever_it_is(name: str) -> None:
    found, reservations = stage(SEAMLESS), Reservations()
    views = look_at(found.fake.inventory.hosts, None, found.fake.world)
    with reservations.held(FORGED[name](found.plan)):
        assert len(reservations.counted(views)) == len(views)


ROLLED_BACK = Outcome(Ending.ROLLED_BACK, "the journal's disk is full", remains=True)
UP_TO_ARRIVAL = ("hooks-before", "survey", "disks", "prepare", "copy")


@pytest.mark.parametrize("known", [(), ("survey",), ("survey", "disks"), ("survey", "prepare"), UP_TO_ARRIVAL])
def test_what_rolled_back_for_want_of_a_journal_goes_back_by_whichever_phase_comes_next(known: tuple[str, ...]) -> None:
    """Also where the plan has no disks, so that their phase is none of its."""
    steps = inherited([Noted(name, True) for name in known], ROLLED_BACK)
    failed = {step.name for step in steps if isinstance(step.error, InterruptedMoveError)}
    assert failed == set(UP_TO_ARRIVAL) - set(known) - ({"hooks-before"} if known else set())


def test_an_attempt_that_rolled_back_moves_nobody_when_it_is_resumed() -> None:
    found, fake = stage(SEAMLESS), FakeWorld()
    assert not found.plan.disks
    steps = {s.name: s for s in inherited([Noted("survey", Before("", ()))], ROLLED_BACK)}

    class Inherited(Straight):
        def step(self, name: str, kind: type[Any], act: Callable[[], Any]) -> Any:
            noted = steps.get(name)
            if noted is None:
                return super().step(name, kind, act)
            if noted.error is not None:
                raise noted.error
            return noted.result

    outcome = migrate.run_move(found.plan, fake.world, Inherited(), again=True)
    assert outcome.ending == Ending.ROLLED_BACK and fake.running_at() == ["bucharest"]
