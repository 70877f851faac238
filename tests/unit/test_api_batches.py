"""Batches by the public API, on the fake world with the real journal: a script that follows the sun, and controls."""

from __future__ import annotations

import runpy
from datetime import UTC, datetime
from pathlib import Path

import pytest

import vmacro.api
from tests.unit.town import Town
from vmacro.errors import ConfigurationError, PlanRejectedError
from vmacro.model.moves import Ending

EXAMPLE = Path(__file__).parents[2] / "docs/examples/follow_the_sun.py"
MORNING, EVENING = (datetime(2026, 11, 28, hour, tzinfo=UTC) for hour in (8, 20))
PATIENCE_S = 60.0


def at_home(town: Town) -> int:
    return sum(town.fake.running_at(g) == ["bucharest"] for g in town.guests)


def test_a_script_follows_the_sun(town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """East is Bucharest. The day turns over twice, and nothing moves without reason."""
    monkeypatch.chdir(tmp_path)
    follow = runpy.run_path(str(EXAMPLE))["follow"]
    assert follow(str(town.file), "bucharest", "berlin", MORNING) == "0 guests stay at berlin"
    assert at_home(town) == 4
    assert follow(str(town.file), "bucharest", "berlin", EVENING) == "4 of 4 guests moved to berlin, 0 cannot"
    assert at_home(town) == 0
    assert follow(str(town.file), "bucharest", "berlin", EVENING) == "0 guests stay at bucharest"
    assert follow(str(town.file), "bucharest", "berlin", MORNING) == "0 guests stay at berlin"
    assert at_home(town) == 4, "who had been there was brought back"


def test_a_batch_of_ones_own_choice_is_paused_resumed_and_aborted(town: Town, tmp_path: Path) -> None:
    gate = town.gate("copy bucharest", "g1")
    with vmacro.api.open(town.file, tmp_path, works=True) as session:
        whole = session.plan_evacuation("bucharest")
        assert session.batches() == [] and session.maintenance() == ()
        one, other = (m for m in whole.moves if m.guest in ("g1", "g2"))
        run = session.begin(session.plan_moves("cheaper", [one]))
        gate.wait_until_reached()
        run.pause()
        with pytest.raises(PlanRejectedError, match="guest g1: has a move in batch follow-cheaper"):
            session.begin(session.plan_moves("cheaper", [one, other]))
        with pytest.raises(TimeoutError):
            run.result(0.1)
        run.resume()
        gate.open()
        progress = run.result(PATIENCE_S)
        assert progress.moved == 1 and run.done and session.batch(run.batch_id).done
        assert progress.tally.last[0].ending == Ending.MOVED and session.maintenance() == ()
        with pytest.raises(ConfigurationError, match="has ended"):
            run.abort()
        with pytest.raises(ConfigurationError, match="there is none"):
            session.batch("another")
        assert [b.batch_id for b, _ in session.batches()] == [run.batch_id]


def test_a_session_that_does_not_work_leaves_it_to_others(town: Town, tmp_path: Path) -> None:
    with vmacro.api.open(town.file, tmp_path) as session:
        run = session.begin(session.plan_drain("bucharest"))
        assert not run.done and at_home(town) == 4
    with vmacro.api.open(town.file, tmp_path, works=True) as session:
        assert session.batch(run.batch_id).result(PATIENCE_S).moved == 4
        assert session.begin(session.plan_restore("bucharest")).result(PATIENCE_S).moved == 4
    assert at_home(town) == 4


def test_left_by_an_exception_it_undoes_and_others_go_on(town: Town, tmp_path: Path) -> None:
    gate = town.gate("copy bucharest", "g1")
    with pytest.raises(KeyboardInterrupt), vmacro.api.open(town.file, tmp_path, works=True) as session:
        run = session.begin(session.plan_moves("x", session.plan_evacuation("bucharest").moves[:1]))
        gate.wait_until_reached()
        assert session._working is not None
        session._working.crew.cancel()  # as leaving does, but before the gate opens
        gate.open()
        raise KeyboardInterrupt
    assert town.fake.running_at("g1") == ["bucharest"]
    with vmacro.api.open(town.file, tmp_path, works=True) as session:
        progress = session.batch(run.batch_id).result(PATIENCE_S)
    assert progress.moved == 1 and progress.tally.attempts == {0: 1}, "what was undone so is no try"
