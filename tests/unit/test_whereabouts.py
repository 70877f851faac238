"""Where a guest is, as its hosts say, and what a person is told where they do not say enough."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.test_seamless import plan
from vmacro.drivers.fake import FakeWorld, domain
from vmacro.errors import HostError
from vmacro.model.nouns import Guest
from vmacro.services import overview, whereabouts
from vmacro.services.whereabouts import BLIND, FENCED, MIGRATING, STAYED, Place, Whereabouts


@pytest.mark.parametrize(
    ("source", "destination", "trouble", "place"),
    [
        ("running", "absent", "", Place.SOURCE),
        ("running", "paused", "", Place.SOURCE),
        ("paused", "running", "", Place.DESTINATION),
        (FENCED, "running", "", Place.DESTINATION),
        ("running", "running", "", Place.UNKNOWN),
        ("paused", "paused", "", Place.UNKNOWN),
        ("absent", "absent", "", Place.UNKNOWN),
        (MIGRATING, "paused", "", Place.UNKNOWN),
        ("running", BLIND, "no answer", Place.UNKNOWN),
        (BLIND, "running", "no answer", Place.UNKNOWN),
        (STAYED, BLIND, "no answer", Place.SOURCE),
        ("shut off", "absent", "", Place.SOURCE),
        ("crashed", "absent", "", Place.SOURCE),
        ("absent", "shut off", "", Place.DESTINATION),
        ("suspended by itself", "absent", "", Place.SOURCE),
        ("suspended by itself", "paused", "", Place.UNKNOWN),
        ("absent", "suspended by itself", "", Place.DESTINATION),
        ("shut off", "running", "", Place.DESTINATION),
        ("shut off", "shut off", "", Place.UNKNOWN),
        ("shut off", "paused", "", Place.UNKNOWN),
        ("shut off", BLIND, "no answer", Place.UNKNOWN),
        ("paused", "absent", "", Place.UNKNOWN),
    ],
)
def test_two_words_make_a_place(source: str, destination: str, trouble: str, place: Place) -> None:
    assert Whereabouts(source, destination, trouble).place == place


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (
            Whereabouts("running", BLIND, "no answer"),
            "nothing was touched: bring the host back that did not answer, then `vmacro resume web-1` or "
            "`vmacro abort web-1`",
        ),
        (
            Whereabouts("running", "running"),
            "it runs TWICE: `virsh suspend web` at bucharest first (it was to leave there), look at both, then "
            "`vmacro resume web-1` or `vmacro abort web-1`",
        ),
        (
            Whereabouts("shut off", "shut off"),
            "it runs nowhere: see web's log at berlin, start it there or at bucharest from its disk",
        ),
        (
            Whereabouts("paused", "absent"),
            "nothing was touched: look at `virsh list --all` on bucharest and berlin, resume ONE of them, then "
            "`vmacro resume web-1` or `vmacro abort web-1`",
        ),
    ],
)
def test_a_person_is_told_what_to_do(seen: Whereabouts, said: str) -> None:
    chosen = plan(FakeWorld())
    assert whereabouts.advice(seen, chosen) == said
    assert whereabouts.told(seen, chosen) == f"bucharest: {seen.source}, berlin: {seen.destination}"


def test_hosts_are_asked_and_their_silence_is_told() -> None:
    fake = FakeWorld()
    chosen = plan(fake)
    assert whereabouts.look(chosen, fake.world) == Whereabouts("running", "absent")
    for host in fake.hosts.values():
        host.reachable = False
    silent = whereabouts.look(chosen, fake.world)
    assert silent == Whereabouts(BLIND, BLIND, "host bucharest: no answer; host berlin: no answer")


@pytest.mark.parametrize(
    ("state", "still"),
    [
        ("shut off", "shut off"),
        ("crashed", "crashed"),
        ("suspended by itself", "suspended by itself"),
        ("paused", ""),
        ("running", ""),
    ],
)
def test_a_guest_that_stands_still_is_told_from_one_that_was_paused(state: str, still: str) -> None:
    fake = FakeWorld()
    chosen = plan(fake)
    assert whereabouts.still_at(chosen.destination, chosen, fake.world) == "", "it is not there"
    fake.hosts["berlin"].domains["web"] = replace(domain(), state=state)
    assert whereabouts.still_at(chosen.destination, chosen, fake.world) == still
    fake.hosts["berlin"].reachable = False
    assert whereabouts.still_at(chosen.destination, chosen, fake.world) == "", "nobody knows"


def test_only_the_sources_own_host_knows_a_copy_that_was_fenced_from_a_second_guest() -> None:
    fake = FakeWorld()
    chosen = plan(fake)
    fake.hosts["berlin"].domains["web"] = domain()
    assert whereabouts.look(chosen, fake.world) == Whereabouts("running", "running")
    fake.hosts["bucharest"].armed["web"] = []
    assert whereabouts.look(chosen, fake.world).source == "running", "stayed, but another runs"
    fake.hosts["bucharest"].fenced.add("web")
    assert whereabouts.look(chosen, fake.world) == Whereabouts(FENCED, "running")
    plain = replace(chosen, handoff="renumber")
    assert whereabouts.look(plain, fake.world) == Whereabouts("running", "running"), "which arms nobody"


@pytest.mark.parametrize(("migrating", "patience_s"), [(False, 90), (True, 600)])
def test_what_is_not_known_is_waited_for_within_bounds(migrating: bool, patience_s: float) -> None:
    fake = FakeWorld()
    chosen, began = plan(fake), fake.now_s
    if migrating:
        fake.hosts["bucharest"].leaving["web"] = "berlin"
    else:
        fake.hosts["bucharest"].domains.clear()
    assert whereabouts.settled(chosen, fake.world).place == Place.UNKNOWN
    assert fake.now_s == pytest.approx(began + patience_s, abs=1)


def test_the_address_that_a_guests_site_leased_to_it() -> None:
    fake = FakeWorld()
    known, guest = fake.inventory, fake.inventory.guests[0]
    assert overview.leased_address(known, guest, fake.world) == "10.50.1.97"
    assert overview.leased_address(known, Guest("other", "other"), fake.world) == ""
    fake.hosts["bucharest"].leases.clear()
    assert overview.leased_address(known, guest, fake.world) == ""


def test_a_source_whose_own_side_is_mute_says_only_what_its_libvirt_does() -> None:
    fake = FakeWorld()
    chosen = plan(fake)
    fake.hosts["berlin"].domains["web"] = domain()
    fake.hosts["bucharest"].fenced.add("web")

    def before(effect: str) -> None:
        if effect.startswith("link."):
            raise HostError("host bucharest: no SSH")

    fake.before = before
    assert whereabouts.look(chosen, fake.world) == Whereabouts("running", "running")
