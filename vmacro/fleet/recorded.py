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

from vmacro.errors import VmacroError
from vmacro.fleet.signals import Kind, Reading, Signal, Unit
from vmacro.wire.text import printable

MOST_CHARACTERS = 16 << 20
MOST_READINGS = 200_000
MOST_VALUE = 1e7
LONGEST = timedelta(days=2)  # that one value may hold for


class SignalError(VmacroError):
    """A source's text cannot be read. The message names the signal, and shows what was seen."""


def values_csv(name: str, text: str, kind: Kind, unit: Unit, currency: str, told: datetime | None) -> Signal:
    """Lines of `begin,end,VALUE` with times in ISO 8601, and a heading of these words, of which the last is `price`,
    `carbon` or `load`. An empty value is a gap."""
    _bounded(name, text)
    factor = unit.factor(kind)
    wanted = ["begin", "end", {Kind.PRICE: "price", Kind.LOAD: "load"}.get(kind, "carbon")]
    rows = csv.reader(io.StringIO(text))
    try:
        heading = next(rows, None)
        if heading is None or [word.strip() for word in heading] != wanted:
            raise SignalError(f"signal {name}: heading is {_shown(heading)}", f"it should be {','.join(wanted)}")
        found = []
        for number, row in enumerate(rows, 2):
            if len(row) != 3:
                raise SignalError(f"signal {name}: line {number} has {len(row)} columns", "it should have 3")
            if row[2].strip():
                found.append(Reading(_time(name, row[0]), _time(name, row[1]), _number(name, row[2]) * factor))
    except csv.Error as error:
        raise SignalError(f"signal {name}: is no CSV: {printable(str(error), 100)}") from error
    return in_order(name, kind, found, told, currency)


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
            _few_enough(name, found)  # at once: few bytes of XML say many values
    if len(currencies) > 1:
        raise SignalError(f"signal {name}: has several currencies: {_shown(sorted(currencies))}")
    return in_order(name, Kind.PRICE, found, told, printable(next(iter(currencies), ""), 10))


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
    return in_order(name, kind, found, _time(name, _of(name, forecast, "generatedAt")))


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
    return in_order(name, Kind.CARBON_AVERAGE, found, told)


def electricity_maps_json(name: str, text: str, told: datetime | None) -> Signal:
    """Electricity Maps v3: `forecast` or `history` of hours (or of the response's `temporalGranularity`), average,
    gCO2eq/kWh. What `isEstimated` is an estimate; a null is a gap."""
    data = _json(name, text)
    said = _of(name, data, "forecast" if isinstance(data, dict) and "forecast" in data else "history")
    grains = {"hourly": 60.0, "15_minutes": 15.0, "5_minutes": 5.0}
    grain = data.get("temporalGranularity", "hourly")
    if not isinstance(grain, str) or grain not in grains:
        raise SignalError(f"signal {name}: temporalGranularity is {_shown(grain)}", f"known are {', '.join(grains)}")
    found = []
    for row in _list(name, said):
        value = _of(name, row, "carbonIntensity")
        if value is not None:
            begin, estimated = _time(name, _of(name, row, "datetime")), row.get("isEstimated") is True
            found.append(Reading(begin, _later(name, begin, grains[grain]), _number(name, value), estimated))
    return in_order(name, Kind.CARBON_AVERAGE, found, told)


WATTTIME = {"co2_moer": Kind.CARBON_MARGINAL, "co2_aoer": Kind.CARBON_AVERAGE}


def watttime_json(name: str, text: str, told: datetime | None) -> Signal:
    """WattTime v3, a forecast or history: `meta` says whether it is marginal (co2_moer) or average (co2_aoer), in
    lbs/MWh, and how long each value holds."""
    data = _json(name, text)
    meta = _of(name, data, "meta")
    what, units = _of(name, meta, "signal_type"), _of(name, meta, "units")
    if not isinstance(what, str) or what not in WATTTIME:
        raise SignalError(f"signal {name}: signal_type is {_shown(what)}", f"known are {', '.join(WATTTIME)}")
    if units != "lbs_co2_per_mwh":
        raise SignalError(f"signal {name}: units are {_shown(units)}", "known is lbs_co2_per_mwh")
    kind, minutes = WATTTIME[what], _number(name, meta.get("data_point_period_seconds", 300)) / 60
    factor, found = Unit.LBS_PER_MWH.factor(kind), []
    for row in _list(name, _of(name, data, "data")):
        begin, value = _time(name, _of(name, row, "point_time")), _of(name, row, "value")
        if value is not None:
            found.append(Reading(begin, _later(name, begin, minutes), _number(name, value) * factor))
    generated = meta.get("generated_at")
    return in_order(name, kind, found, _time(name, generated) if generated is not None else told)


def watttime_token(name: str, text: str) -> str:
    """What WattTime answers to a login."""
    token = _of(name, _json(name, text), "token")
    if not isinstance(token, str) or not re.fullmatch(r"[A-Za-z0-9._~+/=-]{1,8000}", token):
        raise SignalError(f"signal {name}: its login gives no token")
    return token


def in_order(name: str, kind: Kind, found: list[Reading], told: datetime | None, currency: str = "") -> Signal:
    """A signal, if its readings make one."""
    _few_enough(name, found)
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


def _few_enough(name: str, found: list[Reading]) -> None:
    if len(found) > MOST_READINGS:
        raise SignalError(f"signal {name}: has {len(found)} values", f"{MOST_READINGS} at most")


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
