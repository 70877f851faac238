"""Phases as durable steps: what a journal that cannot be written stops, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from tests.unit.test_seamless import plan
from vmacro.drivers.fake import FakeWorld
from vmacro.errors import CopyError, DeadlineError, InterruptedMoveError, JournalError
from vmacro.model.moves import Phase
from vmacro.model.nouns import Policy
from vmacro.ports import World
from vmacro.services.phases import Phases, bound_s
from vmacro.wire import agent_verbs

Result = TypeVar("Result")
BEFORE_COPY = (Phase.HOOKS_BEFORE, Phase.SURVEY, Phase.DISKS, Phase.PREPARE)
AFTER_COPY = (Phase.ARRIVE, Phase.SETTLE, Phase.VERIFY, Phase.CLEAN, Phase.UNDO)
FULL = JournalError("the journal's disk is full")


class Full:
    """A journal that fails before the step, or once it is done."""

    def __init__(self, acts_first: bool) -> None:
        self._acts_first = acts_first

    def step(self, name: str, kind: type[Result], act: Callable[[], Result]) -> Result:
        if self._acts_first:
            act()
        raise FULL


class Kept:
    """A journal that can be written."""

    def step(self, name: str, kind: type[Result], act: Callable[[], Result]) -> Result:
        return act()


class Act:
    """Counts how often it is done."""

    def __init__(self, error: CopyError | None = None) -> None:
        self.times, self._error = 0, error

    def __call__(self, _world: World) -> str:
        self.times += 1
        if self._error is not None:
            raise self._error
        return "done"


def kinds(fake: FakeWorld) -> list[str]:
    return [event.kind for event in fake.events]


@pytest.mark.parametrize("phase", [*BEFORE_COPY, Phase.COPY])
def test_before_the_guest_has_arrived_nothing_begins_that_cannot_be_written(phase: Phase) -> None:
    fake, act = FakeWorld(), Act()
    phases = Phases(plan(fake), fake.world, Full(acts_first=False))
    with pytest.raises(JournalError, match="disk is full"):
        phases.run(phase, str, act)
    assert act.times == 0 and phases.unwritten == "the journal's disk is full" and phases.begun == [phase]
    assert kinds(fake) == ["phase.begin", "journal", "phase.failed"]


@pytest.mark.parametrize("phase", BEFORE_COPY)
def test_what_was_prepared_and_could_not_be_written_stops_the_move(phase: Phase) -> None:
    fake, act = FakeWorld(), Act()
    with pytest.raises(JournalError):
        Phases(plan(fake), fake.world, Full(acts_first=True)).run(phase, str, act)
    assert act.times == 1


def test_a_copy_that_has_ended_counts_though_it_cannot_be_written() -> None:
    fake, act = FakeWorld(), Act()
    assert Phases(plan(fake), fake.world, Full(acts_first=True)).run(Phase.COPY, str, act) == "done"
    assert act.times == 1 and kinds(fake) == ["phase.begin", "journal", "phase.end"]


def test_a_copy_that_failed_says_so_rather_than_that_the_journal_did() -> None:
    fake, act = FakeWorld(), Act(CopyError("the link broke"))

    class FullAfterwards(Full):
        def step(self, name: str, kind: type[Result], act: Callable[[], Result]) -> Result:
            try:
                return act()
            except CopyError:
                raise FULL from None

    with pytest.raises(CopyError, match="the link broke"):
        Phases(plan(fake), fake.world, FullAfterwards(acts_first=True)).run(Phase.COPY, str, act)
    assert act.times == 1 and fake.events[-1].text == "copy: the link broke"


@pytest.mark.parametrize("acts_first", [True, False])
@pytest.mark.parametrize("phase", AFTER_COPY)
def test_after_the_copy_the_journal_stops_nothing_and_is_told_of_once(phase: Phase, acts_first: bool) -> None:
    fake, act = FakeWorld(), Act()
    phases = Phases(plan(fake), fake.world, Full(acts_first))
    assert phases.run(phase, str, act) == "done" and act.times == 1
    phases.do(Phase.CLEAN, lambda _world: None)
    assert kinds(fake).count("journal") == 1 and phases.unwritten


PHASE_IS_OVER = "phase verify: not over after 90 s of the move\n  hint: policy phase_timeout_s, move_timeout_s$"


def test_doors_close_when_a_phase_must_be_over() -> None:
    fake = FakeWorld()
    chosen, began = plan(fake), fake.now_s

    def slow(world: World) -> bool:
        world.clock.sleep(bound_s(Phase.VERIFY, chosen.policy))
        world.hypervisor(chosen.source).facts()
        world.clock.sleep(0.5)
        for door in (world.hypervisor, world.host_network, world.host_disks):
            with pytest.raises(DeadlineError, match=PHASE_IS_OVER):
                door(chosen.source)
        with pytest.raises(DeadlineError, match=PHASE_IS_OVER):
            world.agent(chosen.source, "web")
        return True

    assert Phases(chosen, fake.world, Kept()).run(Phase.VERIFY, bool, slow)
    assert fake.now_s == began + 90.5


def test_before_the_arrival_the_whole_moves_time_bounds_each_phase() -> None:
    fake = FakeWorld()
    chosen = plan(fake)
    phases = Phases(chosen, fake.world, Kept())
    fake.clock.sleep(chosen.policy.move_timeout_s + 1)
    with pytest.raises(DeadlineError, match="not over after 3600 s"):
        phases.run(Phase.PREPARE, object, lambda world: world.hypervisor(chosen.source))
    assert phases.run(Phase.CLEAN, object, lambda world: world.hypervisor(chosen.source))


@pytest.mark.parametrize("phase", Phase)
def test_an_interrupt_stops_what_comes_before_the_copy(phase: Phase) -> None:
    """The copy itself sees to it; what comes after goes on."""
    fake, act = FakeWorld(), Act()
    phases = Phases(plan(fake), fake.world, Kept())
    fake.interrupted = True
    if phase in BEFORE_COPY:
        with pytest.raises(InterruptedMoveError, match=r"^interrupted before the copy began$"):
            phases.run(phase, str, act)
    else:
        assert phases.run(phase, str, act) == "done"


def test_each_phase_has_its_own_waiting_besides() -> None:
    policy = Policy(
        phase_timeout_s=1,
        move_timeout_s=10,
        join_timeout_s=20,
        copy_timeout_s=30,
        arrival_timeout_s=40,
        settle_timeout_s=50,
    )
    bounds = {phase.value: bound_s(phase, policy) for phase in Phase}
    own = {
        "disks": 11,
        "prepare": 61,  # as long as clients join
        "copy": 31,
        "arrive": 41,
        "settle": 51,
        "undo": 1 + 2 * agent_verbs.RETIRE.deadline_s,
    }
    assert bounds == {phase.value: 1 for phase in Phase} | own
