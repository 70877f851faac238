"""What the name server and hooks are told of a move, and what follows where they do not do it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.faults import Crash, Faults, Logbook
from tests.unit.test_migrate import Straight
from tests.unit.test_seamless import Story, ends, findings, plan, wanted
from vmacro.drivers.fake import FakeWorld, connection
from vmacro.errors import ConfigurationError, UnreachableError
from vmacro.model.events import HookEnded, NameSet
from vmacro.model.facts import HookEnd, Lingering
from vmacro.model.moves import Carriage, Ending, Outcome, Plan
from vmacro.model.names import NameFacts, RecordSet
from vmacro.model.nouns import Hooks
from vmacro.planning import checks
from vmacro.services import carry, measured, migrate

OLD, NEW, OTHER, WWW, MAIL = "10.50.1.97", "10.50.2.10", "10.9.9.9", "www.example.net", "mail.example.net"


def led(name: str, *addresses: str) -> NameFacts:
    return NameFacts(name, RecordSet(tuple(sorted(addresses)), 30))


@pytest.fixture
def fake() -> FakeWorld:
    """A guest with two names, which follow it, whose old address lingers for a minute."""
    found = FakeWorld()
    for name in (WWW, MAIL):
        found.zone.put(name, OLD)
    said(found, linger_s=None)
    guests = tuple(replace(guest, names=(WWW, MAIL)) for guest in found.inventory.guests)
    found.inventory = replace(found.inventory, guests=guests)
    return found


def said(fake: FakeWorld, **policy: Any) -> None:
    fake.inventory = replace(fake.inventory, policy=replace(fake.inventory.policy, **policy))


def hooked(fake: FakeWorld, strict: bool = True) -> None:
    fake.inventory = replace(fake.inventory, hooks=Hooks(("/b1", "/b2"), ("/a1", "/a2"), 7.0, strict))


def moved(fake: FakeWorld, chosen: Plan | None = None) -> Outcome:
    return migrate.run_move(chosen or plan(fake), fake.world, Straight())


def leads(fake: FakeWorld) -> dict[str, tuple[str, ...]]:
    return {name: facts.addresses for name, facts in fake.zone.names.items()}


def test_names_lead_to_the_new_address_before_clients_are_waited_for(fake: FakeWorld) -> None:
    """And so before the old one is left."""
    seen: list[tuple[str, ...]] = []

    def before(effect: str) -> None:
        if effect == "agent.arrive" or (effect == "agent.connections" and len(seen) == 1):
            seen.append(leads(fake)[WWW])

    fake.before = before
    outcome = moved(fake)
    assert (outcome.ending, outcome.exit_code) == (Ending.MOVED, 0)
    assert leads(fake) == {WWW: (NEW,), MAIL: (NEW,)} and seen == [(OLD,), (NEW,)]
    assert fake.zone.names[WWW].ttl_s == 30
    assert [e.what for e in fake.events if e.kind == "name"] == [NameSet(n, (NEW,), (OLD,)) for n in (WWW, MAIL)]


def test_names_lead_to_what_clients_know_an_address_as(fake: FakeWorld) -> None:
    """And names of the inside to what the guest has."""
    pairs = {"bucharest": ((OLD, "203.0.113.97"),), "berlin": ((NEW, "198.51.100.10"),)}
    sites = tuple(
        replace(site, hosts=tuple(replace(h, public=pairs[h.name]) for h in site.hosts))
        for site in fake.inventory.sites
    )
    fake.inventory = replace(fake.inventory, sites=sites)
    fake.zone.put(WWW, "203.0.113.97", OTHER)
    chosen, book, faults = plan(fake), Logbook(), Faults()
    assert "name-differs" not in findings(fake)

    def crash(effect: str) -> None:
        if effect == "names.replace" and "203.0.113.97" not in leads(fake)[WWW]:
            raise Crash

    fake.before = crash
    with pytest.raises(Crash):
        book.attempt(chosen, fake.world, faults)
    fake.before = lambda _effect: None
    outcome = book.attempt(chosen, fake.world, faults)  # again, with one of the names led already
    assert (outcome.ending, outcome.reason) == (Ending.MOVED, "")
    assert leads(fake) == {WWW: (OTHER, "198.51.100.10"), MAIL: (NEW,)}


def down(fake: FakeWorld) -> None:
    fake.zone.up = False


def wrong_key(fake: FakeWorld) -> None:
    fake.zone.key = False


def closed(fake: FakeWorld) -> None:
    fake.zone.closed = True


def changed(fake: FakeWorld) -> None:
    fake.zone.put(WWW, OTHER)


@pytest.mark.parametrize("trouble", [down, wrong_key, closed, changed])
def test_what_the_name_server_does_not_do_is_left_for_resume_and_never_undoes_a_move(
    fake: FakeWorld, trouble: Callable[[FakeWorld], None]
) -> None:
    fake.guest.connections.append(connection(0xB2, OLD, willing=False))
    chosen, book = plan(fake), Logbook()

    def before(effect: str) -> None:
        if effect == "agent.arrive":
            trouble(fake)

    fake.before = before
    outcome = book.attempt(chosen, fake.world, Faults())
    assert (outcome.ending, outcome.exit_code, outcome.remains) == (Ending.INCOMPLETE, 5, True)
    assert outcome.reason and outcome.hint and outcome.names_remain
    if trouble is changed:
        left = f"it was left as it is: whoever changed it sets it to {NEW}; then vmacro resume {chosen.move_id}"
        assert (outcome.reason, outcome.hint) == (f"name {WWW}: leads to {OTHER}, and not to guest web", left)
    assert fake.running_at() == ["berlin"] and fake.guest.address == NEW and fake.guest.claim is None
    assert all(c.kept for c in outcome.connections), "the move went on all the same"
    assert leads(fake)[WWW] != (NEW,)
    again = book.attempt(chosen, fake.world, Faults())
    assert again.remains and again.names_remain, "it is tried again, and says so"
    fake.zone.up, fake.zone.key, fake.zone.closed = True, True, False
    if trouble is changed:
        assert leads(fake) == {WWW: (OTHER,), MAIL: (NEW,)}, "the other name follows, this one is left as it is"
        fake.zone.put(WWW, OTHER, NEW)  # whoever changed it
    asked: list[str] = []
    fake.before = asked.append
    done = book.attempt(chosen, fake.world, Faults())
    assert (done.ending, done.remains, done.names_remain) == (Ending.MOVED, False, False), done
    assert all(c.kept for c in done.connections) and NEW in leads(fake)[WWW] and leads(fake)[MAIL] == (NEW,)
    assert "agent.retire" not in asked and "agent.arrive" not in asked, "what was done is not done again"


@pytest.mark.parametrize("trouble", [down, wrong_key])
def test_a_server_that_does_not_answer_is_not_asked_for_every_name(
    fake: FakeWorld, trouble: Callable[[FakeWorld], None]
) -> None:
    """Sixteen names would keep the guest's connections waiting for a minute."""
    chosen, asked = plan(fake), list[str]()
    trouble(fake)
    fake.before = asked.append
    assert moved(fake, chosen).exit_code == 5 and asked.count("names.look") == 1
    assert asked[asked.index("names.look") - 1] == "agent.claim", "or the agent would settle the arrival by itself"


def test_others_may_change_it_at_the_same_time(fake: FakeWorld) -> None:
    """One more record beside ours is no reason to give up, nor is it overwritten."""
    fake.before = lambda effect: fake.zone.meddlers.append(led(WWW, OLD, OTHER)) if effect == "agent.arrive" else None
    assert moved(fake).ending == Ending.MOVED
    assert leads(fake)[WWW] == (NEW, OTHER)


def test_who_changes_it_whenever_we_do_is_not_fought(fake: FakeWorld) -> None:
    meddlers = [led(WWW, OLD, f"10.9.9.{number}") for number in range(9)]
    fake.before = lambda effect: fake.zone.meddlers.extend(meddlers) if effect == "agent.arrive" else None
    chosen = plan(fake)
    outcome = moved(fake, chosen)
    assert outcome.exit_code == 5
    assert outcome.reason == f"name {WWW}: others changed it 5 times while it was set to {NEW}"
    assert outcome.hint == f"vmacro resume {chosen.move_id}"


def test_a_name_that_the_last_move_left_behind_is_taken_along(fake: FakeWorld) -> None:
    """Its name server was down then, and nobody resumed it; the old address still lingers."""
    story = Story(fake)
    fake.zone.up = False
    assert story.move().exit_code == 5
    fake.zone.up = True
    assert leads(fake)[WWW] == (OLD,)
    story.past = replace(story.past, lingering=(Lingering(OLD, 0.0),))
    asked = wanted(fake, "bucharest")
    seen = measured.look(fake.inventory, asked, fake.world, ask_clients=True, past=story.past)
    hint = "an earlier move could not lead it: vmacro resume; or this move leads it"
    assert [f.hint for f in checks.check(asked, seen) if f.code == "name-differs"] == [hint] * 2
    chosen = story.plan("bucharest")
    outcome = migrate.run_move(chosen, fake.world, Straight())
    assert outcome.exit_code == 0
    assert leads(fake)[WWW] == (fake.guest.address,) and fake.guest.address not in (OLD, NEW)
    times = {c.address: c.open_until_s - fake.now_s for c in carry.carriages(chosen, outcome, fake.now_s)}
    assert times == {OLD: 60, NEW: 60}, "who had asked for the name until now"


def test_a_move_that_rolls_back_leaves_names_alone(fake: FakeWorld) -> None:
    hooked(fake)

    def before(effect: str) -> None:
        if effect == "copy bucharest":
            raise UnreachableError("host bucharest: gone")

    fake.before = before
    assert moved(fake).ending == Ending.ROLLED_BACK
    assert leads(fake) == {WWW: (OLD,), MAIL: (OLD,)} and [path for path, _ in fake.hooks.ran] == ["/b1", "/b2"]


def test_an_inventory_without_a_name_server_any_more_leaves_work(fake: FakeWorld) -> None:
    class Gone:
        def look(self, name: str) -> NameFacts:
            raise ConfigurationError(f"name {name}: the inventory has no [dns]")

        def replace(self, seen: NameFacts, wanted: tuple[str, ...]) -> bool:
            raise AssertionError

    chosen = plan(fake)
    outcome = migrate.run_move(chosen, replace(fake.world, names=Gone()), Straight())
    assert outcome.exit_code == 5 and "no [dns]" in outcome.reason


# -- the old address


def carriage(fake: FakeWorld, chosen: Plan | None = None) -> Carriage:
    chosen = chosen or plan(fake)
    (found,) = carry.carriages(chosen, moved(fake, chosen), fake.now_s)
    return found


def test_the_old_address_takes_new_connections_for_as_long_as_it_lingers(fake: FakeWorld) -> None:
    found = carriage(fake)
    assert found.lingers_until_s == fake.now_s + 60 and fake.guest.kept == [OLD]
    assert [c.reaches(OLD) for c in fake.guest.connections] == [True], "withdrawn, it would take visitors along"
    assert ends(fake)["bucharest"] == [("home", OLD, "tunnel")]
    began = fake.now_s

    def before(effect: str) -> None:
        if effect == "agent.status" and fake.now_s > began + 30 and len(fake.guest.connections) == 1:
            fake.guest.connections.append(connection(0, OLD, willing=False))  # a visitor
        if effect == "agent.retire" and fake.now_s > began + 200:
            fake.guest.connections = fake.guest.connections[:1]

    fake.before = before
    assert "last connection" in carry.run_carriage(found, fake.world, Straight())
    assert fake.now_s > began + 200 and fake.guest.kept == [] and ends(fake) == {"bucharest": [], "berlin": []}


def test_it_is_retired_at_the_end_of_its_time_and_not_before(fake: FakeWorld) -> None:
    found, retired = carriage(fake), list[float]()
    fake.before = lambda effect: retired.append(fake.now_s) if effect == "agent.retire" else None
    carry.run_carriage(found, fake.world, Straight())
    assert len(retired) == 1 and 0 <= retired[0] - found.lingers_until_s <= 2


def test_the_deadline_of_carriages_comes_first(fake: FakeWorld) -> None:
    said(fake, carry_deadline_s=20.0)
    found, began = carriage(fake), fake.now_s
    assert found.open_until_s == found.deadline_s == began + 20
    carry.run_carriage(found, fake.world, Straight())
    assert fake.now_s < began + 30 and fake.guest.kept == []


def test_while_a_name_may_lead_there_it_lingers_until_resume_has_led_it_elsewhere(fake: FakeWorld) -> None:
    chosen, book = plan(fake), Logbook()
    fake.zone.up = False
    (first,) = carry.carriages(chosen, book.attempt(chosen, fake.world, Faults()), fake.now_s)
    assert first.open_until_s == first.deadline_s == fake.now_s + 86_400
    fake.zone.up = True
    (second,) = carry.carriages(chosen, book.attempt(chosen, fake.world, Faults()), fake.now_s)
    assert second.open_until_s == fake.now_s + 60
    carry.run_carriage(second, fake.world, Straight())
    assert fake.guest.kept == []
    carry.run_carriage(first, fake.world, Straight())
    assert fake.now_s < first.open_until_s - 80_000, "it sees that the address has gone"
    assert ends(fake) == {"bucharest": [], "berlin": []}


def test_an_address_of_an_earlier_move_lingers_no_longer_for_a_further_one(fake: FakeWorld) -> None:
    story = Story(fake)
    story.move()
    until = fake.now_s + 60
    story.past = replace(story.past, lingering=(Lingering(OLD, until),))
    chosen = story.plan("bucharest")
    assert [chosen.lingers_until_s(a, fake.now_s + 9) for a in (OLD, NEW, OTHER)] == [until, fake.now_s + 69, 0]
    outcome = migrate.run_move(chosen, fake.world, Straight())
    assert set(outcome.carried) == {OLD, NEW}
    times = {c.address: c.lingers_until_s for c in carry.carriages(chosen, outcome, fake.now_s)}
    assert times == {OLD: until, NEW: fake.now_s + 60}
    fake.clock.sleep(61)
    later = replace(chosen, move_id="web-9", lingering=(Lingering(OLD, until),), address=NEW)
    assert later.lingers_until_s(OLD, fake.now_s) < fake.now_s


# -- hooks


def told(fake: FakeWorld) -> list[tuple[str, dict[str, Any]]]:
    return [(path, json.loads(text)) for path, text in fake.hooks.ran]


def test_hooks_run_before_anything_is_touched_and_once_the_guest_has_arrived(fake: FakeWorld) -> None:
    hooked(fake)
    chosen, calls = plan(fake), list[str]()
    fake.before = calls.append
    assert moved(fake, chosen).ending == Ending.MOVED
    assert [path for path, _ in told(fake)] == ["/b1", "/b2", "/a1", "/a2"]
    assert calls[:2] == ["hook", "hook"]
    last = len(calls) - 1 - calls[::-1].index("hook")
    assert calls.index("agent.arrive") < last < len(calls) - 1 - calls[::-1].index("agent.connections")
    assert calls.index("names.replace") < last
    (_, first), (_, after) = told(fake)[0], told(fake)[-1]
    assert first == {
        "version": 1,
        "when": "before",
        "move": "web-1",
        "guest": "web",
        "handoff": "seamless",
        "operator": "",
        "from": {"site": "bucharest", "host": "bucharest"},
        "to": {"site": "berlin", "host": "berlin"},
        "old_addresses": [OLD],
        "new_addresses": [NEW],
        "names": [WWW, MAIL],
    }
    assert after == {**first, "when": "after"}


LATE, FAILED = HookEnd(-9, 0, "", late=True), HookEnd(3, 5, "no such pool")


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (FAILED, "exit status 3: no such pool"),
        (LATE, "had not ended after 7 s, and was ended"),
        (HookEnd(-15, 1, ""), "was ended by signal 15"),
    ],
)
def test_one_that_fails_before_stops_the_move(fake: FakeWorld, end: HookEnd, why: str) -> None:
    hooked(fake)
    fake.hooks.ends["/b1"] = end
    chosen, calls = plan(fake), list[str]()
    fake.before = calls.append
    outcome = moved(fake, chosen)
    assert (outcome.ending, outcome.exit_code, outcome.remains) == (Ending.ROLLED_BACK, 4, False)
    assert outcome.reason == f"hook /b1 (before): {why}"
    assert outcome.hint == "hooks.on_failure says what follows from that"
    assert [path for path, _ in told(fake)] == ["/b1"]
    assert calls == ["hook", "release berlin"], "nothing was touched; what was reserved for the plan is given back"
    (event,) = [e.what for e in fake.events if isinstance(e.what, HookEnded)]
    assert event.trouble and event.when == "before" and event.said == end.said


def test_one_that_fails_after_leaves_work_that_resume_does(fake: FakeWorld) -> None:
    hooked(fake)
    fake.hooks.ends["/a1"] = FAILED
    chosen, book = plan(fake), Logbook()
    outcome = book.attempt(chosen, fake.world, Faults())
    assert outcome.exit_code == 5 and outcome.remains and "/a1" in outcome.reason and not outcome.names_remain
    assert [path for path, _ in told(fake)] == ["/b1", "/b2", "/a1", "/a2"], "the others are run all the same"
    assert fake.guest.address == NEW and all(c.kept for c in outcome.connections)
    del fake.hooks.ends["/a1"]
    assert book.attempt(chosen, fake.world, Faults()).ending == Ending.MOVED
    assert [path for path, _ in told(fake)][4:] == ["/a1", "/a2"], "those before are not run again"


def test_what_dhcp_has_given_to_somebody_else_meanwhile_is_not_taken_from_them_by_a_late_resume(
    fake: FakeWorld,
) -> None:
    """The old address has had its time, and was closed; the guest's own lease of it has ended."""
    hooked(fake)
    fake.hooks.ends["/a1"] = HookEnd(3, 5, "")
    chosen, book = plan(fake), Logbook()
    outcome = book.attempt(chosen, fake.world, Faults())
    assert outcome.remains and outcome.carried == (OLD,)
    fake.clock.sleep(100)
    (carriage,) = carry.carriages(chosen, outcome, fake.now_s - 100)
    assert "closed" in carry.run_carriage(carriage, fake.world, Straight())
    home, neighbour = fake.hosts["bucharest"], "52:54:00:77:77:77"
    del home.leases[chosen.mac]
    home.leases[neighbour] = OLD
    fake.hooks.ends.clear()
    assert book.attempt(chosen, fake.world, Faults()).ending == Ending.MOVED
    assert home.networks["front"].reserved == ()


def test_one_that_may_not_be_run_any_more_is_as_one_that_fails(fake: FakeWorld) -> None:
    hooked(fake)
    fake.hooks.missing.add("/b2")
    outcome = moved(fake)
    assert outcome.exit_code == 4 and "/b2" in outcome.reason


def test_where_a_failure_is_only_told_the_move_goes_on(fake: FakeWorld) -> None:
    hooked(fake, strict=False)
    fake.hooks.ends |= {"/b1": FAILED, "/a2": LATE}
    fake.hooks.missing.add("/b2")
    assert moved(fake).ending == Ending.MOVED
    troubles = {e.what.path: e.what.trouble for e in fake.events if isinstance(e.what, HookEnded)}
    assert troubles["/b1"] == "exit status 3" and "no such file" in troubles["/b2"] and troubles["/a1"] == ""
    assert "7 s" in troubles["/a2"]


@pytest.mark.parametrize("at", ["agent.prepare", "copy.done"])
@pytest.mark.parametrize("aborted", [False, True], ids=["resumed", "aborted"])
def test_hooks_that_are_new_since_an_attempt_was_cut_off_come_too_late(fake: FakeWorld, at: str, aborted: bool) -> None:
    """They neither bring anybody back nor have what was prepared forgotten, nor the connections that there were."""
    chosen, book = plan(fake), Logbook()

    def crash(effect: str) -> None:
        if effect == at:
            raise Crash

    fake.before = crash
    with pytest.raises(Crash):
        book.attempt(chosen, fake.world, Faults())
    fake.before = lambda _effect: None
    hooked(fake)
    fake.hooks.ends["/b1"] = FAILED
    world = replace(fake.world, cancelled=lambda: aborted)
    outcome = book.attempt(chosen, world, Faults())
    back = aborted and at == "agent.prepare"
    assert fake.running_at() == (["bucharest"] if back else ["berlin"])
    assert outcome.ending == (Ending.ROLLED_BACK if back else Ending.MOVED), outcome
    assert not [path for path, _ in fake.hooks.ran if path.startswith("/b")]
    if back:
        assert not any(ends(fake).values()) and not [n for n in fake.hosts["berlin"].networks.values() if n.reserved]
    else:
        assert outcome.connections


def test_an_interrupt_is_not_kept_waiting_by_the_hooks_to_come(fake: FakeWorld) -> None:
    hooked(fake)
    world = replace(fake.world, cancelled=lambda: bool(fake.hooks.ran))
    outcome = migrate.run_move(plan(fake), world, Straight())
    assert (outcome.ending, outcome.reason) == (Ending.ROLLED_BACK, "interrupted before hook /b2 began")
    assert [path for path, _ in fake.hooks.ran] == ["/b1"]


def test_what_a_plan_says_is_never_run(fake: FakeWorld) -> None:
    """Who writes rows of the journal names no executable, and no name but the inventory's."""
    assert not any("hook" in name for name in Plan.__dataclass_fields__)


def test_names_and_hooks_fail_together_and_both_are_told(fake: FakeWorld) -> None:
    hooked(fake)
    fake.hooks.ends["/a1"] = FAILED
    chosen = plan(fake)
    fake.zone.up = False
    outcome = moved(fake, chosen)
    assert "name server" in outcome.reason and "/a1" in outcome.reason
