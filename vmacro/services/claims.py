"""One mover a guest, over all processes that share a journal; the agent's claim does it over all others.

The kernel or the database gives a claim back when its holder dies: there is nothing to expire or to clean up.
"""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from sqlalchemy import make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from vmacro.errors import ClaimedError


def operator() -> str:
    """USER@MACHINE, as others will read it."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


@contextmanager
def held(database_url: str, guest: str) -> Iterator[None]:
    """Nobody else moves the guest meanwhile. Raises ClaimedError, which says who has it and since when."""
    url = make_url(database_url)
    if url.drivername.startswith("sqlite"):
        with _by_file(Path(url.database or "").parent / "guests" / f"{guest}.lock", guest):
            yield
    else:
        with _by_database(url, guest):
            yield


@contextmanager
def _by_file(path: Path, guest: str) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _claimed(guest, path.read_text().strip()) from None
        file.truncate(0)
        file.write(json.dumps(_who()))
        file.flush()
        yield


@contextmanager
def _by_database(url: sqlalchemy.URL, guest: str) -> Iterator[None]:
    """pg_try_advisory_lock: the session's, hence gone with it."""
    key = int.from_bytes(hashlib.sha256(f"vmacro {guest}".encode()).digest()[:8], "big", signed=True)
    who = json.dumps({**_who(), "by": operator()[:24]}, separators=(",", ":"))
    engine = sqlalchemy.create_engine(url, poolclass=NullPool, connect_args={"application_name": who[:63]})
    session = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        if not session.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar():
            raise _claimed(guest, str(session.execute(text(_HOLDER), {"key": key}).scalar() or ""))
        yield
    finally:
        try:
            session.close()
        except SQLAlchemyError:
            pass  # the server has gone, and the claim with it
        engine.dispose()


# pg_locks shows a 64 bit key as two halves.
_HOLDER = """SELECT application_name FROM pg_stat_activity JOIN pg_locks USING (pid)
    WHERE locktype = 'advisory' AND granted AND ((classid::bigint << 32) | objid::bigint) = :key"""


def _who() -> dict[str, str | int]:
    return {"by": operator(), "pid": os.getpid(), "since": time.strftime("%H:%M:%S")}


def _claimed(guest: str, holder: str) -> ClaimedError:
    try:
        who = json.loads(holder)
        told = f"{who['by']} (process {who['pid']}) since {who['since']}"
    except (ValueError, KeyError, TypeError):
        told = "another process"
    return ClaimedError(f"guest {guest}: is being moved by {told}; nothing was changed", "wait for it: vmacro history")
