"""The world in memory with many guests on many hosts, moved one after another and all at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.unit.test_migrate import Straight
from vmacro.drivers.fake import Effect, FakeWorld
from vmacro.errors import CopyError
from vmacro.model.moves import Ending, Outcome
from vmacro.planning import planner
from vmacro.planning.handoffs import HANDOFFS
from vmacro.planning.request import Request
from vmacro.services import measured, migrate

SITES = {"bucharest": ("buc1", "buc2"), "berlin": ("ber1", "ber2"), "oslo": ("osl1",)}
GUESTS = ("web", "shop", "mail", "wiki")


def move(fake: FakeWorld, name: str, to: str, handoff: str, number: int = 1) -> Outcome:
    guest, site = fake.inventory.guest(name), fake.inventory.site(to)
    assert guest is not None and site is not None
    wanted = Request(guest, site, handoff, fake.inventory.policy)
    seen = measured.look(fake.inventory, wanted, fake.world, ask_clients=True)
    return migrate.run_move(planner.plan(f"{name}-{number}", fake.inventory, wanted, seen), fake.world, Straight())


def nothing_left(fake: FakeWorld) -> bool:
    hosts = fake.hosts.values()
    return not any(h.legs or h.networks["front"].reserved or h.leaving or h.watchers for h in hosts)


@pytest.mark.parametrize("handoff", HANDOFFS)
def test_each_guest_goes_its_own_way(handoff: str) -> None:
    fake = FakeWorld(SITES, GUESTS)
    assert move(fake, "shop", "berlin", handoff).ending == Ending.MOVED
    assert move(fake, "mail", "oslo", handoff).ending == Ending.MOVED
    assert move(fake, "shop", "oslo", handoff, number=2).ending == Ending.MOVED
    at = {name: fake.running_at(name) for name in GUESTS}
    assert at == {"web": ["buc1"], "shop": ["osl1"], "mail": ["osl1"], "wiki": ["buc1"]}
    assert len({guest.address for guest in fake.guests.values()}) == len(GUESTS)
    assert all(c.reaches(guest.address) for guest in fake.guests.values() for c in guest.connections)
    assert nothing_left(fake)


def test_an_effect_names_its_host_and_its_guest() -> None:
    fake, seen = FakeWorld(SITES, GUESTS), set()
    fake.before = lambda effect: seen.add((str(effect).split(" ")[0], effect.host, effect.guest))
    move(fake, "shop", "berlin", "seamless")
    assert {("copy", "buc1", "shop"), ("copy.done", "buc1", "shop"), ("agent.arrive", "ber1", "shop")} <= seen
    assert {("link.arm", "ber1", "shop"), ("discard", "buc1", "shop")} <= seen
    assert {host for _, host, _ in seen} == set(fake.hosts)


@pytest.mark.parametrize("handoff", HANDOFFS)
def test_moves_at_once_share_neither_time_nor_trouble(handoff: str) -> None:
    """All copies are under way together; one fails, and the others do not even wait for it."""
    fake, together = FakeWorld(SITES, GUESTS), threading.Barrier(len(GUESTS), timeout=180)

    def before(effect: Effect) -> None:
        if effect == "copy buc1":
            together.wait()
            if effect.guest == "wiki":
                raise CopyError("the link broke")

    fake.before = before
    with ThreadPoolExecutor(len(GUESTS)) as threads:
        targets = ("berlin", "oslo", "berlin", "oslo")
        running = {
            name: threads.submit(move, fake, name, to, handoff) for name, to in zip(GUESTS, targets, strict=True)
        }
        outcomes = {name: future.result(300) for name, future in running.items()}
    endings = {name: outcome.ending for name, outcome in outcomes.items()}
    assert endings == dict.fromkeys(GUESTS, Ending.MOVED) | {"wiki": Ending.ROLLED_BACK}
    alone = move(FakeWorld(SITES, ("web",)), "web", "berlin", handoff)
    assert outcomes["web"].wall_s == alone.wall_s
    assert fake.running_at("web") == ["ber1"] and fake.running_at("wiki") == ["buc1"] and nothing_left(fake)
