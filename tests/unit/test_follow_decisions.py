"""Where a policy finds its guests, and what it decides, by values alone. test_follow.py has the command."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_enumeration import stage
from vmacro import policies
from vmacro.drivers.fake import FakeWorld
from vmacro.drivers.feeds import Files
from vmacro.errors import ConfigurationError
from vmacro.fleet.assemble import Known, whole_horizon
from vmacro.fleet.nouns import HostRoom
from vmacro.fleet.policy import FollowPolicy
from vmacro.model.batches import Batch, Maintenance, PlannedMove, Purpose
from vmacro.model.moves import Ending, Outcome
from vmacro.planning.evacuation import ASSUMED_AROUND_S, ASSUMED_LOOKS_S
from vmacro.planning.handoffs import SEAMLESS
from vmacro.services import follow, known
from vmacro.services.archive import Record, Unreadable
from vmacro.services.follow import PLENTY_CPUS, PLENTY_DISK_GIB, Decided, Past, Standing
from vmacro.services.survey import HOST_DEADLINE_S

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
SITES = {"bucharest": ("buc1",), "berlin": ("ber1", "ber2"), "oslo": ("osl1",)}
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
[hosts]
ber1 = { site = "berlin", memory_mib = 8192, cpus = 4, disk_gib = 50 }
[guests]
ada = { watts = 100, cpus = 2, disk_gib = 1 }
bob = { watts = 200 }
cleo = { watts = 100, pinned = "its dongle is here" }
"""
PLAN = stage(SEAMLESS).plan


@pytest.fixture
def fake() -> FakeWorld:
    return FakeWorld(SITES, ("ada", "bob", "cleo", "dan"))


Load = Callable[..., FollowPolicy]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def read(text: str = POLICY) -> FollowPolicy:
        (tmp_path / "policy.toml").write_text(text)
        return policies.load(tmp_path / "policy.toml")

    return read


def looked(fake: FakeWorld, policy: FollowPolicy, past: Past | None = None) -> Standing:
    return follow.look(policy, fake.inventory, fake.world, past or Past(), NOW)


def decided(policy: FollowPolicy, standing: Standing) -> Decided:
    told: Known = known.look(policy, Files(False), whole_horizon(policy, NOW), NOW).known
    return follow.decide(policy, told, standing, NOW, 5.0, time.monotonic)


# Names


def test_all_names_that_the_inventory_lacks_are_told_at_once(fake: FakeWorld, load: Load) -> None:
    follow.check_names(load(), fake.inventory, "lab.toml")
    text = POLICY.replace("berlin", "paris").replace("bob", "zoe").replace("ber1", "par1")
    with pytest.raises(ConfigurationError) as told:
        follow.check_names(policy := load(text), fake.inventory, "lab.toml")
    wrong = ("sites.paris", "guests.zoe", "hosts.par1")
    assert told.value.message.splitlines() == [f"{policy.path}: {name}: not in lab.toml" for name in wrong]


def test_a_host_is_at_its_own_site(fake: FakeWorld, load: Load) -> None:
    text = POLICY.replace('ber1 = { site = "berlin"', 'ber1 = { site = "bucharest"')
    with pytest.raises(ConfigurationError) as told:
        follow.check_names(policy := load(text), fake.inventory, "lab.toml")
    assert told.value.message == f"{policy.path}: hosts.ber1.site: is berlin in lab.toml (value: 'bucharest')"


# Where guests are


def test_guests_are_where_they_run_and_take_what_they_have_there(fake: FakeWorld, load: Load) -> None:
    fake.hosts["buc1"].domains["bob"] = replace(fake.hosts["buc1"].domains["bob"], memory_mib=512)
    fake.hosts["ber2"].domains["cleo"] = fake.hosts["buc1"].domains.pop("cleo")
    policy = load()
    standing = looked(fake, policy)
    assert [(guest.name, guest.host, guest.memory_mib) for guest in standing.guests] == [
        ("ada", "buc1", 256),
        ("bob", "buc1", 512),
        ("cleo", "ber2", 256),
    ]
    ada, *_ = standing.guests
    assert (ada.watts, ada.cpus, ada.disk_gib, ada.hold, ada.since, ada.moved) == (100.0, 2.0, 1.0, "", None, ())
    assert standing.unknown == {} and standing.left_alone == ()


def test_hosts_have_what_is_free_and_what_the_policys_guests_take(fake: FakeWorld, load: Load) -> None:
    inventory = fake.inventory
    sites = tuple(
        replace(s, hosts=tuple(replace(h, memory_reserve_mib=1000) for h in s.hosts)) for s in inventory.sites
    )
    fake.inventory = replace(inventory, sites=sites)
    for name, free in (("buc1", 5000), ("ber1", 900), ("ber2", 2000)):
        fake.hosts[name].facts = replace(fake.hosts[name].facts, free_memory_mib=free)
    plenty = (PLENTY_CPUS, PLENTY_DISK_GIB)
    assert looked(fake, load()).hosts == (
        HostRoom("buc1", "bucharest", 4000 + 3 * 256, *plenty),
        HostRoom("ber1", "berlin", 0, 4.0, 50.0),
        HostRoom("ber2", "berlin", 1000, *plenty),
    ), "oslo is no site of the policy"


@pytest.mark.parametrize(
    ("mark", "closed"),
    [
        (Maintenance("bucharest", True, "ada@desk", 1.0), True),
        (Maintenance("buc1", False, "ada@desk", 1.0), True),
        (Maintenance("bucharest", False, "ada@desk", 1.0), False),
        (Maintenance("buc1", True, "ada@desk", 1.0), False),
        (Maintenance("berlin", True, "ada@desk", 1.0), False),
    ],
)
def test_in_maintenance_a_host_has_room_for_those_who_are_there_alone(
    fake: FakeWorld, load: Load, mark: Maintenance, closed: bool
) -> None:
    room = looked(fake, load(), Past(maintenance=(mark,))).hosts[0]
    assert (room == HostRoom("buc1", "bucharest", 3 * 256, 2.0, 1.0)) is closed


def test_what_cannot_be_asked_is_not_known_and_says_why(fake: FakeWorld, load: Load) -> None:
    fake.hosts["ber2"].reachable = False
    standing = looked(fake, load())
    assert list(standing.unknown) == ["berlin"] and "ber2" in standing.unknown["berlin"]
    assert [room.name for room in standing.hosts] == ["buc1", "ber1"] and len(standing.guests) == 3


def test_a_host_that_has_not_answered_in_time_is_named(fake: FakeWorld, load: Load) -> None:
    asked: list[float] = []

    def all_but_one(questions: Sequence[Callable[[], Any]], within_s: float) -> list[Any]:
        asked.append(within_s)
        return [ask() if number != 1 else None for number, ask in enumerate(questions)]

    world = replace(fake.world, side_by_side=all_but_one)
    standing = follow.look(load(), fake.inventory, world, Past(), NOW)
    assert standing.unknown == {"berlin": f"host ber1: no answer within {HOST_DEADLINE_S:g} s"}
    assert asked == [HOST_DEADLINE_S]


def test_guests_about_whom_nothing_can_be_decided_are_left_alone(fake: FakeWorld, load: Load) -> None:
    fake.hosts["ber1"].domains["ada"] = fake.hosts["buc1"].domains["ada"]
    fake.power_off("bob")
    policy = load()
    standing = looked(fake, policy)
    assert standing.left_alone == (
        ("ada", "runs at buc1 and ber1 at once: vmacro check"),
        ("bob", "does not run at any site of the policy"),
    )
    assert [guest.name for guest in standing.guests] == ["cleo"]
    fake.hosts["ber2"].reachable = False
    standing = looked(fake, policy)
    why = f"runs at no host that could be asked; {standing.unknown['berlin']}"
    assert dict(standing.left_alone)["bob"] == why


# What has happened to them


def record(number: int, guest: str = "ada", ended: datetime = NOW, outcome: Outcome | None = None) -> Record:
    plan = replace(PLAN, move_id=f"{guest}-20261127-{number:06}-00aa", guest=replace(PLAN.guest, name=guest))
    ended_ms = int(ended.timestamp() * 1000)
    return Record(plan, outcome or Outcome(Ending.MOVED), 1, ended_ms - 1000, ended_ms)


def ada_of(fake: FakeWorld, policy: FollowPolicy, past: Past) -> Any:
    return next(guest for guest in looked(fake, policy, past).guests if guest.name == "ada")


def test_a_guests_moves_of_the_last_day_count_and_the_last_one_tells_since_when_it_is_there(
    fake: FakeWorld, load: Load
) -> None:
    hours = timedelta(hours=1)
    ago = [NOW, NOW - 2 * hours, NOW - 24.9 * hours, NOW - 25 * hours, NOW + hours]
    moves = [record(number, ended=ended) for number, ended in enumerate(ago)]
    moves.append(record(7, ended=NOW - hours, outcome=Outcome(Ending.ROLLED_BACK)))
    moves.append(record(8, "bob", NOW - hours))
    moves.append(record(9, ended=NOW - 3 * hours, outcome=Outcome(Ending.WITH_LOSSES)))
    ada = ada_of(fake, load(), Past(tuple(moves)))
    assert ada.moved == (NOW - 24.9 * hours, NOW - 3 * hours, NOW - 2 * hours, NOW)
    assert ada.since == NOW and ada.hold == ""


def test_it_is_remembered_for_as_long_as_a_stay_is_at_least(load: Load) -> None:
    assert follow.remembers(load(), NOW) == NOW - timedelta(hours=25)
    assert follow.remembers(load(POLICY.replace("hours = 1", "hours = 48")), NOW) == NOW - timedelta(hours=48)


MOVE = PlannedMove("ada", "buc1", "bucharest", "ber1", "berlin", 1.0, 1.0, 1.0)


def test_who_has_a_batch_or_a_move_that_goes_on_is_held(fake: FakeWorld, load: Load) -> None:
    policy = load()
    batches = (Batch("follow-x-1", Purpose.FOLLOW, "x", (replace(MOVE, guest="bob"), MOVE)),)
    assert ada_of(fake, policy, Past(batches=batches)).hold == "batch follow-x-1 has it"
    others = (replace(batches[0], moves=(replace(MOVE, guest="bob"),)),)
    assert ada_of(fake, policy, Past(batches=others)).hold == ""
    left = record(2, outcome=Outcome(Ending.INCOMPLETE, remains=True))
    name = left.move_id
    wanted = f"its move {name} is not finished: vmacro resume {name}"
    assert ada_of(fake, policy, Past((left, record(1)), batches)).hold == wanted
    assert ada_of(fake, policy, Past((record(3), left))).hold == "", "the last one counts"
    odd = Unreadable("ada-20261127-000004-00aa", 1, 5, "odd")
    assert ada_of(fake, policy, Past((odd, record(1)))).hold == f"its move {odd.move_id} cannot be read"
    assert ada_of(fake, policy, Past((record(5), odd))).hold == ""
    assert ada_of(fake, policy, Past((replace(odd, move_id="bob-1-2-3"),))).hold == ""


# What is decided


def test_who_saves_by_it_moves_and_the_longest_move_begins_first(fake: FakeWorld, load: Load) -> None:
    fake.hosts["buc1"].domains["bob"] = replace(fake.hosts["buc1"].domains["bob"], memory_mib=1024)
    text = POLICY.replace("ber1 = { site", 'buc1 = { site = "bucharest", memory_mib = 8192 }\nber1 = { site')
    found = decided(load(text), looked(fake, load(text)))
    assert not found.is_wrong
    bob, ada = found.moves if found.moves[0].guest == "bob" else found.moves[::-1]
    assert [move.guest for move in found.moves] == [
        move.guest for move in sorted(found.moves, key=lambda each: -each.seconds)
    ]
    assert (ada.source, ada.source_site, ada.destination_site) == ("buc1", "bucharest", "berlin")
    assert ada.destination in ("ber1", "ber2")
    assert (ada.mib, ada.copy_s) == (256.0 + 1024, 12.8), "with its disk of 1 GiB, at 100 MiB/s"
    assert (bob.mib, bob.copy_s, bob.seconds) == (1024.0, 10.24, 10.24 + ASSUMED_AROUND_S + ASSUMED_LOOKS_S)
    assert ada.because == next(d.why for d in found.placement.decisions if d.guest == "ada")[:400]


def test_each_guest_is_told_what_it_does_and_why(fake: FakeWorld, load: Load) -> None:
    fake.power_off("bob")
    found = decided(load(), looked(fake, load()))
    rows = follow.sentences(found)
    assert [row[:2] for row in rows] == [("ada", "buc1"), ("cleo", "buc1"), ("bob", "")]
    by_guest = {guest: (why, change) for guest, _, why, change in rows}
    assert by_guest["bob"] == ("left alone: does not run at any site of the policy", "")
    decisions = {d.guest: (d.why, d.change) for d in found.placement.decisions}
    assert {guest: by_guest[guest] for guest in decisions} == decisions
    assert follow.summary(found) == "1 moves now, 1 stays, 1 left alone"


def test_who_is_held_stays_and_others_are_as_they_were(fake: FakeWorld, load: Load) -> None:
    standing = looked(fake, load()).held({"ada": "checks stand against it"})
    assert [guest.hold for guest in standing.guests] == ["checks stand against it", "", ""]
    assert [move.guest for move in decided(load(), standing).moves] == ["bob"]


def test_a_site_without_a_host_that_could_be_asked_gets_nobody_and_says_so(fake: FakeWorld, load: Load) -> None:
    for name in ("ber1", "ber2"):
        fake.hosts[name].reachable = False
    standing = looked(fake, load())
    found = decided(load(), standing)
    assert found.moves == ()
    (hold,) = found.made.holds
    assert hold.why.endswith(standing.unknown["berlin"])
    found = decided(load(), replace(standing, unknown={}))
    (hold,) = found.made.holds
    assert hold.subject == "site berlin" and hold.why.endswith("it has no host that could be asked")


def test_a_host_that_could_not_be_asked_is_known_and_has_no_room(fake: FakeWorld, load: Load) -> None:
    fake.hosts["ber1"].reachable = False
    found = decided(load(), looked(fake, load()))
    rooms = {room.name: room.memory_mib for room in found.made.fleet.hosts}
    assert rooms["ber1"] == 0 and set(rooms) == {"buc1", "ber1", "ber2"}


def test_where_nobody_is_nothing_is_decided(fake: FakeWorld, load: Load) -> None:
    for guest in ("ada", "bob", "cleo"):
        fake.power_off(guest)
    found = decided(load(), looked(fake, load()))
    assert found.moves == () and found.placement.decisions == () and not found.is_wrong
    assert follow.summary(found) == "3 left alone"
    assert follow.summary(replace(found, standing=replace(found.standing, left_alone=()))) == "no guest"


def test_rules_that_contradict_are_a_wrong_policy(fake: FakeWorld, load: Load) -> None:
    rules = '[rules]\ntogether = [["ada", "bob"]]\napart = [{ guests = ["ada", "bob"], level = "site" }]'
    text = POLICY.replace("[rules]", rules)
    found = decided(load(text), looked(fake, load(text)))
    assert found.is_wrong and found.moves == ()


def test_who_will_move_later_is_told_apart(fake: FakeWorld, load: Load) -> None:
    """It has just come: it stays as long as it must."""
    past = Past((record(1, ended=NOW - timedelta(minutes=10)),))
    found = decided(load(), looked(fake, load(), past))
    assert [move.guest for move in found.moves] == ["bob"]
    assert follow.summary(found) == "1 will move, 1 moves now, 1 stays"
