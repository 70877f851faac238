"""Several moves at once in one process, by the public API, on the fake world, the real journal and the real claims."""

from __future__ import annotations

import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import get_type_hints
from unittest.mock import Mock

import pytest

import vmacro.api
from tests.unit.town import PATIENCE_S, Town
from vmacro import wiring
from vmacro.errors import ClaimedError, ConfigurationError, JournalError, PlanRejectedError, VmacroError
from vmacro.model.events import DomainChanged
from vmacro.model.moves import Ending
from vmacro.model.nouns import Policy

EXAMPLE = Path(__file__).parents[2] / "docs/examples/move_all.py"
Hook = Callable[[], None]


def waits_for(event: threading.Event) -> Hook:
    def wait() -> None:
        assert event.wait(PATIENCE_S)

    return wait


def test_four_at_once_of_which_one_meets_a_dead_host_and_one_is_cancelled(
    town: Town, session: vmacro.api.Session
) -> None:
    together = threading.Barrier(4)

    def meet() -> None:
        together.wait(PATIENCE_S)

    copying, released = threading.Event(), threading.Event()

    def die() -> None:
        town.fake.hosts["berlin-3"].reachable = False
        waits_for(released)()  # what asks a dead host waits; here until the others have ended

    def copy() -> None:
        copying.set()
        waits_for(released)()

    for guest in town.guests:
        town.at("agent.prepare", guest, meet)
    town.at("copy bucharest", "g3", die)
    town.at("copy bucharest", "g4", copy)
    moves = {g: session.migrate(g, f"berlin/berlin-{g[1]}") for g in town.guests}
    waits_for(copying)()
    moves["g4"].cancel()
    reports = {g: moves[g].result(PATIENCE_S) for g in ("g1", "g2")}
    assert not moves["g3"].done and not moves["g4"].done, "nobody waited for them"
    assert [reports[g].outcome.ending for g in ("g1", "g2")] == [Ending.MOVED, Ending.MOVED]
    released.set()
    reports |= {g: moves[g].result(PATIENCE_S) for g in ("g3", "g4")}

    assert [reports[g].outcome.ending for g in ("g3", "g4")] == [Ending.ROLLED_BACK, Ending.ROLLED_BACK]
    assert "berlin-3 does not answer" in reports["g3"].outcome.reason
    assert "interrupted" in reports["g4"].outcome.reason
    assert {g: town.fake.running_at(g) for g in town.guests} == {
        "g1": ["berlin-1"],
        "g2": ["berlin-2"],
        "g3": ["bucharest"],
        "g4": ["bucharest"],
    }
    for guest, report in reports.items():
        assert report.events and {e.move_id for e in report.events} == {report.move_id}
        hosts = {e.what.host for e in report.events if isinstance(e.what, DomainChanged)}
        assert hosts <= {"bucharest", f"berlin-{guest[1]}"}
        assert {e.move_id for e in moves[guest].events} == {report.move_id}
        assert [e for _, e in session.events(report.move_id)] == list(report.events)
        assert (report.folder / "summary.json").exists()


def test_two_moves_of_one_guest_do_not_meet(town: Town, session: vmacro.api.Session) -> None:
    """Nor does anybody ask its agent meanwhile, which would cut off who moves it."""
    copying, released = threading.Event(), threading.Event()

    def copy() -> None:
        copying.set()
        waits_for(released)()

    town.at("copy bucharest", "g1", copy)
    first = session.migrate("g1", "berlin/berlin-1")
    waits_for(copying)()
    with pytest.raises(ClaimedError, match="guest g1: is being moved by"):
        session.migrate("g1", "berlin/berlin-1").result(PATIENCE_S)
    with pytest.raises(ClaimedError, match="guest g1: is being moved by"):
        session.connections("g1")
    assert len(session.connections("g2")) == 1
    released.set()
    assert first.result(PATIENCE_S).outcome.ending == Ending.MOVED
    (connection,) = session.connections("g1")
    assert connection.reaches("10.50.2.10")


def test_leaving_by_an_exception_cancels_all_moves_and_waits(town: Town, tmp_path: Path) -> None:
    copying, moves = threading.Barrier(3), []

    def copy() -> None:
        copying.wait(PATIENCE_S)

    with pytest.raises(KeyboardInterrupt), vmacro.api.open(town.file, tmp_path) as session:
        for guest in ("g1", "g2"):
            town.at("agent.prepare", guest, copy)
            moves.append(session.migrate(guest, f"berlin/berlin-{guest[1]}"))
            town.at("copy bucharest", guest, lambda: _until_cancelled(moves))
        copying.wait(PATIENCE_S)
        raise KeyboardInterrupt
    assert [m.done for m in moves] == [True, True]
    assert [m.result().outcome.ending for m in moves] == [Ending.ROLLED_BACK] * 2
    assert town.fake.running_at("g1") == ["bucharest"] and town.fake.running_at("g2") == ["bucharest"]


def _until_cancelled(moves: list[vmacro.api.Move]) -> None:
    for move in moves:
        assert move._control._cancelled.wait(PATIENCE_S)


def test_looking_leaves_nothing_behind(town: Town, session: vmacro.api.Session) -> None:
    states = {state.host.name: state.guests for state in session.sites()}
    assert states["bucharest"] == town.guests and states["berlin-2"] == ()
    checked = session.check("g1", "berlin/berlin-1")
    assert not checked.blocked and (checked.host, checked.because) == ("berlin-1", "asked for by name")
    plan = session.plan("g1", "berlin")
    assert plan.destination.name == "berlin-1" and "of the hosts that can take it" in plan.chosen_because
    with pytest.raises(PlanRejectedError, match="runs at bucharest already"):
        session.plan("g1", "bucharest")
    assert session.events() == []
    assert not (town.file.parent / "state").exists()


def test_mistakes_are_told_before_anything_begins(session: vmacro.api.Session) -> None:
    for to, said in (("atlantis", "site 'atlantis'"), ("berlin/bucharest", "none of site berlin")):
        with pytest.raises(ConfigurationError, match=said):
            session.migrate("g1", to)
    with pytest.raises(ConfigurationError, match=r"policy: max_downtime_ms: .*\npolicy: wingspan"):
        session.migrate("g1", "berlin", wingspan=3, max_downtime_ms="short")  # type: ignore[call-arg, arg-type]
    with pytest.raises(ConfigurationError, match="no move is unfinished"):
        session.resume().result(PATIENCE_S)


def test_what_a_move_may_change_of_the_policy_is_all_of_it() -> None:
    assert get_type_hints(vmacro.api.PolicyChanges) == get_type_hints(Policy)
    assert not vmacro.api.PolicyChanges.__required_keys__


def test_a_move_that_left_work_is_resumed_without_being_named(town: Town, session: vmacro.api.Session) -> None:
    def fail() -> None:
        town.fake.hosts["berlin-1"].reachable = False

    town.at("copy bucharest", "g1", fail)
    broken = session.migrate("g1", "berlin/berlin-1").result(PATIENCE_S)
    assert broken.outcome.ending == Ending.ROLLED_BACK and broken.outcome.remains
    town.fake.hosts["berlin-1"].reachable = True
    ended = session.abort().result(PATIENCE_S)
    assert ended.move_id == broken.move_id
    assert ended.outcome.ending == Ending.ROLLED_BACK and not ended.outcome.remains
    assert session.resume(ended.move_id).result(PATIENCE_S).outcome == ended.outcome, "there is nothing to do"


def test_a_process_has_one_session_with_moves(town: Town, session: vmacro.api.Session, tmp_path: Path) -> None:
    assert session.migrate("g1", "berlin/berlin-1").result(PATIENCE_S).outcome.ending == Ending.MOVED
    with vmacro.api.open(town.file, tmp_path) as second, pytest.raises(JournalError, match="open already"):
        second.migrate("g2", "berlin/berlin-2").result(PATIENCE_S)
    assert session.migrate("g3", "berlin/berlin-3").result(PATIENCE_S).outcome.ending == Ending.MOVED


def test_closing_waits_for_what_has_begun_and_nothing_begins_any_more(town: Town, tmp_path: Path) -> None:
    session = vmacro.api.open(town.file, tmp_path / "report")
    gate = town.gate("copy bucharest", "g1")
    move = session.migrate("g1", "berlin/berlin-1")
    gate.wait_until_reached()
    closing = threading.Thread(target=session.close)
    closing.start()
    _until_closing(session)
    with pytest.raises(VmacroError, match="it is closed"):
        session.migrate("g2", "berlin/berlin-2")
    assert not move.done
    gate.open()
    closing.join(PATIENCE_S)
    assert move.done and move.result().outcome.ending == Ending.MOVED
    with vmacro.api.open(town.file, tmp_path / "report") as another:
        assert another.migrate("g3", "berlin/berlin-3").result(PATIENCE_S).outcome.ending == Ending.MOVED


def _until_closing(session: vmacro.api.Session) -> None:
    deadline = time.monotonic() + PATIENCE_S
    with pytest.raises(VmacroError, match="it is closed"):
        while time.monotonic() < deadline:
            session.events()


@pytest.fixture
def heeding_sigint() -> Iterator[None]:
    """Whoever runs the tests in the background has them ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeding_sigint")
def test_an_interrupt_while_it_waits_for_its_moves_cancels_them(town: Town, tmp_path: Path) -> None:
    moves: list[vmacro.api.Move] = []

    session = vmacro.api.open(town.file, tmp_path / "report")

    def interrupted() -> None:
        _until_closing(session)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # any thread may take it: the main one sleeps on
        _until_cancelled(moves)

    town.at("copy bucharest", "g1", interrupted)
    with pytest.raises(KeyboardInterrupt), session:
        moves.append(session.migrate("g1", "berlin/berlin-1"))
    assert moves[0].done and moves[0].result().outcome.ending == Ending.ROLLED_BACK


def test_all_work_is_done_in_the_inventorys_network_namespace(
    session: vmacro.api.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the journal too, which may be a database that is reached from there only."""
    entered: list[int] = []
    monkeypatch.setattr(wiring, "enter", lambda _settings: entered.append(threading.get_ident()))
    monkeypatch.setattr(wiring, "see_that_nobody_moves", lambda *_: entered.remove(threading.get_ident()))
    session.connections("g1")
    assert not entered
    monkeypatch.setattr(session._log, "read", lambda *_: entered.remove(threading.get_ident()) or ())  # type: ignore[func-returns-value]
    session.events()
    assert not entered


def test_a_report_that_cannot_be_written_does_not_change_how_a_move_ended(town: Town, tmp_path: Path) -> None:
    with vmacro.api.open(town.file, tmp_path / "report") as session:
        gate = town.gate("copy bucharest", "g1")
        move = session.migrate("g1", "berlin/berlin-1")
        gate.wait_until_reached()
        (tmp_path / "report").write_text("in the way")
        gate.open()
        report = move.result(PATIENCE_S)
    assert report.outcome.ending == Ending.MOVED and report.figures["ending"] == "moved"
    assert str(report.folder) in report.folder_trouble and "Not a directory" in report.folder_trouble


def test_no_move_begins_whose_report_could_not_be_written(town: Town, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("in the way")
    with vmacro.api.open(town.file, tmp_path / "report") as session:
        with pytest.raises(ConfigurationError, match=r"report is no folder; nothing was contacted"):
            session.migrate("g1", "berlin/berlin-1")
        assert session.events() == [] and town.fake.running_at("g1") == ["bucharest"]


def test_what_gets_no_thread_is_not_waited_for(town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = vmacro.api.open(town.file, tmp_path / "report")
    monkeypatch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
    move = session.migrate("g1", "berlin/berlin-1")
    with pytest.raises(RuntimeError, match="new thread"):
        move.result(PATIENCE_S)
    monkeypatch.undo()
    session.close()
    assert town.fake.running_at("g1") == ["bucharest"]


@pytest.mark.parametrize("name", ["move_all", "follow_the_sun"])
def test_an_example_as_its_user_errs(name: str, town: Town) -> None:
    command = [sys.executable, str(EXAMPLE.with_name(f"{name}.py"))]
    without = subprocess.run(command, capture_output=True, text=True)
    assert without.returncode == 2 and without.stderr.startswith("usage: "), without.stderr
    for words in ([str(town.file), "mars", "berlin"], ["none.toml", "bucharest", "berlin"]):
        if name == "move_all" or words[0] == "none.toml":
            done = subprocess.run([*command, *words], capture_output=True, text=True, cwd=town.file.parent)
            assert done.returncode == 1 and done.stderr.startswith(f"{name}: "), done.stderr
            assert "Traceback" not in done.stderr and done.stdout == ""


def test_the_example(town: Town, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As docs/ has it: all guests of a site, of which one is in no state to be moved."""
    town.fake.guests["g4"].answers = False
    monkeypatch.chdir(tmp_path)
    outcomes = runpy.run_path(str(EXAMPLE))["move_all"](str(town.file), "bucharest", "berlin")
    assert outcomes[:3] == ["g1 moved", "g2 moved", "g3 moved"]
    assert outcomes[3].startswith("g4 stays: ") and "does not answer" in outcomes[3]
    assert [town.fake.running_at(g)[0].partition("-")[0] for g in town.guests] == [*["berlin"] * 3, "bucharest"]


@pytest.mark.parametrize("name", ["move_all", "follow_the_sun"])
def test_no_example_takes_a_host_that_does_not_answer_for_an_empty_one(
    name: str, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(town.file.parent)
    town.fake.hosts["bucharest"].reachable = False
    example = runpy.run_path(str(EXAMPLE.with_name(f"{name}.py")))
    with pytest.raises(VmacroError, match="host bucharest: no answer"):
        if name == "move_all":
            example["move_all"](str(town.file), "bucharest", "berlin")
        else:
            example["follow"](str(town.file), "berlin", "bucharest", datetime(2026, 1, 1, 6, tzinfo=UTC))
