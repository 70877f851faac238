"""Policy files: what is right is read, and all that is wrong is told at once, with file, key and value."""

from __future__ import annotations

from datetime import time, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import recorded
from vmacro import config, policies
from vmacro.errors import ConfigurationError
from vmacro.fleet.feeds import Format
from vmacro.fleet.nouns import Level
from vmacro.fleet.policy import FollowPolicy
from vmacro.fleet.signals import Kind

SMALL = """currency = "EUR"
[sites.a]
price = { source = "fixed", unit = "1/MWh", value = 80 }
[sites.b]
price = { source = "csv", unit = "1/MWh", file = "b.csv", url = "https://example.net/{begin}", token_file = "b.key" }
[guests.web]
"""


def load(folder: Path, text: str) -> FollowPolicy:
    path = folder / "policy.toml"
    path.write_text(text)
    return policies.load(path)


def test_a_whole_policy(tmp_path: Path) -> None:
    read = policies.load(recorded.write(tmp_path, days=1))
    berlin, london, _ = read.sites
    assert berlin.price is not None and berlin.carbon is not None and london.carbon is not None
    assert (berlin.price.format, berlin.price.kind, berlin.price.currency) == (Format.ENTSOE, Kind.PRICE, "EUR")
    assert berlin.price.known.published == time(12, 57)
    assert london.carbon.known.ahead == timedelta(hours=48)
    assert berlin.carbon.kind is london.carbon.kind is Kind.CARBON_AVERAGE
    assert berlin.price.feed is not None and berlin.price.feed.file == str(tmp_path / "berlin-prices.xml")
    assert [rule.level for rule in read.rules.apart] == [Level.SITE]
    assert (read.rules.shortest_stay_s, read.timing.slots, read.timing.zone.key) == (4 * 3600, 24, "Europe/Berlin")
    assert len(read.links) == 6 and sum(bool(link.open) for link in read.links) == 2
    assert {guest.name: guest.pinned for guest in read.guests}["licence"] == "its dongle is in l1"
    assert [(c.site, c.host) for c in read.calendars] == [("london", "")]


def test_values_become_what_is_counted_with(tmp_path: Path) -> None:
    price = load(tmp_path, SMALL).sites[0].price
    assert price is not None and price.high == pytest.approx(0.08)


WRONG = [
    ('currency = "EUR"', 'currency = "euro"', "currency: must be three capital letters, such as EUR"),
    (
        '"1/MWh", value',
        '"gCO2/kWh", value',
        "sites.a.price.unit: gCO2/kWh is no unit of price per kWh;",
    ),
    ('source = "fixed"', 'source = "gb-carbon"', "sites.a.price: file: source gb-carbon needs it"),
    ("value = 80", "vaule = 80", "sites.a.price.vaule: there is no such key; perhaps value"),
    ("value = 80", "value = nan", "sites.a.price.value: must be a number, neither inf nor nan"),
    ("value = 80", 'value = 80, kind = "average"', "sites.a.price.kind: of carbon alone (value: average)"),
    ("value = 80", 'value = 80, cron = "* * * * *"', "sites.a.price: cron: source fixed has no use for it"),
    ("https://", "http://", "sites.b.price.url: must begin with https://"),
    ("https://", "https://me:secret@", "sites.b.price.url: must have no user or password"),
    (
        'token_file = "b.key"',
        'token_file = "b.key", token_env = "B"',
        "sites.b.price: token_file and token_env: only",
    ),
    ("[sites.b]", "[sites.c]\n[sites.b]", "sites.c.price: is missing, and other sites have one"),
    ("[guests.web]", "[guests.web]\nclients = { mars = 1 }", "guests.web.clients: no region 'mars'"),
    ("[guests.web]", '[guests.web]\nhost = "x"', "guests.web.host: no host 'x'"),
    ("[guests.web]", '[[links]]\nbetween = ["a", "z"]\nmib_s = 1\n[guests.web]', "links.0.between: no site 'z'"),
    ("[guests.web]", '[[links]]\nbetween = ["a"]\nmib_s = 1\n[guests.web]', "links.0.between.1: is missing"),
    ("[guests.web]", "[regions.r]\nrtt_ms = { a = 1 }\n[guests.web]", "regions.r.rtt_ms: lacks site b"),
    ("[guests.web]", '[rules]\ntogether = [["web", "db"]]\n[guests.web]', "rules.together: no guest 'db'"),
    ("[sites.a]", 'time_zone = "Mars/Base"\n[sites.a]', "time_zone: no time zone 'Mars/Base'"),
    ("[sites.a]", "slot_minutes = 7\n[sites.a]", "slot_minutes: 7 is no divisor of a day"),
    ("[sites.a]", "[trust]\nmost_estimated = 2\n[sites.a]", "trust.most_estimated: must be at most 1"),
    ('currency = "EUR"', 'curency = "EUR"', "curency: there is no such key; perhaps currency"),
    ("[guests.web]", '[regions.r]\nrtt_ms = { a = "x", b = 1 }\n[guests.web]', "regions.r.rtt_ms.a: must be a number"),
]


@pytest.mark.parametrize(("old", "new", "told"), WRONG)
def test_what_is_wrong_is_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in SMALL
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, SMALL.replace(old, new))
    assert f"{tmp_path}/policy.toml: " in caught.value.message and told in caught.value.message
    assert "secret" not in str(caught.value)


def test_all_is_told_at_once(tmp_path: Path) -> None:
    text = SMALL.replace('"1/MWh", value', '"lbs/MWh", value').replace(
        "[guests.web]", "[guests.web]\nclients = { mars = 1 }"
    )
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text)
    assert all(told in caught.value.message for told in ("lbs/MWh is no unit of price", "no region 'mars'"))


def carbon(tmp_path: Path, first: str, second: str) -> None:
    tables = (f"[sites.{name}]\ncarbon = {{ {words} }}\n" for name, words in (("a", first), ("b", second)))
    load(tmp_path, 'currency = "EUR"\n' + "".join(tables) + "[guests.web]\n")


def test_average_and_marginal_carbon_are_never_mixed(tmp_path: Path) -> None:
    marginal = 'source = "watttime", kind = "marginal", file = "w.json"'
    average = 'source = "gb-carbon", file = "g.json"'
    carbon(tmp_path, marginal, marginal)
    carbon(tmp_path, average, 'source = "watttime", kind = "average", file = "w.json"')
    with pytest.raises(ConfigurationError, match=r"sites\.b\.carbon: is marginal .* these are never mixed"):
        carbon(tmp_path, average, marginal)
    with pytest.raises(ConfigurationError, match=r"sites\.b\.carbon\.kind: average or marginal\?"):
        carbon(tmp_path, average, 'source = "csv", unit = "gCO2/kWh", file = "c.csv"')


@pytest.mark.parametrize("cron", ["0 8 * *", "61 * * * *", "* * * * * *", "x", "@daily"])
def test_cron_that_is_none(tmp_path: Path, cron: str) -> None:
    words = f'source = "schedule", unit = "1/kWh", on = 1, off = 0, hours = 1, cron = "{cron}"'
    with pytest.raises(ConfigurationError, match="is no cron expression"):
        load(tmp_path, SMALL.replace('source = "fixed", unit = "1/MWh", value = 80', words))


TOML = st.recursive(
    st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["sites", "guests", "price", "source", "unit", "file", "rules", "links", "regions", "a", "b"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(said=TOML)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_it_says_it_is_a_policy_or_refused(said: object) -> None:
    with pytest.raises(ConfigurationError):
        config.parse({"sites": said, "guests": said, "currency": said}, policies.PolicyFile, "x")


@pytest.mark.parametrize(
    "wrong",
    [
        'price = { source = "fixed", unit = "1/kWh", value = 1e308 }',
        'price = { source = "fixed", unit = "1/kWh", value = 0.2 }\nlicences = { db = -5 }',
        'price = { source = "fixed", unit = "1/kWh", value = 0.2 }\n[regions.r]\nrtt_ms = { a = -3 }',
        'price = { source = "fixed", unit = "1/kWh", value = 0.2 }\n[regions.r]\nrtt_ms = { a = 1e300 }',
    ],
)
def test_figures_that_nothing_could_have_are_refused(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(f'currency = "EUR"\n[guests]\nweb = {{ watts = 1 }}\n[sites.a]\n{wrong}\n')
    with pytest.raises(ConfigurationError, match=r"sites\.a\.(price|licences)|regions\.r"):
        policies.load(path)
