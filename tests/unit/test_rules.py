"""The rule sets that hosts get, as nft reads them: their order, and what they are made of. tests/contract sends packets
through them.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from pyroute2.iproute.linux import IPRoute

from tests import role
from vmacro.host import guests, joins, leg_rules, tunnels, wireguard
from vmacro.host.guests import Bridge, Card
from vmacro.host.legs import LegEnd

HOME = LegEnd("home", "wireguard", "web-1", "web", "10.1.0.7", "52:54:00:00:00:01", "front0", "10.9.0.6")
AWAY6 = replace(HOME, side="away", address="fd50::7", peer="fd00::6")
PORTS = {HOME.device: 14790, AWAY6.device: 14791}


def chain(rules: str, name: str) -> list[str]:
    """Its rules in order, without their indentation."""
    found = re.search(rf"chain {name} {{\n(.*?)\n\s*}}\n", rules, re.DOTALL)
    assert found is not None, f"{name} in:\n{rules}"
    return [line.strip() for line in found[1].splitlines() if line.strip() and not line.strip().startswith("#")]


def a_set(rules: str, name: str) -> str:
    found = re.search(rf"set {name} {{\n(.*?)\n\s*}}\n", rules, re.DOTALL)
    assert found is not None
    elements = re.search(r"elements = { (.*) }", found[1])
    return elements[1] if elements is not None else ""


RESOLVERS6 = "ip6 daddr { fe80::/10, fd50:1::/64 }"
# What guests may do comes before who the peers are.
VARIANTS = [
    dict(zip(("vmacro_operators", "vmacro_plain_tunnel", "hypervisor_guest_dns"), each, strict=True))
    for each in itertools.product(([], ["10.9.0.2", "fd00::2"]), (False, True), (False, True))
]


@pytest.mark.parametrize("given", VARIANTS)
def test_what_comes_from_guests_and_legs_is_judged_before_anything_is_accepted(given: dict[str, object]) -> None:
    peers = [{"address": a, "plain_tunnel": True} for a in ("10.9.0.6", "fd00::6")]
    rules = chain(role.rendered("firewall.nft.j2", vmacro_peers=peers, **given), "input")
    assert rules[:4] == [
        "type filter hook input priority filter - 5; policy accept;",
        'iifname "lo" return',
        'iifname "front0" jump from_guests',
        'iifname "vmac-*" jump from_guests',
    ]
    assert any("accept" in rule for rule in rules[4:])
    assert rules[-2:] == ["tcp dport { 16514, 49152-49215 } drop", "udp dport 14789-15813 drop"]


@pytest.mark.parametrize("given", VARIANTS)
def test_guests_ask_hosts_for_addresses_neighbours_and_an_echo_and_answer_that(given: dict[str, object]) -> None:
    asked = chain(role.rendered("firewall.nft.j2", **given), "from_guests")
    dns = [f"{a} meta l4proto {{ tcp, udp }} th dport 53 accept" for a in ("ip daddr 10.1.0.1", RESOLVERS6)]
    dns = dns if given["hypervisor_guest_dns"] else []
    assert asked == [
        "udp sport 68 udp dport 67 accept",
        "icmp type { echo-request, echo-reply } accept",
        "icmpv6 type { echo-request, echo-reply, nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept",
        *dns,
        "drop",
    ]


def test_the_kernel_tracks_what_guests_get_and_send() -> None:
    """Any rule that asks for the state of a connection has it do so."""
    rules = chain(role.rendered("firewall.nft.j2"), "tracked")
    assert rules == ["type filter hook forward priority filter - 5; policy accept;", "ct state new continue"]
    assert "tracked" not in role.rendered("firewall.nft.j2", vmacro_network=None), "no guests here"


def test_the_port_of_vxlan_is_open_where_both_ends_say_plain() -> None:
    peers = [{"address": "10.9.0.6", "plain_tunnel": True}, {"address": "10.9.0.10", "plain_tunnel": False}]
    ours = role.rendered("firewall.nft.j2", vmacro_peers=peers, vmacro_plain_tunnel=True)
    assert "ip saddr @plain4 udp dport 14789 accept" in chain(ours, "input")
    assert (a_set(ours, "plain4"), a_set(ours, "hosts4")) == ("10.9.0.6", "10.9.0.6, 10.9.0.10")
    encrypted = role.rendered("firewall.nft.j2", vmacro_peers=peers)
    assert not any("udp dport 14789 " in rule for rule in chain(encrypted, "input"))


def test_the_firewall_knows_the_ports_of_the_host_side() -> None:
    wanted = f"udp dport {wireguard.FIRST_PORT}-{wireguard.FIRST_PORT + wireguard.PORTS - 1} accept"
    assert f"ip saddr @hosts4 {wanted}" in role.rendered("firewall.nft.j2")
    assert f"udp dport {tunnels.PORTS} drop" in role.rendered("firewall.nft.j2")


def test_guests_send_from_their_hosts_subnet_unless_nobody_guards_them() -> None:
    assert chain(role.rendered("firewall.nft.j2"), "out_of_guests") == [
        'oifname "vmac-*" return',
        "ip saddr 10.1.0.0/24 return",
        "ip6 saddr fd50:1::/64 return",
        "drop",
    ]
    four = role.rendered("firewall.nft.j2", vmacro_network=role.NETWORK | {"subnet6": ""})
    assert chain(four, "out_of_guests") == ['oifname "vmac-*" return', "ip saddr 10.1.0.0/24 return", "drop"]
    free = role.rendered("firewall.nft.j2", vmacro_network=role.NETWORK | {"guard": False})
    assert "out_of_guests" not in free and 'iifname "front0" jump from_guests' in chain(free, "input")
    none = role.rendered("firewall.nft.j2", vmacro_network={})
    assert "front0" not in none and 'iifname "vmac-*" jump from_guests' in chain(none, "input")


def test_each_end_of_a_leg_passes_its_own_address() -> None:
    rules = leg_rules.ruleset([HOME, AWAY6], PORTS, "14789-15813")
    assert a_set(rules, "legs4") == a_set(rules, "homes4") == f'"{HOME.device}" . 10.1.0.7'
    assert a_set(rules, "legs6") == a_set(rules, "aways6") == f'"{AWAY6.device}" . fd50::7'
    assert a_set(rules, "homes6") == a_set(rules, "aways4") == ""
    assert (a_set(rules, "peers4"), a_set(rules, "peers6")) == ("14790 . 10.9.0.6", "14791 . fd00::6")


@pytest.mark.parametrize("name", ["out_of_tunnel", "into_tunnel", "input", "output"])
def test_what_no_rule_of_a_leg_lets_pass_is_dropped(name: str) -> None:
    rules = chain(leg_rules.ruleset([HOME], PORTS, "14789-15813"), name)
    accepting = [n for n, rule in enumerate(rules) if rule.endswith(("return", "accept"))]
    drops = [n for n, rule in enumerate(rules) if rule.endswith("drop")]
    assert drops and all("@" in rules[n] for n in accepting), "only by a set"
    assert rules[-1].endswith("drop")


def test_who_joins_a_leg_at_home_goes_by_the_slow_class() -> None:
    into, rules = chain(leg_rules.ruleset([HOME], PORTS, "1-2"), "into_tunnel"), leg_rules.ruleset([HOME], PORTS, "1-2")
    slow = [n for n, rule in enumerate(into) if joins.CLASS in rule]
    assert len(slow) == 2 and max(slow) < min(n for n, rule in enumerate(into) if rule.endswith("return"))
    assert all("@homes" in into[n] and "mptcp subtype 1 " in into[n] for n in slow)
    assert all("meta length <= 120 " in into[n] for n in slow), "54 full packets a second would hold all joins up"
    assert rules.count("meta priority set") == 2, "nowhere else"
    assert int(joins.CLASS.partition(":")[0], 16) > 0xFFF, "1: and such are operators' own, on a VXLAN leg's way out"


def test_a_host_whose_kernel_has_no_queues_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    joins.queue(HOME.device)
    (tmp_path / "tc").write_text("#!/bin/sh\necho 'Error: Specified qdisc kind is unknown.' >&2\nexit 1\n")
    (tmp_path / "tc").chmod(0o755)
    joins.queue(HOME.device)
    assert [HOME.device in text and "do not queue" in text for text in caplog.messages] == [True, True]
    assert "Specified qdisc kind is unknown" in caplog.messages[1]


@pytest.mark.parametrize("error", [IndexError(), OSError(), RuntimeError("a bug")])
def test_a_tunnel_that_comes_to_nothing_leaves_no_device(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """One without an alias is in no list of legs, so that no `vmacro cleanup` would find it."""
    removed: list[LegEnd] = []

    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(wireguard, "make", fails)
    monkeypatch.setattr(tunnels, "remove", lambda _ip, leg: removed.append(leg))
    with pytest.raises(type(error)):
        tunnels._made(cast(IPRoute, None), HOME, 1500)
    assert removed == [HOME]


def test_where_there_is_no_leg_there_is_no_table() -> None:
    assert leg_rules.ruleset([], {}, "1-2") == "add table inet vmacro-legs\ndelete table inet vmacro-legs\n"


def test_a_leg_without_a_port_yet_has_no_peer() -> None:
    assert a_set(leg_rules.ruleset([HOME], {}, "14789-15813"), "peers4") == ""


BRIDGE = Bridge("front0", 3, ("10.1.0.1/24", "fd50:1::1/64", "fd50:2::1/80", "fe80::5054:ff:fe76:6d61/64"))
ONE, TWO = "52:54:00:00:00:01", "52:54:00:00:00:02"


def test_a_card_has_what_dhcp_legs_and_its_mac_say() -> None:
    known = [("10.1.0.7", ONE), ("10.2.0.7", ONE), ("fd50:9::7", ONE), ("10.1.0.8", TWO), ("10.1.0.1", ONE)]
    found = guests.card("vnet0", ONE, BRIDGE, known)
    assert found.of(4) == ["10.1.0.7", "10.2.0.7"], "the gateway's is nobody's, whatever DHCP says"
    assert found.of(6) == ["fd50:1::5054:ff:fe00:1", "fd50:9::7"], "SLAAC needs a /64"
    assert found.link_local == "fe80::5054:ff:fe00:1"


def test_a_card_sends_what_is_its_own_and_nothing_else() -> None:
    rules = guests.ruleset([Card("vnet0", ONE, ("10.1.0.7", "fd50:1::7"))], [], BRIDGE.gateways)
    own = chain(rules, "from_525400000001")
    assert own[0] == f"ether saddr != {ONE} drop" and own[1] == "jump never" and own[-1] == "drop"
    assert "arp saddr ip { 0.0.0.0, 10.1.0.7 } accept" in own and "ip saddr { 10.1.0.7 } accept" in own
    assert own.index(f"arp saddr ether != {ONE} drop") < own.index("arp saddr ip { 0.0.0.0, 10.1.0.7 } accept")
    claimed = [n for n, rule in enumerate(own) if "jump claims_525400000001" in rule]
    accepted = [n for n, rule in enumerate(own) if "ip6 saddr {" in rule]
    assert len(claimed) == 2 and max(claimed) < min(accepted), "what it claims is looked at before who says so"
    locals_ = "fe80::5054:ff:fe00:1, fe80::5054:ff:fe76:6d61"
    assert chain(rules, "from_local")[0] == f"ip6 saddr {{ {locals_} }} drop", "its own was let pass before"


def test_a_tap_that_nobody_knows_passes_nothing() -> None:
    cards = [Card("vnet1", TWO), Card("vnet0", ONE)]
    hook = chain(guests.ruleset(cards, ["vnet7"], []), "from_guests")
    ways = '"vnet0" : goto from_525400000001, "vnet1" : goto from_525400000002, "vnet7" : accept'
    assert hook[1:] == [f"iifname vmap {{ {ways} }}", 'iifname "vnet*" drop']
    assert chain(guests.ruleset([], [], []), "from_guests")[1:] == ['iifname "vnet*" drop']


def test_a_card_gets_what_is_for_it() -> None:
    hook = chain(guests.ruleset([Card("vnet0", ONE), Card("vnet1", TWO)], [], []), "to_guests")
    assert hook[1:] == [
        "ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 accept",
        f'oifname . ether daddr {{ "vnet0" . {ONE}, "vnet1" . {TWO} }} accept',
        'oifname { "vnet0", "vnet1" } drop',
    ]


def test_a_guest_without_addresses_may_still_ask_for_one() -> None:
    own = chain(guests.ruleset([Card("vnet0", ONE)], [], []), "from_525400000001")
    assert "arp saddr ip { 0.0.0.0 } accept" in own and not any(rule.startswith("ip saddr {") for rule in own)
    assert "udp sport 68 udp dport 67 @th,288,48 != 0x525400000001 drop" in own
