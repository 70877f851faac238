"""What a seamless move plans, prepares, carries and takes down; on the fake world and on plain data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.unit.faults import Faults, Logbook
from tests.unit.test_migrate import Straight
from vmacro.drivers.fake import FakeWorld, card, connection
from vmacro.errors import AgentError, CopyError, HostError
from vmacro.model import marks
from vmacro.model.events import Joined
from vmacro.model.facts import NO_PAST, HomedAddress, Past, Reservation
from vmacro.model.moves import Ending, Finding, Outcome, Plan, Verdict
from vmacro.model.nouns import Host
from vmacro.planning import cards, checks, planner, seamless
from vmacro.planning.handoffs import RENUMBER, SEAMLESS
from vmacro.planning.request import Request
from vmacro.ports import Agent
from vmacro.services import carry, measured, migrate


def wanted(fake: FakeWorld, to: str = "berlin", handoff: str = SEAMLESS) -> Request:
    site = fake.inventory.site(to)
    assert site is not None
    return Request(fake.inventory.guests[0], site, handoff, fake.inventory.policy)


def plan(fake: FakeWorld, to: str = "berlin", move: str = "web-1", past: Past = NO_PAST) -> Plan:
    asked = wanted(fake, to)
    seen = measured.look(fake.inventory, asked, fake.world, ask_clients=True, past=past)
    found = checks.check(asked, seen)
    assert not checks.blockers(found), found
    return planner.plan(move, fake.inventory, asked, seen)


def move(fake: FakeWorld, to: str = "berlin", move: str = "web-1", past: Past = NO_PAST) -> Outcome:
    return migrate.run_move(plan(fake, to, move, past), fake.world, Straight())


class Story:
    """Moves of one guest, one after the other, of which a journal knows."""

    def __init__(self, fake: FakeWorld) -> None:
        self.fake, self.past, self._number = fake, NO_PAST, 0

    def plan(self, to: str = "berlin") -> Plan:
        return plan(self.fake, to, f"web-{self._number + 1}", self.past)

    def move(self, to: str = "berlin") -> Outcome:
        chosen = self.plan(to)
        outcome = migrate.run_move(chosen, self.fake.world, Straight())
        self.happened(chosen, outcome)
        return outcome

    def happened(self, chosen: Plan, outcome: Outcome) -> None:
        """As services/archive.py has it afterwards."""
        self._number += 1
        carried = [HomedAddress(c.address, c.home) for c in carry.carriages(chosen, outcome, self.fake.now_s)]
        self.past = Past((*self.past.legs, *chosen.new_legs, *chosen.old_legs), tuple(carried))


def findings(fake: FakeWorld, handoff: str = SEAMLESS) -> dict[str, Finding]:
    asked = wanted(fake, handoff=handoff)
    seen = measured.look(fake.inventory, asked, fake.world, ask_clients=True)
    return {f.code: f for f in checks.check(asked, seen)}


def ends(fake: FakeWorld) -> dict[str, list[tuple[str, str, str]]]:
    """By host: side, address, where it points."""
    return {n: [(e.side, e.address, e.points_to) for e in h.legs.values()] for n, h in fake.hosts.items()}


def test_who_cannot_follow_is_carried_and_its_address_is_given_to_nobody_else() -> None:
    fake = FakeWorld()
    fake.guest.connections.append(connection(0xB2, "10.50.1.97", willing=False))
    outcome = move(fake)
    assert outcome.ending == Ending.MOVED and outcome.carried == ("10.50.1.97",)
    assert {c.key: c.verdict for c in outcome.connections} == {
        "0x000000a1": Verdict.FOLLOWED,
        "0x000000b2": Verdict.CARRIED,
    }
    assert ends(fake) == {
        "bucharest": [("home", "10.50.1.97", "tunnel")],
        "berlin": [("away", "10.50.1.97", "guest")],
    }
    (entry,) = fake.hosts["bucharest"].networks["front"].reserved
    assert entry == marks.placeholder("web-1", "10.50.1.97") and entry.mac.startswith("02:76:03:")
    assert fake.hosts["berlin"].networks["front"].reserved == ()


def test_a_card_on_another_network_before_the_one_that_moves_is_left_alone() -> None:
    """All that is reserved, tunnelled and asked for is the other card's, which its agent names."""
    fake = FakeWorld()
    first = card("52:54:00:00:07:01", "storage", "storage0")
    domains = fake.hosts["bucharest"].domains
    domains["web"] = replace(domains["web"], cards=(first, *domains["web"].cards))
    for each in fake.hosts.values():
        each.networks["storage"] = replace(each.networks["front"], name="storage", bridge="storage0")
    fake.guest.connections.append(connection(0xB2, "10.50.1.97", willing=False))
    reserved: list[Reservation] = []
    fake.before = lambda _effect: reserved.extend(fake.hosts["berlin"].networks["front"].reserved)
    chosen = plan(fake)
    assert {chosen.mac, *(leg.mac for leg in (*chosen.new_legs, *chosen.old_legs))} == {fake.guest.mac}
    outcome = migrate.run_move(chosen, fake.world, Straight())
    assert outcome.ending == Ending.MOVED and set(reserved) == {
        marks.reservation(chosen.move_id, "10.50.2.10", fake.guest.mac)
    }
    assert {e.mac for h in fake.hosts.values() for e in h.legs.values()} == {fake.guest.mac}
    assert first.mac not in {m for h in fake.hosts.values() for m in h.leases}
    assert fake.hosts["berlin"].domains["web"].cards[0] == first


def test_hosts_are_asked_about_devices_that_a_kernel_can_have_and_once_each() -> None:
    """What else a source's libvirt says would have the destination's host side refuse to answer anything."""
    others = (card(f"52:54:00:00:07:{n:02x}", "", name) for n, name in enumerate(("x" * 16, "br7", "br7")))
    fake = FakeWorld()
    domains = fake.hosts["bucharest"].domains
    domains["web"] = replace(domains["web"], cards=(*others, *domains["web"].cards))
    assert cards.devices(domains["web"]) == ("br7",)
    fake.hosts["berlin"].devices.add("br7")
    found = findings(fake)
    assert "x" * 16 in found["bridge-missing"].message and "no-host-side" not in found


@pytest.mark.parametrize("mac", ["52:54:00:00:07:01", "52:54:00:00:00:02", "52:54:00:00:00:77"])
def test_an_agents_word_chooses_none_but_its_domains_cards_on_the_network(mac: str) -> None:
    """Not one on another network, nor another guest's, nor nobody's; and no host is asked about its MAC."""
    fake = FakeWorld(guests=("web", "db"))
    domains = fake.hosts["bucharest"].domains
    storage = card("52:54:00:00:07:01", "storage", "storage0")
    domains["web"] = replace(domains["web"], cards=(storage, *domains["web"].cards))
    fake.guest.mac = mac
    found = findings(fake)
    assert "52:54:00:00:00:01" in found["card-unknown"].message and mac in found["card-unknown"].message
    assert "address-unknown" not in found and "mac-shared" not in found


def test_home_again_there_is_no_tunnel_and_the_carried_address_is_not_announced_again() -> None:
    fake = FakeWorld()
    fake.guest.connections.append(connection(0xB2, "10.50.1.97", willing=False))
    story = Story(fake)
    story.move()
    outcome = story.move("bucharest")
    assert outcome.ending == Ending.MOVED and all(c.kept for c in outcome.connections)
    assert ends(fake) == {"bucharest": [], "berlin": []}
    assert fake.guest.address != "10.50.1.97" and "10.50.1.97" in fake.guest.kept
    fake.guest.connections = [c for c in fake.guest.connections if c.token != 0xB2]
    assert story.move().carried == ()
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
    assert migrate.run_move(chosen, fake.world, Straight()).ending == Ending.ROLLED_BACK
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
    assert migrate.run_move(chosen, fake.world, Straight()).ending == Ending.ROLLED_BACK
    assert ends(fake) == {"bucharest": [], "berlin": []} and fake.running_at() == ["bucharest"]


def test_who_came_by_the_new_address_alone_does_not_keep_it_where_no_leg_brings_it_any_more() -> None:
    """DHCP may give it to another guest, which this one could not reach then."""
    fake = FakeWorld()
    fake.guest.connections.append(connection(0xB2, "10.50.1.97", willing=False))

    def before(effect: str) -> None:
        if effect == "copy bucharest":
            fake.guest.connections.append(connection(0, "10.50.2.10", willing=False))
            raise CopyError("no")

    fake.before = before
    outcome = move(fake)
    assert (outcome.ending, outcome.remains) == (Ending.ROLLED_BACK, False)
    assert fake.guest.kept == [] and {c.token for c in fake.guest.connections if c.subflows} == {0xA1, 0xB2}
    assert all(c.reaches("10.50.1.97") for c in fake.guest.connections if c.mptcp)


@pytest.mark.parametrize(("total", "joined"), [(3000, 1 << 53), (1 << 53, 0), (3000, 2999)])
def test_odd_numbers_of_a_guest_are_told_as_some_that_can_be(total: int, joined: int) -> None:
    fake = FakeWorld()
    agent = fake.world.agent

    @contextmanager
    def lying(host: Host, domain: str) -> Iterator[Agent]:
        with agent(host, domain) as found:
            count = found.count
            found.count = lambda args: replace(count(args), total=total, joined=joined)  # type: ignore[method-assign]
            yield found

    world = replace(fake.world, agent=lying)
    assert migrate.run_move(plan(fake), world, Straight()).ending == Ending.MOVED
    (told,) = [e.what for e in fake.events if isinstance(e.what, Joined)]
    assert 0 <= told.follow <= total and told.carried == total - told.follow


def test_undoing_that_fails_is_told() -> None:
    fake = FakeWorld()
    chosen = plan(fake)

    def before(name: str) -> None:
        if name == "copy bucharest":
            raise CopyError("the link broke")
        if name == "link.close berlin":
            raise HostError("host berlin: no SSH")

    fake.before = before
    outcome = migrate.run_move(chosen, fake.world, Straight())
    assert outcome.ending == Ending.ROLLED_BACK and "no SSH" in outcome.reason


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"tunnels": ()}, "no-tunnel"),
        ({"tunnels": ("vxlan",)}, "no-tunnel"),  # nobody has said that it may be plain
        ({"filters": False}, "no-filter"),
        ({"path_mtu": 1300}, "tunnel-mtu"),
        ({"forwarding": False}, "no-forwarding"),
        ({"bridge_mac": "52:54:00:bb:bb:bb"}, "gateway-mac"),
        ({"resolves_own_name": False}, "own-name"),
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
    fake.guest.verbs, fake.guest.rp_filter = ("arrive", "claim", "count", "endings", "status", "watch"), 1
    assert {"network-filters", "agent-too-old", "guest-rp-filter"} <= set(findings(fake))
    assert set(findings(fake, RENUMBER)) == set()


def test_a_pool_with_nothing_but_what_the_guest_still_holds() -> None:
    fake = FakeWorld()
    front = fake.hosts["berlin"].networks
    only, mac = "10.50.2.10", "52:54:00:00:00:01"
    front["front"] = replace(front["front"], dhcp_range=(only, only), dhcp_free=0, taken=((only, mac),))
    fake.guest.kept.append(only)
    assert "held since an earlier stay" in findings(fake)["dhcp-exhausted"].message


def says_plain(fake: FakeWorld, *names: str) -> None:
    sites = fake.inventory.sites
    marked = (replace(s, hosts=tuple(replace(h, plain_tunnel=h.name in names) for h in s.hosts)) for s in sites)
    fake.inventory = replace(fake.inventory, sites=tuple(marked))


BOTH = ("bucharest", "berlin")


@pytest.mark.parametrize("kinds", [("wireguard", "vxlan"), ("wireguard",)])
@pytest.mark.parametrize("plain", [(), BOTH[:1], BOTH[1:]])
def test_legs_are_encrypted_unless_both_hosts_say_that_they_need_not_be(
    kinds: tuple[str, ...], plain: tuple[str, ...]
) -> None:
    fake = FakeWorld()
    says_plain(fake, *plain)
    for host in fake.hosts.values():
        host.links = replace(host.links, tunnels=kinds)
    assert findings(fake) == {}
    assert {leg.kind for leg in plan(fake).new_legs} == {"wireguard"}


def test_legs_are_plain_where_both_hosts_say_so() -> None:
    fake = FakeWorld()
    says_plain(fake, *BOTH)
    assert {leg.kind for leg in plan(fake).new_legs} == {"vxlan"}
    found = findings(fake)["tunnel-plain"]
    assert not checks.blockers([found]) and "both say plain_tunnel" in found.message


@pytest.mark.parametrize("plain", [(), BOTH[:1], BOTH])
def test_what_cannot_be_as_it_was_asked_for_is_nothing_else_instead(plain: tuple[str, ...]) -> None:
    """Neither plain for want of encryption, nor encrypted for want of VXLAN: the host is not as the operator thinks."""
    fake = FakeWorld()
    says_plain(fake, *plain)
    berlin = fake.hosts["berlin"]
    left = ("wireguard",) if plain == BOTH else ("vxlan",)
    berlin.links = replace(berlin.links, tunnels=left, wireguard="", wireguard_why="wg is not installed")
    found = findings(fake)["no-tunnel"]
    assert checks.blockers([found])
    assert ("cannot do VXLAN" if plain == BOTH else "berlin: wg is not installed") in found.message
    assert ("only bucharest says plain_tunnel, and both must" in found.message) is (plain == BOTH[:1])


def test_which_tunnel_it_will_be_is_said_with_the_reason() -> None:
    fake = FakeWorld()
    asked = wanted(fake)

    def said(handoff: str = SEAMLESS) -> str:
        seen = measured.look(fake.inventory, wanted(fake, handoff=handoff), fake.world, ask_clients=True)
        return seamless.tunnel_between(checks.place(wanted(fake, handoff=handoff), seen), seen)

    assert asked.handoff == SEAMLESS and said() == "wireguard: kernel at bucharest, kernel at berlin"
    berlin = fake.hosts["berlin"]
    berlin.links = replace(berlin.links, wireguard="wireguard-go", wireguard_why="the kernel has none (EOPNOTSUPP)")
    expected = "wireguard: kernel at bucharest, wireguard-go at berlin (the kernel has none (EOPNOTSUPP))"
    assert said() == expected and set(findings(fake)) == {"tunnel-userspace"}
    says_plain(fake, *BOTH)
    assert said() == "vxlan: both hosts say plain_tunnel"
    assert said(RENUMBER) == "", "it has none"


def test_guests_that_are_not_held_to_their_addresses_are_told_of() -> None:
    fake = FakeWorld()
    berlin = fake.hosts["berlin"]
    berlin.links = replace(berlin.links, guarded=False)
    assert findings(fake) == {}, "the inventory does not ask for it"
    sites = fake.inventory.sites
    marked = (replace(s, hosts=tuple(replace(h, guard=True) for h in s.hosts)) for s in sites)
    fake.inventory = replace(fake.inventory, sites=tuple(marked))
    found = findings(fake)
    assert set(found) == {"guests-unguarded"} and found["guests-unguarded"].subject == "host berlin"


def test_each_missing_piece_is_a_finding() -> None:
    fake = FakeWorld()
    assert set(findings(fake)) == set()
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
    assert findings(fake, RENUMBER)["anti-spoofing"].hint == "--handoff seamless"
    guarded = replace(site, anti_spoofing=True, hosts=tuple(replace(host, guard=True) for host in site.hosts))
    fake.inventory = replace(fake.inventory, sites=(fake.inventory.sites[0], guarded))
    assert "guard = false" in findings(fake, RENUMBER)["anti-spoofing"].hint


def _refuse(effect: str) -> Callable[[str], None]:
    def before(name: str) -> None:
        if name == effect:
            raise HostError("host berlin: no SSH")

    return before


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
    assert [(leg.address, leg.home.name) for leg in chosen.new_legs] == [("10.50.2.10", "berlin"), (NEW6, "berlin")]
    assert [(leg.address, leg.home.name) for leg in chosen.old_legs] == [
        ("10.50.1.97", "bucharest"),
        (OLD6, "bucharest"),
    ]
    outcome = migrate.run_move(chosen, fake.world, Straight())
    assert outcome.ending == Ending.MOVED and outcome.carried == (OLD6,)
    assert [c.verdict for c in outcome.connections] == [Verdict.FOLLOWED, Verdict.CARRIED]
    assert ends(fake) == {"bucharest": [("home", OLD6, "tunnel")], "berlin": [("away", OLD6, "guest")]}
    assert not any(h.networks["front"].reserved for h in fake.hosts.values())


@pytest.mark.parametrize("verb", ["arrive", "retire", "status"])
def test_what_hosts_have_does_not_wait_for_an_agent_that_does_not_do_its_part(verb: str) -> None:
    """In `arrive`, `settle` or `verify`: what only the move needed goes, old addresses are carried; `resume` does the
    rest."""
    fake, book = FakeWorld(), Logbook()
    fake.give_disk()
    fake.guest.connections.append(connection(0xB2, "10.50.1.97", willing=False))
    fake.inventory = replace(fake.inventory, policy=replace(fake.inventory.policy, arrival_timeout_s=5.0))
    chosen, patience = plan(fake), [verb == "status"] * 2  # that is asked for in `arrive` and in `settle`, too

    def before(effect: str) -> None:
        if effect == "copy.done":
            fake.hosts["bucharest"].disks.serving[chosen.disks[0].id] = "berlin"
        asked = effect == f"agent.{verb}" and fake.running_at() == ["berlin"]
        if asked and not (patience and patience.pop()):
            raise AgentError("guest web: agent refused")

    fake.before = before
    outcome = book.attempt(chosen, fake.world, Faults())
    assert (outcome.ending, outcome.remains, outcome.carried) == (Ending.INCOMPLETE, True, ("10.50.1.97",))
    assert "agent refused" in outcome.reason and fake.running_at() == ["berlin"]
    assert ends(fake) == {
        "bucharest": [("home", "10.50.1.97", "tunnel")],
        "berlin": [("away", "10.50.1.97", "guest")],
    }
    (entry,) = fake.hosts["bucharest"].networks["front"].reserved
    assert entry == marks.placeholder(chosen.move_id, "10.50.1.97")
    kept = [marks.reservation(chosen.move_id, "10.50.2.10", chosen.mac)] if verb != "status" else []
    assert list(fake.hosts["berlin"].networks["front"].reserved) == kept, "the guest may not have asked for it yet"
    assert chosen.disks[0].id not in fake.hosts["bucharest"].disks.serving

    fake.before = lambda _effect: None
    assert book.attempt(chosen, fake.world, Faults()).ending == Ending.MOVED
    assert not fake.hosts["berlin"].networks["front"].reserved


def test_hosts_are_undone_within_any_policys_time_though_the_agent_is_silent() -> None:
    fake = FakeWorld()
    fake.inventory = replace(fake.inventory, policy=replace(fake.inventory.policy, phase_timeout_s=1.0))
    chosen = plan(fake)

    def before(effect: str) -> None:
        if effect == "copy bucharest":
            fake.guest.answers = False
            raise CopyError("the link broke")

    fake.before = before
    assert migrate.run_move(chosen, fake.world, Straight()).ending == Ending.ROLLED_BACK
    assert ends(fake) == {"bucharest": [], "berlin": []} and not fake.hosts["berlin"].networks["front"].reserved


def test_a_leg_that_was_closed_at_its_deadline_does_not_keep_a_move_from_its_end() -> None:
    """Its home is neither where the guest was nor where it is."""
    fake, book = FakeWorld({name: (name,) for name in ("bucharest", "berlin", "oslo")}), Logbook()
    fake.guest.connections.append(connection(0xB2, "10.50.1.97", willing=False))
    fake.inventory = replace(fake.inventory, policy=replace(fake.inventory.policy, arrival_timeout_s=5.0))
    story = Story(fake)
    story.move()
    chosen = story.plan("oslo")
    assert {leg.home.name for leg in chosen.old_legs} == {"bucharest", "berlin"}

    def before(effect: str) -> None:
        if effect == "agent.arrive":
            raise AgentError("guest web: agent refused")

    fake.before = before
    assert book.attempt(chosen, fake.world, Faults()).remains
    fake.before = lambda _effect: None
    for name in ("bucharest", "oslo"):
        fake.hosts[name].legs = {k: e for k, e in fake.hosts[name].legs.items() if e.address != "10.50.1.97"}
    assert book.attempt(chosen, fake.world, Faults()).ending == Ending.MOVED


def test_an_earlier_leg_stays_where_its_home_could_not_be_turned() -> None:
    """What comes by it would come nowhere."""
    fake = FakeWorld({name: (name,) for name in ("bucharest", "berlin", "oslo")})
    fake.guest.connections.append(connection(0xB2, "10.50.1.97", willing=False))
    fake.inventory = replace(fake.inventory, policy=replace(fake.inventory.policy, arrival_timeout_s=5.0))
    story = Story(fake)
    story.move()
    chosen = story.plan("oslo")

    def before(effect: str) -> None:
        if effect == "agent.arrive":
            raise AgentError("guest web: agent refused")
        if effect == "link.point bucharest":
            raise HostError("host bucharest: no SSH")

    fake.before = before
    assert Logbook().attempt(chosen, fake.world, Faults()).remains
    assert {move for move, _ in fake.hosts["berlin"].legs} == {"web-1", "web-2"}
