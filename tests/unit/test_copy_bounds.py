"""When a copy is given up: on a stub of libvirt's domain, since a real one pauses when it likes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from vmacro.drivers.fake import QEMU, host
from vmacro.drivers.libvirt import migration, yank
from vmacro.drivers.libvirt.base import LibvirtHypervisor
from vmacro.drivers.libvirt.qemu import QemuHypervisor
from vmacro.errors import CopyError
from vmacro.model.facts import CopyProgress
from vmacro.model.nouns import Policy

MIB = 1 << 20


class Domain:
    """Its migration is under way, and ends when it is aborted, or after some looks."""

    def __init__(self, paused: bool = False, looks: int = 10_000, stuck_mib: int = 0, forgotten_after: int = 0) -> None:
        self.forgotten_after = forgotten_after
        self.aborted, self.paused, self.looks, self.stuck_mib, self.iteration = False, paused, looks, stuck_mib, 0
        self.sent, self.carried_by_link = 0, 1 << 40

    def name(self) -> str:
        return "web"

    def jobStats(self) -> dict[str, Any]:  # noqa: N802 libvirt's name
        self.looks -= 1
        if self.aborted or self.looks < 0:
            return {"type": libvirt.VIR_DOMAIN_JOB_NONE}
        self.iteration += 1
        self.sent = min(self.sent + 1, self.carried_by_link)
        return {
            "type": libvirt.VIR_DOMAIN_JOB_UNBOUNDED,
            "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT,
            "memory_total": 256 * MIB,
            "memory_remaining": self.stuck_mib * MIB,
            "memory_processed": self.sent * MIB,
            "memory_bps": 10 * MIB,
            "memory_iteration": self.iteration,
        }

    def state(self) -> tuple[int, int]:
        if self.looks < -self.forgotten_after:
            raise _no_domain()
        if self.looks < 0:
            return libvirt.VIR_DOMAIN_SHUTOFF, 1
        return (libvirt.VIR_DOMAIN_PAUSED if self.paused and not self.aborted else libvirt.VIR_DOMAIN_RUNNING), 1

    def abortJob(self) -> None:  # noqa: N802
        self.aborted = True

    def migrateSetMaxDowntime(self, _ms: int) -> None:  # noqa: N802
        pass  # nothing here would heed it


class Cancelling(Domain):
    """The link is cut after some MiB, and its QEMU does not get out of that by a cancel."""

    def __init__(self, sent_mib: int = 3) -> None:
        super().__init__()
        self.carried_by_link, self.cancels, self.yanks = sent_mib, 0, list[str]()

    def abortJob(self) -> None:  # noqa: N802
        self.cancels += 1

    def yank(self, domain: Any, command: str, _flags: int) -> str:
        """libvirt_qemu.qemuMonitorCommand, which ends it."""
        assert domain is self
        self.yanks.append(command)
        self.aborted = True
        return "{}"


def _no_domain() -> libvirt.libvirtError:
    error = libvirt.libvirtError("gone")
    error.err = (libvirt.VIR_ERR_NO_DOMAIN, 0, "gone", 0, "", "", "", 0, 0)
    return error


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "POLL_S", 0.001)


def unused() -> None:
    raise AssertionError("what is under way is followed, and not begun again")


def order(**bounds: Any) -> migration.Order:
    return migration.Order(host("b"), Policy(**bounds), (), QEMU)


def run(domain: Domain, cancelled: bool = False, **bounds: Any) -> list[CopyProgress]:
    seen: list[CopyProgress] = []
    migration.migrate("a", domain, unused, order(**bounds), seen.append, lambda: cancelled)
    return seen


def test_one_that_ends_by_itself_is_followed_to_its_end() -> None:
    assert len(run(Domain(looks=20))) > 5


def test_one_that_is_over_is_waited_for_until_its_host_has_forgotten_it() -> None:
    domain = Domain(looks=20, forgotten_after=30)
    run(domain)
    assert domain.looks < -30


def test_one_that_is_never_forgotten_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been shut off meanwhile: that it has arrived is not known from here."""
    monkeypatch.setattr(migration, "FORGOTTEN_WITHIN_S", 0.05)
    domain = Domain(looks=20, forgotten_after=1_000_000)
    with pytest.raises(CopyError, match="is over, and the domain is still here, shut off"):
        run(domain)
    assert domain.looks < -1


@pytest.mark.parametrize(
    ("domain", "bounds", "said"),
    [
        (Domain(paused=True), {"downtime_limit_ms": 5}, "stood still for over 5 ms"),
        (Domain(), {"copy_timeout_s": 0.01}, "took over 0.01 s"),
        (Domain(), {"cancelled": True}, "it was interrupted"),
        (Domain(stuck_mib=90), {"auto_converge": False}, "does not converge"),
    ],
)
def test_one_that_must_not_go_on_is_aborted(domain: Domain, bounds: dict[str, Any], said: str) -> None:
    with pytest.raises(CopyError, match=said):
        run(domain, **bounds)
    assert domain.aborted


def cut_off(domain: Cancelling, monkeypatch: pytest.MonkeyPatch, qemu: bool = True, **bounds: Any) -> str:
    """What is said of a copy whose link was cut."""
    for module, name, value in ((migration, "STALLED_S", 0.05), (yank, "CANCELS_WITHIN_S", 0.02)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(libvirt_qemu, "qemuMonitorCommand", domain.yank)
    abort = QemuHypervisor.abort() if qemu else LibvirtHypervisor.abort()
    with pytest.raises(CopyError) as failed:
        migration.migrate("a", domain, unused, replace(order(**bounds), abort=abort), lambda _: None, lambda: False)
    return str(failed.value)


def test_one_that_sends_nothing_any_more_is_given_up_and_what_qemu_cannot_cancel_is_yanked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its QEMU stayed `cancelling` for a quarter of an hour (seen with 10.0, compressed, a WAN that was cut)."""
    domain = Cancelling()
    assert "nothing of it was sent for over 0.05 s" in cut_off(domain, monkeypatch)
    assert domain.cancels > 1 and [json.loads(command) for command in domain.yanks] == [
        {"execute": "yank", "arguments": {"instances": [{"type": "migration"}]}}
    ]


def test_one_that_libvirt_has_given_up_itself_is_yanked_though_nothing_more_is_said_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once its own keepalive has ended it, its job has failed, and has no figures; its QEMU is still `cancelling`."""
    domain = Cancelling(sent_mib=50)
    stats, failed = domain.jobStats, {"type": libvirt.VIR_DOMAIN_JOB_FAILED}
    failed["operation"] = libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT

    def told() -> dict[str, Any]:
        found = stats()
        return failed if domain.sent == domain.carried_by_link and not domain.aborted else found

    monkeypatch.setattr(domain, "jobStats", told)
    assert "nothing of it was sent for over 0.05 s" in cut_off(domain, monkeypatch)
    assert len(domain.yanks) == 1


def test_whatever_a_copy_is_given_up_for_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    domain = Cancelling(sent_mib=1 << 40)
    assert "took over 0.01 s" in cut_off(domain, monkeypatch, copy_timeout_s=0.01)
    assert len(domain.yanks) == 1


def test_what_is_cancelled_in_time_is_not_yanked(monkeypatch: pytest.MonkeyPatch) -> None:
    domain = Cancelling()
    monkeypatch.setattr(domain, "abortJob", lambda: setattr(domain, "aborted", True))
    assert "nothing of it was sent" in cut_off(domain, monkeypatch)
    assert domain.yanks == []


def test_a_copy_that_has_not_begun_to_send_is_not_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its destination may need long to make room for a large guest."""
    domain = Cancelling()
    connecting = {"type": libvirt.VIR_DOMAIN_JOB_UNBOUNDED, "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT}
    over = {"type": libvirt.VIR_DOMAIN_JOB_NONE}
    monkeypatch.setattr(domain, "jobStats", lambda: over if domain.aborted else connecting)
    assert "took over 0.2 s" in cut_off(domain, monkeypatch, copy_timeout_s=0.2)


def test_what_does_not_converge_is_told_of_once_before_it_is_given_up() -> None:
    seen: list[CopyProgress] = []
    domain = Domain(stuck_mib=90)
    with pytest.raises(CopyError):
        migration.migrate("a", domain, unused, order(auto_converge=False), seen.append, lambda: False)
    assert [bool(p.warning) for p in seen].count(True) == 1 and not seen[-1].warning


@pytest.mark.parametrize("error", [OverflowError("int too big to convert"), SystemExit(1), libvirt.libvirtError("no")])
def test_one_that_never_begins_is_no_success_whatever_kept_it(error: BaseException) -> None:
    class Staying(Domain):
        def UUID(self) -> bytes:  # noqa: N802 libvirt's name
            return bytes(16)

    def connect() -> None:
        raise error

    with pytest.raises(CopyError, match=str(error)) as raised:
        migration.migrate("a", Staying(looks=0), connect, order(), lambda _seen: None, lambda: False)
    assert raised.value.__cause__ is error
