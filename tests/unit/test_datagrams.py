"""Datagrams of a guest's old address: told before a move, carried after it, told in its report; on the fake world."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.test_migrate import Straight
from tests.unit.test_rules import chain
from tests.unit.test_seamless import Story, ends, findings, move, plan, wanted
from vmacro.drivers.fake import FakeWorld, connection
from vmacro.errors import HostError, UnknownVerbError, UnreachableError
from vmacro.host import answers, flows
from vmacro.host.answers import Kept
from vmacro.model.facts import Flows, Survey
from vmacro.model.moves import Ending, Verdict
from vmacro.planning import seamless
from vmacro.planning.handoffs import RENUMBER, SEAMLESS
from vmacro.services import carry, measured, migrate, report
from vmacro.wire.host_verbs import MOST_FLOWS

OLD = "10.50.1.97"
USED = Flows(OLD, udp=3, icmp=1)


@pytest.fixture
def fake() -> FakeWorld:
    found = FakeWorld()
    found.flows[OLD] = USED
    return found


def seen(fake: FakeWorld, handoff: str = SEAMLESS) -> Survey:
    return measured.look(fake.inventory, wanted(fake, handoff=handoff), fake.world, ask_clients=True)


def test_an_address_is_carried_as_long_as_datagrams_come_for_it(fake: FakeWorld) -> None:
    chosen = plan(fake)
    outcome = migrate.run_move(chosen, fake.world, Straight())
    assert outcome.ending == Ending.MOVED and outcome.carried == (OLD,) and OLD in fake.guest.kept
    assert ends(fake) == {"bucharest": [("home", OLD, "tunnel")], "berlin": [("away", OLD, "guest")]}
    (carriage,) = carry.carriages(chosen, outcome, fake.now_s)
    asked = [0]

    def before(effect: str) -> None:
        asked[0] += effect == "link.flows bucharest"
        if asked[0] == 5:
            fake.flows.clear()

    fake.before = before
    assert "closed" in carry.run_carriage(carriage, fake.world, Straight())
    assert asked[0] == 5 and fake.guest.kept == [] and ends(fake) == {"bucharest": [], "berlin": []}


def test_who_follows_has_an_address_that_datagrams_keep_as_backup(fake: FakeWorld) -> None:
    outcome = move(fake)
    (one,) = fake.guest.connections
    assert [c.verdict for c in outcome.connections] == [Verdict.FOLLOWED] and one.reaches(OLD)


def test_connections_that_cannot_follow_stay_beside_datagrams(fake: FakeWorld) -> None:
    fake.guest.connections.append(connection(0xB2, OLD, willing=False))
    outcome = move(fake)
    assert [c.verdict for c in outcome.connections] == [Verdict.FOLLOWED, Verdict.CARRIED]
    assert outcome.carried == (OLD,)


def test_over_further_moves_and_after_the_way_home(fake: FakeWorld) -> None:
    """Each address that is in use is carried on, one at home without a leg."""
    story = Story(fake)
    assert story.move("berlin").carried == (OLD,)
    fake.flows[fake.guest.address] = Flows(fake.guest.address, udp=1)
    second = fake.guest.address
    home = story.move("bucharest")
    assert home.ending == Ending.MOVED and set(home.carried) == {OLD, second} and fake.guest.address != OLD
    assert ends(fake) == {"bucharest": [("away", second, "guest")], "berlin": [("home", second, "tunnel")]}
    again = story.move("berlin")
    assert set(again.carried) >= {OLD} and ends(fake)["berlin"] == [("away", OLD, "guest")]


@pytest.mark.parametrize("error", [UnreachableError, HostError])
def test_where_its_home_cannot_tell_an_address_is_carried_until_that_says_more(
    fake: FakeWorld, error: type[HostError]
) -> None:
    """HostError: it refused, as its kernel did not answer, say for a table that others have filled."""
    fake.flows.clear()
    silent = [True]

    def before(effect: str) -> None:
        if effect == "link.flows bucharest" and silent[0]:
            raise error("host bucharest: no answer")

    fake.before = before
    chosen = plan(fake)
    outcome = migrate.run_move(chosen, fake.world, Straight())
    assert outcome.ending == Ending.MOVED and outcome.carried == (OLD,)
    (carriage,) = carry.carriages(chosen, outcome, fake.now_s)
    with pytest.raises(error):
        carry._retire_if_unused(carriage, fake.world)
    silent[0] = False
    assert carry._retire_if_unused(carriage, fake.world) == carry.Need.UNNEEDED


@pytest.mark.parametrize("how", ["it tracks nothing", "it is older"])
def test_where_nobody_knows_datagrams_keep_nothing_and_check_says_so(fake: FakeWorld, how: str) -> None:
    def before(effect: str) -> None:
        if effect == "link.flows bucharest" and how == "it is older":
            raise UnknownVerbError("host bucharest: its host side refused 'flows': no verb 'flows' here")

    fake.before = before
    fake.hosts["bucharest"].tracking = False
    fake.flows.clear()  # what the other host sees is of no use
    found = findings(fake)["datagrams-unknown"]
    assert found.subject == "host bucharest" and "only as long as connections" in found.message
    fake.flows[OLD] = USED
    assert move(fake).carried == ()


def test_check_tells_which_there_are_and_what_becomes_of_them(fake: FakeWorld) -> None:
    assert findings(fake).keys() & {"datagrams-end", "datagrams-unknown"} == set()
    told = seamless.datagrams_told(wanted(fake), seen(fake))
    assert told == f"3 UDP and 1 ICMP flows of {OLD} are carried, as long as they are used"
    fake.flows[OLD] = Flows(OLD, udp=MOST_FLOWS)
    assert f"{MOST_FLOWS} or more UDP flows of" in seamless.datagrams_told(wanted(fake), seen(fake))
    fake.flows[OLD] = Flows(OLD, icmp=1)
    assert "1 ICMP flow of" in seamless.datagrams_told(wanted(fake), seen(fake))
    fake.flows.clear()
    assert seamless.datagrams_told(wanted(fake), seen(fake)) == ""


def test_renumber_carries_none_and_check_says_so(fake: FakeWorld) -> None:
    found = findings(fake, RENUMBER)["datagrams-end"]
    assert found.message == f"3 UDP and 1 ICMP flows of {OLD} end with the move: `renumber` has no legs"
    fake.flows.clear()
    assert "datagrams-end" not in findings(fake, RENUMBER)


def test_renumber_needs_no_host_side_to_be_checked(fake: FakeWorld) -> None:
    def before(effect: str) -> None:
        if effect.startswith("link."):
            raise UnreachableError("host bucharest: no SSH to its host side is configured")

    fake.before = before
    assert not {f.code for f in findings(fake, RENUMBER).values()} & {"datagrams-end", "no-host-side"}


def test_the_report_has_them_before_and_after(fake: FakeWorld, tmp_path: Path) -> None:
    chosen = plan(fake)

    def before(effect: str) -> None:
        if effect == "agent.arrive":
            fake.flows[OLD] = Flows(OLD, udp=2)

    fake.before = before
    outcome = migrate.run_move(chosen, fake.world, Straight())
    report.write(tmp_path, chosen, outcome, fake.events, None)
    assert json.loads((tmp_path / "summary.json").read_text())["datagrams"] == [
        {"address": OLD, "udp_before": 3, "icmp_before": 1, "udp_after": 2, "icmp_after": 0, "carried": True}
    ]


def test_the_deadline_ends_datagrams_too(fake: FakeWorld) -> None:
    chosen = plan(fake)
    (carriage,) = carry.carriages(chosen, migrate.run_move(chosen, fake.world, Straight()), fake.now_s)
    late = replace(carriage, deadline_s=fake.now_s + 10)
    assert "deadline" in carry.run_carriage(late, fake.world, Straight())
    assert ends(fake) == {"bucharest": [], "berlin": []} and fake.guest.kept == []


FIRST = Kept("front0", "52:54:00:00:00:01", "10.1.0.7")
SECOND, SIXTH = replace(FIRST, address="10.2.0.7"), replace(FIRST, address="fd50::7")
OTHERS = replace(FIRST, mac="52:54:00:00:00:02", address="10.1.0.8")


def test_each_guests_answers_are_its_own() -> None:
    rules = answers.ruleset([OTHERS, SIXTH, SECOND, FIRST])
    for rule in chain(rules, "answered")[1:]:
        mac, address = (OTHERS if OTHERS.asked in rule else FIRST).mac, rule.split()[-2]
        assert f'iifname "front0" ether saddr {mac} ' in rule and rule.endswith(" accept")
        assert "set" not in rule.split() or address in (FIRST.address, SECOND.address, SIXTH.address, OTHERS.address)
    asked = [rule for rule in chain(rules, "asked") if FIRST.address in rule]
    assert [("update" in r, "delete" in r) for r in asked] == [(True, False), (False, True)]
    assert SECOND.asked in asked[1] and not any(OTHERS.asked in rule for rule in asked)


def test_an_address_of_ipv6_between_two_of_ipv4_parts_no_guest() -> None:
    """As text they are in this order."""
    early, late = (replace(FIRST, address=address) for address in ("10.1.0.7", "203.0.113.7"))
    rules = answers.ruleset([early, replace(FIRST, address="2001:db8::7"), late])
    told = [rule for rule in chain(rules, "asked") if f"daddr {early.address} " in rule]
    assert [(early.asked in rule, late.asked in rule) for rule in told] == [(True, False), (False, True)]


def test_what_is_noted_stays_as_long_as_its_address_is_kept() -> None:
    rules = answers.ruleset([FIRST], [FIRST.asked, FIRST.sources, SECOND.asked])
    assert rules.count("delete set") == 1 and f"delete set inet vmacro-answers {SECOND.asked}\n" in rules
    assert rules.index("flush table") < rules.index("delete set") < rules.index(f"set {FIRST.asked} {{")
    assert "delete table" not in rules
    assert answers.ruleset([], [FIRST.asked]) == "add table inet vmacro-answers\ndelete table inet vmacro-answers\n"


def test_of_each_address_so_many_askers_are_noted_and_for_a_while() -> None:
    """Whoever asks at a guest's from a million sockets fills no host's memory; the page of security has the number."""
    sets = answers.ruleset([FIRST, SECOND, SIXTH, OTHERS]).split("  set ")[1:]
    asked = [text for text in sets if text.startswith("asked_")]
    assert len(asked) == 4 and all("size 65536\n" in text for text in asked)
    assert all(re.search(r"size \d+\n +flags dynamic,timeout\n +timeout 180s\n", text) for text in sets)


@pytest.mark.parametrize("data", [b"", b"\x01", bytes(4), bytes(7), b"\x04\x00\x01\x00\xff", b"\xff\xff\x01\x80abc"])
def test_what_the_kernel_says_ends(data: bytes) -> None:
    """Whatever lengths are in it."""
    assert isinstance(flows._attributes(data), dict)
