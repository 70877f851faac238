"""Signals from what others have published, as text: nothing of it is trusted. All raise SignalError.

Times need a zone: `2026-03-29T02:30` is no time where clocks change. Where a source omits a value because it repeats
the one before, it is put in again; where it says nothing, there is a gap.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

from astral import Observer
from astral.sun import elevation

from vmacro.errors import VmacroError
from vmacro.fleet.nouns import Horizon
from vmacro.fleet.signals import Kind, Reading, Signal, Unit
from vmacro.wire.text import printable

MOST_CHARACTERS = 16 << 20
MOST_READINGS = 200_000
MOST_VALUE = 1e7
LONGEST = timedelta(days=2)  # that one value may hold for


class SignalError(VmacroError):
    """A source's text cannot be read. The message names the signal, and shows what was seen."""


def prices_csv(name: str, text: str, unit: Unit, currency: str, told: datetime | None) -> Signal:
    """Lines of `begin,end,price` with times in ISO 8601, and a heading of these words."""
    _bounded(name, text)
    factor = unit.factor(Kind.PRICE)
    rows = csv.reader(io.StringIO(text))
    try:
        heading = next(rows, None)
        if heading is None or [word.strip() for word in heading] != ["begin", "end", "price"]:
            raise SignalError(f"signal {name}: heading is {_shown(heading)}", "it should be begin,end,price")
        found = []
        for number, row in enumerate(rows, 2):
            if len(row) != 3:
                raise SignalError(f"signal {name}: line {number} has {len(row)} columns", "it should have 3")
            if row[2].strip():
                found.append(Reading(_time(name, row[0]), _time(name, row[1]), _number(name, row[2]) * factor))
    except csv.Error as error:
        raise SignalError(f"signal {name}: is no CSV: {printable(str(error), 100)}") from error
    return _signal(name, Kind.PRICE, found, told, currency)


def entsoe_xml(name: str, text: str, told: datetime | None) -> Signal:
    """Day-ahead prices of ENTSO-E (document A44, curve type A03): a point whose value repeats the one before is
    omitted, up to the end of its period. Days that are missing are gaps."""
    _bounded(name, text)
    if re.search(r"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise SignalError(f"signal {name}: has a document type", "ENTSO-E's documents have none")
    try:
        root = ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text))
    except (ElementTree.ParseError, ValueError) as error:
        raise SignalError(f"signal {name}: is no XML: {printable(str(error), 100)}") from error
    found: list[Reading] = []
    currencies: set[str] = set()
    for series in root.iterfind("{*}TimeSeries"):
        currencies.add((series.findtext("{*}currency_Unit.name") or "").strip())
        if (series.findtext("{*}price_Measure_Unit.name") or "").strip() != "MWH":
            raise SignalError(f"signal {name}: prices are not for MWh")
        for period in series.iterfind("{*}Period"):
            found += _period(name, period)
    if len(currencies) > 1:
        raise SignalError(f"signal {name}: has several currencies: {_shown(sorted(currencies))}")
    return _signal(name, Kind.PRICE, found, told, printable(next(iter(currencies), ""), 10))


def _period(name: str, period: ElementTree.Element) -> list[Reading]:
    begin = _time(name, period.findtext("{*}timeInterval/{*}start") or "")
    end = _time(name, period.findtext("{*}timeInterval/{*}end") or "")
    words = (period.findtext("{*}resolution") or "").strip()
    steps = {"PT15M": 15, "PT30M": 30, "PT60M": 60, "PT1H": 60}
    if words not in steps:
        raise SignalError(f"signal {name}: resolution is {_shown(words)}", f"known are {', '.join(steps)}")
    step = timedelta(minutes=steps[words])
    count = (end - begin) // step
    if not 0 < count <= MOST_READINGS or begin + count * step != end:
        raise SignalError(f"signal {name}: a period from {begin} to {end} has no whole number of {words}")
    points: dict[int, float] = {}
    for point in period.iterfind("{*}Point"):
        position = (point.findtext("{*}position") or "").strip()
        if not re.fullmatch(r"[0-9]{1,6}", position) or not 1 <= int(position) <= count or int(position) in points:
            raise SignalError(f"signal {name}: position {_shown(position)} of {count}", "each once, from 1")
        points[int(position)] = _number(name, point.findtext("{*}price.amount")) / 1000
    starts = sorted(points)
    ends = [*starts[1:], count + 1][: len(starts)]
    return [
        Reading(begin + (at - 1) * step, begin + at * step, points[start])
        for start, after in zip(starts, ends, strict=True)
        for at in range(start, after)
    ]


def carbon_aware_json(name: str, text: str, kind: Kind) -> Signal:
    """A forecast of Green Software Foundation's Carbon Aware SDK: `forecastData` of timestamp, duration in minutes and
    value in gCO2/kWh. It does not say whether that is marginal, which depends on its source: `kind` does."""
    Unit.G_PER_KWH.factor(kind)
    data = _json(name, text)
    forecast = data[0] if isinstance(data, list) and len(data) == 1 else data
    found = []
    for row in _list(name, _of(name, forecast, "forecastData")):
        begin = _time(name, _of(name, row, "timestamp"))
        minutes = _number(name, _of(name, row, "duration"))
        found.append(Reading(begin, _later(name, begin, minutes), _number(name, _of(name, row, "value"))))
    return _signal(name, kind, found, _time(name, _of(name, forecast, "generatedAt")))


def gb_carbon_json(name: str, text: str, told: datetime | None) -> Signal:
    """Great Britain's carbon intensity: average, gCO2/kWh, half hours. `actual` is null for what has not been measured,
    then the `forecast` counts, as an estimate; where that is null, too, there is a gap."""
    found = []
    for row in _list(name, _of(name, _json(name, text), "data")):
        intensity = _of(name, row, "intensity")
        actual, forecast = _of(name, intensity, "actual"), _of(name, intensity, "forecast")
        value = forecast if actual is None else actual
        if value is not None:
            begin, end = _time(name, _of(name, row, "from")), _time(name, _of(name, row, "to"))
            found.append(Reading(begin, end, _number(name, value), estimated=actual is None))
    return _signal(name, Kind.CARBON_AVERAGE, found, told)


def sun(name: str, latitude: float, longitude: float, horizon: Horizon) -> Signal:
    """How high the sun stands at a site in the middle of each slot: computed, so it is never old."""
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise SignalError(
            f"signal {name}: no place is at {latitude}, {longitude}", "degrees; east and north are positive"
        )
    observer = Observer(latitude, longitude)
    readings = []
    for slot in range(horizon.slots):
        begin, end = horizon.at(slot), horizon.at(slot + 1)
        middle = (begin + (end - begin) / 2).astimezone(UTC)
        readings.append(Reading(begin, end, float(elevation(observer, middle))))
    return _signal(name, Kind.SUN, readings, horizon.start)


def _signal(name: str, kind: Kind, found: list[Reading], told: datetime | None, currency: str = "") -> Signal:
    if len(found) > MOST_READINGS:
        raise SignalError(f"signal {name}: has {len(found)} values", f"{MOST_READINGS} at most")
    if told is not None and told.tzinfo is None:
        raise SignalError(f"signal {name}: was told at {told}, of no time zone")
    readings = sorted(found, key=lambda reading: reading.begin)
    for reading in readings:
        if not timedelta(0) < reading.end - reading.begin <= LONGEST:
            raise SignalError(f"signal {name}: a value holds from {reading.begin} to {reading.end}")
    for before, after in pairwise(readings):
        if after.begin < before.end:
            raise SignalError(f"signal {name}: two values for {after.begin}", "each time once")
    return Signal(name, kind, tuple(readings), told, currency)


def _bounded(name: str, text: str) -> None:
    if len(text) > MOST_CHARACTERS:
        raise SignalError(f"signal {name}: has {len(text)} characters", f"{MOST_CHARACTERS} at most")


def _time(name: str, said: object) -> datetime:
    try:
        if not isinstance(said, str) or len(said) > 40:
            raise ValueError
        found = datetime.fromisoformat(said.strip())
        if found.tzinfo is None or not 2000 <= found.year < 2200:
            raise ValueError
        return found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        hint = "ISO 8601 with a time zone, as 2026-03-29T02:30+02:00"
        raise SignalError(f"signal {name}: {_shown(said)} is no time", hint) from error


def _later(name: str, begin: datetime, minutes: float) -> datetime:
    if not 0 < minutes <= LONGEST.total_seconds() / 60:
        raise SignalError(f"signal {name}: a value holds for {minutes} minutes")
    return begin + timedelta(minutes=minutes)


def _number(name: str, said: object) -> float:
    try:
        if isinstance(said, bool) or not isinstance(said, (str, int, float)) or len(str(said)) > 40:
            raise ValueError
        value = float(said)
    except (ValueError, OverflowError) as error:
        raise SignalError(f"signal {name}: {_shown(said)} is no number") from error
    if not math.isfinite(value) or abs(value) > MOST_VALUE:
        raise SignalError(f"signal {name}: {_shown(said)} is out of all bounds", f"{MOST_VALUE:g} at most")
    return value


def _json(name: str, text: str) -> Any:
    _bounded(name, text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SignalError(f"signal {name}: is no JSON") from error


def _of(name: str, said: object, key: str) -> Any:
    if not isinstance(said, dict) or key not in said:
        raise SignalError(f"signal {name}: lacks {key}: {_shown(said)}")
    return said[key]


def _list(name: str, said: object) -> list[Any]:
    if not isinstance(said, list) or len(said) > MOST_READINGS:
        raise SignalError(f"signal {name}: no list of at most {MOST_READINGS} values: {_shown(said)}")
    return said


def _shown(said: object) -> str:
    return printable(repr(said)[:200], 60)
