"""Targets of fuzz.py that are about the fleet: what others publish, a policy, and rows of batches."""

from __future__ import annotations

import functools
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.hostile import is_harmless
from vmacro import policies
from vmacro.errors import ConfigurationError, JournalError, VmacroError
from vmacro.fleet import calendars, recorded
from vmacro.fleet.nouns import Horizon
from vmacro.fleet.recorded import SignalError
from vmacro.fleet.signals import Kind, Signal, Unit, judge
from vmacro.model.batches import Batch, Became, Maintenance, PlannedMove, Purpose, Try
from vmacro.services import leader
from vmacro.services.fleet_tables import FleetTables, written
from vmacro.services.journal_json import encoded
from vmacro.services.journal_rows import Value, WorkflowRow
from vmacro.services.serializer import Json

_NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
_HOURS = Horizon(_NOON, 3600, 3)
_MOVE = PlannedMove("g1", "a", "x", "b", "y", 256.0, 2.0, 10.0, "there is room")
_BATCH = Batch("evacuate-x-1", Purpose.EVACUATE, "x", (_MOVE,), made_s=1.0)
_READERS: tuple[Callable[[str], Signal], ...] = (
    lambda text: recorded.values_csv("s", text, Kind.PRICE, Unit.PER_MWH, "EUR", _NOON),
    lambda text: recorded.entsoe_xml("s", text, _NOON),
    lambda text: recorded.carbon_aware_json("s", text, Kind.CARBON_MARGINAL),
    lambda text: recorded.gb_carbon_json("s", text, _NOON),
    lambda text: recorded.electricity_maps_json("s", text, _NOON),
    lambda text: recorded.watttime_json("s", text, _NOON),
)


@functools.cache
def _folder() -> Path:
    """Of this run."""
    return Path(tempfile.mkdtemp(prefix="vmacro-fuzz-"))


def _told_well(error: VmacroError) -> None:
    assert is_harmless(str(error)) and len(str(error)) < 4000


def signal(data: bytes) -> None:
    """What a source of prices or carbon publishes, from its text to what is decided by."""
    read = _READERS[data[0] % len(_READERS) if data else 0]
    try:
        found = read(data[1:].decode(errors="replace"))
    except SignalError as error:
        return _told_well(error)
    judged = judge(found, _HOURS, _NOON)
    assert is_harmless(judged.why) and len(judged.values) <= _HOURS.slots


def calendar(data: bytes) -> None:
    """Somebody's maintenance."""
    try:
        end = _NOON + timedelta(days=2)
        found = calendars.windows("c", data.decode(errors="replace"), _NOON, end, UTC, time.thread_time)
    except SignalError as error:
        return _told_well(error)
    assert len(found) <= calendars.MOST_WINDOWS


def policy(data: bytes) -> None:
    """An operator's policy, from its file."""
    file = _folder() / "policy.toml"
    file.write_bytes(data)
    try:
        policies.load(file)
    except ConfigurationError as error:
        assert is_harmless(str(error))


@functools.cache
def _tables() -> tuple[FleetTables, sqlite3.Connection]:
    tables = FleetTables(f"sqlite:///{_folder()}/journal.sqlite")
    tables.add(_BATCH)
    tables.close_for_guests(Maintenance("x", True, "ada@desk", 1.0))
    return tables, sqlite3.connect(_folder() / "journal.sqlite", isolation_level=None)


def batch(data: bytes) -> None:
    """A column of a batch that a stranger wrote: it is left out, or it is one that its writer could have planned."""
    tables, database = _tables()
    column = ("plan", "wish", "batch_id")[data[0] % 3 if data else 0]
    database.execute(f"UPDATE vmacro_batches SET {column} = ?", (data[1:].decode(errors="replace"),))
    for found, _ in (*tables.open(), *tables.batches()):
        written(found)
    assert all(name.isprintable() for name in tables.wishes() if column != "batch_id")
    database.execute("UPDATE vmacro_maintenance SET subject = ?", (data[1:].decode(errors="replace"),))
    assert all(is_harmless(mark.text) for mark in tables.maintenance())
    database.execute("DELETE FROM vmacro_batches")
    tables.add(_BATCH)


def tried(data: bytes) -> None:
    """A row of the queue, and what it says became of it."""
    text = data.decode(errors="replace")
    row = WorkflowRow("evacuate-x-1-0+1", "SUCCESS", Value(text, None), Value(text, None), 0, 0)
    became = leader.became(row)
    assert is_harmless(became.text + became.reason + became.hint)
    with suppress(JournalError):
        assert leader.try_of(row).name == row.name


_ICS = (
    "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\nBEGIN:VEVENT\r\nUID:1\r\nDTSTART:20260601T130000Z\r\nDURATION:PT1H"
    "\r\nRRULE:FREQ=WEEKLY;BYDAY=MO\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
)
_ENTSOE = (
    "<P><TimeSeries><currency_Unit.name>EUR</currency_Unit.name><price_Measure_Unit.name>MWH</price_Measure_Unit.name>"
    "<Period><timeInterval><start>2026-06-01T12:00Z</start><end>2026-06-01T15:00Z</end></timeInterval><resolution>PT60M"
    "</resolution><Point><position>1</position><price.amount>80</price.amount></Point></Period></TimeSeries></P>"
)
_ROW = '{"datetime":"2026-06-01T12:00Z","carbonIntensity":1,"isEstimated":false}'
_SIGNALS = (
    "begin,end,price\n2026-06-01T12:00Z,2026-06-01T15:00Z,80\n",
    _ENTSOE,
    '[{"generatedAt":"2026-06-01T12:00Z","forecastData":[{"timestamp":"2026-06-01T12:00Z","duration":60,"value":1}]}]',
    '{"data":[{"from":"2026-06-01T12:00Z","to":"2026-06-01T12:30Z","intensity":{"actual":null,"forecast":1}}]}',
    f'{{"forecast":[{_ROW}]}}',
    '{"meta":{"signal_type":"co2_moer","units":"lbs_co2_per_mwh"},"data":[{"point_time":"2026-06-01T12:00Z","value":1}]}',
)
_POLICY = b"""currency = "EUR"
[sites.a]
price = { source = "fixed", unit = "1/kWh", value = 1.0 }
[sites.b]
price = { source = "csv", unit = "1/MWh", file = "p.csv", url = "https://a/?t={begin}" }
[[links]]
between = ["a", "b"]
mib_s = 100
[guests]
g = { watts = 100 }
"""
_TRY = Try("evacuate-x-1", 0, 1, 1.0, 0.0, _MOVE)
TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (signal, calendar, policy, batch, tried)
}
SEEDS = {
    "signal": [bytes([n]) + text.encode() for n, text in enumerate(_SIGNALS)],
    "calendar": [_ICS.encode()],
    "policy": [_POLICY],
    "batch": [b"\x00" + written(_BATCH).encode(), b"\x01pause", b"\x02evacuate-x-2"],
    "tried": [
        Json().serialize({"args": [encoded(_TRY)], "kwargs": {}}).encode(),
        Json().serialize(encoded(Became(None, "refused", "why", again=True))).encode(),
    ],
}
