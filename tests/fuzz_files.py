"""Targets of fuzz.py that read files, databases and whole conversations."""

from __future__ import annotations

import functools
import json
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.hostile import is_harmless
from tests.unit import spoken
from tests.unit.faults import Faults
from tests.unit.test_enumeration import hosts_are_sound, stage
from vmacro import inventory
from vmacro.errors import ConfigurationError, EventError, JournalError
from vmacro.model.events import Event, Note
from vmacro.planning.handoffs import SEAMLESS
from vmacro.provisioning import runner
from vmacro.rtt import recording as recordings
from vmacro.rtt import report
from vmacro.rtt.samples import Sample
from vmacro.services import claims, event_json, journal, serializer, workflows
from vmacro.services.archive import Archive
from vmacro.services.event_log import DatabaseEventLog, everything
from vmacro.wire import fields


@functools.cache
def _folder() -> Path:
    """Of this run."""
    return Path(tempfile.mkdtemp(prefix="vmacro-fuzz-"))


def toml(data: bytes) -> None:
    """An operator's inventory, from its file; what it says of hosts and guests the journal can keep."""
    file = _folder() / "inventory.toml"
    file.write_bytes(data)
    try:
        known = inventory.load(file).inventory
    except ConfigurationError as error:
        assert is_harmless(str(error))
        return
    for noun in (*known.hosts, *known.guests, known.policy):
        assert fields.decode(type(noun), fields.encode(noun)) == noun


def log(data: bytes) -> None:
    """A value of the journal, as DBOS has it decoded."""
    with suppress(JournalError):
        serializer.Json().deserialize(data.decode(errors="surrogateescape"))


def recording(data: bytes) -> None:
    """What a prober on another machine recorded, from its file to its figures."""
    file = _folder() / "rtt.ndjson"
    file.write_bytes(data)
    try:
        read = recordings.read(file)
    except recordings.RecordingError as error:
        assert str(error).isprintable()
        return
    report.felt(read, [])


def task(data: bytes) -> None:
    """What a host answered to a playbook's task."""
    with suppress(ValueError, RecursionError):
        said = json.loads(data)
        seen = runner._task({"event": "runner_on_failed", "event_data": said if isinstance(said, dict) else {}})
        assert seen is not None and is_harmless(seen.said + seen.name + seen.host)


def holder(data: bytes) -> None:
    """What whoever has a guest's lock says of itself."""
    assert is_harmless(str(claims._claimed("web", data.decode(errors="replace"))))


@contextmanager
def _no_world() -> Any:
    raise AssertionError("nothing is begun here")
    yield


@functools.cache
def _journal() -> tuple[str, sqlite3.Connection]:
    """One with a move and a carriage in it, as DBOS wrote them; and its database, to write to."""
    found, url = stage(SEAMLESS), f"sqlite:///{_folder()}/journal.sqlite"
    with journal.open_journal(url, _no_world, "fuzz"):
        workflows.run(found.plan, found.fake.world)
    return url, sqlite3.connect(_folder() / "journal.sqlite", isolation_level=None)


_COLUMNS = [
    ("workflow_input", "inputs"),
    ("workflow_output", "output"),
    ("operation_outputs", "output"),
    ("operation_outputs", "error"),
    ("operation_outputs", "function_name"),
    ("workflow_status", "serialization"),
    ("workflow_status", "created_at"),
    ("workflow_status", "status"),
    ("workflow_status", "authenticated_roles"),
    ("workflow_status", "workflow_uuid"),
]


def row(data: bytes) -> None:
    """A column of DBOS's tables that a stranger wrote, as who lists, shows and resumes reads it."""
    url, database = _journal()
    table, column = _COLUMNS[data[0] % len(_COLUMNS) if data else 0]
    kind = bytes(data[1:]) if data[:1] > b"\x80" else data[1:].decode(errors="replace")
    ((before,),) = database.execute(f"SELECT {column} FROM {table} WHERE rowid = 1")
    with suppress(sqlite3.Error):  # of what no database takes
        database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = 1", (kind,))
    with closing(Archive(url)) as archive:
        for found in archive.moves():
            assert found.move_id.isprintable()
        archive.unfinished()
        archive.carriages()
        with suppress(JournalError):
            archive.steps("web-1")
    database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = 1", (before,))


@functools.cache
def _log() -> tuple[DatabaseEventLog, sqlite3.Connection]:
    found = DatabaseEventLog(f"sqlite:///{_folder()}/log.sqlite", print)
    with DatabaseEventLog(f"sqlite:///{_folder()}/log.sqlite", print) as writer:
        writer.append(Event("web-1", 1, Note("x")))
    return found, sqlite3.connect(_folder() / "log-events.sqlite", isolation_level=None)


def event(data: bytes) -> None:
    """A row of the event log, and an event as JSON."""
    found, database = _log()
    column = ("data", "kind", "move_id", "wall_ns")[data[0] % 4 if data else 0]
    value = bytes(data[1:]) if data[:1] > b"\x80" else data[1:].decode(errors="replace")
    database.execute(f"UPDATE vmacro_events SET {column} = ?", (value,))
    ((_, told),) = everything(found)
    assert len(told.text) < 70_000
    with suppress(ValueError, RecursionError, EventError):
        event_json.from_plain(json.loads(data))


def move(data: bytes) -> None:
    """Any bytes instead of any one answer in a whole move: the guest runs once, and nothing is left at hosts."""
    found, number, spoke = stage(SEAMLESS), data[0] if data else 0, [0]

    def lie(said: spoken.Said) -> Any:
        spoke[0] += 1
        if spoke[0] - 1 != number:
            return said.what
        if said.party != "libvirt":
            return data[1:] + b"\n"
        return data[1:].decode(errors="replace") if isinstance(said.what, str) else said.what

    world = spoken.world(found.fake, lie)
    for _ in range(4):
        outcome = found.book.attempt(found.plan, world, Faults())
        assert is_harmless(outcome.reason + outcome.hint) and len(found.fake.running_at()) == 1
        if not outcome.remains:
            break
    hosts_are_sound(found, str(data))


TARGETS: dict[str, Callable[[bytes], None]] = {
    t.__name__: t for t in (toml, log, recording, task, holder, row, event, move)
}
_RECORDED = (recordings.header("t", "tcp", 10, 0, 0), recordings.sample_line(Sample(0, 5, 7)), recordings.end_line(1))
_PLAN = json.dumps({"args": [fields.encode(stage(SEAMLESS).plan), []], "kwargs": {}}).encode()
SEEDS = {
    "toml": [Path(__file__).with_name("fuzz.toml").read_bytes()],
    "log": [b'{"__error__":"CopyError","message":"m","hint":"h"}'],
    "recording": ["".join(_RECORDED).encode()],
    "task": [b'{"res":{"msg":"x","results":[{"failed":true,"msg":"y"}]},"host":"a","task":"t"}'],
    "holder": [b'{"by":"me@here","pid":7,"since":"12:00:00"}'],
    "row": [b"\x00" + _PLAN, b'\x01{"ending": "moved", "connections": [], "wall_s": 1.5}', b'\x02{"retired": true}'],
    "event": [b'\x00{"text":"x"}', b"\x01turn"],
    "move": [bytes([n]) + b'{"v":2,"id":"ID","ok":true,"result":{}}' for n in (0, 9, 40, 90)],
}
