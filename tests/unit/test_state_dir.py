"""A folder that cannot have the journal: told as such, before anything is done to a guest."""

from __future__ import annotations

from pathlib import Path

import pytest

import vmacro.api
from tests.unit.town import Town
from vmacro import moving, wiring
from vmacro.errors import ConfigurationError
from vmacro.services import databases


def unusable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    """Where its folder would be is a file."""
    town = Town(tmp_path, 1)
    (tmp_path / "state").write_text("in the way")
    monkeypatch.setattr(wiring, "drivers", town.drivers)
    return town


def test_nothing_begins_without_a_journal_and_looking_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = unusable(tmp_path, monkeypatch)
    with vmacro.api.open(town.file, tmp_path / "report") as session:
        with pytest.raises(ConfigurationError, match=r"/state/guests/g1\.lock: Not a directory") as raised:
            session.migrate("g1", "berlin").result(20)
        assert len(session.connections("g1")) == 1
    assert "state_dir" in raised.value.hint and town.fake.running_at("g1") == ["bucharest"]


def test_a_carrier_says_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    town = unusable(tmp_path, monkeypatch)
    carrier = moving.carrier(wiring.load(town.file), town.world, lambda _event: None, lambda: True)
    with pytest.raises(ConfigurationError, match=r"journal sqlite:.*: Not a directory"), carrier:
        raise AssertionError("it began")


def test_what_happens_while_the_journal_is_open_is_not_the_journals(tmp_path: Path) -> None:
    """`vmacro events | head`"""
    town = Town(tmp_path, 1)
    with pytest.raises(BrokenPipeError), wiring.archive(wiring.load(town.file)):
        raise BrokenPipeError
    with pytest.raises(BrokenPipeError), wiring.claimed(wiring.load(town.file), "g1"):
        raise BrokenPipeError


def test_a_password_in_a_query_is_not_shown() -> None:
    opening = databases.explained("postgresql://u@h/x?password=hush", opening=True)
    with pytest.raises(ConfigurationError, match="journal postgresql://u@h/x: ") as raised, opening:
        raise OSError("away")
    assert "hush" not in str(raised.value) and raised.value.hint == "orchestrator.database_url, or state_dir"
