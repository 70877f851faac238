"""What a host's libvirt says, as much of it as libvirt lets pass: it keeps nobody busy, and has nobody ask without end.

All that is read of libvirt's XML is tried with many of each element. To look through all of them for each one took
minutes or hours for 4 MiB; here it would take longer than is allowed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from vmacro.drivers.libvirt import definition, devices, filters, xml
from vmacro.model.definitions import MOST_NEEDS, Device

MANY = 400_000  # characters
MOST_S = 3.0  # of a processor's time
DEVICES = [
    "<hostdev type='pci'><source><address domain='{n}{i}'/></source></hostdev>",
    "<filesystem><source dir='/{n}{i}'/></filesystem>",
    "<shmem name='{n}{i}'/>",
    "<interface><mac address='52:54:00:{i}'/><source network='{n}{i}'/><filterref filter='{n}{i}'/></interface>",
    "<interface type='vdpa'><mac address='{n}{i}'/><source bridge='{n}{i}'/></interface>",
    "<disk><target dev='{n}{i}'/><source file='/{n}{i}'/><mirror/></disk>",
    "<disk type='network'><target dev='{n}{i}'/><source><host name='h{i}' socket='/{n}{i}'/></source></disk>",
    "<graphics><listen type='address' address='{n}{i}'/></graphics>",
    "<serial type='file'><source path='/{n}{i}/y'/></serial>",
    "<channel type='{n}{i}'><target name='{n}{i}'/></channel>",
    "<video><model type='{n}{i}'/></video>",
    "<input type='evdev'><source dev='/{n}{i}'/></input>",
    "<memory><source><path>/{n}{i}</path><nodemask>{i}</nodemask></source></memory>",
]


def many(pattern: str, name: str = "a") -> str:
    return "".join(pattern.format(i=f"{i:06x}", n=name) for i in range(MANY // len(pattern)))


def domain(body: str) -> str:
    return (
        f"<domain type='kvm'><memory>1</memory><os><type machine='q' arch='x'/></os><devices>{body}</devices></domain>"
    )


def soon(read: Callable[[], object]) -> None:
    """It is read, or refused."""
    began = time.thread_time()
    try:
        read()
    except ValueError as error:
        assert len(str(error)) < 500
    assert time.thread_time() - began < MOST_S


@pytest.mark.parametrize("pattern", DEVICES)
def test_a_domain_of_many_devices(pattern: str) -> None:
    live, stored = domain(many(pattern, "a")), domain(many(pattern, "b"))
    for read in (xml.domain, xml.targets):
        soon(lambda read=read: read(live))  # type: ignore[misc]
    soon(lambda: definition.definition(live, stored))
    soon(lambda: filters.of(live, stored, lambda _name: ""))


def test_a_network_of_many_ranges_none_of_which_has_any_address_left() -> None:
    reserved = "".join(
        f"<host mac='52:54:00:00:{i >> 8:02x}:{i & 255:02x}' ip='10.0.{i >> 8}.{i & 255}'/>" for i in range(8000)
    )
    ranges = many("<range start='10.0.0.9' end='10.0.0.9'/>")
    text = f"<network><ip address='10.0.0.1' netmask='255.0.0.0'><dhcp>{ranges}{reserved}</dhcp></ip></network>"
    soon(lambda: xml.network(text, True, []))


def test_an_address_that_is_free_is_counted_as_before() -> None:
    def found(*ranges: str, taken: tuple[str, ...] = ()) -> tuple[object, object]:
        body = "".join(f"<range start='{r.split('-')[0]}' end='{r.split('-')[1]}'/>" for r in ranges)
        ip = f"<ip address='10.0.0.1' netmask='255.255.255.0'><dhcp>{body}</dhcp></ip>"
        seen = xml.network(f"<network>{ip}</network>", True, [(a, "52:54:00:00:00:01") for a in taken])
        return seen.dhcp_range, seen.dhcp_free

    assert found("10.0.0.2-10.0.0.5", taken=("10.0.0.2", "10.0.0.5", "10.0.0.6")) == (("10.0.0.2", "10.0.0.5"), 2)
    both = "10.0.0.2-10.0.0.2", "10.0.0.4-10.0.0.5"
    assert found(*both, taken=("10.0.0.2",)) == (("10.0.0.4", "10.0.0.5"), 2)
    assert found(*both, taken=("10.0.0.2", "10.0.0.4", "10.0.0.5")) == (("10.0.0.2", "10.0.0.2"), 0)


def test_capabilities_of_many_words_for_a_domain_of_many_devices() -> None:
    wanted = [Device("video", "modelType", f"v{i}") for i in range(MOST_NEEDS)]
    for listed in ("<enum name='x{i}'/>", "<enum name='modelType'><value>{i}</value></enum>"):
        said = f"<devices>{many('<e{i}/>')}<video supported='yes'>{many(listed)}</video></devices>"
        soon(lambda said=said: devices.missing(wanted, f"<domainCapabilities>{said}</domainCapabilities>"))  # type: ignore[misc]


def test_filters_are_asked_for_once_and_no_more_than_so_many() -> None:
    """Each is a question to its host, which may take its time over each answer."""
    asked: list[str] = []

    def described(name: str) -> str:
        asked.append(name)
        return "<filter><filterref filter='f0'/></filter>"

    cards = "".join(
        f"<interface><mac address='52:54:00:00:00:{i:02x}'/><filterref filter='f{i}'/></interface>" for i in range(200)
    )
    soon(lambda: filters.of(domain(cards), domain(cards.replace("'f", "'g")), described))
    assert len(asked) == len(set(asked)) == 64


def test_a_filter_without_end_is_unknown() -> None:
    card = domain("<interface><mac address='52:54:00:00:00:01'/><filterref filter='f'/></interface>")
    (found,) = filters.of(card, "", lambda _name: f"<filter>{'<rule/>' * 20_000}</filter>")
    assert not found.known
