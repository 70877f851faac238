"""What a host takes as a guest's address: decided on its own addresses, and before anything is made."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_hostile_agent import ADDRESSES
from vmacro.host import admission, guard, routing, server
from vmacro.host.admission import Seen
from vmacro.host.dispatch import Dispatcher
from vmacro.host.errors import RefusedError
from vmacro.host.legs import LegEnd
from vmacro.host.switchover import Switchover, Tap
from vmacro.wire import host_verbs, messages
from vmacro.wire.fields import FieldError, encode
from vmacro.wire.host_verbs import HeardOf, MacUser
from vmacro.wire.messages import Request

MAC, OTHER = "52:54:00:00:00:01", "52:54:00:00:00:02"
HOME = LegEnd("home", "vxlan", "web-1", "web", "10.50.1.97", MAC, "front0", "10.9.0.2")
AWAY = replace(HOME, side="away", peer="10.9.0.1")
HOME6 = replace(HOME, address="fd50:1::5054:ff:fe00:1")
AWAY6 = replace(AWAY, address=HOME6.address)
UPLINK = (ip_interface("127.0.0.1/8"), ip_interface("::1/128"), ip_interface("fe80::1/64"))


def bucharest(*users: str) -> Seen:
    bridge = tuple(map(ip_interface, ("10.50.1.1/24", "fd50:1::1/64", "fe80::5054:ff:feaa:aaaa/64")))
    return Seen(bridge, (*bridge, *UPLINK, ip_interface("10.9.0.1/16")), users)


def berlin(*users: str) -> Seen:
    bridge = tuple(map(ip_interface, ("10.50.2.1/24", "fd50:2::1/64", "fe80::5054:ff:feaa:aaaa/64")))
    return Seen(bridge, (*bridge, *UPLINK, ip_interface("10.9.0.2/16")), users)


def takes(end: LegEnd, here: Seen, subnet: str = "", address: str = "") -> str:
    """The code of the refusal, or ''. What no machine of a network can have is no address of a leg at all."""
    try:
        end = replace(end, address=address or end.address)
    except FieldError:
        return "not-a-guests"
    try:
        admission.check(end, subnet, here)
    except RefusedError as error:
        assert end.address in str(error) or error.code == "bad-args"
        return error.code
    return ""


def test_a_guests_leg_is_taken_at_both_ends() -> None:
    for home, away, subnet in ((HOME, AWAY, "10.50.1.0/24"), (HOME6, AWAY6, "fd50:1::/64")):
        for said in (subnet, ""):
            assert takes(home, bucharest("web"), said) == takes(away, berlin(), said) == ""


# Addresses of guests in general: whose, DHCP and the orchestrator know. Of the home's own the home knows.
OF_GUESTS = {"a neighbour's", "a free one at home", "a neighbour's IPv6"}
OF_THE_HOME = {"the gateway's", "the gateway's IPv6"}


@pytest.mark.parametrize("name", sorted(ADDRESSES.keys() - OF_GUESTS))
def test_home_takes_nothing_that_is_not_its_guests(name: str) -> None:
    for said in ("10.50.1.0/24", "fd50:1::/64", ""):
        assert takes(HOME, bucharest(), said, ADDRESSES[name]) == "not-a-guests"


@pytest.mark.parametrize("name", sorted(ADDRESSES.keys() - OF_GUESTS - OF_THE_HOME))
def test_away_takes_nothing_but_what_is_in_the_homes_subnet(name: str) -> None:
    for said in ("10.50.1.0/24", "fd50:1::/64"):
        assert takes(AWAY, berlin(), said, ADDRESSES[name]) == "not-a-guests"


@pytest.mark.parametrize("subnet", ["0.0.0.0/0", "10.0.0.0/8", "10.50.0.0/16", "10.50.2.0/24", "10.9.0.0/16"])
def test_away_takes_no_home_in_which_it_is_itself(subnet: str) -> None:
    for address in ("10.50.1.97", "10.50.2.97", "10.9.0.77"):
        assert takes(replace(AWAY, address=address), berlin(), subnet) == "not-a-guests"


@pytest.mark.parametrize("subnet", ["10.50.1.7/24", "10.50.1.0/99", "::::/64"])
def test_a_subnet_that_is_none_is_refused(subnet: str) -> None:
    assert takes(HOME, bucharest(), subnet) == "bad-args"


def test_what_is_another_guests_is_refused_at_both_ends() -> None:
    for end, here in ((HOME, bucharest), (AWAY, berlin)):
        assert takes(end, here("web", "web")) == ""
        assert takes(end, here("web", "db")) == "another-guests"


def test_a_host_takes_neither_its_own_nor_its_peers_address() -> None:
    assert takes(replace(AWAY, address="10.9.0.1"), berlin()) == "not-a-guests"
    assert takes(replace(AWAY, address="10.9.0.2"), berlin()) == "not-a-guests"


class Kernel:
    """Answers what is asked of addresses; nothing may be changed."""

    def link_lookup(self, ifname: str) -> list[int]:
        return [7] if ifname == "front0" else []

    def get_links(self) -> list[dict[str, Any]]:
        return []

    def get_addr(self) -> list[Any]:
        """As pyroute2 has them: of a point-to-point link IFA_ADDRESS is the peer's."""
        near = _Message(index=7, prefixlen=24, IFA_LOCAL="10.50.1.1", IFA_ADDRESS="10.50.1.1")
        near6 = _Message(index=7, prefixlen=64, IFA_ADDRESS="fd50:1::1")
        return [near, near6, _Message(index=2, prefixlen=32, IFA_LOCAL="10.9.0.1", IFA_ADDRESS="10.9.0.254")]

    def route(self, _verb: str, dst: str) -> list[Any]:
        """The other hosts are behind another interface, an inner network of the provider's behind the bridge."""
        return [_Message(RTA_OIF=7 if dst.startswith("10.50.1.") else 2)]

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"{name}: nothing may be made of a leg that is refused")


class _Message(dict[str, Any]):
    """What pyroute2 gives: items, and attributes by get()."""


class Libvirt:
    """Implements switchover.Domains: a neighbour runs; one that is shut off has any card, and is in nobody's way."""

    def listen(self) -> bool:
        return True

    def taps(self, domain: str) -> list[Tap]:
        return []

    def with_card(self, mac: str) -> list[MacUser]:
        return [MacUser("db", "vnet2", True)] if mac == OTHER else [MacUser("a-clone-that-is-shut-off", "", False)]


@pytest.fixture(autouse=True)
def dhcp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease of another card's, one whose time is over, a reservation of another's, and one for nobody's card."""
    for name in ("STATUS", "DHCP", "HELD"):
        monkeypatch.setattr(guard, name, tmp_path / name)
    (tmp_path / "DHCP").mkdir()
    leases = [
        {"ip-address": f"10.50.1.{n}", "mac-address": OTHER, "expiry-time": t} for n, t in ((10, 1 << 40), (12, 1))
    ]
    (tmp_path / "DHCP/front0.status").write_text(json.dumps(leases))
    (tmp_path / "DHCP/front.hostsfile").write_text(f"{OTHER},10.50.1.11\n02:76:03:aa:bb:cc,10.50.1.97\n")


@pytest.mark.parametrize(("last", "leased"), [(10, (OTHER,)), (11, (OTHER,)), (12, ()), (13, ()), (97, ())])
def test_dhcp_says_who_has_an_address(last: int, leased: tuple[str, ...]) -> None:
    assert admission.seen(Kernel(), replace(HOME, address=f"10.50.1.{last}"), []).leased == leased


def test_dhcpv6_knows_no_macs(tmp_path: Path) -> None:
    (tmp_path / "DHCP/front0.status").write_text(json.dumps([{"ip-address": HOME6.address, "client-id": "00:01"}]))
    (tmp_path / "DHCP/front.hostsfile").write_text(f"id:00:01,[{HOME6.address}]\n")
    assert admission.seen(Kernel(), HOME6, []).leased == ()


def test_what_dhcp_has_given_to_a_neighbour_is_refused_at_home() -> None:
    assert takes(HOME, replace(bucharest("web"), leased=(MAC,))) == ""
    assert takes(HOME, replace(bucharest("web"), leased=(OTHER, MAC))) == "another-guests"
    assert takes(AWAY, replace(berlin("web"), leased=(OTHER,))) == "", "that is another subnet's"


def test_an_address_made_of_a_neighbours_mac_is_refused_at_home() -> None:
    assert takes(HOME6, bucharest("web"), address="fd50:1::5054:ff:fe00:2") == "another-guests"
    assert takes(HOME6, bucharest("web"), address="fd50:1::1234:5678:9abc:def0") == "", "by a hash, of which none knows"


def test_a_bridge_that_leads_to_other_hosts_has_no_legs() -> None:
    for end, here in ((HOME, bucharest), (AWAY, berlin)):
        assert takes(end, replace(here("web"), outward=True)) == "not-a-guests"


def test_what_a_kernel_says_is_read() -> None:
    seen = admission.seen(Kernel(), HOME, ["web"])
    assert seen.bridge == (ip_interface("10.50.1.1/24"), ip_interface("fd50:1::1/64"))
    assert seen.own == (*seen.bridge, ip_interface("10.9.0.1/32")) and seen.users == ("web",)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"address": "8.8.8.8"}, "not-a-guests"),
        ({"address": "10.50.1.1"}, "not-a-guests"),
        ({"address": "10.9.0.1"}, "not-a-guests"),
        ({"bridge": "nowhere0"}, "not-a-guests"),
        ({"peer": "10.50.1.200"}, "not-a-guests"),
        ({"address": "10.50.1.10"}, "another-guests"),
        ({"address": "10.50.1.11"}, "another-guests"),
        ({"address": "fd50:1::5054:ff:fe00:2"}, "another-guests"),
        ({"mac": "52:54:00:00:00:02"}, "another-guests"),
    ],
)
def test_it_is_refused_before_anything_is_made(
    change: dict[str, str], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the host side's own verb, and with every end that could be asked for, whatever a journal has of it."""
    monkeypatch.setattr(routing, "make", lambda *_: pytest.fail("it was made"))
    switchover = Switchover(None, Libvirt())  # type: ignore[arg-type]
    host = Dispatcher(server.Server(Kernel(), switchover, lambda _asked: HeardOf(()), tuple).handlers())
    end = asdict(HOME) | change
    line = messages.encode_request(Request("a", "open", {"end": end, "subnet": "10.50.1.0/24"}))
    assert messages.decode_reply(host.answer(line)).error_code == code


def test_the_words_of_the_verb() -> None:
    opened = host_verbs.Open(host_verbs.End(**asdict(HOME)), "10.50.1.0/24")
    assert host_verbs.OPEN.decode_args(Request("a", "open", encode(opened))) == opened
    for odd in ("10.50.1.0", "-h/24", "x" * 60, "10.50.1.0/24 or so"):
        with pytest.raises(messages.ProtocolError):
            host_verbs.OPEN.decode_args(Request("a", "open", encode(replace(opened, subnet=odd))))
