"""The host side's libvirt, by libvirt's own test driver: which taps a domain has, and what its events become."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest

from vmacro.host.domains import LibvirtDomains
from vmacro.host.switchover import Tap
from vmacro.wire.host_verbs import GUEST, TUNNEL, MacUser

NODE = """<node><domain type='test'><name>web</name><memory>8192</memory><vcpu>1</vcpu><os><type>hvm</type></os>
<devices>
<interface type='bridge'><source bridge='front0'/><target dev='tap0'/><mac address='52:54:00:00:00:0A'/></interface>
<interface type='bridge'><source bridge='front1'/><target dev='tap1'/></interface>
</devices></domain></node>"""


class Connection:
    """The test driver's, which has no keepalive, and passes on events only where a loop runs."""

    def __init__(self, driver: libvirt.virConnect, alive: bool = True, keeps_alive: bool = True) -> None:
        self._driver, self.alive, self._keeps_alive = driver, alive, keeps_alive
        self.tell: Callable[..., None] | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._driver, name)

    def isAlive(self) -> bool:  # noqa: N802
        return self.alive

    def setKeepAlive(self, _interval_s: int, _count: int) -> None:  # noqa: N802
        if not self._keeps_alive:
            raise libvirt.libvirtError("no keepalive")

    def domainEventRegisterAny(self, _domain: None, _id: int, tell: Callable[..., None], _opaque: None) -> None:  # noqa: N802
        self.tell = tell


@pytest.fixture
def connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """What libvirt.open() gives, one after the other."""
    (tmp_path / "node.xml").write_text(NODE)
    driver = libvirt.open(f"test://{tmp_path}/node.xml")
    coming = [Connection(driver), Connection(driver)]
    given = iter(coming)
    monkeypatch.setattr(libvirt, "open", lambda _uri: next(given))
    return coming


def test_a_domains_taps_are_found(connections: list[Connection]) -> None:
    domains = LibvirtDomains("test")
    domains.listen()
    tap0, tap1 = domains.taps("web")
    assert tap0 == Tap("tap0", "52:54:00:00:00:0a") and tap1.device == "tap1" and domains.taps("nobody") == []


def test_who_has_a_card_is_found(connections: list[Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while another domain ends."""

    class Gone:
        def isActive(self) -> bool:  # noqa: N802
            return True

        def XMLDesc(self, _flags: int = 0) -> str:  # noqa: N802
            driver.lookupByName("nobody")
            raise AssertionError

    driver = connections[0]._driver
    all_domains = [Gone(), *driver.listAllDomains()]
    monkeypatch.setattr(Connection, "listAllDomains", lambda _self: all_domains, raising=False)
    domains = LibvirtDomains("test")
    domains.listen()
    assert domains.with_card("52:54:00:00:00:0a") == [MacUser("web", "tap0", True)]
    assert domains.with_card("52:54:00:00:00:0b") == []


def test_a_card_of_who_is_shut_off_is_found_and_one_that_it_will_have(connections: list[Connection]) -> None:
    """The test driver has no definition for the next start but the live one: so one stands for another domain's."""
    driver = connections[0]._driver
    domains = LibvirtDomains("test")
    domains.listen()
    web = driver.lookupByName("web")
    later = web.XMLDesc().replace("52:54:00:00:00:0a", "52:54:00:00:00:0b")
    driver.defineXML(later)
    assert domains.with_card("52:54:00:00:00:0b") == [MacUser("web", "", True)], "once it is started anew"
    assert domains.with_card("52:54:00:00:00:0a") == [MacUser("web", "tap0", True)]
    web.destroy()
    assert domains.with_card("52:54:00:00:00:0b") == [MacUser("web", "", False)]
    assert domains.with_card("52:54:00:00:00:0a") == []


def test_events_of_a_pause_and_of_a_resume_are_passed_on(connections: list[Connection]) -> None:
    happened: list[tuple[str, str, bool]] = []
    domains = LibvirtDomains("test")
    domains.happened = lambda *what: happened.append(what)
    domains.listen()
    tell, web = connections[0].tell, connections[0]._driver.lookupByName("web")
    assert tell is not None
    suspended, resumed = libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_RESUMED
    tell(None, web, suspended, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED, None)
    tell(None, web, suspended, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_PAUSED, None)
    tell(None, web, resumed, libvirt.VIR_DOMAIN_EVENT_RESUMED_UNPAUSED, None)
    tell(None, web, libvirt.VIR_DOMAIN_EVENT_STOPPED, 0, None)
    assert happened == [("web", TUNNEL, True), ("web", TUNNEL, False), ("web", GUEST, False)]


def test_what_was_missed_is_said(connections: list[Connection]) -> None:
    domains = LibvirtDomains("test")
    assert [domains.listen() for _ in range(3)] == [False, True, True]
    connections[0].alive = False
    assert [domains.listen() for _ in range(2)] == [False, True]


def test_a_connection_that_passes_on_no_events_is_not_kept(connections: list[Connection]) -> None:
    connections[0]._keeps_alive = False
    domains = LibvirtDomains("test")
    with pytest.raises(libvirt.libvirtError):
        domains.listen()
    assert domains.listen() is False and connections[1].tell is not None
