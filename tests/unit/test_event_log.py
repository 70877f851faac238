"""The log of events: what is written is read again and can be followed, whoever writes, whatever fails."""

import json
import secrets
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from tests.unit.test_config import GOOD
from tests.unit.test_enumeration import stage
from vmacro.cli.app import app
from vmacro.errors import JournalError
from vmacro.model.events import (
    CopyProgress,
    DomainChanged,
    Event,
    Note,
    PhaseBegan,
    PhaseEnded,
    Unreadable,
)
from vmacro.model.moves import Ending, Phase
from vmacro.planning.handoffs import SEAMLESS
from vmacro.services import event_log, journal, report, workflows
from vmacro.services.event_json import MAX_CHARACTERS, from_plain
from vmacro.services.event_log import DatabaseEventLog, follow


def progress(percent: int = 50) -> CopyProgress:
    return CopyProgress(percent, 1, 2, 3, 0.5, 1.0, 1)


def quiet(text: str) -> None:
    raise AssertionError(text)


def log_url(folder: Path) -> str:
    return f"sqlite:///{folder}/journal.sqlite"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state/journal.sqlite"
    server, name = request.getfixturevalue("postgres"), f"events_{secrets.token_hex(4)}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return str(server.url.replace("/postgres?", f"/{name}?"))


def test_events_come_back_in_order_each_with_its_move(url: str) -> None:
    told = [Event("web-1", 1, PhaseBegan(Phase.COPY)), Event("db-1", 2, Note("x\0y")), Event("web-1", 3, Note("z"))]
    assert DatabaseEventLog(url, quiet).read() == [], "before the first move there is none"
    with DatabaseEventLog(url, quiet) as log:
        for event in told:
            log.append(event)
        assert [e for _, e in log.read()] == told, "at once, in the same process"
    log = DatabaseEventLog(url, quiet)
    numbered = log.read()
    assert [e for _, e in numbered] == told and sorted(n for n, _ in numbered) == [n for n, _ in numbered]
    assert [e for _, e in log.read("web-1")] == [told[0], told[2]]
    assert log.read("web-1", after=numbered[0][0]) == [numbered[2]]


def test_a_sqlite_log_is_a_file_of_its_own_for_nobody_else(tmp_path: Path) -> None:
    reader = DatabaseEventLog(f"sqlite:///{tmp_path}/journal.sqlite", quiet)
    assert reader.read() == [] and list(tmp_path.iterdir()) == [], "to look creates nothing"
    with DatabaseEventLog(f"sqlite:///{tmp_path}/journal.sqlite", quiet) as log:
        log.append(Event("m", 1, Note("x")))
        assert log.read() == reader.read() != []
        made = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert made["journal-events.sqlite"] == 0o600 and set(made.values()) == {0o600}


def test_a_row_says_for_people_what_its_data_say_for_programs(tmp_path: Path) -> None:
    """Whoever looks with SQL has a terminal, too."""
    with DatabaseEventLog(log_url(tmp_path), quiet) as log:
        log.append(Event("m", 7, Note("clear\x1b[2J")))
    with closing(sqlite3.connect(tmp_path / "journal-events.sqlite")) as database:
        (row,) = database.execute("SELECT id, move_id, wall_ns, kind, text, data FROM vmacro_events")
    assert row == (1, "m", 7, "note", "clear\\x1b[2J", json.dumps({"text": "clear\x1b[2J"}))


def test_figures_of_a_copy_are_kept_once_a_second(tmp_path: Path) -> None:
    with DatabaseEventLog(f"sqlite:///{tmp_path}/j.sqlite", quiet) as log:
        for tenth in range(31):
            log.append(Event("m", 10**12 + tenth * 10**8, progress(tenth)))
            log.append(Event("other", 10**12 + tenth * 10**8, progress(tenth)))
        log.append(Event("m", 10**12, Note("kept")))
        kept = [e.what for _, e in log.read("m")]
    assert kept == [progress(0), progress(10), progress(20), progress(30), Note("kept")]


_WRITER = """
import sys
from vmacro.model.events import Event, Note
from vmacro.services.event_log import DatabaseEventLog
url, name = sys.argv[1:]
with DatabaseEventLog(url, lambda text: sys.exit(text)) as log:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(200):
        log.append(Event(name, number, Note(str(number))))
"""


def test_two_processes_append_to_a_log_that_neither_has_made(url: str) -> None:
    command = [sys.executable, "-c", _WRITER, url]
    writers = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in "ab"
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.wait(60) for writer in writers] == [0, 0]
    for writer in writers:
        assert writer.stdin is not None and writer.stdout is not None
        writer.stdin.close()
        writer.stdout.close()
    log = DatabaseEventLog(url, quiet)
    for name in "ab":
        assert [e.text for _, e in log.read(name)] == [str(number) for number in range(200)]
    assert len(log.read()) == 400


def test_a_new_sqlite_log_that_another_is_setting_up_is_waited_for(tmp_path: Path) -> None:
    """Of two who turn a new file to write-ahead logging at once, SQLite refuses one without any patience."""
    said: list[str] = []
    other = sqlite3.connect(tmp_path / "j-events.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, other.rollback)
    with closing(other), DatabaseEventLog(f"sqlite:///{tmp_path}/j.sqlite", said.append) as log:
        release.start()
        log.append(Event("m", 1, Note("x")))
        assert [e.text for _, e in log.read()] == ["x"] and said == []
        release.join()


_FULL = """
import resource, sys
from vmacro.model.events import Event, Note
from vmacro.services.event_log import DatabaseEventLog
said = []
with DatabaseEventLog(sys.argv[1], said.append) as log:
    log.append(Event("m", 1, Note("fits")))
    log.read()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, 1 << 15))
    for number in range(3):
        log.append(Event("m", 2, Note("x" * 40_000)))
        seen = [len(e.text) for _, e in log.read("m")]
print(seen)
print(said)
"""


def test_a_full_disk_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for the disk: writes fail with EFBIG. What does not fit is read from memory meanwhile."""
    command = [sys.executable, "-c", _FULL, f"sqlite:///{tmp_path}/j.sqlite"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    seen, said = done.stdout.splitlines()
    assert seen == "[4, 40000, 40000, 40000]"
    assert said.count("cannot be written") == 1 and "3 events are not in it" in said


def test_a_log_that_comes_back_has_what_was_told_meanwhile(tmp_path: Path) -> None:
    said: list[str] = []
    in_the_way = tmp_path / "state"
    in_the_way.write_text("")
    with DatabaseEventLog(log_url(in_the_way), said.append) as log:
        log.append(Event("m", 1, Note("early")))
        assert [e.text for _, e in log.read()] == ["early"] and len(said) == 1
        in_the_way.unlink()
        log.append(Event("m", 2, Note("late")))
    assert len(said) == 1
    assert [e.text for _, e in DatabaseEventLog(log_url(in_the_way), quiet).read()] == ["early", "late"]


def test_a_database_that_is_away_costs_the_report_its_phases_and_the_move_nothing() -> None:
    """Nobody listens on port 9."""
    log = DatabaseEventLog("postgresql+psycopg://u:hush@127.0.0.1:9/x", quiet)
    with pytest.raises(JournalError, match="event log: cannot be read") as raised:
        log.read("m")
    assert "hush" not in str(raised.value)
    (told,) = report.story(log, "m")
    assert isinstance(told.what, Unreadable) and report.spans([told]) == []


def test_an_event_that_no_database_takes_keeps_no_other_from_being_written(url: str) -> None:
    said: list[str] = []
    with DatabaseEventLog(url, said.append) as log:
        for number, move_id in enumerate(["a", "m\udc80", "b", "m\udc80"]):
            log.append(Event(move_id, number, Note("x")))
        assert [e.move_id for _, e in log.read()] == ["a", "b"]
        log.append(Event("c", 9, Note("later")))
        assert [e.move_id for _, e in log.read()] == ["a", "b", "c"], "the thread goes on"
    first, last = said
    assert first.startswith("event log: cannot be written: 'utf-8' codec") and last.endswith(": 2 events are not in it")


@pytest.mark.parametrize("asked", [{"move_id": "\udc80"}, {"after": 1 << 70}])
def test_what_cannot_be_asked_of_a_database_is_told(url: str, asked: dict[str, Any]) -> None:
    with DatabaseEventLog(url, quiet) as log:
        log.append(Event("m", 1, Note("x")))
        with pytest.raises(JournalError, match="event log: cannot be read: "):
            log.read(**asked)


def test_a_folder_that_cannot_be_looked_into_is_told(tmp_path: Path) -> None:
    """A name that is too long, since nothing is forbidden to root."""
    with pytest.raises(JournalError, match=r"event log: cannot be read: .*File name too long"):
        DatabaseEventLog(log_url(tmp_path / ("x" * 300)), quiet).read()


def test_memory_has_an_end_and_what_is_lost_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "MOST_WAITING", 3)
    said: list[str] = []
    (tmp_path / "state").write_text("in the way")
    with DatabaseEventLog(log_url(tmp_path / "state"), said.append) as log:
        for number in range(5):
            log.append(Event("m", number, Note("x")))
            log.read()
    assert said[-1] == "event log: 5 events are not in it"


def test_a_hostile_row_is_told_of_and_hides_no_other(tmp_path: Path) -> None:
    with DatabaseEventLog(log_url(tmp_path), quiet) as log:
        log.append(Event("m", 1, Note("before")))
    rows = [
        ("m", 2, "note", "", '{"text": 7}'),
        ("m", "soon", "\x1b]0;x", "", b"\xff\xfe"),
        ("m", 3, "new.kind", "", "{}"),
    ]
    with closing(sqlite3.connect(tmp_path / "journal-events.sqlite")) as strange, strange:
        add = "INSERT INTO vmacro_events (move_id, wall_ns, kind, text, data) VALUES "
        strange.executemany(add + "(?,?,?,?,?)", rows)
        strange.execute(add + "('m', 3, CAST(x'fffe' AS TEXT), '', '{}')")
        strange.execute(add + f"('m', 3, 'note', '', '{'x' * (MAX_CHARACTERS + 9)}')")
    with DatabaseEventLog(log_url(tmp_path), quiet) as log:
        log.append(Event("m", 4, Note("after")))
        found = [e.what for _, e in log.read("m")]
    assert [type(what) for what in found] == [Note, *[Unreadable] * 5, Note]
    assert all(len(what.text) < 300 for what in found) and "kind: unknown (value: 'new.kind')" in found[3].text


# ---- to follow, and to report


class Told:
    """A log in memory."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def append(self, event: Event) -> None:
        self.events.append(event)

    def read(self, move_id: str = "", after: int = 0) -> list[tuple[int, Event]]:
        return [(n, e) for n, e in enumerate(self.events, 1) if n > after and move_id in ("", e.move_id)]


def test_who_follows_sees_each_event_once_and_is_done_when_the_move_is() -> None:
    log, waits = Told(), iter(range(9))
    log.append(Event("m", 1, Note("before")))

    def wait() -> None:
        log.append(Event("m", 1, Note(f"wait {next(waits)}")))
        log.append(Event("other", 1, Note("not ours")))

    endings = iter([False, False, True])
    seen = [event.text for event in follow(log, "m", lambda: next(endings), wait)]
    assert seen == ["before", "wait 0", "wait 1", "wait 2"], "the last was on its way as the move ended"


def test_who_follows_sees_what_could_not_be_written_once_it_is(tmp_path: Path) -> None:
    said: list[str] = []
    in_the_way = tmp_path / "state"
    in_the_way.write_text("")

    def mended() -> None:
        in_the_way.unlink(missing_ok=True)
        log.append(Event("m", 2, Note("late")))

    with DatabaseEventLog(log_url(in_the_way), said.append) as log:
        log.append(Event("m", 1, Note("early")))
        assert [e.text for _, e in log.read()] == ["early"]
        assert [e.text for e in follow(log, "m", lambda: True, mended)] == ["early", "late"]


def test_without_a_move_one_follows_until_interrupted() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    log = Told()
    log.append(Event("m", 1, Note("x")))
    following: Iterator[Event] = follow(log, "", lambda: False, interrupted)
    assert next(following).text == "x"
    with pytest.raises(KeyboardInterrupt):
        next(following)


def invoked(folder: Path, *words: str) -> list[str]:
    """Lines of a command, with a journal in a folder."""
    (folder / "i.toml").write_text(f'[orchestrator]\nstate_dir = "{folder}"\n{GOOD}')
    done = CliRunner().invoke(app, [*words, "-i", str(folder / "i.toml")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def test_the_command_shows_events_as_they_were_told(tmp_path: Path) -> None:
    told = [Event("web-1", 5, PhaseBegan(Phase.COPY)), Event("db-1", 6, Note("[red]:AB: \x1b[2J\ud800"))]
    with DatabaseEventLog(log_url(tmp_path), quiet) as log:
        for event in told:
            log.append(event)
    first, second = invoked(tmp_path, "events")
    assert first.endswith("  web-1  phase.begin    copy")
    assert second.endswith(r"  db-1  note           [red]:AB: \x1b[2J\ud800")
    assert [from_plain(json.loads(line)) for line in invoked(tmp_path, "events", "web-1", "--json")] == told[:1]


def test_the_command_follows_a_move_no_longer_than_it_lasts(tmp_path: Path) -> None:
    """A move in the world in memory, on a real journal; its events in order, and the command is done by itself."""
    found = stage(SEAMLESS)
    with DatabaseEventLog(log_url(tmp_path), quiet) as log:
        world = replace(found.fake.world, publish=log.append)
        with journal.open_journal(log_url(tmp_path), lambda: nullcontext(world), "test-1"):
            assert workflows.run(found.plan, world).ending == Ending.MOVED
    told = [
        from_plain(json.loads(line)) for line in invoked(tmp_path, "events", found.plan.move_id, "--follow", "--json")
    ]
    phases = [e.what.phase.value for e in told if isinstance(e.what, PhaseEnded)]
    assert phases == ["survey", "prepare", "copy", "arrive", "settle", "verify", "clean"]
    assert [e.what.event for e in told if isinstance(e.what, DomainChanged)] == ["suspended", "resumed", "stopped"]
    (shown,) = invoked(tmp_path, "show", found.plan.move_id, "--json")
    assert [from_plain(item) for item in json.loads(shown)["events"]] == told
