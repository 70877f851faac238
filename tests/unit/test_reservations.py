"""What moves at once count on: no two the same, and nothing that a stranger uses."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

import vmacro.api
from tests.unit.town import PATIENCE_S, Town
from vmacro.drivers.fake import FakeWorld
from vmacro.errors import PlanRejectedError
from vmacro.model.facts import HostView
from vmacro.model.moves import Ending, Outcome, Plan
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request
from vmacro.services import measured
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
