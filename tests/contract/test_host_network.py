"""HostNetwork: the host side's legs and events."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.contract import certifies
from tests.contract.stages import FIRST_MAC, Stage, mac
from tests.support import eventually
from vmacro.errors import HostError
from vmacro.model.facts import Flows, FoundLegEnd, Heard, Leaving, Leg, MacUser, Offer, Reach, Tracked, Turn, WideWay
from vmacro.model.nouns import Host
from vmacro.wire.names import way_token
from vmacro.wire.taken_verbs import TCP, UDP, Port, Taken, Taking

MOVE, OTHER_MOVE = "contract-1", "contract-2"


@pytest.fixture
def leg(stage: Stage) -> Iterator[Leg]:
    """Not open yet; its address is of here's subnet, and nobody has it."""
    bridge = bridge_of(stage, stage.here)
    prefix = gateway_of(stage, stage.here).rpartition(".")[0]
    ends = (stage.here, stage.there, bridge, bridge_of(stage, stage.there), f"{prefix}.0/24")
    yield Leg(MOVE, "scratch", mac(), f"{prefix}.241", "wireguard", *ends)
    for host in (stage.here, stage.there):
        for move in (MOVE, OTHER_MOVE):
            stage.world.host_network(host).close(move)


def bridge_of(stage: Stage, host: Host) -> str:
    network = stage.world.hypervisor(host).network(host.network)
    assert network is not None
    return network.bridge


def gateway_of(stage: Stage, host: Host) -> str:
    network = stage.world.hypervisor(host).network(host.network)
    assert network is not None
    return network.gateway


def ends(stage: Stage, host: Host, move: str = MOVE) -> list[FoundLegEnd]:
    found = stage.world.host_network(host).facts(bridge_of(stage, host), "", "").legs
    return [end for end in found if end.move == move]


def pointed(stage: Stage, host: Host, move: str = MOVE) -> dict[str, str]:
    return {end.address: end.points_to for end in ends(stage, host, move)}


@certifies("HostNetwork.facts")
def test_facts_are_whole(stage: Stage) -> None:
    side, bridge = stage.world.host_network(stage.here), bridge_of(stage, stage.here)
    facts = side.facts(bridge, stage.there.address, "")
    assert facts.version and facts.bridge_mac and facts.forwarding and facts.resolves_own_name
    assert facts.tunnels[0] == "wireguard" and facts.wireguard in ("kernel", "wireguard-go")
    assert facts.filters and facts.guarded and facts.bridge_mtu >= 1280 and facts.path_mtu >= 1280
    assert side.facts(bridge, "", "").path_mtu == 0 and facts.used_by == ""


@certifies("HostNetwork.facts")
def test_who_uses_an_address_is_found_out_by_asking(stage: Stage) -> None:
    side, bridge = stage.world.host_network(stage.here), bridge_of(stage, stage.here)
    domain = stage.world.hypervisor(stage.here).domain("web")
    with stage.world.agent(stage.here, "web") as agent:
        address = agent.status().address
    assert domain is not None and side.facts(bridge, "", address).used_by in {card.mac for card in domain.cards}
    assert side.facts(bridge, "", address.rpartition(".")[0] + ".242").used_by == ""


@certifies("HostNetwork.widen", "HostNetwork.narrow", "HostNetwork.facts")
def test_the_way_to_another_host_is_wide_until_its_move_ends_and_to_oneself_there_is_none(stage: Stage) -> None:
    side, bridge = stage.world.host_network(stage.here), bridge_of(stage, stage.here)
    mine, others = (WideWay(stage.there.address, way_token(f"contract-{number}")) for number in (1, 2))
    for _ in range(2):
        side.widen("contract-1", stage.there.address)
        side.widen("contract-2", stage.there.address)
    assert {*side.facts(bridge, "", "").wide} == {mine, others}
    for _ in range(2):
        side.narrow("contract-2")
        assert side.facts(bridge, "", "").wide == (mine,)
    side.narrow("contract-1")
    assert side.facts(bridge, "", "").wide == ()
    for nobody in (stage.here.address, "an address"):
        with pytest.raises(HostError, match=stage.here.name):
            side.widen("contract-1", nobody)


@certifies("HostNetwork.flows")
def test_flows_are_told_of_each_address_that_was_asked_about(stage: Stage) -> None:
    """contract/test_datagrams.py sends some."""
    side, prefix = stage.world.host_network(stage.here), gateway_of(stage, stage.here).rpartition(".")[0]
    assert side.flows(()) == Tracked(True)
    nobodys = (f"{prefix}.243", "2001:db8::76")
    assert side.flows(nobodys) == Tracked(True, tuple(Flows(address) for address in nobodys))
    with pytest.raises(HostError, match=stage.here.name):
        side.flows(("an address",))


@certifies("HostNetwork.facts")
def test_who_has_a_mac_is_told_whichever_of_its_cards_that_is(stage: Stage, scratch: str) -> None:
    side, bridge = stage.world.host_network(stage.here), bridge_of(stage, stage.here)
    domain = stage.world.hypervisor(stage.here).domain(scratch)
    assert domain is not None
    for card in domain.cards:
        assert side.facts(bridge, "", "", card.mac).mac_users == (MacUser(scratch, card.tap, True),)
    assert side.facts(bridge, "", "", "52:54:00:00:00:5d").mac_users == ()
    assert side.facts(bridge, "", "").mac_users == (), "nobody asked"
    elsewhere = stage.world.host_network(stage.there)
    assert elsewhere.facts(bridge_of(stage, stage.there), "", "", mac()).mac_users == ()


@certifies("HostNetwork.facts", "HostNetwork.open")
def test_who_is_shut_off_has_its_mac_and_is_in_nobodys_way(stage: Stage, scratch: str, leg: Leg) -> None:
    side, bridge = stage.world.host_network(stage.here), bridge_of(stage, stage.here)
    stage.backstage.shut_scratch_off()
    for card in (FIRST_MAC, mac()):
        assert side.facts(bridge, "", "", card).mac_users == (MacUser(scratch, "", False),)
    side.open(replace(leg, domain="nobody"))
    assert [end.domain for end in ends(stage, stage.here)] == ["nobody"]


@certifies("HostNetwork.facts")
def test_devices_that_there_are_are_told(stage: Stage) -> None:
    side, bridge = stage.world.host_network(stage.here), bridge_of(stage, stage.here)
    assert side.facts(bridge, "", "", "", ("nowhere0", bridge, "any/thing")).devices == (bridge,)
    assert side.facts(bridge, "", "").devices == ()


@certifies("HostNetwork.taken")
def test_what_somebody_has_of_a_host_is_told(stage: Stage) -> None:
    """Its libvirt listens there for others."""
    side, libvirts = stage.world.host_network(stage.here), Port(TCP, 16514)
    free = Port(UDP, libvirts.number, "127.0.0.1")
    assert side.taken(Taking((libvirts, free), (4242,))) == Taken((libvirts,))
    assert side.taken(Taking()) == Taken()


def heard(stage: Stage, host: Host, asked: Reach, over: Callable[[Heard], bool]) -> Heard:
    """Of the only address, once that is over."""
    found: list[Heard] = []

    def is_over() -> bool:
        found[:] = stage.world.host_network(host).reach(asked)
        return over(found[0])

    eventually(is_over, f"what {asked} is about")
    (only,) = found
    return only


@certifies("HostNetwork.reach")
def test_who_answers_for_an_address_is_told_at_its_bridge_and_from_another_site(stage: Stage) -> None:
    domain = stage.world.hypervisor(stage.here).domain("web")
    with stage.world.agent(stage.here, "web") as agent:
        address, mac_ = agent.status().address, agent.status().mac
    assert domain is not None and mac_ in {card.mac for card in domain.cards}
    at_its_bridge = Reach(MOVE, (address,), bridge_of(stage, stage.here))
    found = heard(stage, stage.here, at_its_bridge, lambda h: bool(h.macs and h.answered))
    assert (found.address, found.macs) == (address, (mac_,)) and found.answered == found.tried
    found = heard(stage, stage.there, Reach(MOVE, (address,)), lambda h: bool(h.answered))
    assert found.macs == (), "nobody asked at a bridge"


@certifies("HostNetwork.reach")
def test_nobody_answers_for_what_nobody_has(stage: Stage) -> None:
    side, prefix = stage.world.host_network(stage.here), gateway_of(stage, stage.here).rpartition(".")[0]
    nobodys = (f"{prefix}.242", f"{prefix}.243")
    wanted = Reach(MOVE, nobodys, bridge_of(stage, stage.here), 7000)
    for _ in range(3):
        found = side.reach(wanted)
        assert [(h.address, h.macs, h.answered) for h in found] == [(a, (), 0) for a in nobodys]
    assert side.reach(Reach(OTHER_MOVE, ())) == ()


@certifies("HostNetwork.reach", "HostNetwork.facts")
def test_whole_packets_are_as_large_as_the_way_takes(stage: Stage) -> None:
    side = stage.world.host_network(stage.here)
    mtu = side.facts(bridge_of(stage, stage.here), stage.there.address, "").path_mtu
    wanted = Reach(MOVE, (stage.there.address,), whole=True)
    found = heard(stage, stage.here, wanted, lambda h: h.answered == h.tried > 0)
    assert found.tried == mtu


@certifies("HostNetwork.reach")
def test_what_cannot_be_asked_for_is_refused(stage: Stage) -> None:
    side = stage.world.host_network(stage.here)
    for wanted in (Reach(MOVE, ("an address",)), Reach(MOVE, (stage.there.address,), "nowhere0")):
        with pytest.raises(HostError, match=stage.here.name):
            side.reach(wanted)


@certifies("HostNetwork.facts", "HostNetwork.open", "HostNetwork.join", "HostNetwork.point")
def test_what_there_is_not_is_refused(stage: Stage, leg: Leg) -> None:
    side, bridge = stage.world.host_network(stage.here), bridge_of(stage, stage.here)
    refusals: list[Callable[[], object]] = [
        lambda: side.facts("nowhere0", "", ""),
        lambda: side.facts(bridge, "a peer", ""),
        lambda: side.facts(bridge, "", "an address"),
        lambda: side.open(replace(leg, kind="carrier pigeon")),
        lambda: side.open(replace(leg, address="an address")),
        lambda: side.join(leg, Offer()),
        lambda: side.point(leg, to_guest=True),
    ]
    for refusal in refusals:
        with pytest.raises(HostError, match=stage.here.name):
            refusal()
    assert ends(stage, stage.here) == []


@certifies("HostNetwork.open")
def test_a_leg_that_is_no_guests_is_refused_at_either_end(stage: Stage, leg: Leg) -> None:
    """Home takes what is in its own guests' subnet, and away what is not; neither what nobody or a host has."""
    home, away = stage.world.host_network(stage.here), stage.world.host_network(stage.there)
    mine, theirs = ipaddress.ip_network(leg.subnet), gateway_of(stage, stage.there).rpartition(".")[0]
    gateway = gateway_of(stage, stage.here)
    nobodys = (str(mine[0]), str(mine[-1]), "127.0.0.1", "224.0.0.5", "169.254.118.1", "0.0.0.0", "::1", "fe80::76")
    outside = ("8.8.8.8", f"{theirs}.241", stage.there.address, "ff02::1", "2001:4860:4860::8888")
    for address in (*nobodys, *outside, gateway, stage.here.address):
        with pytest.raises(HostError, match="refused"):
            home.open(replace(leg, address=address))
    for address in (*nobodys, *outside, gateway_of(stage, stage.there)):
        with pytest.raises(HostError, match="refused"):
            away.open(replace(leg, address=address))
    with pytest.raises(HostError, match="refused"):
        away.open(replace(leg, address=f"{theirs}.241", subnet=f"{theirs}.0/24"))
    with pytest.raises(HostError, match="refused"):
        away.open(replace(leg, subnet="0.0.0.0/0"))
    assert ends(stage, stage.here) == ends(stage, stage.there) == []


@certifies("HostNetwork.open")
def test_a_leg_of_another_guests_address_or_card_is_refused(stage: Stage, scratch: str, leg: Leg) -> None:
    home = stage.world.host_network(stage.here)
    with pytest.raises(HostError, match=f"refused.*{scratch}"):
        home.open(replace(leg, domain="nobody"))
    home.open(leg)
    with pytest.raises(HostError, match=f"refused.*{scratch}"):
        home.open(replace(leg, domain="nobody", mac="52:54:00:00:00:5d", move_id=OTHER_MOVE))
    assert [end.domain for end in ends(stage, stage.here)] == [scratch] and ends(stage, stage.here, OTHER_MOVE) == []


@certifies("HostNetwork.open")
def test_without_its_bridge_a_leg_is_not_half_made(stage: Stage, leg: Leg) -> None:
    side = stage.world.host_network(stage.here)
    with pytest.raises(HostError, match="nowhere0"):
        side.open(replace(leg, home_bridge="nowhere0"))
    assert ends(stage, stage.here) == []
    side.open(leg)
    assert pointed(stage, stage.here) == {leg.address: "guest"}


@certifies("HostNetwork.open", "HostNetwork.join", "HostNetwork.close")
def test_both_ends_of_a_leg_open_and_close_as_often_as_one_likes(stage: Stage, leg: Leg) -> None:
    home, away = stage.world.host_network(stage.here), stage.world.host_network(stage.there)
    for _ in range(2):
        near, far = home.open(leg), away.open(leg)
        home.join(leg, far)
        away.join(leg, near)
        (end,) = ends(stage, stage.here)
        assert (end.side, end.kind, end.domain, end.mac) == ("home", "wireguard", "scratch", mac())
        assert (end.address, end.peer, end.points_to) == (leg.address, stage.there.address, "guest")
        (end,) = ends(stage, stage.there)
        assert (end.side, end.peer, end.points_to) == ("away", stage.here.address, "guest")
    home.close(OTHER_MOVE)
    home.close(MOVE, "192.0.2.1")
    assert len(ends(stage, stage.here)) == 1
    for _ in range(2):
        home.close(MOVE, leg.address)
        away.close(MOVE)
        assert ends(stage, stage.here) == ends(stage, stage.there) == []


@certifies("HostNetwork.point", "HostNetwork.open")
def test_an_end_points_where_it_is_told(stage: Stage, leg: Leg) -> None:
    for host in (stage.here, stage.there):
        side = stage.world.host_network(host)
        side.open(leg)
        for to_guest in (False, False, True, True, False):
            side.point(leg, to_guest)
            assert pointed(stage, host) == {leg.address: "guest" if to_guest else "tunnel"}
        side.open(leg)
    assert pointed(stage, stage.here) == {leg.address: "tunnel"}, "at home the route stays"
    assert pointed(stage, stage.there) == {leg.address: "guest"}, "away it is as new"


@certifies("HostNetwork.point", "HostNetwork.close")
def test_at_home_an_address_has_one_way(stage: Stage, leg: Leg) -> None:
    """The leg of a later move takes it from that of an earlier one."""
    home, later = stage.world.host_network(stage.here), replace(leg, move_id=OTHER_MOVE)
    for each in (leg, later):
        home.open(each)
        home.point(each, to_guest=False)
    assert pointed(stage, stage.here) == {leg.address: "guest"}
    assert pointed(stage, stage.here, OTHER_MOVE) == {leg.address: "tunnel"}
    home.point(leg, to_guest=True)
    home.close(MOVE)
    assert pointed(stage, stage.here, OTHER_MOVE) == {leg.address: "tunnel"}


@certifies("HostNetwork.turn")
def test_all_legs_of_a_domain_turn_and_nobody_elses(stage: Stage, leg: Leg) -> None:
    home = stage.world.host_network(stage.here)
    other = replace(leg, move_id=OTHER_MOVE, domain="nobody", address=leg.address.rpartition(".")[0] + ".242")
    home.open(leg)
    home.open(other)
    for to_guest, expected in ((False, "tunnel"), (False, "tunnel"), (True, "guest"), (True, "guest")):
        home.turn("scratch", to_guest)
        assert pointed(stage, stage.here) == {leg.address: expected}
        assert pointed(stage, stage.here, OTHER_MOVE) == {other.address: "guest"}
    home.turn("a-domain-without-legs", to_guest=False)


@certifies("HostNetwork.leaving", "HostNetwork.arm", "HostNetwork.turn")
def test_a_guest_at_home_has_no_fence(stage: Stage) -> None:
    side = stage.world.host_network(stage.here)
    assert side.leaving("web") == Leaving.UNKNOWN, "nobody has armed the host"
    side.arm("web")
    assert side.leaving("web") == Leaving.STAYED
    side.turn("web", to_guest=True)
    assert side.leaving("web") == Leaving.STAYED and side.leaving("nobody") == Leaving.UNKNOWN


@certifies("HostNetwork.arm", "HostNetwork.turned", "HostNetwork.leaving")
def test_an_armed_host_turns_a_domains_legs_as_it_pauses_and_goes_on(stage: Stage, scratch: str, leg: Leg) -> None:
    home = stage.world.host_network(stage.here)
    home.open(leg)
    home.arm("nobody")
    home.arm(scratch)
    late = replace(leg, move_id=OTHER_MOVE, address=leg.address.rpartition(".")[0] + ".242")
    home.open(late)
    assert home.turned(scratch) == home.turned("nobody") == ()
    stage.backstage.set_running(False)
    (turn,) = turns(lambda: home.turned(scratch))
    assert (turn.to, turn.trouble) == ("tunnel", "") and turn.wall_ns > 0 and turn.took_us > 0
    assert pointed(stage, stage.here) == {leg.address: "tunnel"}
    assert pointed(stage, stage.here, OTHER_MOVE) == {late.address: "guest"}, "opened after the host was armed"
    assert home.leaving(scratch) == Leaving.UNKNOWN, "it paused, though not to leave"
    stage.backstage.set_running(True)
    (turn,) = turns(lambda: home.turned(scratch))
    assert (turn.to, turn.trouble) == ("guest", "")
    assert pointed(stage, stage.here) == {leg.address: "guest"} and home.turned(scratch) == ()
    home.arm(scratch)
    assert home.leaving(scratch) == Leaving.STAYED


def turns(asked: Callable[[], tuple[Turn, ...]]) -> list[Turn]:
    """The first that come."""
    found: list[Turn] = []

    def some() -> bool:
        found.extend(asked())
        return bool(found)

    eventually(some, "the host to turn")
    return found
