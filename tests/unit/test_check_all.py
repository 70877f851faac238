"""`vmacro check --all`: every guest of an inventory, or of a site."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.town import PATIENCE_S, Town, Vmacro
from vmacro import api, wiring
from vmacro.drivers.fake import Effect


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    made = Town(tmp_path, 3)
    monkeypatch.setattr(wiring, "drivers", made.drivers)
    monkeypatch.setenv("VMACRO_INVENTORY", str(made.file))
    return made


def checked(vmacro: Vmacro, *words: str, code: int = 0) -> dict[tuple[str, str], set[str]]:
    """Codes by guest and site."""
    done = vmacro("check", "--all", *words, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return {(row["guest"], row["site"]): {f["code"] for f in row["findings"]} for row in json.loads(done.stdout)}


def test_one_guest_is_told_as_many_are(vmacro: Vmacro, town: Town) -> None:
    pause(town, "g2")
    (one,) = (row for row in json.loads(vmacro("check", "--all", "--json").stdout) if row["guest"] == "g2")
    alone = json.loads(vmacro("check", "g2", "--to", "berlin", "--json").stdout)
    assert alone.keys() == one.keys() and alone["blocked"] and alone["host"] == one["host"]
    assert [f["code"] for f in alone["findings"]] == ["guest-paused"]


def pause(town: Town, name: str) -> None:
    domains = town.fake.hosts["bucharest"].domains
    domains[name] = replace(domains[name], state="paused")


def take_to_berlin(town: Town, name: str) -> None:
    town.fake.hosts["berlin-1"].domains[name] = town.fake.hosts["bucharest"].domains.pop(name)


def test_the_exit_code_is_that_of_the_worst(vmacro: Vmacro, town: Town) -> None:
    every = {(guest, "berlin"): set[str]() for guest in town.guests}
    assert checked(vmacro) == every
    pause(town, "g2")
    assert checked(vmacro, code=3) == every | {("g2", "berlin"): {"guest-paused"}}


def test_each_guest_is_checked_for_where_it_is_not(vmacro: Vmacro, town: Town) -> None:
    take_to_berlin(town, "g3")
    assert checked(vmacro, code=3).keys() == {("g1", "berlin"), ("g2", "berlin"), ("g3", "bucharest")}
    assert checked(vmacro, "--to", "berlin").keys() == {("g1", "berlin"), ("g2", "berlin")}
    assert checked(vmacro, "bucharest").keys() == {("g1", "berlin"), ("g2", "berlin")}
    assert checked(vmacro, "berlin", code=3).keys() == {("g3", "bucharest")}


def test_a_guest_that_is_off_belongs_to_where_its_domain_is(vmacro: Vmacro, town: Town) -> None:
    domains = town.fake.hosts["bucharest"].domains
    domains["g2"] = replace(domains["g2"], state="shut off")
    assert {guest for guest, _ in checked(vmacro, "bucharest", code=3)} == {"g1", "g2", "g3"}
    assert checked(vmacro, "berlin") == {}


def test_a_guest_that_runs_at_two_sites_is_not_left_out(vmacro: Vmacro, town: Town) -> None:
    town.fake.hosts["berlin-1"].domains["g2"] = town.fake.hosts["bucharest"].domains["g2"]
    for words in (("bucharest",), ("--to", "berlin"), ("bucharest", "--to", "berlin"), ()):
        assert "guest-twice" in checked(vmacro, *words, code=3)["g2", "berlin"], words


def test_a_guest_that_may_be_where_nobody_answers_is_not_left_out(vmacro: Vmacro, town: Town) -> None:
    town.fake.hosts["bucharest"].reachable = False
    found = checked(vmacro, "bucharest", code=3)
    assert {guest for guest, _ in found} == {"g1", "g2", "g3"}
    assert all({"guest-not-running", "host-unreachable"} <= codes for codes in found.values())
    assert {site for _, site in found} == {"berlin"}, "nobody moves from a site to the same"


def test_what_people_read(vmacro: Vmacro, town: Town) -> None:
    """What stands against several is told once, and who meets it is in the table."""
    there = town.fake.hosts["berlin-1"]
    there.facts = replace(there.facts, certificate_days_left=3.0)
    pause(town, "g2")
    done = vmacro("check", "--all", "--to", "berlin/berlin-1")
    assert done.returncode == 3
    assert done.stdout.count("its certificate expires in 3.0 days") == 1
    assert done.stdout.count("guest g2: is paused") == 1
    rows = [line for line in done.stdout.splitlines() if "berlin/berlin-1" in line]
    assert [("guest-paused" in row, "certificate-expires" in row) for row in rows] == [
        (False, True),
        (True, True),
        (False, True),
    ]
    assert "no guest is at berlin" in vmacro("check", "--all", "berlin").stdout


def test_guests_are_looked_at_side_by_side_and_once(vmacro: Vmacro, town: Town) -> None:
    together = threading.Barrier(3)
    asked: list[str] = []

    def look(effect: Effect) -> None:
        if effect == "agent.open":
            asked.append(effect.guest)
            together.wait(PATIENCE_S)

    town.fake.before = look
    assert len(checked(vmacro)) == 3
    assert sorted(asked) == ["g1", "g2", "g3"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("check",), "which guest, and where to?"),
        (("check", "g1"), "which guest, and where to?"),
        (("check", "--to", "berlin"), "which guest, and where to?"),
        (("check", "--all", "g1"), "check --all g1: is a guest"),
        (("check", "--all", "rome"), "site 'rome': not in"),
        (("check", "--all", "--to", "rome"), "site 'rome': not in"),
    ],
)
def test_mistakes(vmacro: Vmacro, town: Town, words: tuple[str, ...], said: str) -> None:
    done = vmacro(*words)
    assert done.returncode == 2 and said in done.stderr, done.stderr


def test_by_the_api(town: Town) -> None:
    pause(town, "g2")
    with api.open(town.file, town.file.parent / "report") as session:
        found = session.check_all("bucharest", "berlin")
    assert [(guest, site, one.blocked) for guest, site, one in found] == [
        ("g1", "berlin", False),
        ("g2", "berlin", True),
        ("g3", "berlin", False),
    ]
