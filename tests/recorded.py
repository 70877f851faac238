"""A policy, and a month of signals shaped like what markets and grids publish, gaps and all.

python -m tests.recorded FOLDER

Prices have the day's two peaks and a valley at noon where there is sun, weekends, windy and calm spells of days,
negative hours and spikes; carbon goes with them, loosely. The seed is fixed: the same month every time.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

START = datetime(2026, 9, 30, 22, tzinfo=UTC)  # midnight in Berlin; its clocks go back on 25 October
QUARTER = timedelta(minutes=15)
DAYS = 32

POLICY = """currency = "EUR"
time_zone = "Europe/Berlin"

[weights]
carbon_per_kg = 0.08
rtt_per_ms_hour = 0.0003
pause_per_s = 0.01

[rules]
most_moves_a_day = 2
shortest_stay_hours = 4
worth = 2.0
apart = [{ guests = ["db1", "db2"], level = "site" }]

[sites.berlin]
price = { source = "entsoe", file = "berlin-prices.xml", published = "12:57" }
carbon = { source = "electricity-maps", file = "berlin-carbon.json" }
pue = 1.25
labels = ["eu"]

[sites.london]
price = { source = "csv", unit = "1/MWh", file = "london-prices.csv", published = "12:57" }
carbon = { source = "gb-carbon", file = "london-carbon.json", ahead_hours = 48 }
pue = 1.2
maintenance = { file = "london.ics" }

[sites.stockholm]
price = { source = "csv", unit = "1/MWh", file = "stockholm-prices.csv", published = "12:57" }
carbon = { source = "csv", kind = "average", unit = "gCO2/kWh", file = "stockholm-carbon.csv" }
pue = 1.1
labels = ["eu"]

[[links]]
between = ["berlin", "london"]
mib_s = 110
price_per_gib = 0.004
kwh_per_gib = 0.01

[[links]]
between = ["berlin", "stockholm"]
mib_s = 110
price_per_gib = 0.004
kwh_per_gib = 0.01

[[links]]
between = ["london", "stockholm"]
mib_s = 110
price_per_gib = 0.004
kwh_per_gib = 0.01
open = [{ cron = "0 20 * * *", hours = 10 }]

[regions.continent]
rtt_ms = { berlin = 8, london = 18, stockholm = 30 }
activity = { source = "schedule", unit = "share", cron = "0 8 * * 1-5", hours = 10, on = 2.0, off = 0.3 }

[regions.islands]
rtt_ms = { berlin = 20, london = 5, stockholm = 35 }

[hosts]
b1 = { site = "berlin", memory_mib = 65536 }
b2 = { site = "berlin", memory_mib = 65536 }
l1 = { site = "london", memory_mib = 65536 }
s1 = { site = "stockholm", memory_mib = 49152 }

[guests]
web1 = { host = "b1", memory_mib = 8192, watts = 180, dirty_mib_s = 12, clients = { continent = 1.0 } }
web2 = { host = "b1", memory_mib = 8192, watts = 180, dirty_mib_s = 12, clients = { islands = 1.0 } }
db1 = { host = "b1", memory_mib = 16384, watts = 240, dirty_mib_s = 30, residency = ["eu"] }
db2 = { host = "s1", memory_mib = 16384, watts = 240, dirty_mib_s = 30, residency = ["eu"] }
batch1 = { host = "b2", memory_mib = 16384, watts = 320, dirty_mib_s = 40 }
batch2 = { host = "b2", memory_mib = 16384, watts = 320, dirty_mib_s = 40 }
batch3 = { host = "b2", memory_mib = 12288, watts = 300, dirty_mib_s = 40 }
mail = { host = "l1", memory_mib = 4096, watts = 60, dirty_mib_s = 3, clients = { islands = 0.5, continent = 0.5 } }
licence = { host = "l1", memory_mib = 4096, watts = 40, pinned = "its dongle is in l1" }
"""

CALENDAR = """BEGIN:VCALENDAR\r
VERSION:2.0\r
PRODID:-//example//maintenance//EN\r
BEGIN:VEVENT\r
UID:1@example.net\r
DTSTAMP:20260901T000000Z\r
DTSTART;TZID=Europe/London:20261006T220000\r
DTEND;TZID=Europe/London:20261007T020000\r
RRULE:FREQ=MONTHLY;BYDAY=1TU\r
SUMMARY:power work\r
END:VEVENT\r
END:VCALENDAR\r
"""


def quarters(count: int, seed: int, level: float, sunny: float, windy: float, night: float) -> list[float]:
    """`level` of each quarter of an hour; `sunny` and `windy` are what sun and wind take off it at most."""
    chance, wind, found = random.Random(seed), 0.0, []
    for n in range(count):
        at = START + n * QUARTER + timedelta(hours=2)
        hour, weekend = at.hour + at.minute / 60, at.weekday() >= 5
        wind = 0.997 * wind + chance.gauss(0, 0.077)
        peaks = math.exp(-((hour - 8) ** 2) / 5) + 1.3 * math.exp(-((hour - 19) ** 2) / 6)
        value = level * ((0.75 if weekend else 1.0) + 0.35 * peaks - (night if hour < 5 else 0.0))
        value -= sunny * max(0.0, math.sin(math.pi * (hour - 7) / 11)) * chance.uniform(0.6, 1.1)
        value -= windy * (math.tanh(wind) + 1) / 2
        found.append(value * (chance.uniform(2, 4) if chance.random() < 0.001 else 1.0) + chance.gauss(0, level * 0.03))
    return found


def hourly(values: Sequence[float]) -> list[float]:
    return [sum(values[n : n + 4]) / 4 for n in range(0, len(values), 4)]


def csv_lines(word: str, values: Sequence[float], missing: Callable[[int], bool] = lambda _: False) -> str:
    """Hours; those that are `missing` have a line without a value."""
    times = [START + timedelta(hours=n) for n in range(len(values) + 1)]
    lines = [
        f"{a.isoformat()},{b.isoformat()},{'' if missing(n) else round(values[n], 2)}"
        for n, (a, b) in enumerate(pairwise(times))
    ]
    return "\n".join((f"begin,end,{word}", *lines, ""))


def entsoe(values: Sequence[float]) -> str:
    """A period for each day, a quarter of an hour omitted where its value repeats the one before (curve type A03)."""
    periods = []
    for first in range(0, len(values), 96):
        day = [round(v, 1) for v in values[first : first + 96]]
        begin, end = START + first * QUARTER, START + (first + len(day)) * QUARTER
        shown = [(n + 1, v) for n, v in enumerate(day) if n == 0 or v != day[n - 1]]
        points = "".join(f"<Point><position>{n}</position><price.amount>{v}</price.amount></Point>" for n, v in shown)
        periods.append(
            "<TimeSeries><currency_Unit.name>EUR</currency_Unit.name><price_Measure_Unit.name>MWH"
            "</price_Measure_Unit.name><curveType>A03</curveType><Period><timeInterval>"
            f"<start>{begin:%Y-%m-%dT%H:%MZ}</start><end>{end:%Y-%m-%dT%H:%MZ}</end></timeInterval>"
            f"<resolution>PT15M</resolution>{points}</Period></TimeSeries>"
        )
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<Publication_MarketDocument'
    spoken = 'xmlns="urn:iec62325.351:tc57wg16:451-3:7:3"'
    return f"{head} {spoken}>{''.join(periods)}</Publication_MarketDocument>\n"


def electricity_maps(values: Sequence[float]) -> str:
    rows = [
        {
            "datetime": f"{START + timedelta(hours=n):%Y-%m-%dT%H:%M:%S.000Z}",
            "carbonIntensity": round(v),
            "isEstimated": False,
        }
        for n, v in enumerate(values)
    ]
    return json.dumps({"zone": "DE", "history": rows})


def gb(values: Sequence[float], unknown: Callable[[int], bool]) -> str:
    """Half hours."""
    step, rows = timedelta(minutes=30), []
    for n, v in enumerate(values):
        begin = START + n * step
        said = {"forecast": None if unknown(n) else round(v), "actual": None if unknown(n) else round(v)}
        rows.append({"from": f"{begin:%Y-%m-%dT%H:%MZ}", "to": f"{begin + step:%Y-%m-%dT%H:%MZ}", "intensity": said})
    return json.dumps({"data": rows})


def write(folder: Path, days: int = DAYS) -> Path:
    """All of it; the policy's file. London's carbon is not known on days 3 to 5, Stockholm's price on day 20."""
    folder.mkdir(parents=True, exist_ok=True)
    count = days * 96
    berlin, london, stockholm = (
        quarters(count, seed, *shape)
        for seed, shape in ((1, (120, 90, 70, 0.1)), (2, (115, 45, 80, 0.15)), (3, (55, 10, 45, 0.1)))
    )
    carbon = [
        [max(20.0, base + scale * (v - level)) for v in values]
        for values, level, base, scale in ((berlin, 70, 380, 2.2), (london, 70, 170, 1.2), (stockholm, 30, 28, 0.2))
    ]
    halves = [sum(carbon[1][n : n + 2]) / 2 for n in range(0, count, 2)]
    files = {
        "policy.toml": POLICY,
        "london.ics": CALENDAR,
        "berlin-prices.xml": entsoe(berlin),
        "london-prices.csv": csv_lines("price", hourly(london)),
        "stockholm-prices.csv": csv_lines("price", hourly(stockholm), lambda n: 20 * 24 <= n < 21 * 24),
        "berlin-carbon.json": electricity_maps(hourly(carbon[0])),
        "london-carbon.json": gb(halves, lambda n: 2 * 48 <= n < 5 * 48),
        "stockholm-carbon.csv": csv_lines("carbon", hourly(carbon[2])),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder / "policy.toml"


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
