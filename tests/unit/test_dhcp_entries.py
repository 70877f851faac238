"""DHCP entries of a network: our driver on libvirt's own code, and the fake held to the same.

libvirt's test driver updates networks in memory by the same functions as a host's libvirt (conf/network_conf.c). It
stores no second definition and has no leases: those two are tried here by a network that has two, made of two of its.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest

from vmacro.drivers.fake import FakeWorld, host
from vmacro.drivers.libvirt import dhcp
from vmacro.drivers.libvirt.connection import Connections
from vmacro.drivers.libvirt.qemu import QemuHypervisor
from vmacro.errors import HostError, TakenError
from vmacro.model import marks
from vmacro.model.facts import Reservation
from vmacro.ports import Hypervisor

CARD, OTHER = "52:54:00:aa:00:01", "52:54:00:bb:00:02"
LIVE, STORED = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE, libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
ADD, DELETE = libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE
XML = """<network><name>{name}</name><bridge name='{name}0'/><ip address='10.50.2.1' prefix='24'><dhcp>
<range start='10.50.2.10' end='10.50.2.99'/>{entries}</dhcp></ip></network>"""


class TwoDefinitions:
    """A virNetwork with a running and a stored definition, each libvirt's; updates of both succeed or fail as one."""

    numbers = itertools.count()  # all connections to the test driver share its networks

    def __init__(self, connection: Any, live: str, stored: str | None) -> None:
        def made(entries: str) -> Any:
            return connection.networkCreateXML(XML.format(name=f"front{next(self.numbers)}", entries=entries))

        self._live: Any = made(live)
        self._stored: Any = made(stored) if stored is not None else None
        self.updates: list[int] = []
        self.before: Callable[[], None] = lambda: None

    def name(self) -> str:
        return str(self._live.name())

    def isActive(self) -> bool:  # noqa: N802 libvirt's names
        return True

    def isPersistent(self) -> bool:  # noqa: N802
        return self._stored is not None

    def DHCPLeases(self) -> list[Any]:  # noqa: N802
        return []

    def XMLDesc(self, flags: int = 0) -> str:  # noqa: N802
        stored = flags & libvirt.VIR_NETWORK_XML_INACTIVE and self._stored is not None
        return str((self._stored if stored else self._live).XMLDesc(0))

    def update(self, command: int, section: int, index: int, text: str, flags: int) -> None:
        self.before()
        self.updates.append(flags)
        chosen = [d for flag, d in ((LIVE, self._live), (STORED, self._stored)) if flags & flag]
        done: list[Any] = []
        try:
            for definition in chosen:
                definition.update(command, section, index, text, LIVE)
                done.append(definition)
        except libvirt.libvirtError:
            for definition in done:
                definition.update(DELETE if command == ADD else ADD, section, index, text, LIVE)
            raise


@pytest.fixture
def connection() -> Iterator[Any]:
    libvirt.registerErrorHandler(lambda *_: None, None)
    opened = libvirt.open("test:///default")
    yield opened
    for network in opened.listAllNetworks():
        if network.name().startswith("front"):
            network.destroy()
    opened.close()


def driver(network: TwoDefinitions) -> Hypervisor:
    found = SimpleNamespace(networkLookupByName=lambda _name: network)
    return QemuHypervisor(host("b1"), cast(Connections, SimpleNamespace(get=lambda _host: found)))


def entries(known: Hypervisor) -> tuple[Reservation, ...]:
    network = known.network("front")
    assert network is not None
    return network.reserved


@pytest.fixture(params=["libvirt", "fake"])
def known(request: pytest.FixtureRequest, connection: Any) -> Hypervisor:
    if request.param == "fake":
        fake = FakeWorld()
        return fake.world.hypervisor(fake.inventory.hosts[1])
    return driver(TwoDefinitions(connection, "", ""))


MINE = marks.reservation("web-1", "10.50.2.10", CARD)


def test_an_entry_is_there_once_and_goes_by_its_name_alone(known: Hypervisor) -> None:
    known.reserve("front", MINE)
    known.reserve("front", MINE)
    assert entries(known) == (MINE,)
    others = (Reservation(MINE.address, CARD), Reservation(MINE.address, CARD, marks.mark("web-2", MINE.address)))
    for other in others:
        known.reserve("front", other)  # it is kept for that card already
        known.release("front", other)
        assert entries(known) == (MINE,)
    known.release("front", MINE)
    known.release("front", MINE)
    assert entries(known) == ()


@pytest.mark.parametrize(
    "theirs",
    [
        Reservation("10.50.2.10", OTHER),
        Reservation("10.50.2.11", CARD, "web"),
        Reservation("10.50.2.11", OTHER, MINE.name),
        Reservation("10.50.2.10", "", "printer"),
    ],
    ids=["address", "card", "name", "by name alone"],
)
def test_no_two_have_one_address_card_or_name(known: Hypervisor, theirs: Reservation) -> None:
    known.reserve("front", theirs)
    with pytest.raises(TakenError, match=theirs.address):
        known.reserve("front", MINE)
    known.release("front", MINE)
    assert entries(known) == (theirs,)


def test_an_operators_entry_is_the_same_in_capital_letters(connection: Any) -> None:
    theirs = f"<host mac='{CARD.upper()}' name='web' ip='10.50.2.10'/><host mac='52:54:0:bb:0:2' ip='10.50.2.11'/>"
    network = TwoDefinitions(connection, theirs, theirs)
    known = driver(network)
    assert entries(known) == (Reservation("10.50.2.10", CARD, "web"), Reservation("10.50.2.11", OTHER))
    known.reserve("front", MINE)
    known.release("front", MINE)
    assert network.updates == []
    with pytest.raises(TakenError, match=f"there is one of 10.50.2.11 for {OTHER}"):
        known.reserve("front", marks.reservation("web-1", "10.50.2.11", "52:54:00:cc:00:03"))


def test_what_is_stored_alone_counts_and_what_is_missing_in_one_is_added_there(connection: Any) -> None:
    """Somebody has changed one of the definitions, by `virsh net-update --config` or `net-define`."""
    theirs = f"<host mac='{OTHER}' ip='10.50.2.10'/>"
    known = driver(TwoDefinitions(connection, "", theirs))
    assert entries(known) == (Reservation("10.50.2.10", OTHER),)
    with pytest.raises(TakenError, match=OTHER):
        known.reserve("front", MINE)
    assert entries(known) == (Reservation("10.50.2.10", OTHER),), "in neither of both"
    fits = f"<host mac='{CARD}' ip='10.50.2.10'/>"
    network = TwoDefinitions(connection, "", fits)
    driver(network).reserve("front", MINE)
    assert network.updates == [LIVE]
    driver(network).release("front", MINE)
    assert network.updates == [LIVE, LIVE] and entries(driver(network)) == (Reservation("10.50.2.10", CARD),)


def test_a_network_that_is_stored_nowhere_can_have_entries(connection: Any) -> None:
    network = TwoDefinitions(connection, "", None)
    driver(network).reserve("front", MINE)
    assert network.updates == [LIVE] and entries(driver(network)) == (MINE,)


def test_of_two_that_ask_at_once_one_gets_the_address(connection: Any) -> None:
    """Both have looked, and found it free."""
    network, rival = TwoDefinitions(connection, "", ""), marks.reservation("shop-1", "10.50.2.10", OTHER)

    def overtake() -> None:
        network.before = lambda: None
        dhcp.reserve("b1", network, rival)

    network.before = overtake
    with pytest.raises(TakenError, match=f"there is one of 10.50.2.10 for {OTHER} .{rival.name}"):
        driver(network).reserve("front", MINE)
    assert entries(driver(network)) == (rival,)


def test_who_asks_for_the_same_at_once_is_no_rival(connection: Any) -> None:
    network = TwoDefinitions(connection, "", "")

    def overtake(what: Any) -> Any:
        def done() -> None:
            network.before = lambda: None
            what("b1", network, MINE)

        return done

    network.before = overtake(dhcp.reserve)
    driver(network).reserve("front", MINE)
    assert entries(driver(network)) == (MINE,)
    network.before = overtake(dhcp.release)
    driver(network).release("front", MINE)
    assert entries(driver(network)) == ()


def test_what_libvirt_refuses_for_another_reason_is_no_collision(connection: Any) -> None:
    network = TwoDefinitions(connection, "", "")

    def broken() -> None:
        raise libvirt.libvirtError("out of order")

    text = r"^host b1: DHCP reservation of 10\.50\.2\.10 for .*: out of order"
    network.before = broken
    with pytest.raises(HostError, match=text) as error:
        driver(network).reserve("front", MINE)
    assert not isinstance(error.value, TakenError)
    network.before = lambda: None
    driver(network).reserve("front", MINE)
    network.before = broken
    with pytest.raises(HostError, match=text):
        driver(network).release("front", MINE)
