"""A move with round trips measured around it, and what stops one before it begins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.town import PATIENCE_S
from vmacro.drivers.fake import FakeWorld
from vmacro.errors import PlanRejectedError, RolledBackError
from vmacro.model.moves import Ending, Outcome, Plan
from vmacro.model.nouns import Guest, ProbeTarget
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request
from vmacro.ports import World
from vmacro.services import measured
from vmacro.services.measured import LEAD_IN_S, LEAD_OUT_S, Answer, Done
from vmacro.services.reservations import Reservations

TARGET = ProbeTarget("client", port=7007)
ENDED = Outcome(Ending.MOVED)


class Recorder:
    """A prober that is only told."""

    def __init__(self, error: OSError | None = None) -> None:
        self.started: list[tuple[str, ProbeTarget, Path]] = []
        self.stopped = 0
        self.then: Callable[[], None] = lambda: None  # once it has begun
        self._error = error

    def start(self, address: str, target: ProbeTarget, recording: Path) -> None:
        if self._error is not None:
            raise self._error
        self.started.append((address, target, recording))
        if recording.parent.is_dir():
            recording.write_text("a header")
            recording.with_suffix(".log").write_text("")
        self.then()

    def stop(self) -> None:
        self.stopped += 1


class Runner:
    """In place of a move: takes its time, or fails."""

    def __init__(self, fake: FakeWorld, error: Exception | None = None) -> None:
        self.plans: list[Plan] = []
        self.began_s: list[float] = []
        self._fake, self._error = fake, error

    def __call__(self, plan: Plan) -> Outcome:
        self.plans.append(plan)
        self.began_s.append(self._fake.now_s)
        if self._error is not None:
            raise self._error
        return ENDED


def move(
    fake: FakeWorld,
    prober: Recorder | None,
    runner: Runner,
    target: ProbeTarget | None = TARGET,
    reports: Path = Path("/x"),
    world: World | None = None,
) -> Done:
    guest = Guest("web", "web", target)
    wanted = Request(guest, fake.inventory.sites[1], SEAMLESS, fake.inventory.policy)
    return measured.move(
        fake.inventory,
        wanted,
        world or fake.world,
        runner,
        lambda: "web-1",
        prober,
        lambda name: reports / name,
        Reservations(),
    )


def notes(fake: FakeWorld) -> list[tuple[str, str]]:
    """But for what each move tells."""
    found = [(event.move_id, event.text) for event in fake.events if event.kind == "note"]
    return [(move, text) for move, text in found if not text.startswith("reserving ")]


def test_a_recording_that_cannot_be_written_stops_no_move() -> None:
    fake, prober = FakeWorld(), Recorder(PermissionError(13, "Permission denied", "/x/web-1"))
    done = move(fake, prober, Runner(fake))
    assert (done.outcome, done.recording) == (ENDED, None)
    assert done.trouble == "round trips are not measured: [Errno 13] Permission denied: '/x/web-1'"
    assert notes(fake) == [("web-1", done.trouble)]


def test_round_trips_are_measured_before_during_and_after() -> None:
    fake, prober = FakeWorld(), Recorder()
    runner, began = Runner(fake), fake.now_s
    done = move(fake, prober, runner)
    recording = Path("/x/web-1/rtt.ndjson")
    assert prober.started == [("10.50.1.97", TARGET, recording)] and prober.stopped == 1
    assert done == Done(runner.plans[0], ENDED, recording)
    assert runner.plans[0].move_id == "web-1" and runner.plans[0].address == "10.50.1.97"
    assert runner.began_s == [pytest.approx(began + LEAD_IN_S, abs=0.06)]
    assert fake.now_s == pytest.approx(began + LEAD_IN_S + LEAD_OUT_S, abs=0.06)
    assert notes(fake) == [
        ("web-1", "measuring round trips from the client before the move"),
        ("web-1", "measuring round trips after the move"),
    ]


def test_the_name_that_clients_use_is_probed_where_there_is_one() -> None:
    fake, prober = FakeWorld(), Recorder()
    named = replace(TARGET, address="192.0.2.7")
    move(fake, prober, Runner(fake), named)
    assert prober.started[0][:2] == ("192.0.2.7", named)


@pytest.mark.parametrize("target", [TARGET, None])
def test_what_nobody_measures_takes_no_time(target: ProbeTarget | None) -> None:
    fake, prober = FakeWorld(), Recorder() if target is None else None
    began = fake.now_s
    done = move(fake, prober, Runner(fake), target)
    assert done.recording is None and fake.now_s == began and notes(fake) == []
    assert prober is None or (prober.started == [] and prober.stopped == 1)


def test_an_interrupt_while_measuring_ends_the_wait_and_the_prober() -> None:
    fake, prober = FakeWorld(), Recorder()
    began, runner = fake.now_s, Runner(fake)
    prober.then = lambda: setattr(fake, "interrupted", True)
    with pytest.raises(RolledBackError, match="guest web: interrupted before the move began; nothing was changed"):
        move(fake, prober, runner)
    assert fake.now_s == began and prober.stopped == 1 and runner.plans == []


def test_a_move_that_fails_ends_the_prober() -> None:
    fake, prober = FakeWorld(), Recorder()
    with pytest.raises(RuntimeError):
        move(fake, prober, Runner(fake, RuntimeError("a bug")))
    assert prober.stopped == 1


@pytest.mark.parametrize("others", [[], ["notes.txt"]])
def test_of_a_move_that_never_began_no_report_is_left_half_made(tmp_path: Path, others: list[str]) -> None:
    """It had a folder with a recording in it, and nothing that says of what. What else is there, stays."""
    folder = tmp_path / "web-1"
    folder.mkdir()
    for name in others:
        (folder / name).touch()
    fake, prober = FakeWorld(), Recorder()
    prober.then = lambda: setattr(fake, "interrupted", True)
    with pytest.raises(RolledBackError):
        move(fake, prober, Runner(fake), reports=tmp_path)
    prober.then = lambda: None
    assert folder.exists() == bool(others)
    assert not folder.exists() or [p.name for p in folder.iterdir()] == others
    fake.interrupted = False
    folder.mkdir(exist_ok=True)
    done = move(fake, prober, Runner(fake), reports=tmp_path)
    assert done.recording is not None and done.recording.exists(), "of one that began it is kept"


def test_who_is_interrupted_while_hosts_are_asked_waits_for_none_that_hangs() -> None:
    fake, prober, released = FakeWorld(), Recorder(), threading.Event()
    left_behind: list[bool] = []

    def hangs(questions: Sequence[Callable[[], Answer]], within_s: float) -> list[Answer | None]:
        fake.interrupted = True
        left_behind.append(not released.wait(PATIENCE_S))
        return []

    with pytest.raises(RolledBackError, match="interrupted before the move began; nothing was changed"):
        move(fake, prober, Runner(fake), world=replace(fake.world, side_by_side=hangs))
    assert not left_behind
    released.set()


def test_what_stands_against_a_move_is_told_with_its_fix() -> None:
    fake, prober = FakeWorld(), Recorder()
    fake.hosts["berlin"].reachable = False
    with pytest.raises(PlanRejectedError) as caught:
        move(fake, prober, Runner(fake))
    first, *rest = caught.value.message.splitlines()
    assert first == "the move was not started; nothing was changed:"
    assert (
        rest == ["  blocker destination-unreachable: host berlin: no answer", "    hint: is it up?"]
        and prober.started == []
    )
