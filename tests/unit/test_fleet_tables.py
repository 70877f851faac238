"""What all orchestrators share of the fleet, on SQLite and PostgreSQL: batches, wishes, maintenance; and rows that a
stranger wrote there."""

from __future__ import annotations

import json
import tracemalloc
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

from tests.unit.town import Town
from vmacro import moving, wiring
from vmacro.addresses import with_psycopg
from vmacro.errors import ConfigurationError, JournalError
from vmacro.model.batches import Batch, Maintenance, PlannedMove, Purpose, Wish
from vmacro.services.fleet_tables import FleetTables

MOVE = PlannedMove("g1", "a", "x", "b", "y", 256.0, 2.0, 10.0, "there is room")


@pytest.fixture
def url(database_url: str) -> str:
    return with_psycopg(database_url)


@pytest.fixture
def tables(url: str) -> Iterator[FleetTables]:
    made = FleetTables(url)
    yield made
    for batch_id in made.wishes():
        made.want(batch_id, Wish.ENDED)
    for mark in made.maintenance():
        made.open_for_guests(mark.subject, mark.is_site)
    made.close()


def batch(subject: str = "x", made_s: float = 1000.0, purpose: Purpose = Purpose.EVACUATE) -> Batch:
    name = f"{purpose.value}-{subject}-{uuid.uuid4().hex[:8]}"
    return Batch(name, purpose, subject, (MOVE,), (), made_s, operator="ada@desk")


def write(url: str, **row: object) -> None:
    """As somebody who may write to the database."""
    names = ", ".join(f":{key}" for key in row)
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        statement = f"INSERT INTO vmacro_batches ({', '.join(row)}) VALUES ({names})"
        connection.execute(sqlalchemy.text(statement), row)
    engine.dispose()


def test_who_looks_first_leaves_nothing_behind(tmp_path: Path) -> None:
    tables = FleetTables(f"sqlite:///{tmp_path}/journal.sqlite")
    assert tables.wishes() == {} and tables.maintenance() == () and tables.batches() == [] and tables.open() == []
    tables.open_for_guests("x", True)
    assert tables.forget(1e10) == frozenset() and [*tmp_path.iterdir()] == []


def test_a_batch_is_kept_as_it_was_planned(tables: FleetTables) -> None:
    made = batch()
    tables.add(made)
    assert tables.batch(made.batch_id) == (made, Wish.RUN) and tables.wishes()[made.batch_id] == Wish.RUN
    with pytest.raises(JournalError, match="there is one of this name already"):
        tables.add(made)
    tables.want(made.batch_id, Wish.PAUSE)
    tables.want(made.batch_id, Wish.RUN)
    tables.want(made.batch_id, Wish.ABORT)
    with pytest.raises(ConfigurationError, match="was aborted"):
        tables.want(made.batch_id, Wish.RUN)
    tables.want(made.batch_id, Wish.ENDED)
    with pytest.raises(ConfigurationError, match="has ended"):
        tables.want(made.batch_id, Wish.ABORT)
    assert made.batch_id not in tables.wishes() and made in [b for b, _ in tables.batches(1000)]


def test_maintenance_is_marked_once_and_since_then(tables: FleetTables) -> None:
    first, again = Maintenance("x", True, "ada@desk", 1.0), Maintenance("x", True, "bob@desk", 2.0)
    tables.close_for_guests(first)
    tables.close_for_guests(again)
    tables.close_for_guests(Maintenance("x", False, "bob@desk", 3.0))
    assert first in tables.maintenance() and len(tables.maintenance()) == 2
    tables.open_for_guests("x", True)
    tables.open_for_guests("x", True)
    assert [m.is_site for m in tables.maintenance()] == [False]


def test_old_batches_are_forgotten_but_not_those_that_tell_what_to_bring_back(tables: FleetTables) -> None:
    old, new, needed, open_one = batch("a"), batch("a", made_s=1e9), batch("b"), batch("c")
    for made in (old, new, needed, open_one):
        tables.add(made)
    for made in (old, new, needed):
        tables.want(made.batch_id, Wish.ENDED)
    tables.close_for_guests(Maintenance("b", True, "ada@desk", 1.0))
    kept = tables.forget(before_s=2000.0)
    names = {b.batch_id for b, _ in tables.batches(1000)}
    assert old.batch_id not in names and {new.batch_id, needed.batch_id, open_one.batch_id} <= names & kept


@pytest.mark.parametrize(
    "change",
    [
        {"plan": "not JSON"},
        {"plan": json.dumps({"batch_id": "evil"})},
        {"plan": "[" * 100_000},
        {"wish": "rule the world"},
        {"plan": None},
    ],
    ids=["no JSON", "another's", "deep", "wish", "of another batch"],
)
def test_a_strangers_row_hides_no_other(tables: FleetTables, url: str, change: dict[str, str | None]) -> None:
    good, other = batch(), batch()
    tables.add(good)
    named = f"evil-{uuid.uuid4().hex[:8]}"
    row = {"batch_id": named, "made_s": 1.0, "wish": "run", "plan": "{}"} | change
    if row["plan"] is None:
        row["plan"] = json.dumps({**_plain(other), "batch_id": other.batch_id})
    write(url, **row)
    assert (good, Wish.RUN) in tables.batches(1000) and (good, Wish.RUN) in tables.open()
    assert tables.wishes()[good.batch_id] == Wish.RUN
    with pytest.raises((JournalError, ConfigurationError), match=named):
        tables.batch(named)
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("DELETE FROM vmacro_batches WHERE batch_id = :name"), {"name": named})
    engine.dispose()


def test_strangers_rows_of_any_size_fill_no_memory(tables: FleetTables, url: str) -> None:
    """Each of 16 MB, of which Python keeps as many characters. They are cut where they are, and read one after the
    other."""
    good = batch()
    tables.add(good)
    names = [f"evil-{uuid.uuid4().hex[:8]}" for _ in range(6)]
    for name in names:
        write(url, batch_id=name, made_s=1.0, wish="run", plan="x" * 16_000_000)
    tracemalloc.start()
    try:
        assert (good, Wish.RUN) in tables.open() and (good, Wish.RUN) in tables.batches(1000)
        assert tables.wishes()[good.batch_id] == Wish.RUN
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        engine = sqlalchemy.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("DELETE FROM vmacro_batches WHERE batch_id LIKE 'evil-%'"))
        engine.dispose()
    assert most < 80_000_000


def _plain(made: Batch) -> dict[str, object]:
    return json.loads(json.dumps({"purpose": "evacuate", "subject": made.subject, "moves": []}))  # type: ignore[no-any-return]


def test_what_is_older_than_the_inventory_says_goes_with_its_tries(town: Town) -> None:
    settings = wiring.load(town.file)
    tables = FleetTables(settings.database_url)
    made = batch()
    tables.add(made)
    tables.want(made.batch_id, Wish.ENDED)
    moving.forget_old(settings)
    assert tables.batches() == []


# On SQLite alone, which is all that these depend on


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[FleetTables]:
    made = FleetTables(f"sqlite:///{tmp_path}/state/journal.sqlite")
    yield made
    made.close()


def named(name: str, made_s: float) -> Batch:
    return Batch(name, Purpose.EVACUATE, "x", (MOVE,), (), made_s)


def test_batches_are_listed_newest_first_and_carried_out_oldest_first(quick: FleetTables, tmp_path: Path) -> None:
    made = [named("b", 2.0), named("c", 1.0), named("a", 2.0), named("over", 3.0)]
    for each in made:
        quick.add(each)
    quick.want("over", Wish.ENDED)
    quick.want("c", Wish.PAUSE)
    run = Wish.RUN
    assert quick.batches() == [(made[3], Wish.ENDED), (made[2], run), (made[0], run), (made[1], Wish.PAUSE)]
    assert quick.batches(2) == quick.batches()[:2]
    assert quick.open() == [(made[1], Wish.PAUSE), (made[2], run), (made[0], run)]
    assert list(quick.wishes().items()) in (
        [("c", Wish.PAUSE), *pair] for pair in ([("a", run), ("b", run)], [("b", run), ("a", run)])
    )
    files = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()}
    assert files["journal.sqlite"] == 0o600


def test_no_list_is_longer_than_anybody_reads(quick: FleetTables, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        quick.add(named(f"b{number}", float(number)))
        quick.close_for_guests(Maintenance(f"h{number}", False, "ada@desk", 1.0))
    monkeypatch.setattr("vmacro.services.fleet_tables.MOST_LISTED", 2)
    monkeypatch.setattr("vmacro.services.fleet_tables.MOST_HOSTS", 3)
    assert [b.batch_id for b, _ in quick.open()] == list(quick.wishes()) == ["b0", "b1"]
    assert [mark.subject for mark in quick.maintenance()] == ["h0", "h1", "h2"]


def test_what_is_wanted_of_a_batch_is_wanted_of_it_alone(quick: FleetTables) -> None:
    for name in ("a", "b"):
        quick.add(named(name, 1.0))
    quick.want("a", Wish.ABORT)
    with pytest.raises(ConfigurationError) as told:
        quick.want("a", Wish.PAUSE)
    assert told.value.message == "batch a: was aborted" and told.value.hint == "plan another: vmacro evacuate"
    quick.want("a", Wish.ABORT)
    assert quick.wishes() == {"a": Wish.ABORT, "b": Wish.RUN}
    for name in ("c", "no name"):
        with pytest.raises(
            ConfigurationError, match=rf"\Abatch '{name}': there is none\n  hint: `vmacro batch list` lists them"
        ):
            quick.want(name, Wish.RUN)


def test_a_host_and_a_site_of_one_name_open_each_by_itself(quick: FleetTables) -> None:
    site, host = Maintenance("x", True, "ada@desk", 5.0), Maintenance("x", False, "bob@desk", 6.0)
    for mark in (site, host):
        quick.close_for_guests(mark)
    quick.close_for_guests(Maintenance("x", True, "cleo@desk", 4.0))
    assert set(quick.maintenance()) == {Maintenance("x", True, "ada@desk", 4.0), host}, "the earlier time"
    quick.open_for_guests("x", False)
    quick.open_for_guests("y", True)
    assert quick.maintenance() == (Maintenance("x", True, "ada@desk", 4.0),)


def test_what_cannot_be_read_of_maintenance_is_left_out(quick: FleetTables) -> None:
    good = Maintenance("x", True, "ada@desk", 5.0)
    quick.close_for_guests(good)
    with quick._engine.begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO vmacro_maintenance VALUES ('a b', 1, 'x', 1.0)"))
    assert quick.maintenance() == (good,)


def test_of_batches_those_that_ended_before_then_are_forgotten(quick: FleetTables) -> None:
    for name, made_s in (("old", 9.0), ("at-it", 10.0), ("open", 1.0), ("evacuate-y-1", 1.0), ("evacuate-yy-1", 1.0)):
        quick.add(named(name, made_s))
        if name != "open":
            quick.want(name, Wish.ENDED)
    quick.close_for_guests(Maintenance("y", True, "ada@desk", 1.0))
    assert quick.forget(10.0) == {"at-it", "open", "evacuate-y-1"}
    assert {b.batch_id for b, _ in quick.batches()} == {"at-it", "open", "evacuate-y-1"}


def test_many_old_batches_are_all_forgotten(quick: FleetTables) -> None:
    quick.add(named("b", 1.0))
    rows = [{"n": f"b{number}", "plan": "{}"} for number in range(250)]
    with quick._engine.begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO vmacro_batches VALUES (:n, 1.0, 'ended', :plan)"), rows)
    assert quick.forget(10.0) == {"b"}
    with quick._engine.begin() as connection:
        assert connection.execute(sqlalchemy.text("SELECT count(*) FROM vmacro_batches")).scalar() == 1


def test_a_batch_that_nobody_could_read_is_not_kept(quick: FleetTables, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JournalError, match="batch a b: is no name of a batch"):
        quick.add(named("a b", 1.0))
    monkeypatch.setattr("vmacro.services.fleet_tables.MAX_CHARACTERS", 100)
    with pytest.raises(JournalError, match=r"batch a: \d+ characters of JSON: too many moves for one batch"):
        quick.add(named("a", 1.0))
