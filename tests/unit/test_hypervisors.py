"""Which driver a host gets, and what is done of a migration by one that can do less."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest

from tests.unit.test_copy_bounds import Domain, order
from vmacro.drivers.fake import QEMU, FakeWorld, host
from vmacro.drivers.libvirt import migration, xml
from vmacro.drivers.libvirt.base import Version
from vmacro.drivers.libvirt.connection import Connections
from vmacro.drivers.libvirt.hypervisors import hypervisor
from vmacro.drivers.libvirt.qemu import QemuHypervisor
from vmacro.drivers.libvirt.states import state_word
from vmacro.drivers.libvirt.xen import XenHypervisor
from vmacro.errors import CopyError, HostError, UnsupportedError
from vmacro.model.facts import NO_PAST, Reservation
from vmacro.model.moves import Severity
from vmacro.model.nouns import Compression, Host, Policy
from vmacro.planning import checks
from vmacro.planning.handoffs import RENUMBER
from vmacro.planning.request import Request
from vmacro.services import doctor
from vmacro.services.survey import survey


class Hosts:
    """Connections to hosts whose libvirt says that it drives this."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def get(self, _host: Host) -> Hosts:
        return self

    def getType(self) -> str:  # noqa: N802 libvirt's name
        if not self._kind:
            raise libvirt.libvirtError("broken")
        return self._kind


def chosen(kind: str) -> object:
    return hypervisor(host("b1"), cast(Connections, Hosts(kind)))


def test_the_connection_says_which_driver_it_is() -> None:
    assert isinstance(chosen("QEMU"), QemuHypervisor) and isinstance(chosen("Xen"), XenHypervisor)


@pytest.mark.parametrize("kind", ["ESX", "qemu", "Test"])
def test_a_hypervisor_without_a_driver_is_refused_by_name(kind: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^host b1: runs {kind}: this vmacro drives QEMU, Xen only"):
        chosen(kind)


def test_a_connection_that_says_nothing_is_no_other_hypervisor() -> None:
    with pytest.raises(HostError, match="host b1: does not say which hypervisor it runs: broken") as error:
        chosen("")
    assert not isinstance(error.value, UnsupportedError)


def test_nothing_is_reserved_on_a_network_that_libvirt_does_not_know() -> None:
    """libvirt's own test driver stands for a host's libvirt."""
    connection = libvirt.open("test:///default")
    known = QemuHypervisor(host("b1"), cast(Connections, SimpleNamespace(get=lambda _host: connection)))
    try:
        with pytest.raises(HostError, match=r"^host b1: DHCP reservation of 192\.0\.2\.9 for .*: no network 'nowhere'"):
            known.reserve("nowhere", Reservation("192.0.2.9", "52:54:00:00:00:01"))
        known.release("nowhere", Reservation("192.0.2.9", "52:54:00:00:00:01"))
    finally:
        connection.close()


def test_root_at_a_host_is_given_no_uri_that_checks_nobody() -> None:
    """Whatever the plan says that came from the journal: the source's libvirt would open it."""
    connection = libvirt.open("test:///default")
    known = QemuHypervisor(host("b1"), cast(Connections, SimpleNamespace(get=lambda _host: connection)))
    there = replace(host("d1"), peer_uri="qemu+ssh://d1/system?command=/tmp/x")
    try:
        with pytest.raises(CopyError, match=r"^host d1: its peer_uri has the option .command."):
            known.copy("test", there, Policy(), lambda _progress: None, lambda: False)
    finally:
        connection.close()


def with_esx_at(name: str) -> FakeWorld:
    fake = FakeWorld()

    def before(effect: str) -> None:
        if effect == f"facts {name}":
            raise UnsupportedError(f"host {name}: runs ESX: this vmacro drives QEMU, Xen only", "take it out")

    fake.before = before
    return fake


def asked(fake: FakeWorld, **policy: Any) -> list[tuple[str, str, str]]:
    guest = fake.inventory.guests[0]
    request = Request(guest, fake.inventory.sites[1], RENUMBER, Policy(**policy))
    seen = survey(fake.inventory, guest, fake.world, ask_clients=False, ask_host_sides=False)
    return [(f.code, f.severity, f.message) for f in checks.check(request, seen)]


def test_check_names_a_destination_that_cannot_be_driven() -> None:
    text = "runs ESX: this vmacro drives QEMU, Xen only"
    assert ("destination-unsupported", Severity.BLOCKER, text) in asked(with_esx_at("berlin"))


def test_check_names_a_source_that_cannot_be_driven() -> None:
    text = "runs ESX: this vmacro drives QEMU, Xen only"
    assert ("host-unsupported", Severity.BLOCKER, text) in asked(with_esx_at("bucharest"))


def test_doctor_names_it_and_does_not_call_it_bare() -> None:
    fake = with_esx_at("berlin")
    found = doctor.examine(fake.inventory, fake.world, lambda _text: None, lambda _guest: NO_PAST)
    assert {(f.subject, f.hint) for f in found if f.code == "host-unsupported"} == {("host berlin", "take it out")}


@pytest.mark.parametrize(
    ("at", "lacks", "code"),
    [
        ("berlin", "live_migration", "no-live-migration"),
        ("bucharest", "encrypted_copy", "copy-unencrypted"),
        ("berlin", "agent_channel", "no-agent-channel"),
    ],
)
def test_what_a_guest_needs_at_both_ends_is_a_blocker_where_it_is_missing(at: str, lacks: str, code: str) -> None:
    fake = FakeWorld()
    lesser(fake, at, lacks)
    found = [f for f in asked(fake) if f[0] == code]
    assert [f[1] for f in found] == [Severity.BLOCKER]


def test_disks_need_a_hypervisor_that_freezes_them_and_guests_without_need_none() -> None:
    fake = FakeWorld()
    lesser(fake, "bucharest", "local_disks")
    assert asked(fake) == []
    fake.give_disk()
    assert "disks-stay" in [code for code, _, _ in asked(fake)]


@pytest.mark.parametrize(
    ("lacks", "policy", "named"),
    [
        ("bandwidth_cap", {"bandwidth_mib_s": 9}, "bandwidth_mib_s"),
        ("bandwidth_cap", {}, ""),
        ("max_downtime", {}, "max_downtime_ms"),
        ("auto_converge", {}, "auto_converge"),
        ("auto_converge", {"auto_converge": False}, ""),
        ("abort", {}, "copy_timeout_s"),
        ("abort_standing", {}, "downtime_limit_ms"),
    ],
)
def test_what_the_source_does_not_heed_of_the_policy_is_told(lacks: str, policy: dict[str, Any], named: str) -> None:
    fake = FakeWorld()
    lesser(fake, "bucharest", lacks)
    lesser(fake, "berlin", lacks)
    text = f"its QEMU does not heed these of the policy: {named}"
    assert asked(fake, **policy) == ([("policy-unheeded", Severity.WARNING, text)] if named else [])


def lesser(fake: FakeWorld, at: str, lacks: str) -> None:
    facts = fake.hosts[at].facts
    without: dict[str, Any] = {lacks: False}
    fake.hosts[at].facts = replace(facts, capabilities=replace(facts.capabilities, **without))


FROZEN = "<domain><name>{}</name><devices><disk>{}<target dev='vda'/></disk></devices></domain>"


class Willing(Domain):
    """Keeps what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.flags = 0
        self.parameters: dict[str, Any] = {}
        self.persistent = False

    def UUID(self) -> bytes:  # noqa: N802
        return b"u"

    def lookupByUUID(self, _uuid: bytes) -> Willing:  # noqa: N802
        return self

    def close(self) -> None:
        pass  # the connection's

    def isPersistent(self) -> bool:  # noqa: N802
        return self.persistent

    def XMLDesc(self, flags: int) -> str:  # noqa: N802
        return FROZEN.format("next" if flags & libvirt.VIR_DOMAIN_XML_INACTIVE else "live", "<backingStore/>")

    def migrateSetMaxDowntime(self, _ms: int) -> None:  # noqa: N802
        self.asked.append("downtime")

    def migrateToURI3(self, _uri: str, parameters: dict[str, Any], flags: int) -> None:  # noqa: N802
        self.parameters, self.flags = parameters, flags


def started(compression: Compression = Compression.OFF, **capabilities: bool) -> Willing:
    domain, wanted = Willing(), order(bandwidth_mib_s=7, compression=compression)
    wanted = replace(wanted, capabilities=replace(QEMU, **cast(Any, capabilities)))
    assert migration.Started(domain, lambda: domain, wanted).wait(5)
    return domain


ALL_OF_QEMU = libvirt.VIR_MIGRATE_TLS | libvirt.VIR_MIGRATE_AUTO_CONVERGE


def test_a_migration_asks_for_what_its_hypervisor_can() -> None:
    domain = started()
    assert domain.flags & ALL_OF_QEMU == ALL_OF_QEMU and domain.asked == ["downtime"]
    assert domain.parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] == 7
    assert domain.parameters[libvirt.VIR_MIGRATE_PARAM_TLS_DESTINATION] == "b"


def test_a_migration_asks_for_nothing_that_its_hypervisor_cannot() -> None:
    domain = started(encrypted_copy=False, auto_converge=False, bandwidth_cap=False, max_downtime=False)
    assert domain.flags & ALL_OF_QEMU == 0 and domain.asked == []
    assert list(domain.parameters) == [libvirt.VIR_MIGRATE_PARAM_URI]


@pytest.mark.parametrize("persistent", [True, False])
def test_a_disk_goes_along_without_what_is_below_it(persistent: bool) -> None:
    domain = Willing()
    domain.persistent = persistent
    assert migration.Started(domain, lambda: domain, replace(order(), disks=("vda",))).wait(5)
    stored = {libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: FROZEN.format("next", "")} if persistent else {}
    expected = {libvirt.VIR_MIGRATE_PARAM_DEST_XML: FROZEN.format("live", ""), **stored}
    assert {name: text for name, text in domain.parameters.items() if "_xml" in name} == expected
    assert domain.parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] == ["vda"]


MULTIFD = libvirt.VIR_MIGRATE_PARALLEL | libvirt.VIR_MIGRATE_COMPRESSED


@pytest.mark.parametrize("method", Compression)
def test_memory_is_compressed_where_the_plan_says_so_by_one_connection(method: Compression) -> None:
    domain = started(compression=method)
    asked = {name: domain.parameters.get(name) for name in ("compression", "parallel.connections")}
    if method == Compression.ZSTD:
        assert domain.flags & MULTIFD == MULTIFD and asked == {"compression": "zstd", "parallel.connections": 1}
    else:  # a plan of an older vmacro says auto
        assert domain.flags & MULTIFD == 0 and asked == {"compression": None, "parallel.connections": None}
    assert domain.flags & ALL_OF_QEMU == ALL_OF_QEMU and domain.parameters["bandwidth"] == 7


def test_what_does_not_compress_is_not_asked_to() -> None:
    domain = started(compression=Compression.ZSTD, compressed_copy=False)
    assert domain.flags & MULTIFD == 0 and "compression" not in domain.parameters


@pytest.mark.parametrize(
    ("versions", "can"),
    [
        (((9, 4, 0), (7, 2, 0)), True),
        (((11, 3, 0), (10, 0, 0)), True),
        (((9, 0, 0), (7, 2, 0)), False),
        (((9, 4, 0), (4, 2, 1)), False),
    ],
)
def test_which_versions_compress(versions: tuple[Version, Version], can: bool) -> None:
    driver = QemuHypervisor(host("b1"), cast(Connections, Hosts("QEMU")))
    assert driver.able(*versions) == replace(QEMU, compressed_copy=can)


def test_what_cannot_be_aborted_is_not() -> None:
    domain = Domain(looks=20)
    wanted = order(copy_timeout_s=1e-9)
    wanted = replace(wanted, capabilities=replace(wanted.capabilities, abort=False))
    migration.migrate("a", domain, lambda: None, wanted, lambda _p: None, lambda: False)
    assert not domain.aborted


def test_a_state_that_nobody_knows_is_not_taken_for_another() -> None:
    assert [state_word(s) for s in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_CRASHED, 99)] == [
        "running",
        "crashed",
        "state 99",
    ]


@pytest.mark.parametrize(("features", "lives"), [("<live/>", True), ("", False)])
def test_live_migration_is_what_the_host_says(features: str, lives: bool) -> None:
    text = f"<capabilities><host><migration_features>{features}</migration_features></host></capabilities>"
    assert xml.migrates_live(text) == lives and not xml.migrates_live("<capabilities><host/></capabilities>")
