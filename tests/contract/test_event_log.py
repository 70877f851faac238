"""The event log, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract import certifies
from vmacro.model.events import Event, Note
from vmacro.ports import EventLog
from vmacro.services.event_log import DatabaseEventLog


@pytest.fixture(params=["sqlite", "postgres"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventLog]:
    url = f"sqlite:///{tmp_path}/journal.sqlite"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").url
    with DatabaseEventLog(url, pytest.fail) as found:
        yield found


@certifies("EventLog.append", "EventLog.read")
def test_what_was_appended_is_read_in_that_order(log: EventLog) -> None:
    before = log.read()
    known = [Event("m-1", 1, Note("one")), Event("m-2", 2, Note("two")), Event("m-1", 3, Note("three"))]
    for event in known:
        log.append(event)
    numbered = log.read(after=before[-1][0] if before else 0)
    assert [event for _, event in numbered] == known
    numbers = [number for number, _ in numbered]
    assert numbers == sorted(set(numbers)), "each has a number of its own, and they grow"
    assert [event.wall_ns for _, event in log.read("m-1", numbers[0])] == [3]
    assert log.read("m-3") == [] and log.read(after=numbers[-1]) == []
