"""What the guard reads: libvirt's files, whole, half written, of another shape or gone."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from vmacro.host import answers, grants, guard, nft, tunnels
from vmacro.host.guests import Bridge
from vmacro.host.legs import LegEnd

LEASES = '[{"ip-address": "10.1.0.7", "mac-address": "52:54:00:00:00:0A", "expiry-time": 1}]'
DOMAIN = (
    "<domstatus state='running'><domain><devices>"
    "<interface type='network'><mac address='52:54:00:00:00:0A'/><target dev='vnet0'/></interface>"
    "<interface type='user'><mac address='52:54:00:00:00:0b'/></interface>"
    "<interface type='network'><mac address='52:54:00:00:00:0c'/><target dev='vnet1'/></interface>"
    "</devices></domain></domstatus>"
)


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("STATUS", "DHCP"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(guard, name, tmp_path / name)
    monkeypatch.setattr(guard, "GUARDED", tmp_path / "guarded")
    monkeypatch.setattr(guard, "HELD", tmp_path / "leases.json")
    return tmp_path


def test_cards_are_where_libvirt_has_put_them(folders: Path) -> None:
    for name in ("qemu", "network", "qemu/autostart"):
        (folders / "STATUS" / name).mkdir()
    (folders / "STATUS/qemu/web.xml").write_text(DOMAIN)
    (folders / "STATUS/qemu/broken.xml").write_text(DOMAIN[:40])
    (folders / "STATUS/network/front.xml").write_text(
        "<networkstatus><network><name>front</name></network></networkstatus>"
    )
    assert dict(guard._taps()) == {"vnet0": "52:54:00:00:00:0a", "vnet1": "52:54:00:00:00:0c"}


def test_leases_and_reservations_say_whose_an_address_is(folders: Path) -> None:
    (folders / "DHCP/front0.status").write_text(LEASES)
    (folders / "DHCP/front.hostsfile").write_text(
        "52:54:0:00:0:B,10.1.0.8,web\n02:76:03:aa:bb:cc,10.1.0.9\n[odd]\nid:1,[fd50::7]\nx,nowhere\n"
    )
    known = guard._dhcp()
    assert set(known.pairs) == {
        ("10.1.0.7", "52:54:00:00:00:0a"),
        ("10.1.0.8", "52:54:00:00:00:0b"),
        ("10.1.0.9", "02:76:03:aa:bb:cc"),
        ("fd50::7", "id:1"),
    }
    assert known.kept == {"10.1.0.9"}


@pytest.mark.parametrize("text", ["", "{", "[", "7", "[7]", "[[]]", "{}", '[{"ip-address": 7}]', "null", '["x"]'])
def test_a_lease_file_that_cannot_be_read_gives_nobody_anything(folders: Path, text: str) -> None:
    (folders / "DHCP/front0.status").write_text(text)
    assert guard._dhcp().pairs == ()


def test_it_watches_what_there_is(folders: Path) -> None:
    assert guard.folders() == [folders / "DHCP"]
    (folders / "STATUS/qemu").mkdir()
    assert guard.folders() == [folders / "DHCP", folders / "STATUS/qemu"]


def test_without_a_guard_nobody_is_guarded(folders: Path) -> None:
    assert guard.guarded() == []
    (folders / "guarded").write_text("front0 back0")
    assert guard.guarded() == ["front0", "back0"]


BRIDGE = Bridge("front0", 3, ("10.1.0.1/24", "fd50:1::1/64"))
MAC, KNOWN = "52:54:00:00:00:01", guard.Known((), frozenset({"10.1.0.9"}))


@pytest.mark.parametrize(
    ("address", "here", "kept"),
    [
        ("10.1.0.9", True, True),  # DHCP keeps it for nobody: connections use it
        ("10.1.0.9", False, False),
        ("10.1.0.7", True, False),
        ("fd50:1::5054:ff:fe00:2", True, True),  # beside the one that its card makes
        ("fd50:1::5054:ff:fe00:1", True, False),  # that one needs no word of anybody
        ("fd50:2::5054:ff:fe00:1", True, False),  # of another site
        ("fd50:1::5054:ff:fe00:2", False, False),
    ],
)
def test_an_address_is_kept_at_home_as_long_as_it_is_needed(address: str, here: bool, kept: bool) -> None:
    assert guard._kept(BRIDGE, [MAC] if here else [], KNOWN, address, MAC) is kept


# DHCP knows a client by an identifier that anybody may send: a neighbour's lease can be put in one's own name.
WEB, EVIL, NEW = "52:54:00:00:00:0a", "52:54:00:00:00:0b", "52:54:00:00:00:0c"
LEASE = guard.Lease("10.1.0.7", WEB, 1000.0)


@pytest.mark.parametrize(
    ("name", "leases", "here", "now_s", "counts"),
    [
        ("renewed", [LEASE._replace(until=2000.0)], [WEB, EVIL], 500, [LEASE._replace(until=2000.0)]),
        ("in another's name", [LEASE._replace(mac=EVIL, until=2000.0)], [WEB, EVIL], 500, [LEASE]),
        ("given up, by whom nobody knows", [], [WEB, EVIL], 500, [LEASE]),
        ("its time is over", [LEASE._replace(mac=NEW)], [WEB, NEW], 1000, [LEASE._replace(mac=NEW)]),
        ("its guest is gone", [LEASE._replace(mac=NEW)], [NEW], 500, [LEASE._replace(mac=NEW)]),
        ("its guest is gone, and nobody came", [], [EVIL], 500, []),
    ],
)
def test_who_had_a_lease_first_keeps_it(
    name: str, leases: list[guard.Lease], here: list[str], now_s: float, counts: list[guard.Lease]
) -> None:
    assert [*guard.first(leases, [LEASE], here, now_s)] == counts, name


def test_what_an_agent_borrows_is_free_as_soon_as_it_gives_it_back() -> None:
    borrowed = LEASE._replace(borrowed=True)
    assert guard.first([], [borrowed], [WEB], 500) == ()


def test_a_neighbours_lease_is_not_taken_by_dhcp_in_its_name(folders: Path) -> None:
    """Seen with dnsmasq 2.90: it gives a lease to whichever card sends its client identifier, and libvirt writes it."""
    status, cards = folders / "DHCP/front0.status", [WEB, EVIL]

    def leased(mac: str) -> None:
        entry = {"ip-address": "10.1.0.7", "mac-address": mac, "client-id": f"01:{WEB}", "expiry-time": 1 << 40}
        status.write_text(json.dumps([entry]))

    leased(WEB)
    guard._remember(guard._dhcp(cards).held)
    leased(EVIL)
    known = guard._dhcp(cards)
    assert known.pairs == (("10.1.0.7", WEB),)
    guard._remember(known.held)
    status.write_text("[]")
    assert guard._dhcp(cards).pairs == (("10.1.0.7", WEB),)
    (folders / "DHCP/front.hostsfile").write_text(f"{NEW},10.1.0.7\n")  # an operator's or an orchestrator's word
    assert guard._dhcp(cards).pairs == (("10.1.0.7", NEW),)
    leased(WEB)
    assert guard._dhcp(cards).pairs == (("10.1.0.7", WEB),), "reserved while another card has it"


@pytest.mark.parametrize("text", ["", "{", "7", "[7]", "[[1, 2]]", '[["10.1.0.7", "x", "soon", false]]', "null"])
def test_a_memory_that_cannot_be_read_is_none(folders: Path, text: str) -> None:
    (folders / "leases.json").write_text(text)
    assert guard._dhcp([WEB]).held == ()


def test_a_guests_name_that_is_no_text_mutes_no_neighbour(folders: Path) -> None:
    """dnsmasq and libvirt pass on what a guest says that it is called, byte by byte."""
    text = LEASES.replace("[{", '[{"hostname": "\\xff\\xfe",').encode("latin-1")
    (folders / "DHCP/front0.status").write_bytes(text.decode("unicode_escape").encode("latin-1"))
    assert guard._dhcp().pairs == (("10.1.0.7", "52:54:00:00:00:0a"),)


class Links:
    """Answers what is asked of devices: front0 is ours, other0 somebody else's bridge."""

    def link_lookup(self, ifname: str) -> list[int]:
        return [3] if ifname == "front0" else []

    def get_addr(self, index: int) -> list[dict[str, object]]:
        return [{"IFA_ADDRESS": "10.1.0.1", "prefixlen": 24}]

    def get_links(self) -> list[dict[str, object]]:
        return [{"IFLA_IFNAME": n, "IFLA_MASTER": m} for n, m in (("vnet0", 3), ("vnet7", 9), ("vnet8", None))]


@pytest.fixture
def rules(folders: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said to nft, in place of that; the leg of 10.1.0.7 is of a guest that is away."""
    said: list[str] = []
    monkeypatch.setattr(guard, "SAID", folders / "said")
    monkeypatch.setattr(nft, "alone", contextlib.nullcontext)
    monkeypatch.setattr(answers, "say", lambda _ip: None)
    monkeypatch.setattr(nft, "apply", said.append)
    monkeypatch.setattr(nft, "stands", lambda *_: True)
    leg = LegEnd("home", "wireguard", "web-1", "web", "10.1.0.7", NEW, "front0", "192.0.2.1")
    monkeypatch.setattr(tunnels, "ends", lambda _ip: [leg])
    monkeypatch.setattr(grants, "granted", lambda _ip, _bridge: [(leg.address, leg.mac)])
    (folders / "STATUS/qemu").mkdir()
    (folders / "STATUS/qemu/web.xml").write_text(DOMAIN)
    return said


def test_a_card_that_is_about_to_be_put_at_a_bridge_passes_nothing_yet(rules: list[str]) -> None:
    guard.look(Links(), ["front0"])
    assert '"vnet0" : goto' in rules[0] and '"vnet7" : accept' in rules[0] and "vnet8" not in rules[0]


def test_dhcp_gives_a_neighbour_nothing_that_is_at_the_end_of_a_leg(folders: Path, rules: list[str]) -> None:
    (folders / "DHCP/front0.status").write_text(LEASES)
    guard.look(Links(), ["front0"])
    assert "10.1.0.7" not in rules[0], "the card that is here has its lease, and is another one"
    assert (folders / "leases.json").exists()
