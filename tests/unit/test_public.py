"""Addresses that clients know as others: sites behind 1:1 NAT."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from guest_agent.arrival import MOST_PUBLIC, prepare, publish
from guest_agent.retirement import retire
from tests.unit.guest_fakes import AWAY, HOME, World, at_home, lease
from tests.unit.test_config import GOOD
from tests.unit.test_migrate import Straight
from tests.unit.test_seamless import findings, plan
from vmacro import inventory
from vmacro.drivers.fake import FakeWorld
from vmacro.errors import ConfigurationError
from vmacro.model.moves import Ending
from vmacro.model.nouns import Host
from vmacro.planning.addresses import public_of
from vmacro.services import migrate
from vmacro.wire.agent_verbs import PrepareArgs, PublishArgs
from vmacro.wire.messages import ProtocolError

PUBLIC = "203.0.113.9"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return at_home(tmp_path)


def prepared(world: World) -> None:
    asyncio.run(prepare(world.guest, PrepareArgs(AWAY)))


def test_what_clients_know_is_announced_and_what_they_reach_is_held(world: World) -> None:
    """As backup, both: a join is what the address that it reaches is."""
    publish(world.guest, PublishArgs(AWAY, PUBLIC))
    for _ in range(2):
        prepared(world)
    changes = [line for line in world.log if line.startswith(("hold", "announce"))]
    assert changes == [f"hold {AWAY} as backup", f"announce {PUBLIC} as backup"]
    assert len(world.kernel.announced) == 2


def test_what_was_held_already_is_announced_under_its_id_too(world: World) -> None:
    """A prepare that was cut off between the two."""
    publish(world.guest, PublishArgs(AWAY, PUBLIC))
    world.kernel.announced = {5: AWAY}
    prepared(world)
    assert sorted(world.kernel.announced.values()) == sorted([AWAY, PUBLIC])


def test_it_is_withdrawn_by_both_ids_and_forgotten(world: World) -> None:
    publish(world.guest, PublishArgs(AWAY, PUBLIC))
    prepared(world)
    assert asyncio.run(retire(world.guest, AWAY)).retired
    gone = [f"withdraw {PUBLIC}", f"withdraw {AWAY}", f"move out {AWAY}", "forget round trips"]
    assert world.log[-4:] == gone
    assert world.kernel.announced == {} and world.restarted().guest.state.public == {}


def test_an_agent_that_starts_again_knows_it(world: World) -> None:
    publish(world.guest, PublishArgs(AWAY, PUBLIC))
    assert world.restarted().guest.seen_as(AWAY) == PUBLIC and world.guest.seen_as(HOME) == HOME


def test_a_file_of_an_older_agent_is_read(world: World) -> None:
    kept = world.guest.state_file.read_text()
    world.guest.state_file.write_text(kept.replace(', "public": {}', ""))
    assert '"public"' not in world.guest.state_file.read_text()
    assert world.restarted().guest.state.lease == lease(HOME)


def test_one_name_stands_for_one_address_and_they_do_not_pile_up(world: World) -> None:
    publish(world.guest, PublishArgs(AWAY, PUBLIC))
    publish(world.guest, PublishArgs("10.2.0.10", PUBLIC))
    assert world.guest.state.public == {"10.2.0.10": PUBLIC}
    publish(world.guest, PublishArgs("10.2.0.10", "10.2.0.10"))
    assert world.guest.state.public == {}
    for number in range(2 * MOST_PUBLIC):
        publish(world.guest, PublishArgs(f"10.3.0.{number}", f"203.0.113.{number}"))
    assert len(world.guest.state.public) <= MOST_PUBLIC + 1
    with pytest.raises(ProtocolError, match="family"):
        publish(world.guest, PublishArgs(AWAY, "2001:db8::9"))


@pytest.fixture
def fake() -> FakeWorld:
    found = FakeWorld()
    (first,) = found.guest.connections
    found.guest.connections = [replace(first, subflows=tuple(replace(s, remote="8.8.4.4") for s in first.subflows))]
    return found


def translated(fake: FakeWorld, **said: object) -> FakeWorld:
    """Berlin is behind NAT."""
    sites = [
        replace(s, hosts=tuple(replace(h, **said) if h.name == "berlin" else h for h in s.hosts))  # type: ignore[arg-type]
        for s in fake.inventory.sites
    ]
    fake.inventory = replace(fake.inventory, sites=tuple(sites))
    return fake


def test_a_move_has_the_guest_announce_what_clients_know(fake: FakeWorld) -> None:
    translated(fake, subnet="10.50.2.0/24", public_subnet="203.0.113.0/24")
    chosen = plan(fake)
    assert chosen.new_public == f"203.0.113.{chosen.new_address.rpartition('.')[2]}"
    said: list[str] = []
    fake.before = lambda effect: said.append(effect) if effect in ("agent.publish", "agent.prepare") else None
    assert migrate.run_move(chosen, fake.world, Straight()).ending == Ending.MOVED
    assert said == ["agent.publish", "agent.prepare"] and fake.guest.public == {chosen.new_address: chosen.new_public}


def test_a_move_without_nat_publishes_nothing(fake: FakeWorld) -> None:
    chosen = plan(fake)
    assert chosen.new_public == "" and migrate.run_move(chosen, fake.world, Straight()).ending == Ending.MOVED
    assert fake.guest.public == {}


def test_check_finds_a_private_address_that_is_announced_to_the_internet(fake: FakeWorld) -> None:
    assert "8.8.4.4" in findings(fake)["address-private"].message
    assert "address-private" not in findings(FakeWorld()), "its clients are of private networks, too"
    assert "address-private" not in findings(translated(fake, subnet="10.50.2.0/24", public_subnet="203.0.113.0/24")), (
        "that is known to be translated"
    )


def test_a_name_leads_to_what_clients_know(fake: FakeWorld) -> None:
    nets = {"bucharest": ("10.50.1.0/24", "198.51.100.0/24"), "berlin": ("10.50.2.0/24", "203.0.113.0/24")}
    sites = fake.inventory.sites
    fake.inventory = replace(
        fake.inventory,
        sites=tuple(
            replace(s, hosts=tuple(replace(h, subnet=nets[h.name][0], public_subnet=nets[h.name][1]) for h in s.hosts))
            for s in sites
        ),
        guests=tuple(replace(guest, names=("www.example.net",)) for guest in fake.inventory.guests),
    )
    fake.zone.put("www.example.net", "10.50.1.98")
    assert "10.50.1.97" in findings(fake)["name-differs"].message
    fake.zone.put("www.example.net", "198.51.100.97")
    assert "name-differs" not in findings(fake)
    chosen = plan(fake)
    assert migrate.run_move(chosen, fake.world, Straight()).ending == Ending.MOVED
    assert fake.zone.names["www.example.net"].addresses == (chosen.new_public,)


HOST = Host("h1", "one", "", "", "10.9.0.1", "", "front", subnet="10.50.2.0/25", public_subnet="203.0.113.128/25")


def test_the_table_comes_before_the_subnet() -> None:
    assert public_of(HOST, "10.50.2.9") == "203.0.113.137" and public_of(HOST, "10.50.3.9") == ""
    assert public_of(HOST, "fd00::9") == "" and public_of(replace(HOST, public_subnet=""), "10.50.2.9") == ""
    listed = replace(HOST, public=(("10.50.2.9", "198.51.100.1"),))
    assert public_of(listed, "10.50.2.9") == "198.51.100.1" and public_of(listed, "10.50.2.10") == "203.0.113.138"


TRANSLATED = (
    '[sites.a.network]\nsubnet = "10.50.1.0/25"\npublic_subnet = "203.0.113.0/25"\n',
    '[sites.b.network]\nsubnet = "10.50.2.0/25"\npublic_subnet = "203.0.113.128/25"\n',
)


def read(tmp_path: Path, change: str) -> inventory.Settings:
    file = tmp_path / "inventory.toml"
    file.write_text(GOOD.replace("[sites.b]\n", "") + "[sites.b]\n" + change)
    return inventory.load(file)


def test_the_inventory_says_it(tmp_path: Path) -> None:
    said = '[sites.b.network]\nsubnet = "10.50.2.0/24"\npublic_subnet = "203.0.113.0/24"\n'
    said += '[sites.b.public]\n"10.50.2.9" = "198.51.100.1"\n'
    host = next(h for h in read(tmp_path, said).inventory.hosts if h.site == "b")
    assert (host.public_subnet, host.public) == ("203.0.113.0/24", (("10.50.2.9", "198.51.100.1"),))
    assert read(tmp_path, "".join(TRANSLATED))


@pytest.mark.parametrize(
    "said",
    [
        '[sites.b.network]\nsubnet = "10.50.2.0/24"\npublic_subnet = "203.0.113.0/25"\n',
        '[sites.b.public]\n"10.50.2.9" = "198.51.100.1"\n"10.50.2.10" = "198.51.100.1"\n',
        '[sites.b.public]\n"10.50.2.9" = "www.example.net"\n',
        '[sites.b.public]\n"10.50.2.9" = "0.0.0.0"\n',
        '[sites.b.public]\n"10.50.2.9" = "127.0.0.1"\n',
        '[sites.b.public]\n"10.50.2.9" = "224.0.0.1"\n',
        '[sites.b.network]\nsubnet = "10.50.2.0/24"\npublic_subnet = "127.0.0.0/24"\n',
        f"{TRANSLATED[0]}{TRANSLATED[1].replace('203.0.113.128', '203.0.113.0')}",
        '[sites.a.public]\n"10.50.1.9" = "198.51.100.1"\n[sites.b.public]\n"10.50.2.9" = "198.51.100.1"\n',
    ],
    ids=[
        *("another size", "one for two", "a name", "nobody's", "its own", "a group's", "nobody's subnet"),
        *("one subnet for two sites", "one for two of two sites"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, said: str) -> None:
    with pytest.raises(ConfigurationError, match="public"):
        read(tmp_path, said)
