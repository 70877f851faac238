"""The plan of a batch: who goes where, in which order, and who stays and why. Surveys are of the world in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from vmacro.drivers.fake import FakeWorld
from vmacro.model.batches import Maintenance, PlannedMove, Stay
from vmacro.model.copies import CopyStatistics, PastCopy
from vmacro.model.facts import Survey
from vmacro.model.nouns import Compression, Host
from vmacro.planning import closed, evacuation
from vmacro.planning.evacuation import Candidate, Pace
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request
from vmacro.services import measured
from vmacro.services.batches import Ourselves

SITES = {"bucharest": ("buc1",), "berlin": ("ber1", "ber2"), "oslo": ("osl1",)}
GUESTS = ("ada", "bob", "cleo", "dan")


def fake_world(**memory: int) -> FakeWorld:
    """Guests of 256 MiB but for those said."""
    fake = FakeWorld(SITES, GUESTS)
    domains = fake.hosts["buc1"].domains
    for name, mib in memory.items():
        domains[name] = replace(domains[name], memory_mib=mib)
    return fake


def free(fake: FakeWorld, **mib: int) -> None:
    for name, found in mib.items():
        fake.hosts[name].facts = replace(fake.hosts[name].facts, free_memory_mib=found)


def survey(fake: FakeWorld, guest: str) -> tuple[Request, Survey]:
    found = fake.inventory.guest(guest)
    assert found is not None
    wanted = Request(found, fake.inventory.sites[0], SEAMLESS, fake.inventory.policy)
    seen = measured.look(fake.inventory, wanted, fake.world, ask_clients=False)
    return wanted, replace(seen, views=closed.marked(seen.views, fake.maintenance))


def hosts(fake: FakeWorld, *names: str) -> tuple[Host, ...]:
    return tuple(h for h in fake.inventory.hosts if (h.name in names if names else h.site != "bucharest"))


def planned(
    fake: FakeWorld, to: tuple[Host, ...] = (), pace: Pace | None = None, us: Iterable[str] = ()
) -> tuple[dict[str, PlannedMove], dict[str, Stay]]:
    candidates = [Candidate(*survey(fake, g), to or hosts(fake), g in us) for g in GUESTS]
    moves, stays = evacuation.plan(candidates, fake.inventory, pace or Pace())
    return {m.guest: m for m in moves}, {s.guest: s for s in stays}


@pytest.mark.parametrize("oslo_mib", [8192, 90_000])
def test_links_are_busy_alike_and_a_sites_hosts_get_what_they_have_room_for(oslo_mib: int) -> None:
    fake = fake_world()
    free(fake, ber1=4096, ber2=8192, osl1=oslo_mib)
    moves, stays = planned(fake)
    assert stays == {}
    assert sorted(m.destination_site for m in moves.values()) == ["berlin", "berlin", "oslo", "oslo"]
    assert {m.destination for m in moves.values()} == {"ber2", "osl1"}


def test_what_the_batch_has_given_away_is_taken() -> None:
    """Two guests fit: the third is not promised what the first two will have."""
    fake = fake_world()
    free(fake, ber1=600, ber2=100, osl1=100)
    moves, stays = planned(fake, hosts(fake, "ber1", "ber2", "osl1"))
    assert len(moves) == 2 and {m.destination for m in moves.values()} == {"ber1"}
    assert len(stays) == 2 and {s.code for s in stays.values()} == {"memory-short"}
    assert all("MiB needed" in s.why and s.at == "buc1" for s in stays.values())


def test_the_largest_chooses_first_and_the_longest_begins_first() -> None:
    fake = fake_world(dan=3000, cleo=1000)
    free(fake, ber1=3100, ber2=1100, osl1=600)
    moves, stays = planned(fake)
    assert stays == {} and [*moves][:2] == ["dan", "cleo"]
    assert moves["dan"].destination == "ber1" and moves["cleo"].destination == "ber2"
    assert moves["dan"].seconds > moves["cleo"].seconds > moves["ada"].seconds


def test_a_measured_link_says_how_long() -> None:
    moves, _ = planned(fake_world(), pace=Pace({("bucharest", "oslo"): 64.0}, around_s=5.0, looks_s=2.0), to=())
    to_oslo = next(m for m in moves.values() if m.destination_site == "oslo")
    assert (to_oslo.copy_s, to_oslo.seconds) == (4.0, 11.0) and to_oslo.because.endswith("64 MiB/s: as measured")
    bound, _ = planned(fake_world(), pace=Pace({}, 5.0, at_most_mib_s=16.0))
    assert {m.copy_s for m in bound.values()} == {16.0}
    assert all(m.because.endswith("16 MiB/s: policy bandwidth_mib_s") for m in bound.values())
    slow, _ = planned(fake_world(), pace=Pace({}, 1 / 7, at_most_mib_s=3.0))
    assert {(m.copy_s, m.seconds) for m in slow.values()} == {(85.33, 87.48)}, "as far as anybody would read it"
    back, _ = planned(fake_world(), pace=Pace({("oslo", "bucharest"): 64.0, ("berlin", "bucharest"): 64.0}))
    assert all(m.because.endswith("64 MiB/s: as measured") for m in back.values()), "the other way, over the same link"


def test_a_guest_that_was_copied_there_before_says_how_much() -> None:
    """As its forecast by `check`; it was all of its memory."""
    fake = fake_world()
    wanted, seen = survey(fake, "ada")
    copy = PastCopy("ber1", "buc1", Compression.OFF, 256, CopyStatistics(20, 4000, 100 << 20, 3))
    other = replace(copy, memory_mib=512, statistics=replace(copy.statistics, bytes_transferred=1 << 40))
    seen = replace(seen, past=replace(seen.past, copies=(other, copy)))
    (move,), _ = evacuation.plan([Candidate(wanted, seen, hosts(fake, "ber1"))], fake.inventory, Pace())
    assert move.mib == 100.0


def test_one_that_cannot_move_is_named_and_keeps_nobody() -> None:
    fake = fake_world()
    fake.guests["bob"].answers = False
    moves, stays = planned(fake)
    assert sorted(moves) == ["ada", "cleo", "dan"]
    assert stays["bob"].code == "no-agent" and stays["bob"].at == "buc1"


def test_nobody_goes_where_somebody_else_empties() -> None:
    fake = fake_world()
    fake.maintenance = (Maintenance("berlin", True, "ada@desk", 0.0), Maintenance("osl1", False, "ada@desk", 0.0))
    moves, stays = planned(fake)
    assert moves == {} and {s.code for s in stays.values()} == {"in-maintenance"}
    fake.maintenance = fake.maintenance[:1]
    moves, _ = planned(fake)
    assert {m.destination for m in moves.values()} == {"osl1"}


def test_the_guest_that_we_run_in_is_refused_by_name() -> None:
    fake = fake_world()
    _, stays = planned(fake, us=["cleo"])
    assert (
        [*stays] == ["cleo"] and stays["cleo"].code == "guest-is-orchestrator" and "vmacro worker" in stays["cleo"].hint
    )
    _, seen = survey(fake, "cleo")
    uuid, address = fake.hosts["buc1"].domains["cleo"].uuid, fake.guests["cleo"].address
    assert Ourselves(uuid.upper()).is_in(seen) and Ourselves("", frozenset({address})).is_in(seen)
    assert not Ourselves().is_in(seen) and not Ourselves("another", frozenset({"10.9.9.9"})).is_in(seen)


def test_disks_that_are_not_there_yet_are_sent_too() -> None:
    fake = fake_world()
    fake.home = "buc1"
    fake.give_disk("ada")
    moves, _ = planned(fake)
    assert moves["ada"].mib == 256 + 64 and moves["bob"].mib == 256
