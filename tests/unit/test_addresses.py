"""Which addresses are a guest's: what its agent says, held against DHCP, SLAAC and the journal."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from tests.unit.test_hostile_agent import ADDRESSES
from tests.unit.test_seamless import Story, dual_stack, wanted
from vmacro.drivers.fake import FakeWorld, connection
from vmacro.errors import HostError
from vmacro.model.facts import NO_PAST, HomedAddress, NetworkFacts, Past, Reservation, Survey
from vmacro.model.moves import Finding
from vmacro.planning import addresses, checks
from vmacro.planning.addresses import claims, next_address, next_address6, own_addresses6, routes
from vmacro.planning.handoffs import MOST_ADDRESSES, RENUMBER, SEAMLESS
from vmacro.services import measured

HOME, HOME6, MAC = "10.50.1.97", "fd50:1::5054:ff:fe00:1", "52:54:00:00:00:01"
NETWORK = NetworkFacts("front", True, "front0", False, 0, "10.1.0.0/24", "10.1.0.1", ("10.1.0.10", "10.1.0.12"), 3)
DUAL = replace(NETWORK, subnet6="fd50:1::/64")
SITES = {name: (name,) for name in ("bucharest", "berlin", "oslo")}


@pytest.fixture
def fake() -> FakeWorld:
    found = FakeWorld(SITES)
    dual_stack(found)
    return found


def surveyed(fake: FakeWorld, past: Past = NO_PAST, handoff: str = SEAMLESS) -> Survey:
    return measured.look(fake.inventory, wanted(fake, handoff=handoff), fake.world, ask_clients=True, past=past)


def found(fake: FakeWorld, code: str, past: Past = NO_PAST, handoff: str = SEAMLESS) -> list[Finding]:
    asked = wanted(fake, handoff=handoff)
    return [f for f in checks.check(asked, surveyed(fake, past, handoff)) if f.code == code]


def test_a_guests_own_are_known_by_dhcp_and_by_its_mac(fake: FakeWorld) -> None:
    bucharest = fake.inventory.hosts[0]
    seen = claims(surveyed(fake), [])
    assert seen.homed == (HomedAddress(HOME, bucharest), HomedAddress(HOME6, bucharest)) and seen.others == ()
    fake.hosts["bucharest"].leases = {}
    front = fake.hosts["bucharest"].networks["front"]
    fake.hosts["bucharest"].networks["front"] = replace(front, reserved=(Reservation(HOME, MAC),), taken=((HOME, MAC),))
    assert HOME in [h.address for h in claims(surveyed(fake), []).homed], "reserved, and not leased"


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES)
@pytest.mark.parametrize("handoff", [SEAMLESS, RENUMBER])
def test_what_only_its_agent_says_is_said_aloud_and_nobodys(fake: FakeWorld, address: str, handoff: str) -> None:
    fake.guest.kept = [address]
    seen = claims(surveyed(fake), [])
    assert seen.others == (address,) and {h.address for h in seen.homed} == {HOME, HOME6}
    told = found(fake, "addresses-stay", handoff=handoff)
    assert [address in f.message for f in told] == ([True] if handoff == SEAMLESS else [])
    assert checks.blockers(told) == []
    fake.guest.kept, fake.guest.address = [], address
    (unknown,) = found(fake, "address-unknown", handoff=handoff)
    assert checks.blockers([unknown]) and address in unknown.message and HOME in unknown.message


def test_many_are_told_in_few_words(fake: FakeWorld) -> None:
    fake.guest.kept = [f"10.50.1.{n}" for n in range(200, 250)]
    (told,) = found(fake, "addresses-stay")
    assert "10.50.1.200, 10.50.1.201, 10.50.1.202 and 47 more" in told.message


@pytest.mark.parametrize("other", ["10.50.1.0", "10.50.1.255", "10.50.1.1", "10.50.3.7", "8.8.8.8", "no address", ""])
def test_a_host_gives_its_guests_nothing_that_it_cannot_route(fake: FakeWorld, other: str) -> None:
    fake.hosts["bucharest"].leases = {MAC: other}
    fake.guest.address = other or HOME
    assert len(found(fake, "address-unknown")) == 1


def test_a_guest_that_leases_a_whole_subnet_takes_few_addresses_along(fake: FakeWorld) -> None:
    """All are its own by DHCP: each would be a leg at two hosts, and a question that its agent may take 5 s for."""
    many = [f"10.50.1.{n}" for n in range(100, 240)]
    network = fake.hosts["bucharest"].networks["front"]
    taken = tuple((address, MAC) for address in (HOME, *many))
    fake.hosts["bucharest"].networks["front"] = replace(network, taken=taken)
    fake.hosts["bucharest"].leases = {}
    fake.guest.kept = many
    planned = Story(fake).plan("berlin")
    assert len(planned.old_legs) == len(planned.addresses) == MOST_ADDRESSES
    assert {HOME, HOME6} < {h.address for h in planned.addresses}, "those that it has now come first"
    (told,) = found(fake, "addresses-stay")
    assert f"142 addresses, and {MOST_ADDRESSES} go along" in told.message and not checks.blockers([told])


def test_a_card_that_an_address_is_reserved_for_gets_that_one_or_none(fake: FakeWorld) -> None:
    """While connections use it from afar there is none, and `check` says so."""
    front, kept = fake.hosts["berlin"].networks, Reservation("10.50.2.77", MAC)
    front["front"] = replace(front["front"], reserved=(kept,), taken=((kept.address, kept.mac),))
    planned = Story(fake).plan("berlin")
    assert (planned.new_address, planned.reserve) == ("10.50.2.77", False)
    fake.guest.kept = ["10.50.2.77"]
    (told,) = found(fake, "reservation-collides")
    assert checks.blockers([told]) and f"10.50.2.77 for {MAC}" in told.message
    assert "still holds that one" in told.message and "vmacro carry closes it" in told.hint, (
        "an operator's entry is no mistake"
    )


def test_what_is_reserved_comes_before_what_is_leased(fake: FakeWorld) -> None:
    """As dnsmasq does: the guest was there before an operator reserved another address for it."""
    fake.hosts["berlin"].leases[MAC] = "10.50.2.50"
    assert Story(fake).plan("berlin").new_address == "10.50.2.50"
    front = fake.hosts["berlin"].networks
    front["front"] = replace(front["front"], reserved=(Reservation("10.50.2.77", MAC),))
    planned = Story(fake).plan("berlin")
    assert (planned.new_address, planned.reserve) == ("10.50.2.77", False)


def test_an_entry_by_name_alone_is_for_who_has_the_lease(fake: FakeWorld) -> None:
    front, pin = fake.hosts["bucharest"].networks, Reservation(HOME, "", "web")
    front["front"] = replace(front["front"], reserved=(pin,), taken=((HOME, ""),))
    assert HOME in [h.address for h in claims(surveyed(fake), []).homed]
    assert found(fake, "reservation-collides") == []
    fake.hosts["bucharest"].leases = {"52:54:00:00:00:99": HOME}
    assert len(found(fake, "address-unknown")) == 1


def test_an_address_that_is_another_cards_too_is_nobodys(fake: FakeWorld) -> None:
    fake.hosts["bucharest"].leases["52:54:00:00:00:99"] = HOME
    assert len(found(fake, "address-unknown")) == 1


def test_an_address_is_not_believed_of_a_subnet_that_the_inventory_contradicts(fake: FakeWorld) -> None:
    host = fake.inventory.hosts[0]
    front = fake.hosts["bucharest"].networks["front"]
    assert routes(replace(host, subnet="10.99.1.0/24"), front, HOME) == ""
    assert routes(replace(host, subnet6="fd99::/64"), front, HOME6) == ""
    assert routes(replace(host, subnet="10.50.1.0/24"), front, HOME) == "10.50.1.0/24"
    assert routes(host, front, HOME6) == "fd50:1::/64" and routes(host, None, HOME) == ""


def test_what_is_carried_is_known_by_the_journal_alone(fake: FakeWorld) -> None:
    fake.guest.connections.append(connection(0xB2, HOME, willing=False))
    story = Story(fake)
    story.move()
    bucharest, berlin, _ = fake.inventory.hosts
    seen = claims(surveyed(fake, story.past), [])
    assert HomedAddress(HOME, bucharest) in seen.homed and seen.others == ()
    assert claims(surveyed(fake), []).others == (HOME,), "another journal's"
    lying = replace(story.past, carried=(HomedAddress(HOME, berlin),))
    assert claims(surveyed(fake, lying), []).others == (HOME,), "berlin does not route it"
    gone = replace(story.past, carried=(HomedAddress(HOME, replace(bucharest, name="gone")),))
    assert claims(surveyed(fake, gone), []).others == (HOME,), "no host of the inventory"


def test_what_no_tunnel_can_carry_on_is_told_and_left_out_of_the_plan(fake: FakeWorld) -> None:
    fake.guest.connections.append(connection(0xB2, HOME, willing=False))
    story = Story(fake)
    story.move()

    def before(effect: str) -> None:
        if effect == "link.facts bucharest":
            raise HostError("host bucharest: no SSH")

    fake.before = before
    told = [f for f in checks.check(wanted(fake, "oslo"), surveyed(fake, story.past)) if f.code == "addresses-stay"]
    assert [HOME in f.message and "bucharest" in f.message for f in told] == [True] and not checks.blockers(told)
    assert HOME not in {leg.address for leg in story.plan("oslo").old_legs}


def test_an_address_is_not_tunnelled_to_where_it_would_be_a_neighbours(fake: FakeWorld) -> None:
    """oslo's own guests are in the subnet that the address is of, as oslo says."""
    fake.guest.connections.append(connection(0xB2, HOME, willing=False))
    story = Story(fake)
    story.move()
    oslo = fake.hosts["oslo"].networks
    span = ("10.50.1.200", "10.50.1.210")
    oslo["front"] = replace(oslo["front"], subnet="10.50.1.0/24", gateway="10.50.1.1", dhcp_range=span)
    plan = story.plan("oslo")
    assert HOME not in {leg.address for leg in plan.old_legs}


@pytest.mark.parametrize(
    ("network", "code"),
    [
        ({"subnet": "10.50.1.0/24"}, "subnet-occupied"),
        ({"subnet": "10.50.1.128/25"}, "subnet-occupied"),
        ({"subnet": "10.0.0.0/8"}, "subnet-occupied"),
        ({"subnet": "10.50.3.0/25"}, "subnet-occupied"),  # oslo's, as the inventory says
        ({"subnet": "10.9.0.0/24"}, "subnet-occupied"),  # where the hosts are
        ({"subnet6": "fd50:1::/64"}, "subnet-occupied"),
        ({"subnet": "10.50.2.0/25"}, "subnet-differs"),
        ({"subnet6": "fd50:9::/64"}, "subnet-differs"),
        ({"subnet": "nonsense"}, "subnet-differs"),
    ],
)
def test_a_destination_does_not_take_others_subnets(fake: FakeWorld, network: dict[str, str], code: str) -> None:
    bucharest, berlin, oslo = fake.inventory.sites
    if code == "subnet-differs":
        written = replace(berlin.hosts[0], subnet="10.50.2.0/24", subnet6="fd50:2::/64")
        fake.inventory = replace(fake.inventory, sites=(bucharest, replace(berlin, hosts=(written,)), oslo))
    else:
        written = replace(oslo.hosts[0], subnet="10.50.3.0/24")
        fake.inventory = replace(fake.inventory, sites=(bucharest, berlin, replace(oslo, hosts=(written,))))
    assert found(fake, code) == []
    front = fake.hosts["berlin"].networks["front"]
    fake.hosts["berlin"].networks["front"] = replace(front, **network)  # type: ignore[arg-type]
    assert checks.blockers(found(fake, code)) != []


def test_the_address_to_come_is_one_of_its_network() -> None:
    leased = replace(NETWORK, taken=(("10.1.0.11", "aa"),))
    assert next_address(leased, "aa", []) == "10.1.0.11", "what DHCP keeps for it"
    assert next_address(leased, "aa", ["10.1.0.11"]) == "10.1.0.10", "but not what carried connections use"
    assert next_address(leased, "bb", ["10.1.0.10"]) == "10.1.0.12"
    assert next_address(leased, "bb", ["10.1.0.10", "10.1.0.12"]) == ""
    for odd in ("10.2.0.11", "10.1.0.1", "10.1.0.255", "8.8.8.8", "nonsense"):
        assert next_address(replace(NETWORK, taken=((odd, "aa"),)), "aa", []) == "10.1.0.10", odd
    both = replace(NETWORK, taken=(("10.1.0.11", "aa"), ("10.1.0.11", "bb")))
    assert next_address(both, "aa", []) == "10.1.0.10", "another's too"
    assert next_address(replace(NETWORK, dhcp_range=("10.2.0.10", "10.2.0.12")), "aa", []) == ""
    assert next_address(replace(NETWORK, dhcp_range=("10.1.0.1", "10.1.0.1")), "aa", []) == "", "the gateway's"
    assert next_address(replace(NETWORK, subnet="nonsense"), "aa", []) == ""


def test_the_ipv6_address_to_come_is_made_of_the_mac() -> None:
    mac, own = "52:54:00:12:34:56", "fd50:1::5054:ff:fe12:3456"
    assert next_address6(DUAL, mac, []) == own
    other = next_address6(DUAL, mac, [own, "10.1.0.7"])  # held for carried connections
    assert other != own and ipaddress.ip_address(other) in ipaddress.ip_network("fd50:1::/64")
    assert next_address6(DUAL, mac, own_addresses6(DUAL, mac)) == ""
    assert next_address6(NETWORK, mac, []) == ""
    assert next_address6(replace(DUAL, subnet6="fd50:1::/80"), mac, []) == "", "no SLAAC there"
    assert next_address6(replace(DUAL, subnet6="10.1.0.0/24"), mac, []) == ""
    assert next_address6(DUAL, "no card's", []) == next_address6(DUAL, "52:54:00", []) == ""


def test_no_two_cards_give_themselves_one_address() -> None:
    """Whatever the guests claim to have already."""
    cards = [f"52:54:00:00:00:{n:02x}" for n in range(64)]
    given = [address for mac in cards for address in own_addresses6(DUAL, mac)]
    assert len(given) == len(set(given)) == 64 * addresses.OWN6
    assert not set(own_addresses6(replace(DUAL, subnet6="fd50:2::/64"), cards[0])) & set(given)


@pytest.mark.parametrize(("mac", "code"), [(MAC, "mac-shared"), ("52:54:00:99:99:99", "address-used")])
def test_whoever_answers_for_the_address_to_come_blocks_whatever_its_mac(fake: FakeWorld, mac: str, code: str) -> None:
    """The guest is not there yet: a host that says that its MAC is another guest's would get that one's address. Who
    answers with the guest's own MAC is not the guest."""
    fake.hosts["berlin"].used["10.50.2.10"] = mac
    (told,) = found(fake, code)
    assert told.severity == "blocker"
