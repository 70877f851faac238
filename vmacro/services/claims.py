"""A guest is moved by one process at a time, of all that share a journal. The agent's claim keeps off all others.

Likewise a worker has its own name, by which others know that it lives, and one of all workers leads.

The kernel gives a claim back when its holder dies. A database does so also where its holder was cut off, and lives: see
services/database_claims.py.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Protocol

import sqlalchemy
from sqlalchemy import make_url

from vmacro import private
from vmacro.errors import ClaimedError, ConfigurationError, reason_of
from vmacro.ports import Claim, Unshared
from vmacro.services import database_claims
from vmacro.services.database_claims import DatabaseClaim
from vmacro.wire import fields
from vmacro.wire.fields import Said

# Whoever only looks has the lock for a moment: who moves the guest tries again for this long.
PATIENCE_S = 0.3
GUESTS, WORKERS = "guests", "workers"  # what is claimed


def operator() -> str:
    """USER@MACHINE, as others will read it; the user's number where it has no name."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # which one depends on Python's version
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


class Held(Claim, Protocol):
    """A claim that may be asked at any moment."""

    def check(self) -> None:
        """Raises JournalError where it is not held just now, since its holder was cut off; TakenOverError once another
        process has had it."""


@contextmanager
def held(database_url: str, name: str, kind: str = GUESTS) -> Iterator[Held]:
    """Nobody else moves the guest meanwhile; or has the worker's name. One who was cut off, or has died, is waited for
    (database_claims.GRACE_S). Raises ClaimedError, which says who has it and since when; ConfigurationError where the
    lock's file cannot be written; SQLAlchemyError."""
    url = make_url(database_url)
    if url.drivername.startswith("sqlite"):
        with _by_file(_lock_file(url, name, kind), name):
            yield _ByFile()
        return
    claim = DatabaseClaim(url, _lock_name(name, kind), f"{kind.removesuffix('s')} {name}", json.dumps(_who()))
    with claim.held(PATIENCE_S) as other:
        if other is not None:
            raise _claimed(name, other)
        yield claim


def is_held(database_url: str, name: str, kind: str = GUESTS) -> bool:
    """Whether somebody holds it now, or was cut off and may come back. Raises ConfigurationError, SQLAlchemyError where
    that cannot be seen."""
    try:
        see_that_nobody_has(database_url, name, kind)
    except ClaimedError:
        return True
    return False


def see_that_nobody_has(database_url: str, guest: str, kind: str = GUESTS) -> None:
    """Raises ClaimedError as held() does. Claims nothing, so that looking does not keep others from moving
    the guest."""
    url = make_url(database_url)
    if not url.drivername.startswith("sqlite"):
        if (other := database_claims.holder_of(url, _lock_name(guest, kind))) is not None:
            raise _claimed(guest, other)
        return
    path = _lock_file(url, guest, kind)
    with _explained(path, guest):
        if not path.exists():
            return  # it has never been moved
        file = path.open(errors="replace")
    with file:
        _lock(file, fcntl.LOCK_SH, guest, patience_s=0)


def forget(database_url: str, before_s: float) -> None:
    """What processes that have died had claimed before then, in seconds since 1970. Raises SQLAlchemyError."""
    url = make_url(database_url)
    if not url.drivername.startswith("sqlite"):
        database_claims.forget(url, before_s)


class _ByFile(Unshared):
    """Implements Held by a lock that the kernel keeps as long as this process lives."""

    def check(self) -> None:
        """See Held."""


def _lock_name(name: str, kind: str) -> str:
    return f"vmacro {name}" if kind == GUESTS else f"vmacro {kind} {name}"


@contextmanager
def _by_file(path: Path, guest: str) -> Iterator[None]:
    with _explained(path, guest):
        private.folder(path.parent)
        file = private.opened(path, "a+", errors="replace")
    with file:
        _lock(file, fcntl.LOCK_EX, guest, PATIENCE_S)
        with _explained(path, guest):
            file.truncate(0)
            file.write(json.dumps(_who()))
            file.flush()
        yield


@contextmanager
def _explained(path: Path, guest: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        text = f"guest {guest}: its lock {path}: {reason_of(error)}; nothing was changed"
        raise ConfigurationError(text, "see orchestrator.state_dir") from error


def _lock_file(url: sqlalchemy.URL, name: str, kind: str = GUESTS) -> Path:
    return Path(url.database or "").parent / kind / f"{name}.lock"


def _lock(file: IO[str], how: int, guest: str, patience_s: float) -> None:
    def locked() -> bool:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    if not _succeeds(locked, patience_s):
        file.seek(0)
        raise _claimed(guest, file.read(4096).strip())


def _succeeds(attempt: Callable[[], bool], patience_s: float) -> bool:
    """Whether one of several attempts within this time does."""
    end_s = time.monotonic() + patience_s
    while not attempt():
        if time.monotonic() >= end_s:
            return False
        time.sleep(0.005)
    return True


@dataclass(frozen=True)
class _Holder:
    """As it says of itself: anybody who reaches the journal may say this."""

    by: Annotated[str, Said(200)]
    pid: int
    since: Annotated[str, Said(20)]


def _who() -> dict[str, str | int]:
    return {"by": operator(), "pid": os.getpid(), "since": time.strftime("%H:%M:%S")}


def _claimed(guest: str, holder: str) -> ClaimedError:
    try:
        who = fields.decode(_Holder, json.loads(holder))
        told = f"{who.by} (process {who.pid}) since {who.since}"
    except (ValueError, RecursionError):
        told = "another process"
    return ClaimedError(f"guest {guest}: is being moved by {told}; nothing was changed", "wait for it: vmacro history")
