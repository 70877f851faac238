"""Addresses that outlive their move: until the last connection ends, the deadline, or the next move."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.unit.test_migrate import Straight
from tests.unit.test_seamless import ends, move, plan
from vmacro.drivers.agent import ChannelAgent, ChannelAgents
from vmacro.drivers.fake import FakeWorld, host
from vmacro.drivers.fake_agent import connection
from vmacro.drivers.libvirt_connection import Connections
from vmacro.errors import AgentError
from vmacro.model.moves import Carriage
from vmacro.model.nouns import Host
from vmacro.services import carry, migrate

OLD = "10.50.1.97"


@pytest.fixture
def fake() -> FakeWorld:
    found = FakeWorld()
    found.guest.connections.append(connection(0xB2, OLD, willing=False))
    return found


def moved(fake: FakeWorld) -> Carriage:
    chosen = plan(fake)
    outcome = migrate.tell_the_story(chosen, fake.world, Straight())
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
    assert "last connection has ended" in carry.tell_the_story(carriage, fake.world, Straight())
    assert asked[0] >= 5 and nothing_left(fake) and fake.guest.kept == []


def test_an_agent_that_has_just_started_knows_nothing_yet(fake: FakeWorld) -> None:
    carriage = moved(fake)
    address, kept = fake.guest.address, fake.guest.kept
    fake.guest.address, fake.guest.kept = "", []
    assert carry._look(carriage, fake.world) == carry.Verdict.NEEDED
    fake.guest.address, fake.guest.kept = address, kept
    assert carry._look(carriage, fake.world) == carry.Verdict.NEEDED


def test_the_deadline_cuts_what_is_left(fake: FakeWorld) -> None:
    carriage = replace(moved(fake), deadline_s=fake.now_s + 100)
    assert "deadline" in carry.tell_the_story(carriage, fake.world, Straight())
    assert nothing_left(fake) and [c.token for c in fake.guest.connections] == [0xA1]


def test_a_later_move_takes_over(fake: FakeWorld) -> None:
    carriage = moved(fake)
    move(fake, "bucharest", "web-2")
    assert "later move" in carry.tell_the_story(carriage, fake.world, Straight())
    assert OLD in fake.guest.kept


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
    assert "last connection" in carry.tell_the_story(carriage, fake.world, Straight())
    assert [e.kind for e in fake.events].count("carry.trouble") == 20


def test_users_of_one_guests_channel_take_turns() -> None:
    """Several carriages of a guest are watched at a time; libvirt would end one's use for the other's."""
    inside, worst = [0], [0]

    class Counting(ChannelAgents):
        @contextmanager
        def _opened(self, host: Host, domain: str) -> Iterator[ChannelAgent]:
            inside[0] += 1
            worst[0] = max(worst[0], inside[0])
            time.sleep(0.005)
            yield None  # type: ignore[misc]
            inside[0] -= 1

    agents = Counting(Connections(), polite=True)

    def use() -> None:
        with agents.open(host("berlin"), "web"):
            time.sleep(0.005)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst == [1]
