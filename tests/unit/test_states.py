"""States and jobs that libvirt may tell of a domain: each has its word, and those that we do not know are told, too."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest

from tests.unit.faults import Faults
from tests.unit.spoken_libvirt import Libvirt
from tests.unit.test_enumeration import stage
from vmacro.drivers.fake import FakeWorld, host
from vmacro.drivers.libvirt import states, xml
from vmacro.drivers.libvirt.connection import Connections
from vmacro.drivers.libvirt.qemu import QemuHypervisor
from vmacro.errors import HostError
from vmacro.model.events import Event
from vmacro.model.facts import ARRIVING, LEAVING, NO_PAST
from vmacro.planning import checks
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request
from vmacro.services import doctor, leftovers, measured
from vmacro.services.overview import overview


def constants(prefix: str) -> dict[str, int]:
    """Of an enumeration, as this machine's libvirt has it."""
    found = {name: value for name, value in vars(libvirt).items() if name.startswith(prefix)}
    return {n: v for n, v in found.items() if isinstance(v, int) and not n.endswith("_LAST")}


class Busy:
    """A domain with a job, or that gives an error instead."""

    def __init__(
        self, operation: int | None = None, error: int = 0, kind: int = libvirt.VIR_DOMAIN_JOB_UNBOUNDED
    ) -> None:
        self._stats: dict[str, int] = {"type": kind} | ({} if operation is None else {"operation": operation})
        self._error = error

    def jobStats(self) -> dict[str, int]:  # noqa: N802 libvirt's name
        if self._error:
            error = libvirt.libvirtError("migration statistics are available only on the source host")
            error.err = (self._error, 0, "", 0, "", "", "", 0, 0)
            raise error
        return self._stats


def test_every_job_has_a_word() -> None:
    operations = constants("VIR_DOMAIN_JOB_OPERATION_")
    words = {name: states.job(Busy(value)) for name, value in operations.items()}
    assert len({*words.values()}) == len(operations) > 8
    assert not any(word.startswith("job ") for word in words.values()), words
    assert states.job(Busy(77)) == "job 77" and states.job(Busy()) == "a job without a name"
    assert states.job(Busy(9, kind=libvirt.VIR_DOMAIN_JOB_NONE)) == ""


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (libvirt.VIR_ERR_NO_DOMAIN, ""),
        (libvirt.VIR_ERR_OPERATION_INVALID, ""),
        (libvirt.VIR_ERR_OPERATION_UNSUPPORTED, ARRIVING),
    ],
)
def test_a_job_that_libvirt_does_not_describe(code: int, word: str) -> None:
    """The last one is what the destination of a migration says of it."""
    assert states.job(Busy(error=code)) == word


def test_no_other_error_is_taken_for_a_job() -> None:
    with pytest.raises(libvirt.libvirtError):
        states.job(Busy(error=libvirt.VIR_ERR_RPC))


def test_every_state_and_every_reason_has_a_word() -> None:
    words = {states.state_word(value) for value in range(8)}
    assert len(words) == 7, "a blocked one runs"
    assert not any(word.startswith("state ") for word in words) and states.state_word(8) == "state 8"
    for prefix, state in (("PAUSED", libvirt.VIR_DOMAIN_PAUSED), ("SHUTOFF", libvirt.VIR_DOMAIN_SHUTOFF)):
        for name, reason in constants(f"VIR_DOMAIN_{prefix}_").items():
            word = states.reason_word(state, reason)
            assert (word == "") == (reason == 0) and not word.startswith("reason") and len(word) <= 40, name
    assert states.reason_word(libvirt.VIR_DOMAIN_PAUSED, 99) == "reason 99"


def test_a_block_job_is_seen() -> None:
    disk = "<disk type='file'><source file='/a'/><target dev='vdb'/>{}</disk>"
    text = "<domain type='kvm'><devices>{}</devices></domain>"
    still, copying = (xml.domain(text.format(disk.format(more))) for more in ("", "<mirror type='file' job='copy'/>"))
    assert xml.block_jobs(still) == "" and xml.block_jobs(copying) == "block job of disk vdb"


def spoken(fake: FakeWorld, name: str) -> QemuHypervisor:
    """The real driver, to which the world in memory speaks as libvirt does."""
    known = fake.inventory.host(name)
    assert known is not None
    said = Libvirt(fake.world.hypervisor(known), lambda _call, given: given)
    return QemuHypervisor(known, cast(Connections, said))


def test_both_ends_of_a_migration_are_described() -> None:
    fake = FakeWorld()
    fake.hosts["bucharest"].leaving["web"] = "berlin"
    here, there = (spoken(fake, name).domain("web") for name in ("bucharest", "berlin"))
    assert here is not None and there is not None
    assert (here.job, here.active, here.migrating) == (LEAVING, True, True)
    assert (there.job, there.active, there.migrating) == (ARRIVING, False, False)


def test_another_domain_of_the_name_is_not_removed() -> None:
    fake = FakeWorld()
    connection = SimpleNamespace(lookupByName=lambda _name: SimpleNamespace(UUIDString=lambda: "uuid-2"))
    QemuHypervisor(host("b1"), cast(Connections, SimpleNamespace(get=lambda _host: connection))).discard(
        "web", uuid="uuid-1"
    )
    fake.world.hypervisor(fake.inventory.hosts[0]).discard("web", fenced=True, uuid="uuid-2")
    assert "web" in fake.hosts["bucharest"].domains


def test_what_a_migration_is_bringing_is_not_removed() -> None:
    domain = SimpleNamespace(**{"jobStats": Busy(error=libvirt.VIR_ERR_OPERATION_UNSUPPORTED).jobStats})
    connections = SimpleNamespace(get=lambda _host: SimpleNamespace(lookupByName=lambda _name: domain))
    with pytest.raises(HostError, match="domain web is on its way here; it stays"):
        QemuHypervisor(host("b1"), cast(Connections, connections)).discard("web")


def found(fake: FakeWorld, name: str) -> list[str]:
    guest = fake.inventory.guest(name)
    assert guest is not None
    request = Request(guest, fake.inventory.sites[1], SEAMLESS, fake.inventory.policy)
    return [f.code for f in checks.check(request, measured.look(fake.inventory, request, fake.world, True))]


def test_during_a_move_nobody_calls_its_hosts_broken() -> None:
    """`sites`, `doctor`, `check` and `cleanup` of others, in the midst of its copy."""
    moving = stage(SEAMLESS)
    fake, seen = moving.fake, dict[str, Any]()
    world = Faults().world(fake)

    def publish(event: Event) -> None:
        if event.kind == "copy.progress":
            seen["sites"] = [(state.guests, state.trouble) for state in overview(fake.inventory, fake.world)]
            seen["doctor"] = {
                f.code for f in doctor.examine(fake.inventory, fake.world, lambda _what: None, lambda _guest: NO_PAST)
            }
            seen["check"] = found(fake, "web")
            seen["cleanup"] = [left.kind for left in leftovers.find(fake.inventory, [], [], fake.world)]

    moving.book.attempt(moving.plan, replace(world, publish=publish), Faults())
    assert seen["sites"] == [(("web",), ""), ((), "")]
    assert seen["check"][:2] == ["guest-busy", "guest-claimed"] and "guest-twice" not in seen["check"]
    assert seen["doctor"] <= {"guest-busy", "guest-claimed", "addresses-stay", "leg-unknown"}, seen["doctor"]
    assert "domain" not in seen["cleanup"]
