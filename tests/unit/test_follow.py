"""`vmacro follow` on the world in memory: who moves, who stays, and what each is told."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from tests.unit.town import PATIENCE_S, Town, Vmacro
from vmacro import wiring
from vmacro.cli.following import Follower
from vmacro.model.batches import Wish
from vmacro.services.batches import Batches, BatchProgress

POLICY = """currency = "EUR"

[rules]
shortest_stay_hours = 1

[sites.bucharest]
price = { source = "fixed", unit = "1/kWh", value = 1.0 }

[sites.berlin]
price = { source = "fixed", unit = "1/kWh", value = 0.1 }

[[links]]
between = ["bucharest", "berlin"]
mib_s = 100
price_per_gib = 0.01

[guests]
g1 = { watts = 100 }
g2 = { watts = 100, pinned = "its dongle is here" }
"""


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    made = Town(tmp_path, 2)
    monkeypatch.setattr(wiring, "drivers", made.drivers)
    monkeypatch.setenv("VMACRO_INVENTORY", str(made.file))
    return made


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


def at(vmacro: Vmacro) -> dict[str, str]:
    rows = json.loads(vmacro("sites", "--json").stdout)
    return {guest: row["host"] for row in rows for guest in row["guests"].split(", ") if guest}


def guests(out: str) -> dict[str, dict[str, Any]]:
    return {row["guest"]: row for row in json.loads(out.splitlines()[0])["guests"]}


def test_a_dry_run_says_each_decision_and_moves_nothing(vmacro: Vmacro, town: Town, policy: Path) -> None:
    before = at(vmacro)
    done = vmacro("follow", str(policy), "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    said = guests(done.stdout)
    assert said["g1"]["to"] in ("berlin/berlin-1", "berlin/berlin-2")
    assert said["g1"]["why"].startswith(f"goes to {said['g1']['to']} at ")
    assert said["g2"]["to"] is None and said["g2"]["why"] == "stays: pinned, its dongle is here"
    assert at(vmacro) == before
    shown = vmacro("follow", str(policy), "--dry-run")
    assert "1 moves now, 1 stays" in shown.stdout


@pytest.mark.parametrize("how", ["--dry-run", "--once"])
def test_where_no_host_answers_nothing_is_well(vmacro: Vmacro, town: Town, policy: Path, how: str) -> None:
    for host in town.fake.hosts.values():
        host.reachable = False
    done = vmacro("follow", str(policy), how)
    assert done.returncode == 1 and "no host could be asked" in done.stderr, done.stdout


def test_it_moves_who_should_move_and_then_holds_still(vmacro: Vmacro, town: Town, policy: Path) -> None:
    done = vmacro("follow", str(policy), "--once", "--json")
    assert done.returncode == 0, done.stderr
    assert at(vmacro) == {"g1": guests(done.stdout)["g1"]["to"].partition("/")[2], "g2": "bucharest"}
    again = vmacro("follow", str(policy), "--once", "--json")
    assert guests(again.stdout)["g1"]["why"] == "stays: no site is cheaper over the horizon"
    policy.write_text(POLICY.replace("value = 1.0", "value = 0.01"))
    back = guests(vmacro("follow", str(policy), "--dry-run", "--json").stdout)["g1"]
    assert back["why"].startswith("goes to bucharest/bucharest at "), "after the shortest stay"
    assert back["to"] is None, "and not before it"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (None, "price of berlin is dead: "),
        ("begin,end,price\n", "price of berlin is dead: it has said nothing"),
        ("begin,end,price\n2026-01-01T00:00Z,2026-01-02T00:00Z,1\n", "price of berlin is gappy: 24 of 24 slots lack"),
        ("begin,end,carbon\n", "price of berlin is dead: heading is"),
    ],
)
def test_a_signal_that_is_dead_or_gappy_holds_all_and_says_so(
    vmacro: Vmacro, town: Town, policy: Path, words: str | None, why: str
) -> None:
    old = 'price = { source = "fixed", unit = "1/kWh", value = 0.1 }'
    policy.write_text(POLICY.replace(old, 'price = { source = "csv", unit = "1/MWh", file = "p.csv" }'))
    if words is not None:
        (policy.parent / "p.csv").write_text(words)
    before = at(vmacro)
    done = vmacro("follow", str(policy), "--once", "--json")
    assert done.returncode == 0 and at(vmacro) == before
    (hold,) = json.loads(done.stdout)["holds"]
    assert hold["subject"] == "site berlin" and hold["why"].startswith(why)
    assert f"nothing is known of it: {why}" in guests(done.stdout)["g1"]["why"]
    assert f"site berlin: nothing is decided: {why}" in vmacro("follow", str(policy), "--dry-run").stderr


def test_a_stale_signal_holds_all_and_says_how_old_it_is(vmacro: Vmacro, town: Town, policy: Path) -> None:
    old = 'price = { source = "fixed", unit = "1/kWh", value = 0.1 }'
    policy.write_text(POLICY.replace(old, 'price = { source = "csv", unit = "1/MWh", file = "p.csv" }'))
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    rows = [
        f"{(now + timedelta(hours=n)).isoformat()},{(now + timedelta(hours=n + 1)).isoformat()},1" for n in range(30)
    ]
    feed = policy.parent / "p.csv"
    feed.write_text("\n".join(("begin,end,price", *rows)))
    assert guests(vmacro("follow", str(policy), "--dry-run", "--json").stdout)["g1"]["to"]
    os.utime(feed, (time.time() - 40 * 3600,) * 2)
    said = guests(vmacro("follow", str(policy), "--dry-run", "--json").stdout)["g1"]
    assert said["to"] is None and "price of berlin is stale: told 40 h ago, 36 h are allowed" in said["why"]


def test_a_site_with_a_host_that_cannot_be_asked_is_left_alone(vmacro: Vmacro, town: Town, policy: Path) -> None:
    town.fake.hosts["berlin-2"].reachable = False
    said = guests(vmacro("follow", str(policy), "--dry-run", "--json").stdout)["g1"]
    assert said["to"] is None and "nothing is known of it: " in said["why"] and "berlin-2" in said["why"]


def test_guests_that_run_nowhere_are_left_alone_by_name(vmacro: Vmacro, town: Town, policy: Path) -> None:
    town.fake.power_off("g1")
    said = guests(vmacro("follow", str(policy), "--dry-run", "--json").stdout)
    assert said["g1"]["why"] == "left alone: does not run at any site of the policy"


def test_what_a_moves_own_checks_stand_against_is_not_begun(vmacro: Vmacro, town: Town, policy: Path) -> None:
    town.fake.guests["g1"].answers = False
    done = vmacro("follow", str(policy), "--once", "--json")
    assert done.returncode == 0
    why = guests(done.stdout)["g1"]["why"]
    assert why.startswith("stays: checks stand against berlin/berlin-") and "no-agent" in why


def test_names_that_the_inventory_lacks_are_all_told(vmacro: Vmacro, town: Town, policy: Path) -> None:
    policy.write_text(POLICY.replace("g2 =", "g9 =").replace("berlin", "paris"))
    done = vmacro("follow", str(policy), "--once")
    assert done.returncode == 2
    for text in ("sites.paris: not in", "guests.g9: not in"):
        assert f"policy.toml: {text}" in done.stderr


def test_rules_that_contradict_move_nobody(vmacro: Vmacro, town: Town, policy: Path) -> None:
    rules = '[rules]\ntogether = [["g1", "g2"]]\napart = [{ guests = ["g1", "g2"], level = "site" }]'
    policy.write_text(POLICY.replace("[rules]", rules))
    before = at(vmacro)
    done = vmacro("follow", str(policy), "--once")
    assert (done.returncode, at(vmacro)) == (3, before)
    assert "rules-contradict: guest g1: must be at one site, and must not be: g1, g2" in done.stderr


@pytest.mark.parametrize("ends", ["in time", "as it is given up"])
def test_a_daemon_follows_a_policy_that_changes_and_ends_on_sigterm(
    vmacro: Vmacro, town: Town, policy: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """Its batch ends whenever its last move does."""
    where: list[str] = []
    progress = Batches.progress

    def and_then_ended(batches: Batches, name: str) -> BatchProgress:
        seen = progress(batches, name)
        if seen.wish == Wish.PAUSE and not seen.under_way:
            batches._tools.tables.want(name, Wish.ENDED)
        return seen

    if ends == "as it is given up":
        monkeypatch.setattr(Batches, "progress", and_then_ended)

    def look_on() -> None:
        limit = time.monotonic() + PATIENCE_S
        while time.monotonic() < limit and not where:
            running = [h for h in town.fake.hosts if (d := town.fake.hosts[h].domains.get("g1")) and d.running]
            where.extend(host for host in running if host.startswith("berlin"))
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=look_on)
    thread.start()
    done = vmacro("follow", str(policy), "--daemon")
    thread.join()
    assert done.returncode == 0, done.stderr
    assert where and at(vmacro)["g1"] == where[0]


def test_a_guests_moves_count_however_many_others_there_were_since(vmacro: Vmacro, town: Town, policy: Path) -> None:
    assert vmacro("follow", str(policy), "--once").returncode == 0
    policy.write_text(POLICY.replace("value = 1.0", "value = 0.01"))
    journal = make_url(wiring.load(town.file).database_url).database
    with closing(sqlite3.connect(str(journal))) as database, database:
        known = [name for _, name, *_ in database.execute("PRAGMA table_info(workflow_status)")]
        new = {"workflow_uuid": "'g9-20990101-000000-' || n", "created_at": "created_at + 60000 + n"}
        values = ", ".join(new.get(name, name) for name in known)
        numbers = "WITH RECURSIVE count(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM count WHERE n < 8100)"
        of_g1 = "FROM workflow_status, count WHERE name = 'migrate' AND workflow_uuid LIKE 'g1-%'"
        database.execute(f"{numbers} INSERT INTO workflow_status SELECT {values} {of_g1}")
    said = guests(vmacro("follow", str(policy), "--dry-run", "--json").stdout)["g1"]
    assert said["to"] is None and said["why"].startswith("goes to bucharest/bucharest at "), "after the shortest stay"


def test_policies_of_one_file_name_in_two_folders_are_two(vmacro: Vmacro, town: Town, policy: Path) -> None:
    """One gave up what the other had paused."""
    other = policy.parent / "other" / policy.name
    other.parent.mkdir()
    other.write_text(POLICY)
    settings = wiring.load(town.file)
    mine, others = (Follower(settings, path, 1.0, False) for path in (policy, other))
    name = mine.begin(mine.decide())
    with others._tools() as (_, batches):
        batches.want(name, Wish.PAUSE)
        assert others._mine(batches) == [] and mine._mine(batches) == [name]
        others._give_up(batches)
        assert batches.wishes() == {name: Wish.PAUSE}
        Follower(settings, policy.parent / "other" / ".." / policy.name, 1.0, False)._give_up(batches)
        assert batches.wishes() == {name: Wish.ABORT}


def test_a_daemon_is_not_a_dry_run(vmacro: Vmacro, town: Town, policy: Path) -> None:
    assert vmacro("follow", str(policy), "--daemon", "--dry-run").returncode == 2
