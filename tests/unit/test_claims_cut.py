"""Claims in a real PostgreSQL whose connections are cut: whose they are, and who may take them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dbos._sys_db
import pytest
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.pool import NullPool

from tests import postgres as postgres_server
from tests.support import eventually
from vmacro.errors import ClaimedError, JournalError, TakenOverError
from vmacro.services import claims, database_claims, journal

_names = iter(range(1000))


@pytest.fixture
def url(postgres: postgres_server.Server) -> str:
    return postgres.url


@pytest.fixture
def guest() -> str:
    """Databases outlive tests here."""
    return f"cut-{os.getpid()}-{next(_names)}"


def ask(url: str, statement: str, **words: object) -> list[sqlalchemy.Row[tuple[object, ...]]]:
    engine = sqlalchemy.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as session:
        found = session.execute(text(statement), words)
        return [*found] if found.returns_rows else []


def cut(url: str, guest: str) -> None:
    """The session that has the lock, by who may do so; until it has gone."""
    number = database_claims.key_of(f"vmacro {guest}") & (2**64 - 1)
    words = {"high": number >> 32, "low": number & 0xFFFFFFFF}
    of_it = "FROM pg_locks WHERE locktype = 'advisory' AND classid = :high AND objid = :low"
    ((pid,),) = ask(url, f"SELECT pid {of_it}", **words)
    assert ask(url, "SELECT pg_terminate_backend(:pid, 30000)", pid=pid) == [(True,)]


@contextmanager
def never_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A holder whose network stays away, while everybody else's is well: it alone asks by these."""
    asked = database_claims.DatabaseClaim._taken_again
    monkeypatch.setattr(database_claims.DatabaseClaim, "_taken_again", lambda _claim: False)
    yield
    monkeypatch.setattr(database_claims.DatabaseClaim, "_taken_again", asked)


def test_who_was_cut_off_has_it_again(url: str, guest: str) -> None:
    with claims.held(url, guest) as claim:
        for _ in range(2):
            cut(url, guest)
            claim.still()
            claim.check()
            with pytest.raises(ClaimedError), claims.held(url, guest):
                pass
            assert claims.is_held(url, guest)
    assert not claims.is_held(url, guest)


def test_a_server_that_is_restarted_takes_nothing_from_anybody(
    postgres: postgres_server.Server, guest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others ask again and again meanwhile, also before its holder has looked; and the holder was seen to be cut off
    long before the restart, which says nothing."""
    monkeypatch.setattr(database_claims, "LOOK_EVERY_S", 2.0)
    with claims.held(postgres.url, guest) as claim:
        ask(postgres.url, "UPDATE vmacro_claims SET free_since = now() - interval '1 hour'")
        postgres.restart()
        with pytest.raises(ClaimedError, match=claims.operator()), claims.held(postgres.url, guest):
            pass
        claim.check()


def test_nobody_waits_for_who_has_let_go(url: str, guest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_claims, "GRACE_S", 1000.0)
    for _ in range(2):
        with claims.held(url, guest):
            pass


def test_who_stays_away_has_lost_it_and_nothing_gives_it_back(
    url: str, guest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even that the other has let it go by the time it is back."""
    monkeypatch.setattr(database_claims, "GRACE_S", 1.0)
    with claims.held(url, guest) as claim:
        with never_back(monkeypatch):
            cut(url, guest)
            with claims.held(url, guest) as others:
                with pytest.raises(JournalError, match="cut"):
                    claim.check()
                others.check()
        for asked in (claim.still, claim.check, claim.see):
            with pytest.raises(TakenOverError, match=f"guest {guest}: another process has taken it over"):
                asked()


def test_a_session_that_the_server_does_not_know_to_be_dead_stands_in_nobodys_way(url: str, guest: str) -> None:
    """As where a network drops a connection: the server waits for hours, the holder has long come back."""
    with claims.held(url, guest) as claim:
        assert isinstance(claim, database_claims.DatabaseClaim)
        ghost, claim._session = claim._session, None
        claim.still()
        claim.check()
        with pytest.raises(sqlalchemy.exc.DBAPIError):
            assert ghost is not None and ghost.execute(text("SELECT 1"))


@pytest.mark.parametrize("ends", ["killed", "frozen"])
def test_a_holder_that_has_died_is_waited_for_once_and_one_that_is_frozen_has_it(
    url: str, guest: str, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_claims, "GRACE_S", 2.0)
    code = "import sys, time; from vmacro.services import claims\n"
    code += "with claims.held(*sys.argv[1:]): print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, url, guest], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        if ends == "frozen":
            other.send_signal(19)
            with pytest.raises(ClaimedError), claims.held(url, guest):
                pass
        other.kill()
        other.wait()
    assert claims.is_held(url, guest), "it may have been cut off alone"
    began = time.monotonic()
    with claims.held(url, guest):
        assert time.monotonic() - began > 1.0
        assert claims.is_held(url, guest)


def test_of_two_who_wait_for_a_dead_one_one_gets_it(url: str, guest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_claims, "GRACE_S", 1.0)
    with claims.held(url, guest), never_back(monkeypatch):
        cut(url, guest)

        def take() -> str:
            try:
                with claims.held(url, guest) as claim:
                    time.sleep(2 * claims.PATIENCE_S)
                    claim.check()
            except ClaimedError:
                return "refused"
            return "held"

        with ThreadPoolExecutor(2) as both:
            taking: list[Callable[[], str]] = [take, take]
            assert sorted(both.map(lambda act: act(), taking)) == ["held", "refused"]


def test_what_the_dead_have_left_is_forgotten_in_time(url: str, guest: str) -> None:
    def left() -> int:
        return len(
            ask(url, "SELECT 1 FROM vmacro_claims WHERE key = :key", key=database_claims.key_of(f"vmacro {guest}"))
        )

    with claims.held(url, guest):
        claims.forget(url, time.time() + 60)
        assert left() == 1, "its holder lives"
        ask(
            url, "UPDATE vmacro_claims SET holder = 'x' WHERE key = :key", key=database_claims.key_of(f"vmacro {guest}")
        )
    claims.forget(url, time.time() - 60)
    assert left() == 1

    def is_forgotten() -> bool:
        claims.forget(url, time.time() + 60)  # the server sees a moment later that a session has ended
        return not left()

    eventually(is_forgotten, "nobody's claim to be forgotten")


@contextmanager
def locked(url: str) -> Iterator[None]:
    """The table, by somebody who may write to it, and does not let go."""
    engine = sqlalchemy.create_engine(url, poolclass=NullPool)
    with engine.begin() as session:
        session.execute(text("LOCK TABLE vmacro_claims IN ACCESS EXCLUSIVE MODE"))
        yield
    engine.dispose()


def test_a_table_that_somebody_locks_keeps_nobody_for_ever(
    url: str, guest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither who asks, nor who claims, nor who lets go, which is how each move ends."""
    monkeypatch.setattr(database_claims, "STATEMENT_S", 0.5)
    began = time.monotonic()
    with ExitStack() as stack:
        with claims.held(url, guest):
            stack.enter_context(locked(url))
        with pytest.raises(sqlalchemy.exc.OperationalError, match="statement timeout"):
            claims.is_held(url, guest)
        with pytest.raises(sqlalchemy.exc.OperationalError, match="statement timeout"), claims.held(url, guest):
            pass
    assert time.monotonic() - began < 30


def test_who_has_a_claim_look_as_if_it_had_just_been_lost_is_not_waited_for(
    url: str, guest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_claims, "LONGEST_S", 2.0)
    key = database_claims.key_of(f"vmacro {guest}")
    with claims.held(url, guest):  # there is a table
        pass
    row = "INSERT INTO vmacro_claims (key, holder, who, since, free_since) VALUES (:key, 'x', '{}', now(), :when)"
    ask(url, row, key=key, when="infinity")
    with pytest.raises(ClaimedError, match="is being moved by another process"), claims.held(url, guest):
        pass


def test_a_server_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    """DBOS took that for an error of the workflow's own, which it left without a result for ever."""
    with pytest.raises(sqlalchemy.exc.OperationalError) as away:
        ask(f"postgresql+psycopg://vmacro@/postgres?host={tmp_path}", "SELECT 1")
    assert vars(dbos._sys_db)["retriable_postgres_exception"](away.value)
    told = JournalError("the journal cannot be read")
    told.__cause__ = away.value
    assert journal.was_cut_off(told) and not journal.was_cut_off(JournalError("a row is wrong"))
