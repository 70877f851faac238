"""Reading a journal that is long, damaged, or out of reach."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vmacro.api
from tests.unit.test_enumeration import OUTSIDE, stage
from tests.unit.town import PATIENCE_S, Town
from vmacro.cli.app import app
from vmacro.errors import ConfigurationError, JournalError
from vmacro.model.copies import CopyStatistics, PastCopy
from vmacro.model.facts import NO_PAST, HomedAddress, Lingering
from vmacro.model.moves import Carriage, Ending, Outcome
from vmacro.model.nouns import Compression, Guest
from vmacro.planning.handoffs import SEAMLESS
from vmacro.ports import World
from vmacro.services import journal, migrate, workflows
from vmacro.services.archive import Archive, Unreadable


@contextmanager
def no_world() -> Iterator[World]:
    raise AssertionError("DBOS begins nothing here")
    yield


def knowing(world: World, *guests: Guest) -> World:
    """With these in its inventory, too."""
    return replace(world, inventory=replace(world.inventory, guests=(*world.inventory.guests, *guests)))


def test_an_unfinished_move_is_not_forgotten_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, url = stage(SEAMLESS).plan, f"sqlite:///{tmp_path}/journal.sqlite"
    world = stage(SEAMLESS).fake.world
    others = [replace(plan.guest, name=f"g{n}") for n in range(60)]
    world = knowing(world, *others)
    endings = iter([Outcome(Ending.UNCERTAIN, remains=True), *[Outcome(Ending.MOVED)] * 60])
    monkeypatch.setattr(migrate, "run_move", lambda *_, **__: next(endings))
    with journal.open_journal(url, no_world, "test-1"):
        workflows.run(replace(plan, move_id="web-1"), world)
        for guest in others:
            workflows.run(replace(plan, move_id=f"{guest.name}-1", guest=guest), world)
    archive = Archive(url)
    assert len(archive.moves()) == 50
    assert [r.move_id for r in archive.unfinished()] == ["web-1"] == [r.move_id for r in archive.unfinished("web")]
    assert archive.unfinished("g1") == []
    archive.close()


def test_the_later_move_of_a_guest_is_known_whatever_others_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests whose names begin alike; one that rolled back, which has moved nothing; a row that cannot be read."""
    found, url = stage(SEAMLESS), f"sqlite:///{tmp_path}/journal.sqlite"
    guests = {name: replace(found.plan.guest, name=name) for name in ("web", "web-2")}
    world = knowing(found.fake.world, guests["web-2"])
    endings = {"web-20261127-120000-0001": Ending.INCOMPLETE, "web-20261127-130000-0002": Ending.ROLLED_BACK}
    endings |= {"web-2-20261127-140000-0003": Ending.MOVED}
    monkeypatch.setattr(
        migrate, "run_move", lambda plan, *_, **__: Outcome(endings[plan.move_id], remains="1" in plan.move_id[-1])
    )
    archive = Archive(url)
    with journal.open_journal(url, no_world, "test-1"):
        for name in endings:
            guest = guests["web-2" if name.startswith("web-2-") else "web"]
            workflows.run(replace(found.plan, move_id=name, guest=guest), world)
        archive = Archive(url)
        first = archive.move("web-20261127-120000-0001")
        assert first is not None and archive.later(first) == ""
        with sqlite3.connect(tmp_path / "journal.sqlite") as database:
            database.execute("UPDATE workflow_output SET output = '[1]' WHERE workflow_uuid LIKE 'web-2-%'")
        database.close()
        assert archive.later(first) == ""
        endings["web-20261127-150000-0004"] = Ending.WITH_LOSSES
        workflows.run(replace(found.plan, move_id="web-20261127-150000-0004"), world)
        assert archive.later(first) == "web-20261127-150000-0004"
        archive.close()


def test_what_lingers_is_known_to_the_next_move(tmp_path: Path) -> None:
    found, another = stage(OUTSIDE), stage(OUTSIDE)
    another.fake.zone.up = False
    with journal.open_journal(f"sqlite:///{tmp_path}/journal.sqlite", no_world, "test-1"):
        workflows.run(replace(found.plan, move_id="web-1"), found.fake.world)
        workflows.run(replace(another.plan, move_id="web-2"), another.fake.world)
    archive = Archive(f"sqlite:///{tmp_path}/journal.sqlite")
    first, named = archive.carriages()
    assert isinstance(first, Carriage) and isinstance(named, Carriage)
    assert first.lingers_until_s == pytest.approx(first.began_s + 60) and not first.named
    assert named.named and named.open_until_s == named.deadline_s
    address = found.plan.address
    assert archive.past(found.plan.guest).lingering == (
        Lingering(address, first.lingers_until_s),
        Lingering(address, 0.0),
    )
    archive.close()


def test_what_a_guests_moves_have_made(tmp_path: Path) -> None:
    """Legs of all its plans, and addresses that are carried now; nobody else's."""
    url = f"sqlite:///{tmp_path}/journal.sqlite"
    found, other = stage(SEAMLESS), stage(SEAMLESS)
    shop = replace(other.plan.guest, name="shop")
    with journal.open_journal(url, no_world, "test-1"):
        (carried,) = workflows.run(replace(found.plan, move_id="web-1"), found.fake.world).carried
        workflows.run(replace(other.plan, move_id="shop-1", guest=shop), knowing(other.fake.world, shop))
    archive = Archive(url)
    past = archive.past(found.plan.guest)
    assert past.legs == (*found.plan.new_legs, *found.plan.old_legs)
    assert past.carried == (HomedAddress(carried, found.plan.source),)
    statistics = CopyStatistics(120, 9000, 150 << 20, 2)
    assert past.copies == (PastCopy("bucharest", "berlin", Compression.OFF, 256, statistics),)
    assert archive.past(replace(shop, name="db")) == NO_PAST
    with sqlite3.connect(tmp_path / "journal.sqlite") as database:
        damage = "UPDATE workflow_input SET inputs = replace(inputs, '\"home\"', '\"h\"') WHERE workflow_uuid LIKE ?"
        database.execute(damage, ("carry-%-shop-1",))
    database.close()
    assert archive.past(found.plan.guest) == past, "another guest's cannot be read"
    with pytest.raises(JournalError, match=r"carriage carry-10\.50\.1\.97-shop-1: .* cannot be read") as caught:
        archive.past(shop)
    assert caught.value.message.endswith("; nothing was changed") and caught.value.hint == "vmacro carried"
    archive.close()
    assert Archive(f"sqlite:///{tmp_path}/none.sqlite").past(shop) == NO_PAST


def test_each_attempt_carries_and_the_first_ones_deadline_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, url = stage(SEAMLESS).plan, f"sqlite:///{tmp_path}/journal.sqlite"
    outcome = Outcome(Ending.INCOMPLETE, carried=(plan.address,), remains=True)
    monkeypatch.setattr(migrate, "run_move", lambda *_, **__: outcome)
    with journal.open_journal(url, no_world, "test-1"):
        for attempt in (1, 2):
            workflows.run(replace(plan, move_id="web-1"), stage(SEAMLESS).fake.world, attempt)
    archive = Archive(url)
    began = [c.began_s for c in archive._carrying() if isinstance(c, Carriage)]
    assert len(began) == 2 and began[0] < began[1]
    (counts,) = archive.carriages()
    assert isinstance(counts, Carriage) and (counts.address, counts.began_s) == (plan.address, began[0])
    archive.close()


DAMAGES = {
    "no JSON": ("inputs", lambda _: "garbage"),
    "no plan": ("inputs", lambda text: json.dumps({**json.loads(text), "args": []})),
    "a plan without a guest": ("inputs", lambda text: text.replace('"guest"', '"host"')),
    "no outcome": ("output", lambda _: "[1]"),
    "an ending of a newer vmacro": ("output", lambda text: text.replace('"moved"', '"teleported"')),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_row_that_cannot_be_read_stops_its_own_guest_alone(
    town: Town, session: vmacro.api.Session, tmp_path: Path, what: str
) -> None:
    damaged = session.migrate("g1", "berlin/berlin-1").result(PATIENCE_S).move_id
    _damage(tmp_path / "state/journal.sqlite", *DAMAGES[what])

    assert session.migrate("g2", "berlin/berlin-2").result(PATIENCE_S).outcome.ending == Ending.MOVED
    with pytest.raises(JournalError, match=f"move {damaged}: what the journal has of it cannot be read"):
        session.migrate("g1", "berlin/berlin-1").result(PATIENCE_S)
    with pytest.raises(JournalError, match=f"move {damaged}"):
        session.resume(damaged).result(PATIENCE_S)
    with pytest.raises(ConfigurationError, match="no move is unfinished"):
        session.resume().result(PATIENCE_S)
    archive = Archive(f"sqlite:///{tmp_path}/state/journal.sqlite")
    assert [type(r) for r in archive.moves()][1:] == [Unreadable]
    assert [r.guest for r in archive.readable(50)] == ["g2"]
    archive.close()
    listed = CliRunner().invoke(app, ["history", "--json", "--inventory", str(town.file)])
    rows = {row["move"]: row for row in json.loads(listed.output)}
    assert (rows[damaged]["guest"], rows[damaged]["ended"]) == ("g1", "cannot be read")


def _damage(path: Path, column: str, change: object) -> None:
    table = {"inputs": "workflow_input", "output": "workflow_output"}[column]
    with sqlite3.connect(path) as database:
        (text,) = database.execute(f"SELECT {column} FROM {table}").fetchone()
        assert callable(change)
        database.execute(f"UPDATE {table} SET {column} = ?", (change(text),))
    database.close()


@pytest.mark.parametrize("name", ["\udcff", "", "a b", "x" * 65, "../../etc"])
def test_what_is_no_moves_name_is_refused(session: vmacro.api.Session, tmp_path: Path, name: str) -> None:
    archive = Archive(f"sqlite:///{tmp_path}/state/journal.sqlite")
    with pytest.raises(ConfigurationError, match="no move has such a name") as caught:
        archive.move(name)
    assert str(caught.value).encode() and caught.value.hint == "`vmacro history` lists them"
    if name:  # else all events are asked for
        with pytest.raises(ConfigurationError, match="no move has such a name"):
            session.events(name)


def test_a_journal_out_of_reach_is_told(tmp_path: Path) -> None:
    """As root nothing is forbidden, but names can be too long."""
    with pytest.raises(JournalError, match="File name too long") as caught:
        Archive(f"sqlite:///{tmp_path}/{'x' * 300}/journal.sqlite")
    assert "state_dir" in caught.value.hint
