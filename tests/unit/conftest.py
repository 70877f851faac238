"""Databases for journals; a town and a session with its inventory, for tests of moves by the public API; the command
line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vmacro.api
from tests.unit.town import Town, Vmacro
from vmacro import wiring
from vmacro.cli import app


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a journal may be; databases of PostgreSQL outlive tests here."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/journal.sqlite"
    return str(request.getfixturevalue("postgres").url)


@pytest.fixture
def journal_says(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[[], list[str]]]:
    """The lines that DBOS has told an operator so far. Where they go depends on who was first, pytest or DBOS."""
    written: list[str] = []

    def so_far() -> list[str]:
        written.extend(capfd.readouterr().err.splitlines())
        return [*dict.fromkeys([*written, *caplog.text.splitlines()])]

    yield so_far


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    made = Town(tmp_path, 4)
    monkeypatch.setattr(wiring, "drivers", made.drivers)
    return made


@pytest.fixture
def session(town: Town, tmp_path: Path) -> Iterator[vmacro.api.Session]:
    with vmacro.api.open(town.file, tmp_path / "report") as opened:
        yield opened


@pytest.fixture(name="vmacro")
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Vmacro:
    """The command line in a folder of its own, in this process: a Python takes a second to start."""
    for name in [n for n in os.environ if n.startswith("VMACRO_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VMACRO_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["vmacro", *words])
        with pytest.raises(SystemExit) as ended:
            app.main()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return subprocess.CompletedProcess(words, ended.value.code, out, err)

    return run
