"""Addresses that outlive their move: until the last connection ends, the deadline, or the next move."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from tests.unit.test_migrate import Straight
from tests.unit.test_seamless import Story, ends, plan
from vmacro.drivers.fake import FakeWorld, connection
from vmacro.drivers.fake.agent import FakeAgent
from vmacro.errors import AgentError, HostError, UnreachableError, VmacroError
from vmacro.model import marks
from vmacro.model.facts import Reservation
from vmacro.model.moves import Carriage, Ending
from vmacro.services import carry, migrate, seamless
from vmacro.services.executions import Suspended

OLD = "10.50.1.97"


@pytest.fixture
def fake() -> FakeWorld:
    found = FakeWorld()
    found.guest.connections.append(connection(0xB2, OLD, willing=False))
    return found


def moved(fake: FakeWorld) -> Carriage:
    chosen = plan(fake)
    outcome = migrate.run_move(chosen, fake.world, Straight())
    (carriage,) = carry.carriages(chosen, outcome, fake.now_s)
    return carriage


def nothing_left(fake: FakeWorld) -> bool:
    return ends(fake) == {"bucharest": [], "berlin": []} and not any(
        h.networks["front"].reserved for h in fake.hosts.values()
    )


def test_the_last_connection_ends_and_with_it_the_leg(fake: FakeWorld) -> None:
    carriage = moved(fake)
    asked = [0]

    def before(effect: str) -> None:
        if effect == "agent.retire":
            asked[0] += 1
            if asked[0] == 5:
                fake.guest.connections.pop()

    fake.before = before
    assert "last connection has ended" in carry.run_carriage(carriage, fake.world, Straight())
    assert asked[0] >= 5 and nothing_left(fake) and fake.guest.kept == []


@pytest.mark.parametrize(("takes_s", "every_s"), [(0.0, 1.0), (0.1, 1.1), (0.3, 3.0), (20.0, 25.0)])
def test_a_guest_that_is_slow_to_answer_is_left_alone_for_longer(
    fake: FakeWorld, takes_s: float, every_s: float
) -> None:
    carriage, asked_s = moved(fake), []

    def before(effect: str) -> None:
        if effect == "agent.retire":
            asked_s.append(fake.now_s)
            fake.world.clock.sleep(takes_s)

    fake.before = before
    assert carry._watch(carriage, fake.world) == carry.Need.NEEDED
    rests = [later - earlier for earlier, later in itertools.pairwise(asked_s)]
    assert rests and rests == pytest.approx([every_s] * len(rests))


def test_an_agent_that_has_just_started_knows_nothing_yet(fake: FakeWorld) -> None:
    carriage = moved(fake)
    address, kept = fake.guest.address, fake.guest.kept
    fake.guest.address, fake.guest.kept = "", []
    assert carry._retire_if_unused(carriage, fake.world) == carry.Need.NEEDED
    fake.guest.address, fake.guest.kept = address, kept
    assert carry._retire_if_unused(carriage, fake.world) == carry.Need.NEEDED


def test_the_deadline_cuts_what_is_left(fake: FakeWorld) -> None:
    carriage = replace(moved(fake), deadline_s=fake.now_s + 100)
    assert "deadline" in carry.run_carriage(carriage, fake.world, Straight())
    assert nothing_left(fake) and [c.token for c in fake.guest.connections] == [0xA1]


@pytest.mark.parametrize(
    "trouble",
    {
        "agent.open": AgentError("guest web: its agent does not answer"),
        "agent.status": AgentError("guest web: agent refused", code="busy"),
        "agent.retire": AgentError("guest web: agent refused", code="in-use"),
        "domain berlin": UnreachableError("host berlin: no answer"),
    }.items(),
    ids=lambda trouble: str(trouble[0]),
)
def test_at_the_deadline_its_hosts_close_it_whatever_the_guest_answers(
    fake: FakeWorld, trouble: tuple[str, VmacroError]
) -> None:
    carriage = replace(moved(fake), deadline_s=fake.now_s + 10)
    at, error = trouble

    def before(effect: str) -> None:
        if effect == at:
            raise error

    fake.before = before
    assert carry.run_carriage(carriage, fake.world, Straight()) == f"{OLD}: closed, its deadline has passed"
    assert nothing_left(fake)
    notes = [e.text for e in fake.events if e.kind == "note"]
    told = any(error.message in n and "close it all the same" in n for n in notes)
    assert told == (at in ("agent.open", "agent.retire")), "else it gave it up all the same"


def test_an_agent_that_says_that_it_is_still_in_use_is_told_of(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    carriage = replace(moved(fake), deadline_s=fake.now_s + 10)
    monkeypatch.setattr(FakeAgent, "retire", lambda *_, **__: False)
    carry.run_carriage(carriage, fake.world, Straight())
    assert nothing_left(fake) and any("still in use" in e.text for e in fake.events if e.kind == "note")


@pytest.mark.parametrize("host", ["bucharest", "berlin"])
def test_the_other_end_closes_where_a_host_is_away_and_that_one_later(fake: FakeWorld, host: str) -> None:
    carriage = replace(moved(fake), deadline_s=fake.now_s + 10)
    away, closed = [20], []

    def before(effect: str) -> None:
        if effect == f"link.close {host}" and away[0]:
            away[0] -= 1
            closed.append(ends(fake))
            raise UnreachableError(f"host {host}: no SSH")

    fake.before = before
    assert carry.run_carriage(carriage, fake.world, Straight()) == f"{OLD}: closed, its deadline has passed"
    other = "berlin" if host == "bucharest" else "bucharest"
    assert nothing_left(fake) and closed[-1][other] == [] and closed[-1][host] != []


def test_a_host_that_never_comes_back_is_named_and_the_rest_is_closed(fake: FakeWorld) -> None:
    carriage = replace(moved(fake), deadline_s=fake.now_s + 10)

    def before(effect: str) -> None:
        if effect.startswith("link.") and effect.endswith("berlin"):
            raise UnreachableError("host berlin: no SSH")

    fake.before = before
    ended = carry.run_carriage(carriage, fake.world, Straight())
    assert "host berlin: no SSH" in ended and "vmacro cleanup" in ended
    assert ends(fake)["bucharest"] == [] and not fake.hosts["bucharest"].networks["front"].reserved


@pytest.mark.parametrize("state", ["shut off", "paused", "gone"])
def test_a_guest_that_is_switched_off_keeps_its_leg_until_the_deadline_and_no_longer(
    fake: FakeWorld, state: str
) -> None:
    """It may be started again. That no move has taken it away, the leg's home knows."""
    carriage = replace(moved(fake), deadline_s=fake.now_s + 100)
    berlin = fake.hosts["berlin"].domains
    if state == "gone":
        berlin.clear()
    else:
        berlin["web"] = replace(berlin["web"], state=state)
    began = fake.now_s
    assert "deadline" in carry.run_carriage(carriage, fake.world, Straight())
    assert nothing_left(fake) and fake.now_s > began + 99


def test_a_reservation_without_a_leg_does_not_outlive_a_guest_that_is_switched_off(fake: FakeWorld) -> None:
    """Carried at home, where no leg is."""
    story = Story(fake)
    story.move()
    chosen = story.plan("bucharest")
    (carriage,) = carry.carriages(chosen, migrate.run_move(chosen, fake.world, Straight()), fake.now_s)
    assert carriage.leg is None and fake.hosts["bucharest"].networks["front"].reserved
    fake.hosts["bucharest"].domains.clear()
    assert "deadline" in carry.run_carriage(replace(carriage, deadline_s=fake.now_s + 9), fake.world, Straight())
    assert nothing_left(fake)


def test_what_the_guest_still_has_as_its_present_address_is_needed(fake: FakeWorld) -> None:
    """It was moved, and its agent has not seen that: to close the leg would cut everybody off."""
    carriage = moved(fake)
    fake.guest.kept = []
    for present in ({"address": OLD}, {"address6": OLD}):
        held = dict(fake.guest.__dict__)
        fake.guest.__dict__.update(present)
        assert carry._retire_if_unused(carriage, fake.world) == carry.Need.NEEDED
        fake.guest.__dict__.update(held)
    assert carry._retire_if_unused(carriage, fake.world) == carry.Need.UNNEEDED


def test_a_later_move_takes_over(fake: FakeWorld) -> None:
    story = Story(fake)
    chosen = story.plan()
    outcome = migrate.run_move(chosen, fake.world, Straight())
    story.happened(chosen, outcome)
    (carriage,) = carry.carriages(chosen, outcome, fake.now_s)
    story.move("bucharest")
    assert "later move" in carry.run_carriage(carriage, fake.world, Straight())
    assert OLD in fake.guest.kept
    assert [r.address for r in fake.hosts["bucharest"].networks["front"].reserved] == [OLD], (
        "which the later move needs"
    )


def left_at_home(story: Story) -> Carriage:
    """Of a guest that has gone, and come back to another address: the one that it had first."""
    story.move()
    chosen = story.plan("bucharest")
    outcome = migrate.run_move(chosen, story.fake.world, Straight())
    story.happened(chosen, outcome)
    (at_home,) = [c for c in carry.carriages(chosen, outcome, story.fake.now_s) if c.leg is None]
    return at_home


def test_an_address_at_home_that_a_later_move_carries_is_that_ones(fake: FakeWorld) -> None:
    """It has no leg there that the later move would close, and its reservation is the later move's now."""
    story = Story(fake)
    at_home = left_at_home(story)
    assert story.move("berlin").carried == (at_home.address,)
    before, began = ends(fake), fake.now_s
    assert "later move" in carry.run_carriage(at_home, fake.world, Straight())
    assert ends(fake) == before and fake.now_s < began + 60


@pytest.mark.parametrize("late_s", [1e6, -1.0])
def test_an_address_at_home_that_a_later_move_has_given_the_guest_again_is_that_ones(
    fake: FakeWorld, late_s: float
) -> None:
    """The guest has gone, and come back to it as its present address: it is in use, but carried no longer."""
    at_home = left_at_home(Story(fake))
    again = replace(at_home, address=fake.guest.address, deadline_s=fake.now_s + late_s)
    effects: list[str] = []
    fake.before = effects.append
    assert "later move" in carry.run_carriage(again, fake.world, Straight())
    assert not [effect for effect in effects if "retire" in effect or "release" in effect], effects


def test_what_an_address_is_kept_for_is_told_once_as_long_as_it_is_the_same(fake: FakeWorld) -> None:
    carriage = replace(moved(fake), lingers_until_s=fake.now_s + 90)
    carry.run_carriage(replace(carriage, deadline_s=fake.now_s + 200), fake.world, Straight())
    told = [e.text for e in fake.events if e.kind == "carry.waits"]
    assert len(told) == 2 and "lingers for new connections" in told[0] and "still use it" in told[1], told


def test_a_process_that_is_told_to_leave_ends_no_carriage(fake: FakeWorld) -> None:
    """Neither while it watches, nor while a host is away that is to close its end."""
    carriage = moved(fake)
    leaving = replace(fake.world, cancelled=lambda: True)
    with pytest.raises(Suspended):
        carry.run_carriage(carriage, leaving, Straight())
    fake.hosts["berlin"].reachable = False
    with pytest.raises(Suspended):
        carry._close(carriage, leaving, late=True)


def test_the_deadline_of_an_earlier_move_cuts_nothing_that_a_later_one_carries(fake: FakeWorld) -> None:
    """The guest went away and came back, and nobody looked meanwhile."""
    story = Story(fake)
    chosen = story.plan()
    outcome = migrate.run_move(chosen, fake.world, Straight())
    story.happened(chosen, outcome)
    (first,) = carry.carriages(chosen, outcome, fake.now_s)
    story.move("bucharest")
    assert story.move("berlin").carried == (OLD,)
    before = ends(fake)
    carry.run_carriage(replace(first, deadline_s=fake.now_s + 5), fake.world, Straight())
    assert ends(fake) == before and OLD in fake.guest.kept and len(fake.guest.connections) == 2
    assert [r.address for r in fake.hosts["bucharest"].networks["front"].reserved] == [OLD]


@pytest.mark.parametrize("at_deadline", [False, True])
def test_a_home_that_lies_leaves_no_leg_at_the_other_host(fake: FakeWorld, at_deadline: bool) -> None:
    """It says that its own end has gone, or that a later move has the address."""
    carriage = replace(moved(fake), deadline_s=fake.now_s + 5)
    home = fake.hosts["bucharest"]
    (end,) = home.legs.values()
    home.legs = {("web-9", OLD): replace(end, move="web-9")} if at_deadline else {}
    if not at_deadline:
        fake.hosts["berlin"].domains.clear()
    assert "deadline" in carry.run_carriage(carriage, fake.world, Straight())
    assert ends(fake)["berlin"] == []


def test_a_later_move_that_is_under_way_is_waited_for(fake: FakeWorld) -> None:
    """Its leg stands beside the earlier one, which it closes in the end. At the deadline nobody waits for that."""
    carriage = moved(fake)
    home = fake.hosts["bucharest"]
    (end,) = home.legs.values()
    fake.hosts["berlin"].domains.clear()
    home.legs[("web-2", OLD)] = replace(end, move="web-2")
    assert carry._retire_if_unused(carriage, fake.world) == carry.Need.NEEDED
    carry.run_carriage(replace(carriage, deadline_s=fake.now_s + 5), fake.world, Straight())
    assert list(home.legs) == [("web-2", OLD)] and ends(fake)["berlin"] == []
    assert [r.address for r in home.networks["front"].reserved] == [OLD]


def test_nobody_is_cut_for_an_agent_that_is_silent_for_a_while(fake: FakeWorld) -> None:
    carriage = moved(fake)
    silent = [20]

    def before(effect: str) -> None:
        if effect == "agent.open" and silent[0]:
            silent[0] -= 1
            raise AgentError("guest web: its agent does not answer")
        if effect == "agent.open":
            fake.guest.connections = [c for c in fake.guest.connections if c.token == 0xA1]

    fake.before = before
    assert "last connection" in carry.run_carriage(carriage, fake.world, Straight())
    assert [e.kind for e in fake.events].count("carry.trouble") == 20


@pytest.mark.parametrize("gone", [("bucharest",), ("berlin",), ("bucharest", "berlin")])
def test_a_leg_that_is_gone_is_made_anew_and_that_is_told(fake: FakeWorld, gone: tuple[str, ...]) -> None:
    """A host was restarted, or a tunnel's process died."""
    carriage = moved(fake)
    before = ends(fake)
    for name in gone:
        fake.hosts[name].legs.clear()
    made: list[str] = []
    fake.before = made.append
    assert carry._watch(replace(carriage, deadline_s=fake.now_s + 1), fake.world) == carry.Need.LATE
    assert ends(fake) == before
    assert {"link.join bucharest", "link.join berlin"} <= set(made), "each end has the other's new key"
    (told,) = [e for e in fake.events if e.kind == "carry.trouble"]
    assert f"gone at {' and '.join(gone)}, and has been made anew" in told.what.text


def test_a_leg_that_stands_is_looked_at_once_and_left_alone(fake: FakeWorld) -> None:
    carriage = moved(fake)
    made: list[str] = []
    fake.before = made.append
    assert carry._watch(replace(carriage, deadline_s=fake.now_s + 5), fake.world) == carry.Need.LATE
    assert [m for m in made if m.startswith("link.facts")] == ["link.facts bucharest", "link.facts berlin"]


def test_a_leg_that_cannot_be_made_anew_cuts_nobody(fake: FakeWorld) -> None:
    carriage = moved(fake)
    fake.hosts["bucharest"].legs.clear()
    fake.hosts["bucharest"].networks.clear()  # the host is up again, its network is not yet
    assert carry._watch(carriage, fake.world) == carry.Need.NEEDED
    assert OLD in fake.guest.kept
    assert ["no interface" in e.what.text for e in fake.events if e.kind == "carry.trouble"] == [True]


def test_a_guest_that_has_gone_on_gets_no_leg_of_an_earlier_move(fake: FakeWorld) -> None:
    """It would take the address from the leg that has it now."""
    story = Story(fake)
    chosen = story.plan()
    outcome = migrate.run_move(chosen, fake.world, Straight())
    story.happened(chosen, outcome)
    (carriage,) = carry.carriages(chosen, outcome, fake.now_s)
    story.move("bucharest")
    before = ends(fake)
    assert carry._watch(carriage, fake.world) == carry.Need.TAKEN_OVER
    assert ends(fake) == before


def test_a_guest_that_is_on_its_way_gets_no_leg_either(fake: FakeWorld) -> None:
    """It is not where the address was carried to, and its legs of that move still stand, but for one end."""
    carriage = moved(fake)
    fake.hosts["bucharest"].domains["web"] = fake.hosts["berlin"].domains.pop("web")
    fake.hosts["bucharest"].legs.clear()
    before = ends(fake)
    assert carry._watch(carriage, fake.world) == carry.Need.NEEDED
    assert ends(fake) == before


def test_no_leg_is_opened_plain_that_the_inventory_wants_encrypted(fake: FakeWorld) -> None:
    """Whatever a row of the journal says, or an older vmacro has planned: neither by a move nor by a carriage."""
    chosen, carriage = plan(fake), moved(fake)
    assert carriage.leg is not None
    plain = replace(carriage.leg, kind="vxlan")
    world, opened = FakeWorld(), []
    world.before = lambda effect: opened.append(effect) if effect.startswith("link.open") else None
    older = replace(chosen, new_legs=tuple(replace(leg, kind="vxlan") for leg in chosen.new_legs))
    outcome = migrate.run_move(older, world.world, Straight())
    assert outcome.ending == Ending.ROLLED_BACK and "plain_tunnel" in outcome.reason
    assert outcome.hint == "plan the move anew: vmacro abort, vmacro migrate"
    assert opened == []
    for host in fake.hosts.values():
        host.legs.clear()
    with pytest.raises(HostError, match="plain_tunnel"):
        seamless.mend(plain, fake.world)
    assert ends(fake) == {"bucharest": [], "berlin": []}


def test_an_address_that_an_operator_has_reserved_is_carried_and_stays_reserved(fake: FakeWorld) -> None:
    """libvirt takes one reservation of an address, and one of a card."""
    front, kept = fake.hosts["bucharest"].networks, (Reservation(OLD, "52:54:00:00:00:01"),)
    front["front"] = replace(front["front"], reserved=kept)
    chosen = plan(fake)
    outcome = migrate.run_move(chosen, fake.world, Straight())
    assert outcome.ending == Ending.MOVED and outcome.carried == (OLD,), outcome
    (carriage,) = carry.carriages(chosen, outcome, fake.now_s)
    assert "deadline" in carry.run_carriage(replace(carriage, deadline_s=fake.now_s + 5), fake.world, Straight())
    assert front["front"].reserved == kept and ends(fake) == {"bucharest": [], "berlin": []}


def test_an_entry_of_the_guests_own_card_that_a_move_has_left_becomes_nobodys(fake: FakeWorld) -> None:
    """The guest was at that host by a move that did not end well; else it could not come back while it is carried."""
    front, left = fake.hosts["bucharest"].networks, marks.reservation("web-0", OLD, "52:54:00:00:00:01")
    front["front"] = replace(front["front"], reserved=(left,))
    carriage = moved(fake)
    assert front["front"].reserved == (marks.placeholder("web-1", OLD),)
    carry.run_carriage(replace(carriage, deadline_s=fake.now_s + 5), fake.world, Straight())
    assert nothing_left(fake)


def test_a_reservation_without_a_mark_stays_though_it_is_for_nobodys_card(fake: FakeWorld) -> None:
    """An older vmacro's; the carriage that it began is still under way."""
    carriage = moved(fake)
    older = Reservation(OLD, marks.placeholder_mac(OLD))
    front = fake.hosts["bucharest"].networks
    front["front"] = replace(front["front"], reserved=(older,))
    assert "deadline" in carry.run_carriage(replace(carriage, deadline_s=fake.now_s + 5), fake.world, Straight())
    assert front["front"].reserved == (older,) and ends(fake) == {"bucharest": [], "berlin": []}


def test_at_the_deadline_nothing_is_cut_that_a_later_move_has_ended(fake: FakeWorld) -> None:
    """It has brought the guest back to where it has this address from DHCP again, and needs no leg."""
    carriage = replace(moved(fake), deadline_s=fake.now_s + 5)
    for where in fake.hosts.values():
        where.legs.clear()
    assert carry._is_anothers(carriage, fake.world)
    assert not carry._is_anothers(replace(carriage, leg=None), fake.world), "which no move has taken over"
