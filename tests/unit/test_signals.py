"""Signals: what sources publish, with all that is missing in it, and what must not be believed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmacro.errors import ConfigurationError
from vmacro.fleet import calendars, computed, recorded
from vmacro.fleet.nouns import Horizon
from vmacro.fleet.recorded import SignalError
from vmacro.fleet.signals import Kind, Reading, Signal, State, Trust, Unit, alike, judge

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOURS = Horizon(NOON, 3600, 3)


def signal(*values: float, kind: Kind = Kind.PRICE, **more: object) -> Signal:
    readings = tuple(Reading(HOURS.at(n), HOURS.at(n + 1), value) for n, value in enumerate(values))
    return Signal("power", kind, readings, NOON, **more)  # type: ignore[arg-type]


def entsoe(*points: tuple[int, float], end: str = "2026-06-01T13:00Z", more: str = "") -> str:
    inside = "".join(f"<Point><position>{p}</position><price.amount>{v}</price.amount></Point>" for p, v in points)
    return (
        '<?xml version="1.0" encoding="UTF-8"?><Publication_MarketDocument xmlns="urn:iec62325.351:tc57wg16:451-3:7:3">'
        "<TimeSeries><currency_Unit.name>EUR</currency_Unit.name><price_Measure_Unit.name>MWH</price_Measure_Unit.name>"
        f"<Period><timeInterval><start>2026-06-01T12:00Z</start><end>{end}</end></timeInterval>"
        f"<resolution>PT15M</resolution>{inside}</Period></TimeSeries>{more}</Publication_MarketDocument>"
    )


def test_quarter_hours_that_repeat_are_omitted_and_come_back() -> None:
    read = recorded.entsoe_xml("power", entsoe((1, 80), (3, -20)), NOON)
    assert [r.value for r in read.readings] == [0.08, 0.08, -0.02, -0.02]
    assert (read.currency, read.readings[-1].end) == ("EUR", NOON + timedelta(hours=1))
    assert judge(read, Horizon(NOON, 3600, 1), NOON).values == pytest.approx((0.03,))


def test_what_is_missing_at_the_beginning_of_a_period_is_a_gap_and_no_repeat() -> None:
    read = recorded.entsoe_xml("power", entsoe((2, 80)), NOON)
    found = judge(read, Horizon(NOON, 3600, 1), NOON)
    assert found.state is State.GAPPY and found.values == ()
    assert found.why == "power is gappy: 1 of 1 slots lack values, from 01 Jun 12:00 UTC"


@pytest.mark.parametrize(
    "text",
    [
        entsoe((5, 1.0)),
        entsoe((1, 1.0), (1, 2.0)),
        entsoe((1, float("nan"))),
        entsoe((1, 1.0), end="2026-06-01T13:07Z"),
        entsoe((1, 1.0)).replace("MWH", "KWH"),
        entsoe((1, 1.0)).replace("PT15M", "P1Y"),
        entsoe((1, 1.0)).replace("<Publication", '<!DOCTYPE x [<!ENTITY y "z">]><Publication', 1),
        entsoe((1, 1.0))[:-1],
    ],
)
def test_documents_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(SignalError, match="signal power: "):
        recorded.entsoe_xml("power", text, NOON)


def csv_prices(text: str) -> Signal:
    return recorded.values_csv("power", text, Kind.PRICE, Unit.PER_MWH, "EUR", NOON)


def test_prices_of_a_file_and_summer_time() -> None:
    """The hour that comes twice in October is two hours; a time without a zone is none."""
    hours = ("2026-10-25T02:00+02:00,2026-10-25T02:00+01:00,50", "2026-10-25T02:00+01:00,2026-10-25T03:00+01:00,60")
    twice = "\n".join(("begin,end,price", *hours, ""))
    read = csv_prices(twice)
    assert [r.value for r in read.readings] == [0.05, 0.06]
    with pytest.raises(SignalError, match="is no time"):
        csv_prices(twice.replace("+02:00", ""))
    with pytest.raises(SignalError, match="two values for"):
        csv_prices(twice + twice.splitlines()[1])
    with pytest.raises(SignalError, match="heading is"):
        csv_prices("price\n1")


def test_gb_carbon_takes_forecasts_as_estimates_and_nulls_as_gaps() -> None:
    def row(hour: int, forecast: int | None, actual: int | None) -> dict[str, object]:
        ends = {"from": f"2026-06-01T{hour}:00Z", "to": f"2026-06-01T{hour + 1}:00Z"}
        return {**ends, "intensity": {"forecast": forecast, "actual": actual, "index": "low"}}

    def read(*rows: dict[str, object]) -> Signal:
        return recorded.gb_carbon_json("grid", json.dumps({"data": rows}), NOON)

    assert judge(read(row(12, 90, 100), row(13, 90, 110), row(14, 120, None)), HOURS, NOON).values == (100, 110, 120)
    mostly = judge(read(row(12, 90, 100), row(13, 90, None), row(14, 120, None)), HOURS, NOON)
    assert (mostly.state, mostly.why) == (State.ESTIMATED, "grid is estimated: 67% of the horizon, 50% may be")
    assert judge(read(row(12, 90, 100), row(13, None, None), row(14, 1, 1)), HOURS, NOON).state is State.GAPPY


def test_a_carbon_aware_forecast_is_of_the_kind_that_its_reader_says() -> None:
    rows = [{"timestamp": f"2026-06-01T{h}:00:00+00:00", "duration": 60, "value": 300 + h} for h in (12, 13, 14)]
    text = json.dumps([{"generatedAt": "2026-06-01T11:00:00+00:00", "forecastData": rows}])
    read = recorded.carbon_aware_json("grid", text, Kind.CARBON_MARGINAL)
    assert judge(read, HOURS, NOON).values == (312, 313, 314)
    average = signal(1.0, kind=Kind.CARBON_AVERAGE)
    with pytest.raises(ConfigurationError, match="cannot be compared") as error:
        alike([read, average])
    assert "average and marginal carbon are never mixed" in error.value.hint
    with pytest.raises(ConfigurationError, match="cannot be compared"):
        alike([signal(1.0, currency="EUR"), signal(1.0, currency="SEK")])
    alike([average, average])


def test_units_are_of_their_kind() -> None:
    assert Unit.LBS_PER_MWH.factor(Kind.CARBON_MARGINAL) == pytest.approx(0.45359237)
    for unit, kind in ((Unit.PER_MWH, Kind.CARBON_AVERAGE), (Unit.LBS_PER_MWH, Kind.PRICE), (Unit.PER_KWH, Kind.SUN)):
        with pytest.raises(ConfigurationError, match="is no unit of"):
            unit.factor(kind)


def test_dead_and_stale_signals_say_so() -> None:
    dead = Signal("power", Kind.PRICE, (), None)
    assert judge(dead, HOURS, NOON).why == "power is dead: it has said nothing"
    late = judge(signal(1, 2, 3), HOURS, NOON + timedelta(hours=40))
    assert (late.state, late.why) == (State.STALE, "power is stale: told 40 h ago, 36 h are allowed")
    assert judge(signal(1, 2, 3), HOURS, NOON, Trust(timedelta(0))).state is State.LIVE


def test_the_sun_is_high_at_noon_in_june_and_down_at_night() -> None:
    values = judge(computed.sun("sun", 52.5, 13.4, Horizon(NOON - timedelta(hours=13), 3600, 13)), HOURS, NOON)
    assert values.state is State.GAPPY
    day = Horizon(NOON - timedelta(hours=13), 3600, 13)
    found = judge(computed.sun("sun", 52.5, 13.4, day), day, NOON).values
    assert found[0] < -10 and 55 < found[-1] < 62
    with pytest.raises(SignalError, match="no place"):
        computed.sun("sun", 91.0, 0.0, day)


KEYS = [
    "data",
    "from",
    "to",
    "intensity",
    "actual",
    "forecast",
    "forecastData",
    "generatedAt",
    "timestamp",
    "duration",
    "value",
    "datetime",
    "carbonIntensity",
    "point_time",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=20,
)
READERS: dict[str, Callable[[str], Signal]] = {
    "csv": lambda text: recorded.values_csv("x", text, Kind.PRICE, Unit.PER_MWH, "EUR", NOON),
    "entsoe": lambda text: recorded.entsoe_xml("x", text, NOON),
    "gb": lambda text: recorded.gb_carbon_json("x", text, NOON),
    "sdk": lambda text: recorded.carbon_aware_json("x", text, Kind.CARBON_AVERAGE),
    "maps": lambda text: recorded.electricity_maps_json("x", text, NOON),
    "watttime": lambda text: recorded.watttime_json("x", text, NOON),
}


def read_or_refused(reader: str, text: str) -> None:
    """Whatever comes, it is a signal in order, or a SignalError; judged, it never raises."""
    try:
        read = READERS[reader](text)
    except SignalError:
        return
    assert all(a.end <= b.begin for a, b in zip(read.readings, read.readings[1:], strict=False))
    judge(read, HOURS, NOON)


@pytest.mark.parametrize("reader", READERS)
@given(text=st.text(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_text_is_read_or_refused(reader: str, text: str) -> None:
    read_or_refused(reader, text)
    read_or_refused(reader, "begin,end,price\n" + text)


@given(said=JSON)
@settings(max_examples=200, deadline=None)
def test_any_json_is_read_or_refused(said: object) -> None:
    meta = {"signal_type": "co2_moer", "units": "lbs_co2_per_mwh", "data_point_period_seconds": said}
    whole = {"data": said, "forecastData": said, "history": said, "generatedAt": "2026-06-01T11:00Z", "meta": meta}
    for reader in ("gb", "sdk", "maps", "watttime"):
        read_or_refused(reader, json.dumps(said))
        read_or_refused(reader, json.dumps(whole))


@given(
    points=st.lists(st.tuples(st.integers(-2, 9), st.floats()), max_size=6),
    end=st.sampled_from(["2026-06-01T13:00Z", "2026-06-01T12:00Z", "9999-12-31T23:59Z", "2026-06-01T13:00", ""]),
)
@settings(max_examples=150, deadline=None)
def test_any_document_is_read_or_refused(points: list[tuple[int, float]], end: str) -> None:
    read_or_refused("entsoe", entsoe(*points, end=end))


BERLIN = ZoneInfo("Europe/Berlin")


def hours_on(cron: str, lasts_h: float, begin: datetime, days: int = 1) -> list[tuple[str, str]]:
    schedule = computed.Schedule(cron, timedelta(hours=lasts_h), BERLIN)
    found = schedule.windows(begin, begin + timedelta(days=days))
    return [(f"{w.begin.astimezone(UTC):%d %H:%M}", f"{w.end.astimezone(UTC):%d %H:%M}") for w in found]


def test_schedules_go_by_the_clocks_of_their_zone() -> None:
    assert hours_on("0 8 * * *", 10, datetime(2026, 3, 28, tzinfo=UTC), 2) == [
        ("28 07:00", "28 17:00"),
        ("29 06:00", "29 16:00"),
    ]
    assert hours_on("0 22 * * *", 10, datetime(2026, 6, 1, tzinfo=UTC)) == [
        ("01 00:00", "01 06:00"),
        ("01 20:00", "02 00:00"),
    ]
    assert hours_on("0 8 * * 1-5", 1, datetime(2026, 6, 6, tzinfo=UTC), 2) == []
    assert hours_on("0 0 30 2 *", 1, NOON, 30) == []


def test_a_schedule_in_the_hour_that_is_left_out_or_comes_twice() -> None:
    assert hours_on("30 2 * * *", 0.5, datetime(2026, 3, 29, tzinfo=UTC)) == [("29 01:00", "29 01:30")]
    assert hours_on("30 2 * * *", 0.5, datetime(2026, 10, 25, tzinfo=UTC)) == [
        ("25 00:30", "25 01:00"),
        ("25 01:30", "25 02:00"),
    ]


def test_what_is_computed_is_there_for_all_of_a_horizon() -> None:
    schedule = computed.Schedule("0 14 * * *", timedelta(hours=1), BERLIN)
    tariff = computed.by_schedule("tariff", Kind.PRICE, schedule, 0.3, 0.1, HOURS, "EUR")
    assert judge(tariff, HOURS, NOON).values == pytest.approx((0.3, 0.1, 0.1))
    height = computed.sun("sun", 0.0, 0.0, Horizon(NOON, 3600, 12))
    light = computed.by_day(height, Kind.PRICE, 10.0, 0.05, 0.2)
    values = judge(light, Horizon(NOON, 3600, 12), NOON).values
    assert values[0] == pytest.approx(0.05) and values[-1] == pytest.approx(0.2) and 0.05 < values[5] < 0.2
    assert judge(computed.fixed("x", Kind.LOAD, 2.0, HOURS), HOURS, NOON).values == (2.0, 2.0, 2.0)


def test_a_signal_reaches_as_far_as_it_has_no_gap() -> None:
    trust = Trust(least=timedelta(hours=2))
    assert judge(signal(1, 2), HOURS, NOON, trust).values == (1, 2)
    found = judge(signal(1), HOURS, NOON, trust)
    assert (found.state, found.why) == (State.GAPPY, "power is gappy: 2 of 3 slots lack values, from 01 Jun 13:00 UTC")


def test_a_horizon_over_summer_time_has_slots_of_one_length() -> None:
    horizon = Horizon(datetime(2026, 3, 29, tzinfo=BERLIN), 3600, 4)
    assert [horizon.at(n).hour for n in range(5)] == [0, 1, 3, 4, 5]
    begin = horizon.start.astimezone(UTC)
    readings = tuple(Reading(begin + timedelta(hours=n), begin + timedelta(hours=n + 1), float(n)) for n in range(4))
    assert judge(Signal("power", Kind.PRICE, readings, begin), horizon, begin).values == (0, 1, 2, 3)


def test_electricity_maps_and_watttime_say_what_they_are() -> None:
    hours = [{"datetime": f"2026-06-01T{h}:00:00.000Z", "carbonIntensity": 300 + h} for h in (12, 13, 14)]
    maps = recorded.electricity_maps_json("grid", json.dumps({"zone": "DE", "forecast": hours}), NOON)
    assert maps.kind is Kind.CARBON_AVERAGE and judge(maps, HOURS, NOON).values == (312, 313, 314)
    guessed = [row | {"isEstimated": True} for row in hours]
    told = recorded.electricity_maps_json("grid", json.dumps({"history": guessed}), NOON)
    assert judge(told, HOURS, NOON).state is State.ESTIMATED
    points = [
        {"point_time": f"2026-06-01T{h}:{m:02}:00+00:00", "value": 1000} for h in (12, 13, 14) for m in range(0, 60, 5)
    ]
    meta = {"signal_type": "co2_moer", "units": "lbs_co2_per_mwh", "data_point_period_seconds": 300}
    watt = recorded.watttime_json("grid", json.dumps({"data": points, "meta": meta}), NOON)
    assert watt.kind is Kind.CARBON_MARGINAL and judge(watt, HOURS, NOON).values == pytest.approx((453.59237,) * 3)
    for wrong in ({"signal_type": "health_damage"}, {"units": "g_per_kwh"}, {"data_point_period_seconds": 0}):
        with pytest.raises(SignalError, match="signal grid: "):
            recorded.watttime_json("grid", json.dumps({"data": points, "meta": meta | wrong}), NOON)


def ics(*lines: str) -> str:
    event = "\r\n".join(("BEGIN:VEVENT", "UID:1@x", "DTSTAMP:20260101T000000Z", *lines, "END:VEVENT"))
    return f"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\n{event}\r\nEND:VCALENDAR\r\n"


def closed(*lines: str, days: int = 3) -> list[str]:
    found = calendars.windows("m", ics(*lines), NOON, NOON + timedelta(days=days), BERLIN, time.thread_time)
    return [f"{w.begin:%d %H:%M}-{w.end:%d %H:%M}" for w in found]


def test_few_bytes_that_say_many_values_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 MiB of periods with a point each would be 10 thousand million values in memory."""
    period = (
        "<Period>" + entsoe((1, 80), end="2026-06-21T12:00Z").split("<Period>")[1].split("</Period>")[0] + "</Period>"
    )
    head, _, tail = entsoe((1, 80)).partition("<Period>")
    whole = head + period * 300 + "</TimeSeries>" + tail.partition("</TimeSeries>")[2]
    made: list[Reading] = []

    def counted(begin: datetime, end: datetime, value: float) -> Reading:
        made.append(Reading(begin, end, value))
        return made[-1]

    monkeypatch.setattr(recorded, "Reading", counted)
    with pytest.raises(SignalError, match=r"has [0-9]+ values"):
        recorded.entsoe_xml("power", whole, NOON)
    assert len(made) < 2 * recorded.MOST_READINGS


def test_maintenance_out_of_a_calendar() -> None:
    assert closed("DTSTART:20260601T200000Z", "DTEND:20260601T220000Z") == ["01 20:00-01 22:00"]
    assert closed("DTSTART;TZID=America/New_York:20260601T200000", "DURATION:PT1H") == ["02 00:00-02 01:00"]
    assert closed("DTSTART:20260601T200000", "DURATION:PT1H") == ["01 18:00-01 19:00"], "without a zone: the policy's"
    assert closed("DTSTART;VALUE=DATE:20260602") == ["01 22:00-02 22:00"]
    assert closed("DTSTART:20260501T200000Z", "DURATION:PT1H", "RRULE:FREQ=DAILY", "EXDATE:20260602T200000Z") == [
        "01 20:00-01 21:00",
        "03 20:00-03 21:00",
    ]
    assert closed("DTSTART:20260601T200000Z", "DURATION:PT1H", "STATUS:CANCELLED") == []


@pytest.mark.parametrize(
    "lines",
    [
        ("DTSTART:20260601T200000Z", "RRULE:FREQ=SECONDLY"),
        ("DTSTART:20260601T200000Z", "RRULE:FREQ=DAILY;BYHOUR=1,2,3"),
        ("DTSTART:19000101T200000Z", "RRULE:FREQ=DAILY"),
        ("DTSTART:nonsense",),
        ("DTSTART:20260601T200000Z", *("RRULE:FREQ=DAILY",) * 101),
    ],
)
def test_calendars_that_are_refused(lines: tuple[str, ...]) -> None:
    with pytest.raises(SignalError, match="calendar m: "):
        closed(*lines)


@pytest.mark.parametrize(
    "lines",
    [
        ("DTSTART:20000101T000000Z", "DURATION:PT1H", "RRULE:FREQ=DAILY;INTERVAL=0"),
        ('DTSTART;X="a:2026":00010101T000000Z', "DURATION:PT1H", "RRULE:FREQ=DAILY"),
        (
            *("DTSTART:20260101T000000Z", "DESCRIPTION:BEGIN:VTIMEZONE", "END:VEVENT", "BEGIN:VEVENT"),
            *("DTSTART:20260101T000000Z", "RRULE:FREQ=SECONDLY", "DESCRIPTION:END:VTIMEZONE"),
        ),
    ],
)
def test_calendars_that_would_never_be_read_to_their_end(lines: tuple[str, ...]) -> None:
    with pytest.raises(SignalError, match="calendar m: an event "):
        closed(*lines)


@pytest.mark.parametrize(
    "lines",
    [
        # 31 February, looked for each day until the year 9999; and a Tuesday every 7 days from a Monday on.
        ("DTSTART:20000101T000000Z", "DURATION:PT1H", "RRULE:FREQ=DAILY;BYMONTH=2;BYMONTHDAY=31"),
        ("DTSTART:20000103T000000Z", "DURATION:PT1H", "RRULE:FREQ=DAILY;INTERVAL=7;BYDAY=TU"),
        # Time zones' rules are not looked at: in one there is an event, which counts.
        (
            *("DTSTART:20260101T000000Z", "END:VEVENT", "BEGIN:VTIMEZONE", "TZID:UTC", "BEGIN:VEVENT", "UID:2@x"),
            *("DTSTART:19700101T000000Z", "DURATION:PT1H", "RRULE:FREQ=MINUTELY", "END:VEVENT", "END:VTIMEZONE"),
            *("BEGIN:VEVENT", "UID:3@x", "DTSTART:20260101T000000Z"),
        ),
    ],
)
def test_a_rule_that_is_looked_for_without_end(lines: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calendars, "MOST_S", 0.2)
    began = time.thread_time()
    with pytest.raises(SignalError, match=r"takes over 0\.2 s to read"):
        closed(*lines)
    assert time.thread_time() - began < 2.0


def test_an_event_of_each_day_that_lasts_for_years(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calendars, "MOST_WINDOWS", 100)
    with pytest.raises(SignalError, match=r"calendar m: is on 3[0-9]+ times"):
        closed("DTSTART:20200101T000000Z", "DURATION:P300D", "RRULE:FREQ=DAILY")


def test_many_time_zones_that_nothing_ends_take_no_time() -> None:
    """To look for the end of each, through all of the text, took four minutes for a MiB of them."""
    began = time.thread_time()
    with pytest.raises(SignalError, match="is no iCalendar"):
        closed("DTSTART:20260101T000000Z", *["BEGIN:VTIMEZONE"] * 40_000)
    assert time.thread_time() - began < 20.0


@given(text=st.text(max_size=100), key=st.sampled_from(["DTSTART", "DTEND", "RRULE", "DURATION", "EXDATE", "TZID"]))
@settings(max_examples=100, deadline=None)
def test_any_calendar_is_read_or_refused(text: str, key: str) -> None:
    for said in (text, ics("DTSTART:20260601T200000Z", f"{key}:{text}")):
        try:
            calendars.windows("m", said, NOON, NOON + timedelta(days=1), BERLIN, time.thread_time)
        except SignalError:
            continue
