"""What all orchestrators of a fleet share beside the journal's own tables: the batches that were asked for, what their
operators want of them, and which hosts are in maintenance.

In the journal's database. What became of a batch's moves is not here: the journal has it (services/workflows.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Boolean, Column, Float, MetaData, String, Table, Text, make_url
from sqlalchemy.pool import NullPool

from vmacro import private
from vmacro.errors import ConfigurationError, JournalError
from vmacro.model.batches import Batch, Maintenance, Wish
from vmacro.services import databases
from vmacro.services.databases import cut
from vmacro.services.journal_json import MAX_CHARACTERS, decoded, encoded, loaded
from vmacro.wire.messages import is_identifier
from vmacro.wire.text import printable

PATIENCE_S = 30.0
MOST_LISTED = 1000
MOST_HOSTS = 10_000

_META = MetaData()
_BATCHES = Table(
    "vmacro_batches",
    _META,
    Column("batch_id", String(100), primary_key=True),
    Column("made_s", Float, nullable=False),
    Column("wish", String(20), nullable=False),
    Column("plan", Text, nullable=False),  # JSON of a Batch, never changed
)
_MAINTENANCE = Table(
    "vmacro_maintenance",
    _META,
    Column("subject", String(100), primary_key=True),
    Column("is_site", Boolean, primary_key=True),
    Column("by", String(200), nullable=False),
    Column("since_s", Float, nullable=False),
)

_SHORT = 200  # characters; no name of ours has as many
_AT_A_TIME = 4  # rows in memory
# As they are read: a row that a stranger wrote may be of any size.
_ID, _WISH = cut(_BATCHES.c.batch_id, _SHORT, "batch_id"), cut(_BATCHES.c.wish, _SHORT, "wish")
_WHOLE = sqlalchemy.select(_ID, _WISH, cut(_BATCHES.c.plan, MAX_CHARACTERS + 1, "plan"))
_MARKS = sqlalchemy.select(
    cut(_MAINTENANCE.c.subject, _SHORT, "subject"),
    _MAINTENANCE.c.is_site,
    cut(_MAINTENANCE.c.by, _SHORT + 1, "by"),
    _MAINTENANCE.c.since_s,
)


class FleetTables:
    """Safe to use from any thread. All methods raise SQLAlchemyError where the database cannot be used, and those that
    read raise JournalError for rows that nobody can have meant."""

    def __init__(self, database_url: str) -> None:
        self._url = make_url(database_url)
        self._sqlite = self._url.drivername.startswith("sqlite")
        if self._sqlite:
            self._engine = sqlalchemy.create_engine(self._url, poolclass=NullPool, connect_args={"timeout": PATIENCE_S})
        else:
            self._engine = databases.postgresql(self._url, PATIENCE_S)
        self._there = False

    def add(self, batch: Batch) -> None:
        """Keep a batch: from now on it is to be carried out, by whoever works on batches. Raises JournalError where
        there is one of this name, or nobody could read it."""
        text = written(batch)
        row = {"batch_id": batch.batch_id, "made_s": batch.made_s, "wish": Wish.RUN.value, "plan": text}
        self._create()
        try:
            with self._engine.begin() as connection:
                connection.execute(_BATCHES.insert(), [row])
        except sqlalchemy.exc.IntegrityError as error:
            raise JournalError(f"batch {batch.batch_id}: there is one of this name already") from error

    def batch(self, batch_id: str) -> tuple[Batch, Wish]:
        """A batch, and what is wanted of it. Raises ConfigurationError where there is none."""
        if is_identifier(batch_id):
            for found in self._read(_WHOLE.where(_BATCHES.c.batch_id == batch_id)):
                return _batch(found)
        raise ConfigurationError(f"batch {batch_id[:100]!r}: there is none", "`vmacro batch list` lists them")

    def batches(self, limit: int = 50) -> list[tuple[Batch, Wish]]:
        """The newest first. One that cannot be read is left out: `unreadable` names it."""
        newest = _WHOLE.order_by(_BATCHES.c.made_s.desc(), _BATCHES.c.batch_id).limit(limit)
        return _readable(self._read(newest))

    def open(self) -> list[tuple[Batch, Wish]]:
        """Those that have not ended, oldest first."""
        wanted = _WHOLE.where(_BATCHES.c.wish != Wish.ENDED.value)
        return _readable(self._read(wanted.order_by(_BATCHES.c.made_s, _BATCHES.c.batch_id).limit(MOST_LISTED)))

    def wishes(self) -> dict[str, Wish]:
        """What is wanted of those that have not ended, by their names: without their plans, which are large. What
        cannot be read is left out: it is nobody's to carry out."""
        columns = sqlalchemy.select(_ID, _WISH).where(_BATCHES.c.wish != Wish.ENDED.value)
        rows = self._read(columns.order_by(_BATCHES.c.made_s).limit(MOST_LISTED))
        found: dict[str, Wish] = {}
        for row in rows:
            with suppress(JournalError):
                found[str(row.batch_id)] = _wish(row)
        return found

    def want(self, batch_id: str, wish: Wish) -> None:
        """Say what is wanted of it. What was aborted or has ended stays so. Raises ConfigurationError then, and where
        there is none."""
        self.batch(batch_id)
        over = (Wish.ENDED,) if wish in (Wish.ABORT, Wish.ENDED) else (Wish.ENDED, Wish.ABORT)
        with self._engine.begin() as connection:  # by one statement: somebody else may say something at this moment
            still = _BATCHES.c.batch_id == batch_id, _BATCHES.c.wish.not_in([end.value for end in over])
            changed = connection.execute(_BATCHES.update().where(*still).values(wish=wish.value)).rowcount
        if not changed:
            state = "has ended" if self.batch(batch_id)[1] == Wish.ENDED else "was aborted"
            raise ConfigurationError(f"batch {batch_id}: {state}", "plan another: vmacro evacuate")

    def forget(self, before_s: float) -> frozenset[str]:
        """Delete batches that have ended, and were made before then; but not those that have emptied what is in
        maintenance still, since only they tell what is to be brought back. Returns the names of those that stay."""
        emptied = {mark.subject for mark in self.maintenance()}
        gone, kept = [], set()
        for row in self._read(sqlalchemy.select(_ID, _WISH, _BATCHES.c.made_s)):
            of_it = any(f"-{subject[:30]}-" in str(row.batch_id) for subject in emptied)
            if row.wish == Wish.ENDED.value and float(row.made_s) < before_s and not of_it:
                gone.append(row.batch_id)
            else:
                kept.add(str(row.batch_id))
        for first in range(0, len(gone), 100):
            with self._engine.begin() as connection:
                connection.execute(_BATCHES.delete().where(_BATCHES.c.batch_id.in_(gone[first : first + 100])))
        return frozenset(kept)

    def close_for_guests(self, mark: Maintenance) -> None:
        """A host or site gets no guests from now on. One that is in maintenance already stays so, since the earlier
        time: clocks of machines differ, and some plan is begun long after it was made."""
        self._create()
        row = {"subject": mark.subject, "is_site": mark.is_site, "by": mark.by, "since_s": mark.since_s}
        try:
            with self._engine.begin() as connection:
                connection.execute(_MAINTENANCE.insert(), [row])
        except sqlalchemy.exc.IntegrityError:
            this = _MAINTENANCE.c.subject == mark.subject, _MAINTENANCE.c.is_site == mark.is_site
            with self._engine.begin() as connection:
                later = _MAINTENANCE.update().where(*this, _MAINTENANCE.c.since_s > mark.since_s)
                connection.execute(later.values(since_s=mark.since_s))

    def open_for_guests(self, subject: str, is_site: bool) -> None:
        """It gets guests again. Idempotent."""
        if self._exists():
            with self._engine.begin() as connection:
                this = _MAINTENANCE.c.subject == subject, _MAINTENANCE.c.is_site == is_site
                connection.execute(_MAINTENANCE.delete().where(*this))

    def maintenance(self) -> tuple[Maintenance, ...]:
        """All hosts and sites that get no guests. What cannot be read is left out."""
        rows = self._read(_MARKS.order_by(_MAINTENANCE.c.subject).limit(MOST_HOSTS))
        plain = [{"subject": r.subject, "is_site": bool(r.is_site), "by": r.by, "since_s": r.since_s} for r in rows]
        found: list[Maintenance] = []
        for item in plain:
            with suppress(JournalError):
                found.append(decoded(Maintenance, item, "a host in maintenance"))
        return tuple(found)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _read(self, wanted: sqlalchemy.Select[Any]) -> Iterator[Any]:
        if self._exists():
            with self._engine.connect() as connection:
                yield from connection.execute(wanted, execution_options={"yield_per": _AT_A_TIME})

    def _exists(self) -> bool:
        if self._sqlite and not Path(self._url.database or "").exists():
            return False  # to look would create it
        self._there = self._there or sqlalchemy.inspect(self._engine).has_table(_MAINTENANCE.name)
        return self._there

    def _create(self) -> None:
        if self._sqlite:
            path = Path(self._url.database or "")
            private.touch(private.folder(path.parent) / path.name)
        if not self._exists():
            with self._engine.begin() as connection:
                if self._sqlite:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                else:
                    connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(_LOCK)))
                _META.create_all(connection)


_LOCK = 0x766D62617463  # of PostgreSQL's advisory locks; "vmbatc"


def written(batch: Batch) -> str:
    """A batch as its row has it. Raises JournalError where nobody could read that: who begins it could neither carry it
    out nor end it."""
    text = json.dumps(encoded(batch))
    if len(text) > MAX_CHARACTERS:
        raise JournalError(f"batch {batch.batch_id}: {len(text)} characters of JSON: too many moves for one batch")
    if not is_identifier(batch.batch_id):
        raise JournalError(f"batch {printable(batch.batch_id, 100)}: is no name of a batch")
    decoded(Batch, loaded(text, f"batch {batch.batch_id}"), f"batch {batch.batch_id}")
    return text


def _readable(rows: Iterable[Any]) -> list[tuple[Batch, Wish]]:
    found = []
    for row in rows:
        try:
            found.append(_batch(row))
        except JournalError:
            continue  # it is nobody's to carry out; whoever names it is told
    return found


def _batch(row: Any) -> tuple[Batch, Wish]:
    subject = f"batch {printable(str(row.batch_id), 100)}"
    batch: Batch = decoded(Batch, loaded(row.plan, subject), subject)
    if batch.batch_id != row.batch_id:
        raise JournalError(f"{subject} cannot be read: it is the plan of {batch.batch_id}")
    return batch, _wish(row)


def _wish(row: Any) -> Wish:
    wish: Wish = decoded(Wish, row.wish, f"batch {printable(str(row.batch_id), 100)}: what is wanted of it")
    return wish
