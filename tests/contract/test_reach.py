"""Who answers, as the host side sees it: real guests in network namespaces, by a real leg, and behind real filters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.contract import towns
from tests.contract.legs import Legs, legs_of, mine, opened
from tests.contract.towns import BRIDGE, HostPlace, Place, Town
from tests.support import eventually
from vmacro.lab import process
from vmacro.model.facts import Heard, Reach
from vmacro.planning import reaching

pytestmark = pytest.mark.lab
ROUNDS = 15  # in which whatever comes at all has come


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with towns.town("vmt-reach") as found:
        yield found


@pytest.fixture(scope="module")
def legs(town: Town) -> Iterator[Legs]:
    with opened(legs_of(town, town.web, "wireguard")) as found:
        yield found


def heard(town: Town, host: HostPlace, asked: Reach, over: Callable[[Heard], bool]) -> list[Heard]:
    """Once that is over for each address."""
    found: list[Heard] = []

    def is_over() -> bool:
        found[:] = town.side(host).reach(asked)
        return all(over(h) for h in found)

    eventually(is_over, f"what {asked} is about")
    return found


def heard_at_last(town: Town, host: HostPlace, asked: Reach) -> list[Heard]:
    """After so many rounds that silence means something."""
    rounds: list[tuple[Heard, ...]] = []

    def are_enough() -> bool:
        rounds.append(town.side(host).reach(asked))
        return len(rounds) > ROUNDS

    eventually(are_enough, "some rounds")
    return list(rounds[-1])


@contextmanager
def ruled(place: Place, family: str, *rules: str) -> Iterator[None]:
    """By a table of its own, before whatever else looks at packets that come in."""
    hook = "prerouting" if family == "bridge" else "input"
    chain = f"chain c {{ type filter hook {hook} priority -400 ; {' ; '.join(rules)} ; }}"
    process.run(place.inner("nft", "-f", "-"), input=f"table {family} contract {{\n{chain}\n}}\n")
    try:
        yield
    finally:
        process.run(place.inner("nft", "delete", "table", family, "contract"))


def test_a_guest_answers_at_its_bridge_by_each_of_its_addresses(town: Town, legs: Legs) -> None:
    """By those that a leg brings, too, for which the host has written down a neighbour."""
    addresses = (mine(town.web, 4), mine(town.web, 6), *(leg.address for leg in legs.legs))
    found = heard(town, town.two, Reach("r1", addresses, BRIDGE), lambda h: bool(h.macs) and h.answered == h.tried)
    assert {h.macs for h in found} == {(town.web.mac,)}
    assert [bool(h.tried) for h in found] == [True, True, True, False], "of IPv6 none goes to a foreign prefix"
    assert reaching.unreached(found, town.web.mac, BRIDGE) == []


def test_a_guest_answers_from_another_site_by_the_way_of_each_address(town: Town, legs: Legs) -> None:
    """The new ones by the WAN, the old ones, at home here, by their legs."""
    addresses = (mine(town.web, 4), mine(town.web, 6), *(leg.address for leg in legs.legs))
    found = heard(town, town.one, Reach("r2", addresses), lambda h: bool(h.answered))
    assert {h.macs for h in found} == {()}
    for host in (town.one, town.two):
        asked = town.side(host).flows(addresses).flows
        assert not any(flows.any for flows in asked), "or a host that asks for an address would keep it"


def test_what_a_filter_drops_is_unreached(town: Town, legs: Legs) -> None:
    """As clean-traffic does it, which has learnt the old addresses."""
    old4, old6 = (leg.address for leg in legs.legs)
    addresses = (mine(town.web, 4), mine(town.web, 6), old4, old6)
    drops = (
        f'iifname "{town.web.tap}" arp saddr ip != {{ 0.0.0.0, {old4} }} drop',
        f'iifname "{town.web.tap}" ip saddr != {old4} drop',
        f'iifname "{town.web.tap}" ip6 saddr != {old6} drop',
    )
    with ruled(town.two, "bridge", *drops):
        found = heard_at_last(town, town.two, Reach("r3", addresses, BRIDGE))
    lost = reaching.unreached(found, town.web.mac, BRIDGE)
    assert len(lost) == 2 and addresses[0] in lost[0] and addresses[1] in lost[1], lost


def test_a_filter_of_packets_alone_is_seen_by_the_address_that_answers(town: Town, legs: Legs) -> None:
    old4 = legs.of(4).address
    with ruled(town.two, "bridge", f'iifname "{town.web.tap}" ip saddr != {old4} drop'):
        found = heard_at_last(town, town.two, Reach("r4", (mine(town.web, 4), old4), BRIDGE))
    assert [bool(h.macs) for h in found] == [True, True]
    (lost,) = reaching.unreached(found, town.web.mac, BRIDGE)
    assert mine(town.web, 4) in lost and old4 in lost


@pytest.mark.parametrize("version", [4, 6])
def test_a_guest_that_drops_pings_is_reached_by_its_port(town: Town, legs: Legs, version: int) -> None:
    address = mine(town.web, version)
    pings = ("icmp type echo-request drop", "icmpv6 type echo-request drop")
    with ruled(town.web, "inet", *pings):
        assert not heard_at_last(town, town.one, Reach("r5", (address,)))[0].answered
        heard(town, town.one, Reach("r6", (address,), port=7000), lambda h: bool(h.answered))
        (found,) = heard_at_last(town, town.two, Reach("r7", (address,), BRIDGE))
    assert found.macs == (town.web.mac,)
    assert reaching.unreached([found], town.web.mac, BRIDGE) == [], "nobody knows more than that its card is there"


@pytest.mark.parametrize("version", [4, 6])
def test_a_path_that_loses_large_packets_without_a_word_is_seen(town: Town, version: int) -> None:
    there = town.two.uplink if version == 4 else f"fd71:9:{town.two.number}::2"
    wanted = "too-big" if version == 6 else "whole"
    heard(town, town.one, Reach(wanted, (there,), whole=True), lambda h: h.answered == h.tried == 1500)
    large = ("ip length > 1400 drop", "ip6 length > 1360 drop")
    with ruled(town.two, "inet", *large):
        (found,) = heard_at_last(town, town.one, Reach(f"{wanted}-2", (there,), whole=True))
    assert (found.tried, found.answered) == (1500, 1400)
