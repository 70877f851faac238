"""What network filters hold a card to, read as libvirt tells it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vmacro.drivers.libvirt import filters
from vmacro.model.filters import LIVE, STORED, Filter

MAC = "52:54:00:00:00:01"
FILTERS = {
    "ours": "<filterref filter='no-mac-spoofing'/><filterref filter='deeper'/>",
    "deeper": "<rule action='drop' direction='out'><ip match='no' srcipaddr='$IP'/></rule>",
    "given": "<filterref filter='no-ip-spoofing'><parameter name='IP' value='10.0.0.9'/></filterref>",
    "harmless": "<rule action='drop' direction='out'><tcp dstportstart='25'/></rule>",
    "masked": "<rule action='accept' direction='out'><ip srcipaddr='$IPMASK'/></rule>",
    "indexed": "<rule action='accept' direction='out'><arp arpsrcipaddr='$IP[@1]'/></rule>",
    "written": "<rule action='accept' direction='out'><ip srcipaddr='10.0.0.7'/></rule>",
    "named": "<rule action='accept' direction='inout'><arp arpsrcipaddr='$MY_IP'/></rule>",
    "asked": "<rule action='accept' direction='out'><ip srcipaddr='0.0.0.0'/></rule>"
    "<rule action='accept' direction='in'><ip srcipaddr='$DHCPSERVER'/></rule>",
    "round": "<filterref filter='round'/>",
    "wide": "<filterref filter='wide'/>" * 40,
}


def shown(name: str) -> str:
    return f"<filter name='{name}'>{FILTERS[name]}</filter>" if name in FILTERS else ""


def domain(name: str, *parameters: tuple[str, str]) -> str:
    given = "".join(f"<parameter name='{key}' value='{value}'/>" for key, value in parameters)
    reference = f"<filterref filter='{name}'>{given}</filterref>" if name else ""
    card = f"<interface type='network'><mac address='{MAC.upper()}'/>{reference}</interface>"
    return f"<domain><devices>{card}<interface type='user'/></devices></domain>"


def of(live: str, stored: str = "", described: Callable[[str], str] = shown) -> list[Filter]:
    return list(filters.of(live, stored, described))


def test_a_card_without_a_filter_is_held_to_nothing() -> None:
    assert of(domain(""), domain("")) == []


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("clean-traffic", (), ((4,), ())),
        ("clean-traffic", (("CTRL_IP_LEARNING", "dhcp"), ("DHCPSERVER", "10.0.0.1")), ((4,), ())),
        ("clean-traffic", (("IP", "10.0.0.7"), ("IP", "10.0.0.8")), ((4,), ("10.0.0.7", "10.0.0.8"))),
        ("no-ipv6-spoofing", (("IPV6", "2001:db8::7"), ("IP", "10.0.0.7")), ((6,), ("2001:db8::7",))),
        ("no-mac-spoofing", (("IP", "10.0.0.7"),), ((), ())),
        ("ours", (("IP", "10.0.0.7"),), ((4,), ("10.0.0.7",))),
        ("ours", (("IP", "no address"),), ((4,), ())),
        ("given", (("IP", "10.0.0.7"),), ((4,), ("10.0.0.9",))),
        ("harmless", (), ((), ())),
        ("indexed", (), ((4,), ())),
    ],
)
def test_what_a_filter_holds_a_card_to(name: str, parameters: tuple[tuple[str, str], ...], expected: object) -> None:
    (found,) = of(domain(name, *parameters))
    assert (found.mac, found.name, found.where, found.known) == (MAC, name, LIVE, True)
    assert (found.versions, found.allowed) == expected


@pytest.mark.parametrize(
    ("there", "versions", "known"),
    [
        ("<filterref filter='clean-traffic'/>", (4,), True),
        ("<filterref filter='no-mac-spoofing'/>", (), True),
        ("<rule action='drop' direction='out'><ip match='no' srcipaddr='10.0.0.1'/></rule>", (), False),
    ],
)
def test_another_host_has_another_filter_of_that_name(there: str, versions: tuple[int, ...], known: bool) -> None:
    here = of(domain("harmless", ("IP", "10.0.0.7")))
    (found,) = filters.elsewhere(here, lambda name: f"<filter name='{name}'>{there}</filter>")
    allowed = ("10.0.0.7",) if versions else ()
    assert found == Filter(MAC, "harmless", LIVE, versions, allowed, known)
    assert filters.elsewhere(here, shown) == tuple(here)
    (gone,) = filters.elsewhere(here, lambda _name: "")
    assert not gone.known, "another rule says that it has none"
    assert filters.elsewhere(of(domain("clean-traffic")), lambda _name: "") == tuple(of(domain("clean-traffic")))


def test_nobody_is_asked_of_libvirts_own() -> None:
    def asked(name: str) -> str:
        raise AssertionError(name)

    assert len(of(domain("clean-traffic"), described=asked)) == 1


@pytest.mark.parametrize("name", ["masked", "written", "named", "asked"])
def test_addresses_by_other_names_are_not_understood(name: str) -> None:
    """It may hold the card to these, and everything else of the guest's would be dropped."""
    (found,) = of(domain(name, ("MY_IP", "10.0.0.7")))
    assert found.known == (name == "asked")


@pytest.mark.parametrize("name", ["missing", "round", "wide"])
def test_a_filter_that_leads_nowhere_is_unknown_after_a_while(name: str) -> None:
    asked = []

    def described(wanted: str) -> str:
        asked.append(wanted)
        return shown(wanted)

    (found,) = of(domain(name), described=described)
    assert not found.known and len(asked) <= 64


def test_what_is_only_stored_is_told_as_such() -> None:
    assert [f.where for f in of(domain("clean-traffic"), domain("clean-traffic"))] == [LIVE]
    assert [(f.name, f.where) for f in of(domain("given"), domain("clean-traffic"))] == [
        ("given", LIVE),
        ("clean-traffic", STORED),
    ]
    assert [f.where for f in of(domain(""), domain("clean-traffic"))] == [STORED]


@pytest.mark.parametrize("text", ["", "<domain", "<!DOCTYPE d [<!ENTITY e 'x'>]><domain/>"])
def test_what_is_no_xml_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="XML"):
        of(text)
