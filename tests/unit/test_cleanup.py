"""`vmacro cleanup` on the world in memory: what it removes, what it only tells, and what on request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from vmacro import wiring
from vmacro.cli.app import app
from vmacro.drivers.fake import FakeWorld
from vmacro.errors import ClaimedError, ConfigurationError, JournalError
from vmacro.model import marks
from vmacro.model.facts import Reservation

MOVE = "web-20261127-120000-3f9a"
CARD = "52:54:00:00:00:01"
MINE = marks.reservation(MOVE, "10.50.2.10", CARD)
FOREIGN = marks.reservation("far-20261127-120000-3f9a", "10.50.2.11", "52:54:00:00:00:09")
OLDER = Reservation("10.50.2.12", marks.placeholder_mac("10.50.2.12"))
PIN = Reservation("10.50.2.13", "52:54:00:00:00:08", "vmacro-printer")


class Place:
    """An orchestrator whose journal is empty: `told` are moves that its event log knows, `begun` those that its journal
    has by the time that it has locked their guest."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fake = FakeWorld()
        front = self.fake.hosts["berlin"].networks
        front["front"] = replace(front["front"], reserved=(MINE, FOREIGN, OLDER, PIN))
        self.told: set[str] = set()
        self.begun: set[str] = set()
        self.locked: list[str] = []
        self.held = self.mute = False
        archive = SimpleNamespace(
            readable=lambda limit: [], carriages=lambda: [], move=lambda name: name if name in self.begun else None
        )
        monkeypatch.setattr(wiring, "load", lambda _file: SimpleNamespace(inventory=self.fake.inventory))
        monkeypatch.setattr(wiring, "archive", contextmanager(lambda _settings: iter([archive])))
        monkeypatch.setattr(wiring, "opened", contextmanager(lambda _settings: iter([self.fake.world])))
        monkeypatch.setattr(wiring, "event_log", lambda *_: SimpleNamespace(read=self._read))
        monkeypatch.setattr(wiring, "claimed", self._claimed)

    def cleanup(self, *options: str) -> tuple[int, dict[str, str]]:
        """Exit code; what became of each address."""
        done = CliRunner().invoke(app, ["cleanup", "--json", "-i", "any.toml", *options])
        return done.exit_code, {row["address"]: row["did"] for row in json.loads(done.stdout)}

    @property
    def reserved(self) -> list[Reservation]:
        return [*self.fake.hosts["berlin"].networks["front"].reserved]

    def _read(self, move: str) -> list[Any]:
        if self.mute:
            raise JournalError("event log: cannot be read")
        return ["an event"] * (move in self.told)

    @contextmanager
    def _claimed(self, _settings: object, guest: str) -> Iterator[None]:
        if self.held:
            raise ClaimedError(f"guest {guest}: is being moved")
        self.locked.append(guest)
        yield


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(monkeypatch)


def test_what_is_not_ours_is_told_and_stays(place: Place) -> None:
    """A mark of a move that nothing here knows, and one of nobody's card that bears none. An operator's own is not even
    told, whatever its name begins with."""
    stays = "stays: --release removes it"
    assert place.cleanup() == (1, {"10.50.2.10": stays, "10.50.2.11": stays, "10.50.2.12": stays})
    assert place.reserved == [MINE, FOREIGN, OLDER, PIN]
    place.mute = True
    assert place.cleanup() == (1, {"10.50.2.10": stays, "10.50.2.11": stays, "10.50.2.12": stays})


def test_what_a_dead_orchestrator_of_here_had_reserved_goes(place: Place) -> None:
    place.told = {MOVE}
    assert place.cleanup("--dry-run")[1]["10.50.2.10"] == "would be removed" and MINE in place.reserved
    assert place.cleanup()[1]["10.50.2.10"] == "removed"
    assert place.reserved == [FOREIGN, OLDER, PIN] and place.locked == ["web"]


def test_one_that_is_being_planned_keeps_what_it_has(place: Place) -> None:
    """It holds its guest's lock; and where it has let go of that meanwhile, the journal has it."""
    place.told, place.held = {MOVE}, True
    assert "is being moved" in place.cleanup()[1]["10.50.2.10"]
    place.held, place.begun = False, {MOVE}
    assert "has begun meanwhile" in place.cleanup()[1]["10.50.2.10"]
    assert place.reserved == [MINE, FOREIGN, OLDER, PIN]


def test_what_is_asked_for_goes_and_nothing_else(place: Place) -> None:
    code, did = place.cleanup("--release", "10.50.2.12", "--release", "10.50.2.11", "--release", "10.50.2.13")
    assert (code, did["10.50.2.11"], did["10.50.2.12"]) == (1, "removed", "removed")
    assert place.reserved == [MINE, PIN], "an operator's own is virsh's to remove"
    assert place.cleanup("--release", "10.50.2.10") == (0, {"10.50.2.10": "removed"})


@pytest.mark.parametrize("address", ["10.50.2.13", "10.50.2.99"])
def test_what_is_asked_for_and_is_not_there_to_be_removed_is_told(place: Place, address: str) -> None:
    place.told = {MOVE}
    place.fake.hosts["berlin"].networks["front"] = replace(
        place.fake.hosts["berlin"].networks["front"], reserved=(MINE, PIN)
    )
    done = CliRunner().invoke(app, ["cleanup", "--release", address, "-i", "any.toml"])
    assert done.exit_code == 1 and f"--release {address}: " in " ".join(done.stderr.split())
    assert place.reserved == [PIN]


@pytest.mark.parametrize("address", ["10.50.2.010", "printer", ""])
def test_what_is_no_address_is_refused_before_anybody_is_asked(place: Place, address: str) -> None:
    done = CliRunner().invoke(app, ["cleanup", "--release", address, "-i", "any.toml"])
    assert isinstance(done.exception, ConfigurationError) and f"--release {address!r}" in str(done.exception)
    assert place.reserved == [MINE, FOREIGN, OLDER, PIN]
