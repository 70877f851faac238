"""Rows that say of themselves that they are pickles, in every column that DBOS decodes, read by DBOS itself."""

from __future__ import annotations

import base64
import os
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from dbos import DBOS, DBOSClient
from dbos._schemas import SCHEMA_PLACEHOLDER
from dbos._schemas.system_database import SystemSchema
from dbos._serialization import DefaultSerializer

from tests.support import eventually
from vmacro.addresses import with_psycopg
from vmacro.errors import JournalError
from vmacro.ports import World
from vmacro.services import journal
from vmacro.services.archive import Archive
from vmacro.services.journal_json import SERIALIZATION
from vmacro.services.journal_rows import CARRY, MIGRATE
from vmacro.services.serializer import Json

TABLES = {table.name: table for table in SystemSchema.metadata_obj.sorted_tables}
DECODED = {"inputs", "output", "error", "message", "value", "context"}
COLUMNS = {f"{table.name}.{column.name}" for table in TABLES.values() for column in table.columns} & {
    f"{table}.{column}" for table in TABLES for column in DECODED
}
UNREAD = {"workflow_events_history.value"}  # by anything but a workflow that is forked; it is read as an event is
PLAIN = '{"args": [], "kwargs": {}}'
INTERNAL_QUEUE = "_dbos_internal_queue"


@DBOS.workflow(name="reader")
def reader() -> str:
    """What a workflow of DBOS's may read."""
    reads: list[Callable[[], object]] = [
        lambda: DBOS.run_step({"name": "noted"}, lambda: "done"),
        lambda: DBOS.recv(timeout_seconds=0),
        lambda: DBOS.get_event("out", "event", timeout_seconds=0),
    ]
    for read in reads:
        with suppress(Exception):
            read()
    return "read"


class Trace:
    """Whoever unpickles it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._folder),)


class Stranger:
    """Has the database's password, and nothing else. In each row that it writes one column is a pickle, which leaves
    a folder of the column's name in `traces`."""

    def __init__(self, url: str, traces: Path) -> None:
        schema = None if url.startswith("sqlite") else "dbos"
        self._engine = sqlalchemy.create_engine(with_psycopg(url)).execution_options(
            schema_translate_map={SCHEMA_PLACEHOLDER: schema}
        )
        self._traces, self._now = traces, round(time.time() * 1000)

    def write(self) -> None:
        with self._engine.begin() as self._into:
            for table in reversed(SystemSchema.metadata_obj.sorted_tables):
                if {"workflow_uuid", "destination_uuid", "schedule_id"} & {c.name for c in table.columns}:
                    self._into.execute(table.delete())
            for queue in (journal.CARRIAGES, INTERNAL_QUEUE):
                queued = {"status": "ENQUEUED", "queue_name": queue, "name": CARRY}
                self._status(f"in {queue}", "inputs", **queued)
                self._status(f"in here {queue}", **queued)
                self._of(f"in here {queue}", "workflow_input", "inputs", {"inputs": PLAIN})
            for id, status, column in (("out", "SUCCESS", "output"), ("err", "ERROR", "error")):
                self._status(id, column, status=status, name=MIGRATE)
                self._status(f"{id} there", status=status, name=MIGRATE)
                self._of(f"{id} there", "workflow_output", column, {})
                replayed = f"{id} of a step"
                self._status(replayed, status="PENDING", name="reader", executor_id=journal.CARRIER)
                self._of(replayed, "operation_outputs", column, {"function_id": 1, "function_name": "noted"})
            self._status("receives", status="PENDING", name="reader", executor_id=journal.CARRIER)
            sent: dict[str, Any] = {"destination_uuid": "receives", "topic": "__null__topic__", "message_uuid": "m"}
            self._insert("notifications", "message", sent | {"created_at_epoch_ms": self._now})
            keyed: dict[str, Any] = {"workflow_uuid": "out", "key": "event"}
            self._insert("workflow_events", "value", keyed)
            self._insert("workflow_events_history", "value", keyed | {"function_id": 1})
            self._insert("streams", "value", keyed | {"function_id": 1, "offset": 0})
            cron = {"schedule_id": "s", "schedule_name": "s", "workflow_name": "reader", "schedule": "* * * * * *"}
            self._insert("workflow_schedules", "context", cron | {"status": "ACTIVE"})

    def goes_on(self) -> list[str]:
        """Workflows that nobody has ended yet."""
        status = TABLES["workflow_status"]
        wanted = sqlalchemy.select(status.c.workflow_uuid).where(status.c.status.in_(("PENDING", "ENQUEUED")))
        with self._engine.connect() as connection:
            return [row[0] for row in connection.execute(wanted)]

    def _status(self, id: str, pickled: str = "", **row: Any) -> None:
        common: dict[str, Any] = {
            "created_at": self._now,
            "updated_at": self._now,
            "priority": 0,
            "recovery_attempts": 0,
        }
        common |= {"application_version": journal.ROWS, "application_name": journal.APPLICATION, "inputs": PLAIN}
        common |= {"recovery_attempts": 0}
        self._insert("workflow_status", pickled, {"workflow_uuid": id, **common, **row})

    def _of(self, id: str, table: str, pickled: str, row: dict[str, Any]) -> None:
        self._insert(table, pickled, {"workflow_uuid": id, "retention_timestamp": self._now, **row})
        if "serialization" not in TABLES[table].columns:  # it is the status's
            status = TABLES["workflow_status"]
            self._into.execute(status.update().where(status.c.workflow_uuid == id).values(serialization="py_pickle"))

    def _insert(self, table: str, pickled: str, row: dict[str, Any]) -> None:
        if "serialization" in TABLES[table].columns:
            row = row | {"serialization": "py_pickle" if pickled else SERIALIZATION}
        if pickled:
            row = row | {pickled: self._pickle(f"{table}.{pickled}")}
        self._into.execute(TABLES[table].insert(), row)

    def _pickle(self, name: str) -> str:
        return base64.b64encode(pickle.dumps(Trace(self._traces / name))).decode()


@contextmanager
def no_world() -> Iterator[World]:
    raise AssertionError("whoever begins one of these rows needs no world")
    yield


def read_all(url: str, stranger: Stranger) -> None:
    """All that DBOS and we ever read of a database, from outside and from inside."""
    client = DBOSClient(system_database_url=url, serializer=Json())  # type: ignore[arg-type]
    ids = [w.workflow_id for w in client.list_workflows()]
    reads: list[Callable[[], object]] = [client.list_schedules]
    reads += [partial(client.list_workflow_steps, id) for id in ids]
    reads += [client.retrieve_workflow(id).get_result for id in ids if id in ("out", "err", "out there", "err there")]
    reads += [
        lambda: client.get_event("out", "event", 0),
        lambda: next(iter(client.read_stream("out", "event"))),
    ]
    for read in reads:
        with suppress(Exception):
            read()
    client.destroy()
    archive = Archive(with_psycopg(url))
    assert {r.move_id for r in archive.moves()} >= {"out", "err"} and len(archive.carriages()) == 4
    with suppress(JournalError):
        archive.steps("out of a step")
    archive.close()
    with journal.open_journal(with_psycopg(url), no_world, journal.CARRIER):
        eventually(lambda: not stranger.goes_on(), "the end of all workflows")
        assert not [w.workflow_id for w in DBOS.list_workflows() if w.workflow_id.startswith("sched-")]


@pytest.fixture
def stranger(database_url: str, tmp_path: Path) -> Stranger:
    (tmp_path / "traces").mkdir()
    with journal.open_journal(with_psycopg(database_url), no_world, "test-1"):
        pass  # which makes the tables
    made = Stranger(database_url, tmp_path / "traces")
    made.write()
    return made


def test_no_row_runs_code(
    database_url: str, tmp_path: Path, stranger: Stranger, journal_says: Callable[[], list[str]]
) -> None:
    """Each is told with its workflow's name, in one line."""
    read_all(database_url, stranger)
    assert list((tmp_path / "traces").iterdir()) == []
    told = journal_says()
    assert all(line.startswith("journal: Error executing workflow in ") for line in told) and len(told) == 4


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_without_our_refusal_every_row_would(
    database_url: str, tmp_path: Path, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are as a stranger would write them, and the reading reaches every column."""
    monkeypatch.setattr(DefaultSerializer, "deserialize", lambda _self, text: pickle.loads(base64.b64decode(text)))
    read_all(database_url, stranger)
    ran = {path.name for path in (tmp_path / "traces").iterdir()}
    assert ran == COLUMNS - UNREAD - {"workflow_schedules.context"}, "a schedule's context names no decoder"


def test_what_is_written_of_a_pickle_that_failed_is_none_either() -> None:
    assert DefaultSerializer().serialize(ValueError("x")).startswith('{"__error__"')
