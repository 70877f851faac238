"""Claims in PostgreSQL, which outlive that their connection is cut.

Two things make one: an advisory lock of a session says that its holder lives, a row says whose the claim is. A session
ends with its connection, whatever its holder does: where the server restarts, somebody ends the session
(pg_terminate_backend), or a network drops it. The row stays. So a holder that was cut off takes its claim again, and
others leave it the time for that: GRACE_S since it was seen that nobody has the lock, and since the server has begun.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from enum import Enum

import sqlalchemy
from sqlalchemy import BigInteger, Column, Connection, DateTime, MetaData, String, Table, Text, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from vmacro.errors import JournalError, TakenOverError
from vmacro.services import databases

GRACE_S = 10.0
LOOK_EVERY_S = 0.5  # how often a holder looks whether it was cut off
STATEMENT_S = 10.0  # whoever may write to the table may lock it, for ever
LONGEST_S = 60.0  # and may have it look, for ever, as if its holder had been seen to be cut off just now
_META = MetaData()
_CLAIMS = Table(
    "vmacro_claims",
    _META,
    Column("key", BigInteger, primary_key=True, autoincrement=False),
    Column("holder", String(40), nullable=False),  # a name of this claim alone
    Column("who", Text, nullable=False),
    Column("since", DateTime(timezone=True), nullable=False),
    Column("free_since", DateTime(timezone=True)),  # when it was first seen that the holder has no lock
)
_CREATE_LOCK = 0x766D636C61696D  # of PostgreSQL's advisory locks; "vmclaim"

_LOCK = text("SELECT pg_try_advisory_lock(:key)")
_UNLOCK = text("SELECT pg_advisory_unlock(:key)")
_IS_OVER = """free_since IS NOT NULL
    AND greatest(free_since, pg_postmaster_start_time()) < clock_timestamp() - make_interval(secs => :grace)"""
_TAKE = text(
    "INSERT INTO vmacro_claims AS c (key, holder, who, since) VALUES (:key, :holder, :who, clock_timestamp())"
    " ON CONFLICT (key) DO UPDATE SET holder = :holder, who = :who, since = clock_timestamp(), free_since = NULL"
    f" WHERE {_IS_OVER.replace('free_since', 'c.free_since')}"
)
_KEEP = text("UPDATE vmacro_claims SET free_since = NULL WHERE key = :key AND holder = :holder")
_RELEASE = text("DELETE FROM vmacro_claims WHERE key = :key AND holder = :holder")
_SEE_FREE = text(
    "UPDATE vmacro_claims SET free_since = coalesce(free_since, clock_timestamp()) WHERE key = :key"
    f" RETURNING left(who, 4096) AS who, {_IS_OVER} AS is_over"
)
_HOLDER = text("SELECT holder, left(who, 4096) AS who FROM vmacro_claims WHERE key = :key")
_FORGET = text("DELETE FROM vmacro_claims WHERE since < to_timestamp(:before) AND pg_try_advisory_xact_lock(key)")
# Its own lock, kept by a session that the server does not know yet to be dead.
_END_SESSION = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = :pid AND application_name = :me"
)


class _Is(Enum):
    """What a claim was found to be: ours now; another's, who lives; another's, who was cut off or has died."""

    OURS, THEIRS, CUT_OFF = range(3)


class DatabaseClaim:
    """A claim that is held, and taken again whenever it was cut off. Implements ports.Claim. Safe to use from any
    thread."""

    def __init__(self, url: sqlalchemy.URL, name: str, subject: str, who: str) -> None:
        self._subject, self._who, self._key = subject, who, key_of(name)
        self._holder = secrets.token_hex(16)
        self._engine = _engine(url, who)
        self._session: Connection | None = None
        self._pid = 0
        self._turn = threading.Lock()
        self._ended, self._lost = threading.Event(), threading.Event()

    @contextmanager
    def held(self, patience_s: float) -> Iterator[str | None]:
        """None while it is held; else, and nothing is, who has it: others are waited for `patience_s`, one that was cut
        off for GRACE_S, and in all LONGEST_S. Raises SQLAlchemyError."""
        try:
            _create(self._engine)
            self._session = self._engine.connect()
            if self._taken(patience_s):
                with self._kept():
                    yield None
            else:
                yield _who_has(self._connected(), self._key)
        finally:
            self._close()
            self._engine.dispose()

    def still(self) -> None:
        """See ports.Claim. A database that is away is waited for."""
        while not self._is_ours_now():
            self._ended.wait(LOOK_EVERY_S)

    def see(self) -> None:
        """See ports.Claim."""
        if self._lost.is_set():
            raise TakenOverError(f"{self._subject}: another process has taken it over; nothing more is done here")

    def check(self) -> None:
        """Raises JournalError where it is not held at this moment, TakenOverError where another process has had it."""
        if not self._is_ours_now():
            raise JournalError(f"{self._subject}: the connection to the database was cut")

    def _taken(self, patience_s: float) -> bool:
        until_s = time.monotonic() + patience_s
        longest_s = time.monotonic() + patience_s + LONGEST_S
        while (found := self._take()) is not _Is.OURS:
            now_s = time.monotonic()
            if found is _Is.CUT_OFF:
                until_s = min(now_s + patience_s, longest_s)  # it may come back; in the end it is over
            if now_s >= until_s:
                return False
            time.sleep(0.005 if found is _Is.THEIRS else 0.2)
        return True

    def _take(self) -> _Is:
        session, mine = self._connected(), {"key": self._key, "holder": self._holder}
        if not session.execute(_LOCK, mine).scalar():
            return _Is.THEIRS
        if session.execute(_TAKE, {**mine, "who": self._who, "grace": GRACE_S}).rowcount:
            self._pid = _pid(session)
            return _Is.OURS
        session.execute(_SEE_FREE, {**mine, "grace": GRACE_S})
        session.execute(_UNLOCK, mine)
        return _Is.CUT_OFF

    @contextmanager
    def _kept(self) -> Iterator[None]:
        keeper = threading.Thread(target=self._keep, name=f"claim {self._subject}", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            self._ended.set()
            keeper.join()
            with suppress(SQLAlchemyError, JournalError):  # cut off: others know in time that it is nobody's
                self._connected().execute(_RELEASE, {"key": self._key, "holder": self._holder})

    def _keep(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            with suppress(TakenOverError):
                self._is_ours_now()

    def _is_ours_now(self) -> bool:
        """Whether the lock is held, if need be again. Raises TakenOverError once another process has had it."""
        with self._turn:
            self.see()
            try:
                if self._session is not None:
                    self._session.execute(text("SELECT 1"))
                    return True
            except SQLAlchemyError:
                self._close()
            with suppress(SQLAlchemyError):
                if self._taken_again():
                    return True
            self._close()
        self.see()
        return False

    def _taken_again(self) -> bool:
        self._session = session = self._engine.connect()
        mine = {"key": self._key, "holder": self._holder}
        if session.execute(_LOCK, mine).scalar():
            if session.execute(_KEEP, mine).rowcount:
                self._pid = _pid(session)
                return True
            self._lost.set()
            return False
        row = session.execute(_HOLDER, mine).first()
        if row is None or row.holder != self._holder:
            self._lost.set()
        else:
            session.execute(_END_SESSION, {"pid": self._pid, "me": self._who[:63]})
        return False

    def _connected(self) -> Connection:
        if self._session is None:
            raise JournalError(f"{self._subject}: the connection to the database was cut")
        return self._session

    def _close(self) -> None:
        if self._session is not None:
            with suppress(SQLAlchemyError):
                self._session.close()
        self._session = None


def holder_of(url: sqlalchemy.URL, name: str) -> str | None:
    """Who has a claim, or was cut off and may come back; None: nobody. Raises SQLAlchemyError."""
    key, engine = {"key": key_of(name)}, _engine(url, "")
    try:
        with engine.connect() as session:
            if not _is_there(session):
                return None
            if not session.execute(text("SELECT pg_try_advisory_lock_shared(:key)"), key).scalar():
                return _who_has(session, key["key"])
            row = session.execute(_SEE_FREE, {**key, "grace": GRACE_S}).first()
            return None if row is None or row.is_over else str(row.who)
    finally:
        engine.dispose()


def forget(url: sqlalchemy.URL, before_s: float) -> None:
    """Delete what was claimed before then, in seconds since 1970, by processes that have died. Raises
    SQLAlchemyError."""
    engine = databases.postgresql(url, 30.0)
    try:
        with engine.begin() as connection:
            if _is_there(connection):
                connection.execute(_FORGET, {"before": before_s})
    finally:
        engine.dispose()


def key_of(name: str) -> int:
    """PostgreSQL's locks have numbers."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def _engine(url: sqlalchemy.URL, who: str) -> sqlalchemy.Engine:
    """A network that has gone is known within seconds, on TCP: a server far away that says nothing is no server."""
    alive = {"keepalives_idle": 2, "keepalives_interval": 2, "keepalives_count": 2, "tcp_user_timeout": 5000}
    words = {"application_name": who[:63], "connect_timeout": databases.CONNECTED_WITHIN_S, **alive}
    engine = sqlalchemy.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=words)

    @sqlalchemy.event.listens_for(engine, "connect")
    def _bounded(connection: DBAPIConnection, _record: object) -> None:
        """For the session, which is ours alone, as its locks are."""
        with closing(connection.cursor()) as cursor:
            cursor.execute(f"SET statement_timeout = {STATEMENT_S * 1000:.0f}")
        connection.commit()

    return engine


def _who_has(session: Connection, key: int) -> str:
    row = session.execute(_HOLDER, {"key": key}).first()
    return str(row.who) if row is not None else ""


def _is_there(session: Connection) -> bool:
    return bool(session.execute(text("SELECT to_regclass('vmacro_claims') IS NOT NULL")).scalar())


def _create(engine: sqlalchemy.Engine) -> None:
    with engine.connect() as session:
        if _is_there(session):
            return
    with engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATE_LOCK})
        _META.create_all(connection)


def _pid(session: Connection) -> int:
    return int(session.execute(text("SELECT pg_backend_pid()")).scalar_one())
