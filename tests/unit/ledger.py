"""A journal as DBOS would have written it, row by row: nothing runs, so that a test of what is read takes no time."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy
from dbos import DBOSClient

from vmacro.model.batches import Became, Try
from vmacro.model.moves import Carriage, Noted, Outcome, Plan
from vmacro.services import journal
from vmacro.services.archive import Archive
from vmacro.services.fleet_tables import FleetTables
from vmacro.services.journal_json import SERIALIZATION, encoded, noted_as_plain
from vmacro.services.journal_rows import CARRY, MIGRATE, TRY, Rows
from vmacro.services.serializer import Json

_STATUS = "workflow_uuid status name executor_id created_at updated_at serialization queue_name application_version"


class Ledger:
    """Tables by DBOS's own migrations, on SQLite. Times are ms since 1970."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.sqlite"
        self.url = f"sqlite:///{self.path}"
        shutil.copyfile(_empty(), self.path)

    def workflow(
        self,
        kind: str,
        name: str,
        *arguments: object,
        status: str = "SUCCESS",
        output: object = None,
        at_ms: tuple[int, int] = (1, 2),
        executor: str = "worker-1",
    ) -> None:
        """`arguments` and `output` as JSON has them; an output of None is none."""
        values = [name, status, kind, executor, *at_ms, SERIALIZATION, None, journal.ROWS]
        inputs = json.dumps({"args": arguments, "kwargs": {}})
        self.write(f"INSERT INTO workflow_status ({_columns(_STATUS)}, priority) VALUES ({_marks(values)}, 0)", *values)
        self.write("INSERT INTO workflow_input VALUES (?, ?, 0)", name, inputs)
        if output is not None:
            self.write("INSERT INTO workflow_output VALUES (?, ?, NULL, 0)", name, json.dumps(output))

    def attempt(
        self,
        plan: Plan,
        outcome: Outcome | None = None,
        number: int = 1,
        at_ms: tuple[int, int] = (1, 2),
        took_over: Iterable[Noted] = (),
    ) -> None:
        """One attempt at a move; it has not ended where it has no outcome."""
        name = plan.move_id if number == 1 else f"{plan.move_id}+{number}"
        ended = encoded(outcome) if outcome is not None else None
        inputs = encoded(plan), [noted_as_plain(noted) for noted in took_over]
        status = "PENDING" if outcome is None else "SUCCESS"
        self.workflow(MIGRATE, name, *inputs, status=status, output=ended, at_ms=at_ms)

    def carriage(self, carriage: Carriage, status: str = "PENDING", at_ms: tuple[int, int] = (1, 2)) -> str:
        """Returns its workflow's name."""
        name = f"carry-{carriage.address}-{carriage.move_id}"
        self.workflow(CARRY, name, encoded(carriage), status=status, at_ms=at_ms)
        return name

    def tried(
        self,
        tried: Try,
        became: Became | None = None,
        status: str = "",
        at_ms: tuple[int, int] = (1, 2),
        executor: str = "worker-1",
    ) -> None:
        """One try at a move of a batch; it is under way, or waits for a worker, where nothing became of it."""
        status = status or ("PENDING" if became is None else "SUCCESS")
        output = encoded(became) if became is not None else None
        self.workflow(TRY, tried.name, encoded(tried), status=status, output=output, at_ms=at_ms, executor=executor)

    def step(
        self,
        workflow: str,
        number: int,
        name: str,
        output: object = None,
        error: object = None,
        begins: str | None = None,
        at_ms: tuple[int, int] = (1, 2),
    ) -> None:
        """`begins`: the workflow that this step has begun, as DBOS notes it."""
        texts = [None if value is None else json.dumps(value) for value in (output, error)]
        columns = "workflow_uuid function_id function_name output error child_workflow_id started_at_epoch_ms"
        columns += " completed_at_epoch_ms serialization retention_timestamp"
        values = [workflow, number, name, *texts, begins, *at_ms, SERIALIZATION, 0]
        self.write(f"INSERT INTO operation_outputs ({_columns(columns)}) VALUES ({_marks(values)})", *values)

    def write(self, statement: str, *values: object) -> None:
        """Anything, as whoever may write to the database."""
        with closing(sqlite3.connect(self.path)) as database, database:
            database.execute("PRAGMA synchronous = OFF")
            database.execute(statement, values)

    def rows(self) -> Rows:
        return Rows(sqlalchemy.make_url(self.url))

    def archive(self) -> Archive:
        return Archive(self.url)

    def names(self) -> list[str]:
        """Of all workflows."""
        with closing(sqlite3.connect(self.path)) as database:
            return sorted(name for (name,) in database.execute("SELECT workflow_uuid FROM workflow_status"))


@functools.cache
def _empty() -> Path:
    """A journal in which nothing has happened yet, for this process."""
    path = Path(tempfile.mkdtemp(prefix="vmacro-ledger-")) / "journal.sqlite"
    atexit.register(shutil.rmtree, path.parent)
    serializer: Any = Json()
    client = DBOSClient(system_database_url=f"sqlite:///{path}", serializer=serializer)
    client._sys_db.run_migrations()
    client.destroy()
    return path


def fleet_tables(ledger: Ledger) -> FleetTables:
    """In the ledger's database. Nobody asks what a power cut would leave of it: it need not wait for the disk."""
    made = FleetTables(ledger.url)
    sqlalchemy.event.listen(made._engine, "connect", lambda made, _: made.execute("PRAGMA synchronous = OFF"))
    return made


def _columns(names: str) -> str:
    return ", ".join(names.split())


def _marks(values: list[Any]) -> str:
    return ", ".join("?" for _ in values)
