"""What one process at a time may have, where the journal is SQLite: locks of files, and what is told of who has them.
contract/test_claims.py has both databases, tests/unit/test_claims_cut.py PostgreSQL's."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vmacro.errors import ClaimedError, ConfigurationError
from vmacro.services import claims
from vmacro.services.claims import GUESTS, WORKERS, held, is_held, see_that_nobody_has


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state/journal.sqlite"


def test_a_guest_and_a_worker_of_one_name_are_two(url: str, tmp_path: Path) -> None:
    with held(url, "web"), held(url, "web", WORKERS), held(url, "db"):
        assert is_held(url, "web") and is_held(url, "web", WORKERS) and is_held(url, "db", GUESTS)
        assert not is_held(url, "db", WORKERS)
    assert not any(is_held(url, name, kind) for name in ("web", "db") for kind in (GUESTS, WORKERS))
    names = sorted(str(path.relative_to(tmp_path / "state")) for path in (tmp_path / "state").rglob("*.lock"))
    assert names == ["guests/db.lock", "guests/web.lock", "workers/web.lock"]


def test_who_looks_makes_no_file(url: str, tmp_path: Path) -> None:
    see_that_nobody_has(url, "web")
    assert not is_held(url, "web") and not [*tmp_path.iterdir()]


def test_who_comes_second_is_told_by_whom_and_since_when(url: str, tmp_path: Path) -> None:
    with held(url, "web") as claim:
        claim.check()
        claim.see()
        lock = tmp_path / "state/guests/web.lock"
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600 and stat.S_IMODE(lock.parent.stat().st_mode) == 0o700
        told = json.loads(lock.read_text())
        assert told == {"by": claims.operator(), "pid": os.getpid(), "since": told["since"]}
        assert re.fullmatch(r"\d\d:\d\d:\d\d", told["since"])
        began = time.monotonic()
        with pytest.raises(ClaimedError) as error, held(url, "web"):
            pass
        assert time.monotonic() - began >= claims.PATIENCE_S, "who only looks has it for a moment"
        who = f"{claims.operator()} (process {os.getpid()}) since {told['since']}"
        assert error.value.message == f"guest web: is being moved by {who}; nothing was changed"
        assert error.value.hint == "wait for it: vmacro history"
        with pytest.raises(ClaimedError, match=f"process {os.getpid()}"):
            see_that_nobody_has(url, "web")
    with held(url, "web"):
        pass


def test_who_takes_it_after_another_says_nothing_of_that_one(url: str, tmp_path: Path) -> None:
    lock = tmp_path / "state/guests/web.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("x" * 500)
    with held(url, "web"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("said", ["", "[]", "not JSON", "[" * 4096, '{"by": "b", "pid": "x", "since": "s"}', "\udcff"])
def test_a_holder_that_says_nothing_is_another_process(url: str, tmp_path: Path, said: str) -> None:
    with held(url, "web"):
        (tmp_path / "state/guests/web.lock").write_bytes(said.encode(errors="surrogateescape"))
        with pytest.raises(ClaimedError, match="guest web: is being moved by another process; nothing was changed"):
            see_that_nobody_has(url, "web")


def test_who_only_looks_keeps_no_other_who_looks_away(url: str, tmp_path: Path) -> None:
    with held(url, "web"):
        pass
    with (tmp_path / "state/guests/web.lock").open() as file:
        claims._lock(file, fcntl.LOCK_SH, "web", 0)
        see_that_nobody_has(url, "web")
        with pytest.raises(ClaimedError), held(url, "web"):
            pass


@pytest.mark.parametrize("ask", [lambda url: held(url, "x" * 300).__enter__(), lambda url: is_held(url, "x" * 300)])
def test_a_lock_that_cannot_be_used_is_told(url: str, tmp_path: Path, ask: Callable[[str], object]) -> None:
    with held(url, "web"):
        pass
    with pytest.raises(ConfigurationError) as told:
        ask(url)
    name = "x" * 300
    lock = tmp_path / f"state/guests/{name}.lock"
    assert told.value.message == f"guest {name}: its lock {lock}: File name too long; nothing was changed"
    assert told.value.hint == "see orchestrator.state_dir"


def test_an_operator_is_a_user_at_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    assert claims.operator() == f"ada@{socket.gethostname()}"


def test_it_is_tried_until_it_succeeds_or_time_is_over() -> None:
    answers = iter([False, False, True])
    assert claims._succeeds(lambda: next(answers), 60.0) and next(answers, None) is None
    answers = iter([False, True])
    assert not claims._succeeds(lambda: next(answers), 0) and next(answers), "once, in any case"


def test_where_the_journal_is_a_file_there_is_nothing_to_forget(url: str, tmp_path: Path) -> None:
    claims.forget(url, 1e12)
    assert not [*tmp_path.iterdir()]
