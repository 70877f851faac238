"""What moves at once count on: no two the same, and nothing that a stranger uses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

import vmacro.api
from tests.unit.test_migrate import Straight
from tests.unit.town import PATIENCE_S, Town
from vmacro.drivers.fake import Effect, FakeWorld
from vmacro.errors import AgentError, HostError, JournalError, PlanRejectedError, RolledBackError, UnreachableError
from vmacro.model import marks
from vmacro.model.facts import HostView, Reservation
from vmacro.model.moves import Ending, Outcome, Plan
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request
from vmacro.services import measured, migrate
from vmacro.services.reservations import Reservations

STRANGER = "de:ad:be:ef:00:01"


def test_the_address_that_a_second_move_gets_is_asked_about_too(town: Town, session: vmacro.api.Session) -> None:
    town.fake.hosts["berlin-1"].used["10.50.2.11"] = STRANGER
    gate = town.gate("copy bucharest", "g1")
    first = session.migrate("g1", "berlin/berlin-1")
    gate.wait_until_reached()
    assert "address-used" in [f.code for f in session.check("g2", "berlin/berlin-1").findings]
    with pytest.raises(PlanRejectedError, match=r"10\.50\.2\.11.* is used by"):
        session.migrate("g2", "berlin/berlin-1").result(PATIENCE_S)
    gate.open()
    assert first.result(PATIENCE_S).outcome.ending == Ending.MOVED


class Overtaken(Reservations):
    """Another move reserves an address just after the last look of this one, a new one each time it looks again."""

    def __init__(self, others: list[Plan]) -> None:
        super().__init__()
        self._others, self._held, self._looks = others, ExitStack(), 0

    def counted(self, views: tuple[HostView, ...]) -> tuple[HostView, ...]:
        seen = super().counted(views)
        self._looks += 1
        if self._looks > 1 and self._others:
            self._held.enter_context(self.held(self._others.pop(0)))
        return seen


def moved(fake: FakeWorld, others: int) -> Plan:
    """The plan of a move that so many others overtake."""
    wanted = Request(fake.inventory.guests[0], fake.inventory.sites[1], SEAMLESS, fake.inventory.policy)
    seen = measured.look(fake.inventory, wanted, fake.world, ask_clients=True)
    plan = measured.planned("m", fake.inventory, wanted, seen)
    plans = [
        replace(plan, move_id=f"m{n}", mac=f"52:54:00:00:01:0{n}", new_address=f"10.50.2.1{n}", memory_mib=0)
        for n in range(others)
    ]

    def run(_plan: Plan) -> Outcome:
        return Outcome(Ending.MOVED)

    reserved = Overtaken(plans)
    return measured.move(fake.inventory, wanted, fake.world, run, lambda: "web-1", None, Path, reserved).plan


def test_a_move_that_is_overtaken_looks_again() -> None:
    assert moved(FakeWorld(), others=2).new_address == "10.50.2.12"
    fake = FakeWorld()
    fake.hosts["berlin"].used["10.50.2.11"] = STRANGER
    with pytest.raises(PlanRejectedError, match=r"10\.50\.2\.11.* is used by"):
        moved(fake, others=1)


def test_a_move_that_is_overtaken_each_time_gives_up() -> None:
    with pytest.raises(PlanRejectedError, match="other moves took 5 addresses"):
        moved(FakeWorld(), others=measured.LOOKS)


def reserved(fake: FakeWorld) -> list[Reservation]:
    return [*fake.hosts["berlin"].networks["front"].reserved]


def begun(fake: FakeWorld, run: Callable[[Plan], Outcome], interrupted: bool = False) -> Plan:
    """By an orchestrator of its own: nothing but DHCP is shared with others."""
    wanted = Request(fake.inventory.guests[0], fake.inventory.sites[1], SEAMLESS, fake.inventory.policy)
    fake.interrupted = interrupted
    return measured.move(fake.inventory, wanted, fake.world, run, lambda: "web-1", None, Path, Reservations()).plan


def others(fake: FakeWorld, moves: int, at: str = "reserve berlin") -> Callable[[Effect], None]:
    """So many moves of other orchestrators, each of which is a moment faster than this one."""
    known, left = fake.world.hypervisor(fake.inventory.hosts[1]), [*range(10, 10 + moves)]

    def before(coming: Effect) -> None:
        if coming == at and left:
            n = left.pop(0)
            fake.before = lambda _effect: None
            known.reserve("front", marks.reservation(f"other-{n}", f"10.50.2.{n}", f"52:54:00:00:02:{n}"))
            fake.before = before

    return before


def test_the_address_is_this_moves_by_its_mark_before_anything_counts_on_it() -> None:
    fake = FakeWorld()
    seen: list[list[Reservation]] = []

    def run(_plan: Plan) -> Outcome:
        seen.append(reserved(fake))
        return Outcome(Ending.MOVED)

    plan = begun(fake, run)
    assert plan.reserve and seen == [[marks.reservation("web-1", "10.50.2.10", plan.mac)]]


@pytest.mark.parametrize("moves", [1, 4])
def test_of_two_orchestrators_that_choose_one_address_the_second_takes_another(moves: int) -> None:
    fake = FakeWorld()
    fake.before = others(fake, moves)
    plan = begun(fake, lambda _plan: Outcome(Ending.MOVED))
    assert plan.new_address == f"10.50.2.{10 + moves}"
    assert [entry for entry in reserved(fake) if entry.mac == plan.mac] == [
        marks.reservation("web-1", plan.new_address, plan.mac)
    ]
    told = [event.text for event in fake.events if "looking for another" in event.text]
    assert len(told) == moves and "there is one of 10.50.2.10 for 52:54:00:00:02:10 (vmacro-other-10-" in told[0]


def test_who_is_late_each_time_gives_up_and_has_changed_nothing() -> None:
    fake = FakeWorld()
    fake.before = others(fake, measured.LOOKS)
    with pytest.raises(PlanRejectedError, match="other moves took 5 addresses"):
        begun(fake, lambda _plan: Outcome(Ending.MOVED))
    assert len(reserved(fake)) == measured.LOOKS and fake.guest.mac not in [entry.mac for entry in reserved(fake)]


def test_what_an_operator_reserves_for_the_guest_meanwhile_is_kept_and_nothing_of_ours_is_beside_it() -> None:
    fake = FakeWorld()
    pin = Reservation("10.50.2.10", fake.guest.mac, "web")

    def before(coming: Effect) -> None:
        if coming == "reserve berlin":
            fake.before = lambda _effect: None
            fake.world.hypervisor(fake.inventory.hosts[1]).reserve("front", pin)

    fake.before = before
    assert begun(fake, lambda plan: migrate.run_move(plan, fake.world, Straight())).new_address == "10.50.2.10"
    assert reserved(fake) == [pin] and fake.running_at() == ["berlin"] and fake.guest.address == "10.50.2.10"


def test_no_move_counts_on_what_another_one_has_reserved_for_its_guest() -> None:
    """Another orchestrator's, which gives it back as it ends before it has claimed the guest."""
    fake = FakeWorld()
    theirs = marks.reservation("web-9", "10.50.2.10", fake.guest.mac)
    fake.world.hypervisor(fake.inventory.hosts[1]).reserve("front", theirs)

    def ends(plan: Plan) -> Outcome:
        fake.world.hypervisor(fake.inventory.hosts[1]).release("front", theirs)
        seen: list[list[Reservation]] = []
        fake.before = lambda effect: seen.append(reserved(fake)) if effect.startswith("copy ") else None
        outcome = migrate.run_move(plan, fake.world, Straight())
        assert seen == [[marks.reservation(plan.move_id, "10.50.2.10", fake.guest.mac)]]
        return outcome

    assert begun(fake, ends).new_address == "10.50.2.10"
    assert fake.running_at() == ["berlin"] and reserved(fake) == []


def test_nothing_is_reserved_for_a_move_that_does_not_begin() -> None:
    """Because somebody has interrupted it, or the journal cannot be written."""
    fake = FakeWorld()
    with pytest.raises(RolledBackError, match="interrupted before the move began"):
        begun(fake, lambda _plan: Outcome(Ending.MOVED), interrupted=True)
    assert reserved(fake) == []

    def full(_plan: Plan) -> Outcome:
        assert reserved(fake) != []
        raise JournalError("the journal cannot be written")

    with pytest.raises(JournalError):
        begun(fake, full)
    assert reserved(fake) == []


@pytest.mark.parametrize("effect", ["agent.claim", "agent.watch"])
def test_nothing_stays_reserved_by_a_move_that_ends_before_it_prepares_anything(effect: Effect) -> None:
    """Somebody else has claimed the guest meanwhile, or its agent has become silent."""
    fake, outcomes = FakeWorld(), []

    def before(coming: Effect) -> None:
        if coming == effect:
            assert reserved(fake) != []
            raise AgentError("guest web: no")

    def run(plan: Plan) -> Outcome:
        fake.before = before
        outcomes.append(migrate.run_move(plan, fake.world, Straight()))
        return outcomes[0]

    begun(fake, run)
    assert [(o.ending, o.remains) for o in outcomes] == [(Ending.ROLLED_BACK, False)] and reserved(fake) == []


def test_a_host_that_refuses_or_cannot_be_asked_rejects_the_move_and_what_stays_is_told() -> None:
    for error in (HostError("host berlin: no"), UnreachableError("host berlin: no answer")):
        fake = FakeWorld()

        def before(coming: Effect, error: HostError = error) -> None:
            if coming in ("reserve berlin", "release berlin"):
                raise error

        fake.before = before
        with pytest.raises(PlanRejectedError, match=f"the move was not started: {error.message}"):
            begun(fake, lambda _plan: Outcome(Ending.MOVED))
        assert any("`vmacro cleanup` removes it" in event.text for event in fake.events)


def test_a_move_that_is_resumed_has_what_it_counts_on(town: Town, session: vmacro.api.Session) -> None:
    def fail() -> None:
        town.fake.hosts["berlin-1"].reachable = False

    town.at("copy bucharest", "g1", fail)
    assert session.migrate("g1", "berlin/berlin-1").result(PATIENCE_S).outcome.remains
    town.fake.hosts["berlin-1"].reachable = True
    town.fake.hosts["berlin-1"].facts = replace(town.fake.hosts["berlin-1"].facts, free_memory_mib=700)
    gate = town.gate("agent.release", "g1")
    resumed = session.resume()
    gate.wait_until_reached()
    with pytest.raises(PlanRejectedError, match="700 MiB free and 256 MiB of it for guests on their way"):
        session.plan("g2", "berlin/berlin-1")
    gate.open()
    assert resumed.result(PATIENCE_S).outcome.ending == Ending.ROLLED_BACK
    assert session.plan("g2", "berlin/berlin-1").new_address == "10.50.2.10", "given back"


def test_addresses_are_reserved_only_where_they_could_be_given(town: Town, session: vmacro.api.Session) -> None:
    """Each host of a site has its own part of the subnet, and its own DHCP."""
    parts = {"berlin-1": ("10.50.2.10", "10.50.2.40"), "berlin-2": ("10.50.2.140", "10.50.2.140")}
    for name, part in parts.items():
        network = town.fake.hosts[name].networks["front"]
        town.fake.hosts[name].networks["front"] = replace(network, dhcp_range=part, dhcp_free=1)
    gate = town.gate("copy bucharest", "g1")
    first = session.migrate("g1", "berlin/berlin-1")
    gate.wait_until_reached()
    assert session.plan("g2", "berlin/berlin-2").new_address == "10.50.2.140"
    with pytest.raises(PlanRejectedError, match="no DHCP address is free"):
        session.plan("g2", "berlin/berlin-1")
    gate.open()
    assert first.result(PATIENCE_S).outcome.ending == Ending.MOVED
