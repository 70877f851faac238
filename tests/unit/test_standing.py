"""Standing legs: believed only where both hosts and the journal say the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.test_seamless import Story, plan, wanted
from vmacro.drivers.fake import FakeWorld, connection
from vmacro.model.facts import NO_PAST, FoundLegEnd, Past, Survey
from vmacro.model.moves import Finding
from vmacro.planning import checks
from vmacro.planning.standing import Standing, standing
from vmacro.services import measured

HOME = "10.50.1.97"
SITES = {name: (name,) for name in ("bucharest", "berlin", "oslo")}
ENDS = ("bucharest", "berlin")


@pytest.fixture
def story() -> Story:
    """A guest that has moved from bucharest to berlin, and whose old address is carried."""
    fake = FakeWorld(SITES)
    fake.guest.connections.append(connection(0xB2, HOME, willing=False))
    found = Story(fake)
    found.move()
    return found


def seen(fake: FakeWorld, past: Past) -> Survey:
    return measured.look(fake.inventory, wanted(fake, "oslo"), fake.world, ask_clients=True, past=past)


def stands(fake: FakeWorld, past: Past, take_over: bool = False) -> Standing:
    domain = fake.hosts["berlin"].domains["web"]
    return standing(seen(fake, past), domain, take_over)


def told(fake: FakeWorld, past: Past) -> list[Finding]:
    return [f for f in checks.check(wanted(fake, "oslo"), seen(fake, past)) if f.code == "leg-unknown"]


def end(fake: FakeWorld, host: str) -> FoundLegEnd:
    (found,) = fake.hosts[host].legs.values()
    return found


def say(fake: FakeWorld, host: str, *ends: FoundLegEnd) -> None:
    fake.hosts[host].legs = {(str(n), e.address): e for n, e in enumerate(ends)}


def test_what_both_hosts_and_the_journal_say_is_ours(story: Story) -> None:
    found = stands(story.fake, story.past)
    (leg,) = found.ours
    assert (leg.move_id, leg.address, leg.home.name, leg.away.name) == ("web-1", HOME, "bucharest", "berlin")
    assert found.odd == () and told(story.fake, story.past) == []
    assert story.plan("oslo").earlier_legs == (leg,)


CHANGES: dict[str, dict[str, Any]] = {
    "another side": {"side": "swap"},
    "another kind": {"kind": "vxlan"},
    "another move": {"move": "web-9"},
    "another address": {"address": "10.50.1.98"},
    "an address elsewhere": {"address": "8.8.8.8"},
    "another MAC": {"mac": "52:54:00:00:00:02"},
    "a third host as peer": {"peer": "10.9.0.3"},
    "itself as peer": {"peer": "itself"},
    "a stranger as peer": {"peer": "192.0.2.1"},
}


def changed(fake: FakeWorld, host: str, change: dict[str, Any]) -> FoundLegEnd:
    found = end(fake, host)
    own = next(h.address for h in fake.inventory.hosts if h.name == host)
    swapped = {"home": "away", "away": "home"}[found.side]
    words = {k: {"swap": swapped, "itself": own}.get(v, v) for k, v in change.items()}
    return replace(found, **words)


UNROUTED = {"bucharest has no such address to route"}


@pytest.mark.parametrize("take_over", [False, True])
@pytest.mark.parametrize("host", ENDS)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_end_that_does_not_agree_is_never_acted_on(
    story: Story, change: dict[str, Any], host: str, take_over: bool
) -> None:
    fake = story.fake
    say(fake, host, changed(fake, host, change))
    found = stands(fake, story.past, take_over)
    assert found.ours == () and found.odd
    assert {o.why for o in found.odd} <= {
        "its other end is at no host that answers",
        "its ends do not agree",
        *UNROUTED,
    }
    assert all(not checks.blockers([f]) and "left alone" in f.message for f in told(fake, story.past))
    assert len(told(fake, story.past)) == len(found.odd) or take_over
    assert plan(fake, "oslo", "web-2", story.past).earlier_legs == ()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_both_ends_that_agree_are_nothing_without_the_journal(story: Story, change: dict[str, Any]) -> None:
    """Two hosts that conspire."""
    fake, agreed = story.fake, {k: v for k, v in change.items() if k in ("kind", "move", "address")}
    for host in ENDS:
        say(fake, host, changed(fake, host, agreed))
    past = story.past if agreed else NO_PAST
    found = stands(fake, past)
    assert found.ours == () and len(told(fake, past)) == 1
    assert {o.why for o in found.odd} <= {"no move of this journal has opened it", *UNROUTED}


@pytest.mark.parametrize("host", ENDS)
def test_one_end_alone_is_no_leg(story: Story, host: str) -> None:
    say(story.fake, host)
    found = stands(story.fake, story.past)
    assert found.ours == () and [o.why for o in found.odd] == ["its other end is at no host that answers"]


def test_another_guests_leg_is_none_of_this_one(story: Story) -> None:
    for host in ENDS:
        say(story.fake, host, replace(end(story.fake, host), domain="db"))
    assert stands(story.fake, story.past) == Standing((), ())


@pytest.mark.parametrize("side", ["home", "away"])
def test_a_third_host_that_says_it_has_the_leg_changes_nothing_and_is_named(story: Story, side: str) -> None:
    """A host cannot take a guest that was never on it: neither as the leg's home nor as where the guest was."""
    fake = story.fake
    true = end(fake, "bucharest" if side == "home" else "berlin")
    say(fake, "oslo", true)
    found = stands(fake, story.past)
    assert [(leg.home.name, leg.away.name) for leg in found.ours] == [ENDS]
    assert [(o.at, o.why) for o in found.odd] == [(("oslo",), "its ends are elsewhere")]
    (said,) = told(fake, story.past)
    assert "oslo" in said.message and HOME in said.message
    say(fake, "oslo", true, true, true)
    assert len(stands(fake, story.past).ours) == 1


def test_many_odd_legs_are_told_in_few_words(story: Story) -> None:
    say(story.fake, "oslo", *(replace(end(story.fake, "berlin"), move=f"m{n}") for n in range(1000)))
    found = told(story.fake, story.past)
    assert len(found) == 5 and found[-1].message == "996 more legs that are left alone"


def test_a_leg_of_a_lost_journal_is_taken_over_if_both_hosts_agree(story: Story) -> None:
    assert stands(story.fake, NO_PAST).ours == ()
    assert [leg.address for leg in stands(story.fake, NO_PAST, take_over=True).ours] == [HOME]


def test_a_leg_of_an_address_that_its_home_does_not_route_is_none(story: Story) -> None:
    """Though both ends and an old journal agree: the home's subnet is another one now."""
    front = story.fake.hosts["bucharest"].networks
    front["front"] = replace(front["front"], subnet="10.60.1.0/24", gateway="10.60.1.1")
    found = stands(story.fake, story.past)
    assert found.ours == () and {o.why for o in found.odd} == UNROUTED


def hosts_that_lie(fake: FakeWorld) -> Iterator[tuple[str, FoundLegEnd]]:
    for host in fake.hosts:
        for template in ENDS:
            for change in CHANGES.values():
                yield host, changed(fake, template, change)


def test_no_word_of_one_host_brings_a_foreign_address_into_a_plan(story: Story) -> None:
    """Beside the true ends, each host says each lie; and the guest claims what it says."""
    fake = story.fake
    for host, lie in hosts_that_lie(fake):
        before = dict(fake.hosts[host].legs)
        fake.hosts[host].legs[("lie", lie.address)] = lie
        fake.guest.kept = [HOME, lie.address]
        made = plan(fake, "oslo", "web-2", story.past)
        assert {leg.address for leg in (*made.old_legs, *made.earlier_legs)} <= {HOME, fake.guest.address}, (host, lie)
        assert {h.home.name for h in made.addresses if h.address == HOME} <= {"bucharest"}, (host, lie)
        fake.hosts[host].legs, fake.guest.kept = before, [HOME]
