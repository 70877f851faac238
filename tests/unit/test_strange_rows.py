"""A journal that a stranger writes to: what its rows say is typed and bounded, begins no move, and hides no other row.
test_pickles.py has rows that DBOS would run."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from dbos import DBOSClient
from typer.testing import CliRunner, Result

import vmacro.api
from tests.hostile import HOSTILE, is_harmless, places, put
from tests.support import eventually
from tests.unit.test_enumeration import stage
from tests.unit.town import PATIENCE_S, Town
from vmacro.addresses import with_psycopg
from vmacro.cli.app import app
from vmacro.errors import JournalError, VmacroError
from vmacro.model.moves import Ending, Outcome, Plan
from vmacro.model.nouns import Host
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.resuming import as_the_inventory_has_it
from vmacro.ports import World
from vmacro.services import carry, journal, journal_json, migrate, upkeep, workflows
from vmacro.services.archive import Archive, Record, Unreadable, UnreadableCarriage
from vmacro.services.journal_rows import CARRY, MIGRATE, WAITING, Rows
from vmacro.services.serializer import Json

A_DAY_TO_COME_MS = 1 << 43
EVIL = "qemu+ssh://stranger/system?command=/tmp/x"


@contextmanager
def no_world() -> Iterator[World]:
    raise AssertionError("DBOS begins nothing here")
    yield


def moved(url: str, move_id: str = "web-1") -> tuple[Plan, Outcome]:
    """A move whose journal it is, with an address that is carried after it."""
    found = stage(SEAMLESS)
    plan = replace(found.plan, move_id=move_id)
    with journal.open_journal(url, no_world, "test-1"):
        return plan, workflows.run(plan, found.fake.world)


class Stranger:
    """Writes what it likes."""

    def __init__(self, url: str) -> None:
        self._engine = sqlalchemy.create_engine(with_psycopg(url))
        self._schema = "" if url.startswith("sqlite") else "dbos."

    def write(self, statement: str, **values: object) -> None:
        with self._engine.begin() as connection:
            connection.execute(sqlalchemy.text(statement.replace("dbos.", self._schema)), values)

    def value(self, question: str) -> object:
        """The first column of what it brings first."""
        with self._engine.begin() as connection:
            return connection.execute(sqlalchemy.text(question.replace("dbos.", self._schema))).scalars().first()

    def read(self, table: str, column: str, id: str, step: str = "") -> Any:
        """What one column has, as JSON. `step`: of the workflow's step of this name."""
        where, values = _where(id, step)
        with self._engine.begin() as connection:
            statement = f"SELECT {column} FROM {self._schema}{table} WHERE {where}"
            return json.loads(str(connection.execute(sqlalchemy.text(statement), values).scalars().first()))

    def put(self, table: str, column: str, id: str, new: object, step: str = "") -> None:
        where, values = _where(id, step)
        self.write(f"UPDATE dbos.{table} SET {column} = :new WHERE {where}", new=json.dumps(new), **values)


def _where(id: str, step: str) -> tuple[str, dict[str, str]]:
    return ("workflow_uuid = :id" + (" AND function_name = :step" if step else ""), {"id": id, "step": step})


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/journal.sqlite"


def test_the_rows_are_those_that_dbos_lists(database_url: str) -> None:
    """In a later DBOS the tables may be others."""
    plan, _ = moved(database_url, "rows-1")
    serializer: Any = Json()
    client, rows = DBOSClient(system_database_url=database_url, serializer=serializer), Rows(_url(database_url))
    (listed,) = client.list_workflows(workflow_ids=["rows-1"])
    (read,) = rows.executions(MIGRATE, "rows-1")
    assert (read.name, read.status) == (listed.workflow_id, listed.status)
    assert (read.began_ms, read.ended_ms) == (listed.created_at, listed.updated_at)
    assert (read.inputs.loaded("x"), read.output.loaded("x")) == (_plain(listed.input), listed.output)
    steps = [s for s in client.list_workflow_steps("rows-1") if not s["child_workflow_id"]]
    assert [(r.name, r.output.loaded("x"), r.began_ms, r.ended_ms) for r in rows.steps("rows-1")] == [
        (s["function_name"], s["output"], s["started_at_epoch_ms"], s["completed_at_epoch_ms"]) for s in steps
    ]
    waiting = client.list_workflows(name=CARRY, status=["ENQUEUED", "PENDING"])
    assert sorted(r.name for r in rows.workflows(CARRY, statuses=WAITING)) == sorted(w.workflow_id for w in waiting)
    assert plan.move_id in {r.name for r in rows.workflows(MIGRATE)}
    client.destroy()
    rows.close()


def test_a_row_begins_no_move(database_url: str, journal_says: Callable[[], list[str]]) -> None:
    """Whoever has a journal open works on DBOS's internal queue, and finds there what a stranger has put into it."""
    moved(database_url, "home-1")
    row = "SELECT inputs FROM dbos.workflow_input WHERE workflow_uuid = 'home-1'"
    stranger = Stranger(database_url)
    columns = "workflow_uuid, status, name, queue_name, application_version, application_name, priority, created_at"
    columns += ", updated_at, recovery_attempts, serialization, inputs"
    values = f"'home-2', 'ENQUEUED', 'migrate', '_dbos_internal_queue', '{journal.ROWS}', 'vmacro', 0, 1, 1, 0"
    stranger.write(f"INSERT INTO dbos.workflow_status ({columns}) VALUES ({values}, 'vmacro_json', ({row}))")
    with journal.open_journal(database_url, no_world, "test-2"), closing(Archive(database_url)) as archive:
        eventually(lambda: len(journal_says()) > 0, "what became of it")
        assert archive.move("home-1") is not None
    (told,) = journal_says()
    assert "workflow home-2: nobody has asked for it but a row of the journal; it was not begun" in told


def test_hosts_and_guests_are_what_the_inventory_says() -> None:
    """Whatever a plan in the journal says of how they are reached: libvirt would run a program that a URI names."""
    found = stage(SEAMLESS)
    plan, inventory = found.plan, found.fake.inventory
    assert plan.old_legs and plan.new_legs and plan.addresses

    def evil(host: Host) -> Host:
        return replace(host, uri=EVIL, peer_uri=EVIL, ssh="root@stranger", address="192.0.2.66", tls_name="stranger")

    written = replace(
        plan,
        guest=replace(plan.guest, domain="another"),
        source=evil(plan.source),
        destination=evil(plan.destination),
        new_legs=tuple(replace(leg, home=evil(leg.home), away=evil(leg.away)) for leg in plan.new_legs),
        old_legs=tuple(replace(leg, home=evil(leg.home), away=evil(leg.away)) for leg in plan.old_legs),
        addresses=tuple(replace(homed, home=evil(homed.home)) for homed in plan.addresses),
    )
    assert as_the_inventory_has_it(written, inventory) == plan
    (carriage,) = carry.carriages(written, Outcome(Ending.MOVED, carried=(plan.address,)), 0.0)
    assert "stranger" not in str(as_the_inventory_has_it(carriage, inventory))
    for kind, unknown in (
        ("host", replace(plan, source=replace(plan.source, name="x"))),
        ("guest", replace(plan, guest=replace(plan.guest, name="x"))),
    ):
        with pytest.raises(JournalError) as told:
            as_the_inventory_has_it(unknown, inventory)
        why = "the journal speaks of it, and the inventory has none; nothing was changed"
        assert told.value.message == f"{kind} x: {why}"
        assert told.value.hint == f"put {kind}s.x back into the inventory"


def test_a_move_goes_on_with_the_inventorys_hosts(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through DBOS, both for what is resumed and for what is carried."""
    seen: list[object] = []

    def see(found: object, *_: object, **__: object) -> Outcome:
        seen.append(found)
        return Outcome(Ending.MOVED)

    monkeypatch.setattr(migrate, "run_move", see)
    monkeypatch.setattr(carry, "run_carriage", lambda *words: see(*words).ending.value)
    found = stage(SEAMLESS)
    evil = replace(found.plan, source=replace(found.plan.source, uri=EVIL, ssh="root@stranger"))
    (carriage,) = carry.carriages(evil, Outcome(Ending.MOVED, carried=(evil.address,)), 0.0)
    carriage = replace(carriage, at=replace(carriage.at, uri=EVIL), home=replace(carriage.home, uri=EVIL))

    @contextmanager
    def make() -> Iterator[World]:
        yield found.fake.world

    with journal.open_journal(sqlite, make, journal.CARRIER):
        workflows.run(evil, found.fake.world)
        journal.enqueue(workflows._carry, "carry-x", journal_json.encoded(carriage))
        eventually(lambda: len(seen) == 2, "the carriage's begin")
    assert EVIL not in str(seen) and "stranger" not in str(seen)


_numbers = itertools.count(os.getpid() * 1000)
STRANGE = {
    "roles that are no JSON": "UPDATE dbos.workflow_status SET authenticated_roles = '{' WHERE workflow_uuid = :id",
    "attributes of another kind": "UPDATE dbos.workflow_status SET attributes = '[[[1]]]' WHERE workflow_uuid = :id",
    "times that no clock has": "UPDATE dbos.workflow_status SET created_at = -9223372036854775807, updated_at = "
    "9223372036854775807 WHERE workflow_uuid = :id",
    "no status": "UPDATE dbos.workflow_status SET status = 'x' WHERE workflow_uuid = :id",
    "no plan": "DELETE FROM dbos.workflow_input WHERE workflow_uuid = :id",
    "another serialization": "UPDATE dbos.workflow_status SET serialization = 'java' WHERE workflow_uuid = :id",
    "the portable serialization": "UPDATE dbos.workflow_status SET serialization = 'portable_json' "
    "WHERE workflow_uuid = :id",
    "what is too long": "UPDATE dbos.workflow_input SET inputs = :long WHERE workflow_uuid = :id",
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_strange_row_hides_no_other(database_url: str, what: str) -> None:
    good_one, odd_one = f"good-{next(_numbers)}", f"odd-{next(_numbers)}"  # PostgreSQL keeps them from test to test
    moved(database_url, good_one)
    moved(database_url, odd_one)
    values: dict[str, object] = {"id": odd_one}
    if ":long" in STRANGE[what]:
        values["long"] = "[" * (journal_json.MAX_CHARACTERS + 1)
    Stranger(database_url).write(STRANGE[what], **values)
    with closing(Archive(database_url)) as archive:
        good = archive.move(good_one)
        assert good is not None and good.outcome is not None and good.outcome.ending == Ending.MOVED
        assert good in archive.moves(10_000) and odd_one in {r.move_id for r in archive.moves(10_000)}
        archive.unfinished()
        archive.carriages()
        (odd,) = [r for r in archive.moves(10_000) if r.move_id == odd_one]
        assert isinstance(odd, Record) or is_harmless(odd.error().message)


def test_columns_of_sqlite_may_hold_anything(sqlite: str, tmp_path: Path) -> None:
    """Of any type in any column, and text that is no UTF-8."""
    moved(sqlite, "good-1")
    moved(sqlite, "odd-1")
    for column in ("created_at", "updated_at", "status", "serialization", "attributes", "output", "inputs"):
        for odd in (b"\xff\xfe", "\x1b[2J", 1.5e300, None):
            if odd is None and column in ("created_at", "updated_at"):
                continue
            with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as database, database:
                table = {"output": "workflow_output", "inputs": "workflow_input"}.get(column, "workflow_status")
                cast = "CAST(? AS TEXT)" if isinstance(odd, bytes) else "?"
                database.execute(f"UPDATE {table} SET {column} = {cast} WHERE workflow_uuid = 'odd-1'", (odd,))
            with closing(Archive(sqlite)) as archive:
                assert "good-1" in {r.move_id for r in archive.moves() if isinstance(r, Record)}
                archive.unfinished()


def test_what_is_no_table_is_given_up(sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view in its place may never come to an end."""
    moved(sqlite)
    monkeypatch.setattr("vmacro.services.journal_rows.PATIENCE_S", 0.1)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT 'migrate' AS name"
    columns = (
        "workflow_uuid",
        "status",
        "serialization",
        "executor_id",
        "created_at",
        "updated_at",
        "inputs",
        "output",
    )
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as database, database:
        database.execute("DROP TABLE workflow_status")
        columns_of_it = ", ".join(f"i AS {column}" for column in columns)
        database.execute(f"CREATE VIEW workflow_status AS {endless}, {columns_of_it} FROM n WHERE i < 0")
    with closing(Archive(sqlite)) as archive, pytest.raises(sqlalchemy.exc.OperationalError, match="interrupted"):
        archive.moves()


PARTS = {
    "plan": ("workflow_input", "inputs", ""),
    "outcome": ("workflow_output", "output", ""),
    **{step: ("operation_outputs", "output", step) for step in ("survey", "prepare", "copy", "arrive", "settle")},
    "carriage": ("workflow_input", "inputs", ""),
}


ALL = pytest.param(1, id="all places", marks=pytest.mark.slow("every place, not every third"))


@pytest.mark.parametrize("step", [pytest.param(3, id="some places"), ALL])
@pytest.mark.parametrize("part", PARTS)
def test_no_field_of_a_row_does_more_than_be_refused(
    town: Town, session: vmacro.api.Session, tmp_path: Path, part: str, step: int
) -> None:
    """Whatever is in it: who lists, shows, resumes or carries is told in printable words, and others' moves go on."""
    clients = town.fake.guests["g1"].connections
    clients[:] = [replace(connection, willing=False) for connection in clients]
    done = session.migrate("g1", "berlin/berlin-1").result(PATIENCE_S)
    move_id, url = done.move_id, f"sqlite:///{tmp_path}/state/journal.sqlite"
    (table, column, of_step), (address,) = PARTS[part], done.outcome.carried
    id = f"carry-{address}-{move_id}" if part == "carriage" else move_id
    stranger, within = Stranger(url), ("args", 0) if column == "inputs" else ()
    right = stranger.read(table, column, id, of_step)
    commands = itertools.cycle((("history",), ("show", move_id), ("show", move_id, "--json"), ("carried",)))
    # Each place another value; all of them in each place, by the decoder alone, in test_journal_json.py.
    tried = itertools.islice(places(right["args"][0] if within else right), 0, None, step)
    for number, place in enumerate(tried):
        odd = HOSTILE[number * 7 % len(HOSTILE)]
        stranger.put(table, column, id, put(right, (*within, *place), odd), of_step)
        with closing(Archive(url)) as archive:
            for read in (archive.moves, archive.unfinished, archive.carriages):
                assert isinstance(read(), list), (place, odd)
            with suppress(JournalError):
                archive.steps(move_id)
        if number % 5 == 0:
            shown = run(town, *next(commands))
            assert shown.exception is None or isinstance(shown.exception, (SystemExit, VmacroError)), (place, odd)
            assert is_harmless(shown.output), (place, odd)
    assert session.migrate("g2", "berlin/berlin-2").result(PATIENCE_S).outcome.ending == Ending.MOVED


def test_a_carriage_that_cannot_be_read_is_named_and_left_alone(sqlite: str) -> None:
    plan, outcome = moved(sqlite)
    (address,) = outcome.carried
    id = f"carry-{address}-{plan.move_id}"
    stranger = Stranger(sqlite)
    right = stranger.read("workflow_input", "inputs", id)
    stranger.put("workflow_input", "inputs", id, put(right, ("args", 0, "deadline_s"), "x"))
    with closing(Archive(sqlite)) as archive:
        (found,) = archive.carriages()
    assert isinstance(found, UnreadableCarriage) and (found.move_id, found.address) == (plan.move_id, address)
    assert found.trouble.startswith(f"{id}: what the journal has of it cannot be read: deadline_s: must be a number")


def test_a_plan_of_another_move_is_none(sqlite: str) -> None:
    """A move's name names its report's folder."""
    moved(sqlite)
    stranger = Stranger(sqlite)
    right = stranger.read("workflow_input", "inputs", "web-1")
    stranger.put("workflow_input", "inputs", "web-1", put(right, ("args", 0, "move_id"), ".."))
    with closing(Archive(sqlite)) as archive:
        (found,) = archive.moves()
    assert isinstance(found, Unreadable) and "it is the plan of .." in found.trouble


def test_what_nobody_can_read_is_not_forgotten(sqlite: str) -> None:
    """Nor what has no time; nor does a row that cannot be read take the place of a guest's last move."""
    for name in ("web-1", "web-2", "web-3", "web-4"):
        moved(sqlite, name)
    stranger = Stranger(sqlite)
    stranger.write("UPDATE dbos.workflow_status SET updated_at = 'x' WHERE workflow_uuid = 'web-1'")
    stranger.put("workflow_input", "inputs", "web-4", {"args": []})
    with closing(Archive(sqlite)) as archive:
        stranger.write("UPDATE dbos.workflow_status SET status = 'SUCCESS' WHERE name = 'carry'")
        assert upkeep.forget(archive, A_DAY_TO_COME_MS) == 1
        assert [record.move_id for record in archive.moves()] == ["web-4", "web-3", "web-1"]


def run(town: Town, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--inventory", str(town.file)])


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _url(database_url: str) -> sqlalchemy.URL:
    return sqlalchemy.make_url(with_psycopg(database_url))
