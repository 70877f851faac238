"""What a seamless move plans, prepares, carries and takes down; on the fake world and on plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.unit.test_migrate import Straight
from vmacro.drivers.fake import FakeWorld
from vmacro.drivers.fake_agent import connection
from vmacro.errors import CopyError, HostError
from vmacro.model.facts import NetworkFacts
from vmacro.model.moves import Ending, Finding, Outcome, Plan
from vmacro.planning import checks, planner
from vmacro.planning.handoffs import RENUMBER, SEAMLESS, next_address, next_address6
from vmacro.planning.request import Request
from vmacro.services import measured, migrate


def wanted(fake: FakeWorld, to: str = "berlin", handoff: str = SEAMLESS) -> Request:
    site = fake.inventory.site(to)
    assert site is not None
    return Request(fake.inventory.guests[0], site, handoff, fake.inventory.policy)


def plan(fake: FakeWorld, to: str = "berlin", move: str = "web-1") -> Plan:
    seen, found = measured.checked(fake.inventory, wanted(fake, to), fake.world, ask_clients=True)
    assert not checks.blockers(found), found
    return planner.plan(move, fake.inventory, wanted(fake, to), seen)


def move(fake: FakeWorld, to: str = "berlin", move: str = "web-1") -> Outcome:
    return migrate.tell_the_story(plan(fake, to, move), fake.world, Straight())


def findings(fake: FakeWorld, handoff: str = SEAMLESS) -> dict[str, Finding]:
    return {f.code: f for f in measured.checked(fake.inventory, wanted(fake, handoff=handoff), fake.world, True)[1]}


def ends(fake: FakeWorld) -> dict[str, list[tuple[str, str, str]]]:
    """By host: side, address, where it points."""
    return {n: [(e.side, e.address, e.points_to) for e in h.legs.values()] for n, h in fake.hosts.items()}


def test_who_cannot_follow_is_carried_and_its_address_is_given_to_nobody_else() -> None:
    fake = FakeWorld()
    fake.guest.connections.append(connection(0xB2, "10.50.1.97", willing=False))
    outcome = move(fake)
    assert outcome.ending == Ending.MOVED and outcome.carried == ("10.50.1.97",)
    assert {c.key: (c.followed, c.carried) for c in outcome.connections} == {
        "0x000000a1": (True, False),
        "0x000000b2": (False, True),
    }
    assert ends(fake) == {
        "bucharest": [("home", "10.50.1.97", "tunnel")],
        "berlin": [("away", "10.50.1.97", "guest")],
    }
    ((address, mac),) = fake.hosts["bucharest"].networks["front"].reserved
    assert address == "10.50.1.97" and mac.startswith("02:76:03:")
    assert fake.hosts["berlin"].networks["front"].reserved == ()


def test_home_again_there_is_no_tunnel_and_the_carried_address_is_not_announced_again() -> None:
    fake = FakeWorld()
    fake.guest.connections.append(connection(0xB2, "10.50.1.97", willing=False))
    move(fake)
    outcome = move(fake, "bucharest", "web-2")
    assert outcome.ending == Ending.MOVED and all(c.kept for c in outcome.connections)
    assert ends(fake) == {"bucharest": [], "berlin": []}
    assert fake.guest.address != "10.50.1.97" and "10.50.1.97" in fake.guest.kept
    fake.guest.connections = [c for c in fake.guest.connections if c.token != 0xB2]
    assert move(fake, "berlin", "web-3").carried == ()
    assert ends(fake) == {"bucharest": [], "berlin": []}
    assert all(h.networks["front"].reserved == () for h in fake.hosts.values())


def test_a_copy_that_fails_leaves_nothing() -> None:
    fake = FakeWorld()
    chosen = plan(fake)

    def before(effect: str) -> None:
        if effect == "copy bucharest":
            assert ends(fake)["berlin"] == [("home", "10.50.2.10", "tunnel"), ("away", "10.50.1.97", "guest")]
            raise CopyError("the link broke")

    fake.before = before
    assert migrate.tell_the_story(chosen, fake.world, Straight()).ending == Ending.ROLLED_BACK
    assert ends(fake) == {"bucharest": [], "berlin": []} and fake.guest.kept == []
    assert fake.hosts["berlin"].networks["front"].reserved == ()


@pytest.mark.parametrize("effect", ["link.open berlin", "link.open bucharest", "reserve berlin", "link.arm berlin"])
def test_what_fails_before_the_copy_rolls_back(effect: str) -> None:
    fake = FakeWorld()
    chosen = plan(fake)

    def before(name: str) -> None:
        if name == effect:
            raise HostError("no")

    fake.before = before
    assert migrate.tell_the_story(chosen, fake.world, Straight()).ending == Ending.ROLLED_BACK
    assert ends(fake) == {"bucharest": [], "berlin": []} and fake.running_at() == ["bucharest"]


def test_undoing_that_fails_is_told() -> None:
    fake = FakeWorld()
    chosen = plan(fake)

    def before(name: str) -> None:
        if name == "copy bucharest":
            raise CopyError("the link broke")
        if name == "link.close berlin":
            raise HostError("host berlin: no SSH")

    fake.before = before
    outcome = migrate.tell_the_story(chosen, fake.world, Straight())
    assert outcome.ending == Ending.ROLLED_BACK and "no SSH" in outcome.reason


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"tunnels": ()}, "no-tunnel"),
        ({"tunnels": ("wireguard",)}, "no-tunnel"),  # the other host has VXLAN only
        ({"path_mtu": 1300}, "tunnel-mtu"),
        ({"forwarding": False}, "no-forwarding"),
        ({"bridge_mac": "52:54:00:bb:bb:bb"}, "gateway-mac"),
        ({"knows_itself": False}, "own-name"),
    ],
)
def test_what_a_host_lacks(change: dict[str, object], code: str) -> None:
    fake = FakeWorld()
    berlin = fake.hosts["berlin"]
    berlin.links = replace(berlin.links, **change)  # type: ignore[arg-type]
    assert code in findings(fake) and code not in findings(fake, RENUMBER)
    blocks = code not in ("gateway-mac", "own-name")
    assert bool(checks.blockers(findings(fake).values())) is blocks


def test_what_a_network_or_a_guest_lacks() -> None:
    fake = FakeWorld()
    front = fake.hosts["berlin"].networks
    front["front"] = replace(front["front"], forward="nat")
    fake.guest.verbs, fake.guest.rp_filter = ("arrive", "claim", "status"), 1
    assert {"network-filters", "agent-too-old", "guest-rp-filter"} <= set(findings(fake))
    assert set(findings(fake, RENUMBER)) == set()


def test_a_pool_with_nothing_but_what_the_guest_still_holds() -> None:
    fake = FakeWorld()
    front = fake.hosts["berlin"].networks
    only, mac = "10.50.2.10", "52:54:00:00:00:01"
    front["front"] = replace(front["front"], dhcp_range=(only, only), dhcp_free=0, taken=((only, mac),))
    fake.guest.kept.append(only)
    assert "held since an earlier stay" in findings(fake)["dhcp-exhausted"].message


def test_wireguard_is_chosen_where_both_hosts_have_it() -> None:
    fake = FakeWorld()
    for host in fake.hosts.values():
        host.links = replace(host.links, tunnels=("wireguard", "vxlan"))
    assert findings(fake) == {}
    assert {leg.kind for leg in plan(fake).leads} == {"wireguard"}


def test_each_missing_piece_is_a_finding() -> None:
    fake = FakeWorld()
    assert set(findings(fake)) == {"tunnel-plain"}, "VXLAN, said aloud"
    fake.before = _refuse("link.facts berlin")
    found = findings(fake)["no-host-side"]
    assert "renumber" in found.hint and checks.blockers([found])
    assert "no-host-side" not in findings(fake, RENUMBER), "which needs none"
    fake = FakeWorld()
    fake.hosts["berlin"].used["10.50.2.10"] = "52:54:00:99:99:99"
    assert "10.50.2.10" in findings(fake)["address-used"].message
    fake = FakeWorld()
    site = fake.inventory.sites[1]
    fake.inventory = replace(fake.inventory, sites=(fake.inventory.sites[0], replace(site, anti_spoofing=True)))
    assert "anti-spoofing" in findings(fake, RENUMBER) and "anti-spoofing" not in findings(fake)


def _refuse(effect: str) -> Callable[[str], None]:
    def before(name: str) -> None:
        if name == effect:
            raise HostError("host berlin: no SSH")

    return before


NETWORK = NetworkFacts("front", True, "front0", False, 0, "10.1.0.0/24", "10.1.0.1", ("10.1.0.10", "10.1.0.12"), 3)


def test_the_address_to_come() -> None:
    leased = replace(NETWORK, taken=(("10.1.0.11", "aa"),))
    assert next_address(leased, "AA", []) == "10.1.0.11", "what DHCP keeps for it"
    assert next_address(leased, "AA", ["10.1.0.11"]) == "10.1.0.10", "but not what carried connections use"
    assert next_address(leased, "bb", ["10.1.0.10"]) == "10.1.0.12"
    assert next_address(leased, "bb", ["10.1.0.10", "10.1.0.12"]) == ""


def test_the_ipv6_address_to_come_is_made_of_the_mac() -> None:
    dual = replace(NETWORK, subnet6="fd50:1::/64")
    mac, own = "52:54:00:12:34:56", "fd50:1::5054:ff:fe12:3456"
    assert next_address6(dual, mac, []) == own
    assert next_address6(dual, mac, [own, "10.1.0.7"]) == "fd50:1::5054:ff:fe12:3457", "held for carried connections"
    assert next_address6(NETWORK, mac, []) == ""
    assert next_address6(replace(NETWORK, subnet6="fd50:1::/80"), mac, []) == "", "no SLAAC there"


def dual_stack(fake: FakeWorld) -> None:
    for number, host in enumerate(fake.hosts.values(), 1):
        host.networks["front"] = replace(host.networks["front"], subnet6=f"fd50:{number}::/64")
    fake.guest.address6 = OLD6


OLD6, NEW6 = "fd50:1::5054:ff:fe00:1", "fd50:2::5054:ff:fe00:1"


def test_a_dual_stack_guest_takes_both_addresses_along() -> None:
    fake = FakeWorld()
    dual_stack(fake)
    fake.guest.connections = [connection(0xA6, OLD6, willing=True), connection(0xB6, OLD6, willing=False)]
    chosen = plan(fake)
    assert [(leg.address, leg.home.name) for leg in chosen.leads] == [("10.50.2.10", "berlin"), (NEW6, "berlin")]
    assert [(leg.address, leg.home.name) for leg in chosen.trail] == [("10.50.1.97", "bucharest"), (OLD6, "bucharest")]
    outcome = migrate.tell_the_story(chosen, fake.world, Straight())
    assert outcome.ending == Ending.MOVED and outcome.carried == (OLD6,)
    assert [(c.followed, c.carried) for c in outcome.connections] == [(True, False), (False, True)]
    assert ends(fake) == {"bucharest": [("home", OLD6, "tunnel")], "berlin": [("away", OLD6, "guest")]}
    assert not any(h.networks["front"].reserved for h in fake.hosts.values())
