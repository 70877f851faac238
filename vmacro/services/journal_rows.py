"""Rows of DBOS's tables, as they are: bounded, and not decoded.

DBOS's own listing decodes all that it finds, by whatever a row names, and ends at the first row that it cannot read
(dbos._sys_db.SystemDatabase.list_workflows): one such row would hide all moves. tests/unit/test_strange_rows.py holds
this reading to that one.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import ColumnElement, Select, func
from sqlalchemy.pool import NullPool

from vmacro.errors import JournalError
from vmacro.services import databases
from vmacro.services.databases import cut
from vmacro.services.journal_json import MAX_CHARACTERS, SERIALIZATION, loaded
from vmacro.wire.text import printable

MIGRATE, CARRY, TRY = "migrate", "carry", "try"  # what workflows are called in rows: must never change
MOST_ROWS = 20_000  # of one question: years of moves
PATIENCE_S = 30.0  # what is no table but a view may never end, and a lock never be given back
WAITING = ("ENQUEUED", "PENDING")
ENDED = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
_SHORT = 200  # a longer name is none of ours
_AT_A_TIME = 4  # rows in memory
_INSTRUCTIONS = 100_000  # of SQLite's machine, some milliseconds


@dataclass(frozen=True)
class Value:
    """A column's text, None where it has none, and which decoder its row asks for."""

    text: object
    serialization: object

    def loaded(self, subject: str) -> Any:
        """As JSON has it; None where there is none. Raises JournalError, which names `subject`."""
        if self.text is None:
            return None
        if self.serialization not in (None, SERIALIZATION):
            raise JournalError(f"{subject} cannot be read: it is written as {str(self.serialization)[:40]!r}")
        return loaded(self.text, subject)


@dataclass(frozen=True)
class WorkflowRow:
    """One workflow: `name` is its id, `executor` the process that has begun it. Times in ms since 1970, 0 where the row
    has none that could be."""

    name: str
    status: str
    inputs: Value
    output: Value
    began_ms: int
    ended_ms: int
    executor: str = ""


@dataclass(frozen=True)
class StepRow:
    """One step of a workflow."""

    name: str
    output: Value
    error: Value
    began_ms: int
    ended_ms: int


class Rows:
    """Reads the tables of one database, which may not be there yet: then no move has begun. Its methods raise
    SQLAlchemyError where it cannot be read, and OSError where it cannot be seen whether it is there."""

    def __init__(self, url: sqlalchemy.URL) -> None:
        self._file = Path(url.database or "") if url.drivername.startswith("sqlite") else None
        self._engine = _engine(url)
        self._tables = _Tables(None if url.drivername.startswith("sqlite") else "dbos")

    def workflows(
        self, kind: str, newest: int = MOST_ROWS, prefix: str = "", statuses: tuple[str, ...] = ()
    ) -> Iterator[WorkflowRow]:
        """The `newest` so many of a kind whose ids begin so, in any of these statuses, the newest first."""
        status = self._tables.status
        wanted = self._tables.workflows.where(status.c.name == kind)
        if prefix:
            wanted = wanted.where(self._begins(prefix))
        if statuses:
            wanted = wanted.where(status.c.status.in_(statuses))
        return self._newest(wanted, newest)

    def these(self, kind: str, names: Iterable[str]) -> Iterator[WorkflowRow]:
        """Those of a kind that have these ids."""
        status, wanted = self._tables.status, list(names)
        for first in range(0, len(wanted), 500):  # a statement has so many parameters at most
            some = status.c.workflow_uuid.in_(wanted[first : first + 500])
            yield from self._newest(self._tables.workflows.where(status.c.name == kind, some), MOST_ROWS)

    def executions(self, kind: str, name: str) -> Iterator[WorkflowRow]:
        """The one of this id, and those of `NAME+2` and so on, the newest first."""
        of, status = self._tables.status.c.workflow_uuid, self._tables.status
        these = sqlalchemy.or_(of == name, self._begins(f"{name}+"))
        return self._newest(self._tables.workflows.where(status.c.name == kind, these), MOST_ROWS)

    def steps(self, name: str) -> Iterator[StepRow]:
        """Of one workflow, in their order; without those by which it began others."""
        steps = self._tables.steps
        mine = steps.c.workflow_uuid == name, steps.c.child_workflow_id.is_(None)
        wanted = self._tables.of_steps.where(*mine).order_by(steps.c.function_id)
        return map(_step, self._read(wanted.limit(MOST_ROWS)))

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _begins(self, prefix: str) -> ColumnElement[bool]:
        """Ids that begin so. SQLite takes its index for a range, but not for LIKE; an order of PostgreSQL's depends on
        its language, so that it has no such range."""
        of = self._tables.status.c.workflow_uuid
        begins = of.startswith(prefix, autoescape=True)
        if self._engine.dialect.name != "sqlite":
            return begins
        return sqlalchemy.and_(begins, of >= prefix, of < prefix[:-1] + chr(ord(prefix[-1]) + 1))

    def _newest(self, wanted: Select[Any], most: int) -> Iterator[WorkflowRow]:
        # Of two that began in the same millisecond the longer id is the later attempt's.
        status = self._tables.status
        order = status.c.created_at, func.length(status.c.workflow_uuid), status.c.workflow_uuid
        found = wanted.order_by(*(column.desc() for column in order)).limit(min(most, MOST_ROWS))
        return map(_workflow, self._read(found))

    def _read(self, wanted: Select[Any]) -> Iterator[Any]:
        status = self._tables.status
        if self._file is not None and not self._file.exists():  # which SQLite would make
            return
        with self._engine.connect() as connection:
            if sqlalchemy.inspect(connection).has_table(status.name, status.schema):  # else no move has begun
                yield from connection.execution_options(yield_per=_AT_A_TIME).execute(wanted)


class _Tables:
    """Those of dbos._schemas.system_database, as far as they are read. Texts are cut by the database: a row that a
    stranger wrote may be of any size."""

    def __init__(self, schema: str | None) -> None:
        def table(name: str, columns: str) -> sqlalchemy.TableClause:
            return sqlalchemy.table(name, *map(sqlalchemy.column, columns.split()), schema=schema)

        id, times = "workflow_uuid", "started_at_epoch_ms completed_at_epoch_ms"
        status = table(
            "workflow_status", f"{id} name status serialization executor_id created_at updated_at inputs output"
        )
        inputs, outputs = table("workflow_input", f"{id} inputs"), table("workflow_output", f"{id} output")
        called = "function_id function_name child_workflow_id"
        steps = table("operation_outputs", f"{id} {called} serialization output error {times}")
        self.status, self.steps = status, steps
        joined = status.outerjoin(inputs, inputs.c.workflow_uuid == status.c.workflow_uuid)
        joined = joined.outerjoin(outputs, outputs.c.workflow_uuid == status.c.workflow_uuid)
        self.workflows = sqlalchemy.select(
            cut(status.c.workflow_uuid, _SHORT, "id"),
            cut(status.c.status, _SHORT, "status"),
            cut(status.c.serialization, _SHORT, "serialization"),
            cut(func.coalesce(inputs.c.inputs, status.c.inputs), MAX_CHARACTERS + 1, "inputs"),
            cut(func.coalesce(outputs.c.output, status.c.output), MAX_CHARACTERS + 1, "output"),
            cut(status.c.created_at, _SHORT, "began"),
            cut(status.c.updated_at, _SHORT, "ended"),
            cut(status.c.executor_id, _SHORT, "executor"),
        ).select_from(joined)
        self.of_steps = sqlalchemy.select(
            cut(steps.c.function_name, _SHORT, "name"),
            cut(steps.c.serialization, _SHORT, "serialization"),
            cut(steps.c.output, MAX_CHARACTERS + 1, "output"),
            cut(steps.c.error, MAX_CHARACTERS + 1, "error"),
            cut(steps.c.started_at_epoch_ms, _SHORT, "began"),
            cut(steps.c.completed_at_epoch_ms, _SHORT, "ended"),
        )


def _workflow(row: Any) -> WorkflowRow:
    inputs, output = Value(row.inputs, row.serialization), Value(row.output, row.serialization)
    began, ended = _ms(row.began), _ms(row.ended)
    return WorkflowRow(str(row.id), str(row.status), inputs, output, began, ended, str(row.executor or ""))


def _step(row: Any) -> StepRow:
    output, error = Value(row.output, row.serialization), Value(row.error, row.serialization)
    return StepRow(printable(str(row.name), _SHORT), output, error, _ms(row.began), _ms(row.ended))


def _ms(text: object) -> int:
    found = str(text)
    return int(found) if found.isascii() and found.isdecimal() and len(found) < 15 else 0


def _engine(url: sqlalchemy.URL) -> sqlalchemy.Engine:
    if not url.drivername.startswith("sqlite"):
        return databases.postgresql(url, PATIENCE_S)
    engine = sqlalchemy.create_engine(url, poolclass=NullPool, connect_args={"timeout": PATIENCE_S})

    @sqlalchemy.event.listens_for(engine, "connect")
    def _set_up(connection: sqlite3.Connection, _record: object) -> None:
        until_s = time.monotonic() + 2 * PATIENCE_S
        connection.text_factory = lambda raw: raw.decode(errors="replace")
        connection.set_progress_handler(lambda: time.monotonic() > until_s, _INSTRUCTIONS)

    return engine
