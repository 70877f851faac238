"""The event log: one table that every process appends to as things happen.

In the journal's database where that is PostgreSQL. Where it is SQLite, in a file of its own beside it: SQLite has one
lock per file, and the journal's must never wait for a progress report.
"""

from __future__ import annotations

import json
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy
from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text, make_url
from sqlalchemy.exc import DataError, SQLAlchemyError

from vmacro import private
from vmacro.errors import EventError, JournalError, reason_of
from vmacro.model.events import CopyProgress, DiskProgress, Event, Unreadable
from vmacro.ports import EventLog
from vmacro.services import databases
from vmacro.services.databases import cut
from vmacro.services.event_json import MAX_CHARACTERS, as_plain, decoded
from vmacro.wire.text import escaped, printable

# libvirt tells of a copy several times a second; figures of each second are enough to read it later.
PROGRESS_EVERY_NS = 1_000_000_000
MOST_WAITING = 10_000
LOCK_PATIENCE_S = 5.0
MOST_READ = 1000  # rows at a time
MOST_TOLD = 100 * MOST_READ
READ_WITHIN_S = 30.0  # what is no table but a view may never end
PATIENCE_S = 3.0  # how long a reader, or the end of a program, waits for what is not written yet
_LOCK = 0x766D6163726F  # of PostgreSQL's advisory locks; "vmacro"

_EVENTS = Table(
    "vmacro_events",
    MetaData(),
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("move_id", String(200), nullable=False),
    Column("wall_ns", BigInteger, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("text", Text, nullable=False),
    Column("data", Text, nullable=False),  # JSON, decoded by event_json alone
    Index("vmacro_events_of_move", "move_id", "id"),
    sqlite_autoincrement=True,
)


# A row that a stranger wrote may be of any size and, in SQLite, of any kind.
_BOUNDED = sqlalchemy.select(
    cut(_EVENTS.c.id, 21, "id"),
    cut(_EVENTS.c.move_id, 201, "move_id"),
    cut(_EVENTS.c.wall_ns, 21, "wall_ns"),
    cut(_EVENTS.c.kind, 41, "kind"),
    cut(_EVENTS.c.data, MAX_CHARACTERS + 1, "data"),
)


class DatabaseEventLog:
    """Implements ports.EventLog. read() needs nothing; append() works inside `with`, where a thread writes.

    A log that cannot be written stops nothing: `complain` is told once, events wait in memory for better times, and
    read() has them meanwhile. An event that no database would take is lost, and keeps no other from being written.
    """

    def __init__(self, database_url: str, complain: Callable[[str], None]) -> None:
        self._url, self._complain = _address(database_url), complain
        self._until_s = float("inf")
        self._engine = _engine(self._url, lambda: time.monotonic() > self._until_s)
        self._queue: queue.SimpleQueue[Event | threading.Event] = queue.SimpleQueue()
        self._unwritten: list[Event] = []
        self._lost = 0
        self._complained = self._closing = self._created = False
        self._thinned: dict[tuple[str, str], int] = {}
        self._thread = threading.Thread(target=self._work, name="event-log", daemon=True)

    def __enter__(self) -> DatabaseEventLog:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._closing = True
        self._flush()
        if missing := self._lost + len(self._unwritten) + self._queue.qsize():
            self._complain(f"event log: {missing} events are not in it")
        self._engine.dispose()

    def append(self, event: Event) -> None:
        """See ports.EventLog. Of progress events only some are kept."""
        if isinstance(event.what, CopyProgress | DiskProgress):
            key = event.move_id, event.kind
            if event.wall_ns - self._thinned.get(key, 0) < PROGRESS_EVERY_NS:
                return
            self._thinned[key] = event.wall_ns
        if self._queue.qsize() + len(self._unwritten) < MOST_WAITING:
            self._queue.put(event)
        else:
            self._lost += 1

    def read(self, move_id: str = "", after: int = 0) -> list[tuple[int, Event]]:
        """What could not be written yet comes last, under the number of the one before."""
        self._flush()
        self._until_s = time.monotonic() + READ_WITHIN_S
        try:
            found = self._stored(move_id, after)
        except (SQLAlchemyError, OSError, UnicodeError, OverflowError) as error:  # the last two of what was asked for
            raise JournalError(f"event log: cannot be read: {reason_of(error)}") from error
        finally:
            self._until_s = float("inf")
        last = found[-1][0] if found else after
        if len(found) == MOST_READ:
            return found
        return found + [(last, event) for event in [*self._unwritten] if move_id in ("", event.move_id)]

    def forget(self, before_ns: int) -> None:
        """Delete events that happened before then. Raises what the database raises."""
        if self._exists():
            with self._engine.begin() as connection:
                connection.execute(_EVENTS.delete().where(_EVENTS.c.wall_ns < before_ns))

    def _stored(self, move_id: str, after: int) -> list[tuple[int, Event]]:
        if not self._exists():
            return []
        wanted = _BOUNDED.where(_EVENTS.c.id > after).order_by(_EVENTS.c.id).limit(MOST_READ)
        if move_id:
            wanted = wanted.where(_EVENTS.c.move_id == move_id)
        with self._engine.connect() as connection:
            found = [(_whole(row.id), _event(row)) for row in connection.execute(wanted)]
        if any(number <= after for number, _ in found):
            raise JournalError("event log: cannot be read: its rows have no numbers")
        return found

    def _exists(self) -> bool:
        if self._url.drivername.startswith("sqlite") and not Path(self._url.database or "").exists():
            return False  # to look would create it
        self._created = self._created or sqlalchemy.inspect(self._engine).has_table(_EVENTS.name)
        return self._created

    def _flush(self) -> None:
        if self._thread.is_alive():
            written = threading.Event()
            self._queue.put(written)
            written.wait(PATIENCE_S)

    def _work(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, Event):
                self._unwritten.append(item)
                if not self._queue.empty():
                    continue
            self._write()
            if isinstance(item, threading.Event):
                item.set()
                if self._closing:
                    return

    def _write(self) -> None:
        """All at once: what comes while the database is slow waits for one more round trip, not for one each."""
        if not self._unwritten:
            return
        try:
            self._insert(self._unwritten)
            self._unwritten.clear()
        except Exception as error:
            if not self._complained:
                self._complained = True
                self._complain(f"event log: cannot be written: {reason_of(error)}; the move goes on without")
            if _is_of_an_event(error):
                self._write_one_by_one()

    def _write_one_by_one(self) -> None:
        while self._unwritten:
            try:
                self._insert(self._unwritten[:1])
            except Exception as error:
                if not _is_of_an_event(error):
                    return
                self._lost += 1
            self._unwritten.pop(0)

    def _insert(self, events: list[Event]) -> None:
        if not self._created:
            self._create()
        with self._engine.begin() as connection:
            _in_order(connection)
            connection.execute(_EVENTS.insert(), [_row(event) for event in events])

    def _create(self) -> None:
        if self._url.drivername.startswith("sqlite"):
            path = Path(self._url.database or "")
            private.folder(path.parent)
            private.touch(path)
        with self._engine.begin() as connection:
            _in_order(connection)
            _EVENTS.metadata.create_all(connection)
        self._created = True


def everything(log: EventLog, move_id: str = "", after: int = 0) -> list[tuple[int, Event]]:
    """As log.read(), all of it, but for what is over MOST_TOLD. Raises JournalError."""
    found = log.read(move_id, after)
    while len(found) % MOST_READ == 0 and 0 < len(found) < MOST_TOLD and (more := log.read(move_id, found[-1][0])):
        found += more
    return found


def follow(log: EventLog, move_id: str, ended: Callable[[], bool], wait: Callable[[], None]) -> Iterator[Event]:
    """Events as they come, those from before first; until `ended`, or for ever. `wait`: between two looks. What could
    not be written yet comes once it is."""
    after, left = 0, None
    while True:
        found = log.read(move_id, after)
        for number, event in found:
            if number > after:
                after = number
                yield event
        more = len(found) >= MOST_READ
        if left is not None:
            left -= len(found)
            if not more or left <= 0:
                return
        elif ended():
            left = MOST_TOLD  # what was told last may be on its way still; but who writes without end is not waited for
        if not more:
            wait()


def _address(database_url: str) -> sqlalchemy.URL:
    url = make_url(database_url)
    if not url.drivername.startswith("sqlite"):
        return url
    journal = Path(url.database or "")
    return url.set(database=str(journal.with_name(f"{journal.stem}-events{journal.suffix}")))


def _engine(url: sqlalchemy.URL, overdue: Callable[[], bool]) -> sqlalchemy.Engine:
    """`overdue`: whether SQLite is to give up what it does; PostgreSQL looks at the clock itself."""
    if not url.drivername.startswith("sqlite"):
        return databases.postgresql(url, READ_WITHIN_S)
    engine = sqlalchemy.create_engine(url, connect_args={"timeout": LOCK_PATIENCE_S})

    @sqlalchemy.event.listens_for(engine, "connect")
    def _set_up(connection: sqlite3.Connection, _record: object) -> None:
        connection.text_factory = lambda raw: raw.decode(errors="replace")
        connection.set_progress_handler(overdue, 100_000)  # instructions of its machine, some milliseconds
        # Readers do not wait for writers; a power cut may cost the last events, but nothing that was there before.
        # The write-ahead log stays below 0.5 MiB, instead of 4: the journal needs what is left of a small disk.
        _write_ahead(connection)
        for pragma in ("synchronous=NORMAL", "wal_autocheckpoint=100"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _write_ahead(connection: sqlite3.Connection) -> None:
    """SQLite's own patience does not cover this: of two who change a new file at once, one is refused at once."""
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _in_order(connection: sqlalchemy.Connection) -> None:
    """One writer at a time, from here to the end of the transaction: who follows sees no number before a smaller one,
    and nobody finds half a table."""
    if connection.dialect.name == "postgresql":
        connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(_LOCK)))
    else:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _row(event: Event) -> dict[str, str | int]:
    plain = as_plain(event)
    return {**plain, "text": escaped(event.text), "data": json.dumps(plain["data"])}


def _event(row: sqlalchemy.Row[Any, Any, Any, Any, Any]) -> Event:
    wall_ns = _whole(row.wall_ns)
    try:
        return decoded(row.move_id, wall_ns, row.kind, row.data)
    except EventError as error:
        return Event(printable(str(row.move_id), 200), max(0, wall_ns), Unreadable(f"row {row.id}: {error.message}"))


def _whole(text: object) -> int:
    """-1 where it is no number that a column of ours has."""
    found = str(text)
    return int(found) if found.isascii() and found.isdecimal() and len(found) < 20 else -1


def _is_of_an_event(error: Exception) -> bool:
    """Whether it is not the database's, and would come again with the same event."""
    return isinstance(error, DataError) or not isinstance(error, (SQLAlchemyError, OSError))
