"""One live migration, peer to peer: started or followed, watched, given up where it must be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import libvirt

from vmacro.errors import CopyError, HostError
from vmacro.model.facts import CopyProgress
from vmacro.model.nouns import Host, Policy
from vmacro.planning.convergence import allowed_downtime_ms, judge

POLL_S = 0.25
FORGOTTEN_WITHIN_S = 10.0


class Migration(Protocol):
    """`error`: how it failed, once it is over."""

    error: libvirt.libvirtError | HostError | None

    def wait(self, seconds: float) -> bool:
        """Whether it is over."""


def migrate(
    host: str,
    domain: Any,
    connect: Callable[[], Any],
    destination: Host,
    policy: Policy,
    report: Callable[[CopyProgress], None],
    cancelled: Callable[[], bool],
    disks: tuple[str, ...] = (),
) -> None:
    """Returns when the domain has left. `connect` gives a connection to its host that nobody else uses.

    Raises CopyError; HostError where nobody can say whether a migration runs already.
    """
    what = f"host {host}: migration of {domain.name()} to {destination.name} failed"
    migration: Migration
    if under_way(domain):
        migration = Followed(domain)
    elif cancelled():
        raise CopyError(f"{what}: it was interrupted before it began")
    else:
        migration = Started(domain, connect, destination, policy, disks)
    watch = _Watch(domain, policy, report, cancelled)
    while not migration.wait(POLL_S):
        watch.look()
    if migration.error is not None:
        raise CopyError(f"{what}: {watch.reason or migration.error}") from migration.error


def under_way(domain: Any) -> bool:
    """Whether a migration out of here runs: it goes on though nobody of us waits for it. Raises libvirtError where
    that cannot be known."""
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
            return False  # it has left
        raise
    migrating = stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT
    return bool(migrating and stats.get("type") != libvirt.VIR_DOMAIN_JOB_NONE)


class _Watch:
    """Reports, and gives up for one of several reasons."""

    def __init__(
        self, domain: Any, policy: Policy, report: Callable[[CopyProgress], None], cancelled: Callable[[], bool]
    ) -> None:
        self._domain, self._policy, self._report, self._cancelled = domain, policy, report, cancelled
        self._began_s = time.monotonic()
        self._paused_s: float | None = None
        self._allowed_ms = 0
        self._passes: list[CopyProgress] = []
        self._warned = ""
        self.reason = ""

    def look(self) -> None:
        progress = _progress(self._domain)
        if progress is not None:
            self._allow(allowed_downtime_ms(progress.iteration, self._policy.max_downtime_ms))
            self._report(self._judged(progress))
        self.reason = self.reason or self._why_to_give_up()
        if self.reason:
            _abort(self._domain)

    def _judged(self, progress: CopyProgress) -> CopyProgress:
        if self._passes and self._passes[-1].iteration == progress.iteration:
            return progress
        self._passes.append(progress)
        verdict = judge(self._passes, self._policy)
        if verdict.hopeless:
            self.reason = self.reason or verdict.text
        fresh, self._warned = (verdict.text if not self._warned else ""), self._warned or verdict.text
        return replace(progress, warning=fresh)

    def _why_to_give_up(self) -> str:
        if self._cancelled():
            return "it was interrupted"
        if time.monotonic() - self._began_s > self._policy.copy_timeout_s:
            return f"it took over {self._policy.copy_timeout_s:g} s (policy copy_timeout_s)"
        if self._paused_for_s() * 1000 > self._policy.downtime_limit_ms:
            return f"the guest stood still for over {self._policy.downtime_limit_ms} ms (policy downtime_limit_ms)"
        return ""

    def _paused_for_s(self) -> float:
        try:
            paused = self._domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
        except libvirt.libvirtError:
            return 0.0  # it has just left
        if not paused:
            self._paused_s = None
            return 0.0
        self._paused_s = self._paused_s or time.monotonic()
        return time.monotonic() - self._paused_s

    def _allow(self, downtime_ms: int) -> None:
        """How long a pause QEMU may aim at."""
        if downtime_ms == self._allowed_ms:
            return
        try:
            self._domain.migrateSetMaxDowntime(downtime_ms)
            self._allowed_ms = downtime_ms
        except libvirt.libvirtError:
            pass  # the job is just ending: the migration itself will tell


class Followed:
    """A migration that somebody else began, who is gone."""

    def __init__(self, domain: Any) -> None:
        self._domain = domain
        self._ended_s: float | None = None
        self.error: libvirt.libvirtError | HostError | None = None

    def wait(self, seconds: float) -> bool:
        try:
            if under_way(self._domain) or self._is_being_forgotten():
                time.sleep(seconds)
                return False
            stays = self._domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING
        except libvirt.libvirtError as error:
            gone = error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN
            self.error = None if gone else error
            return True
        if stays:
            self.error = libvirt.libvirtError("the migration that was under way has failed: see its host's libvirt")
        return True

    def _is_being_forgotten(self) -> bool:
        """Once the job is over, its libvirt still ends the process and drops the definition; or has it been killed?"""
        if self._domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING:
            return False
        self._ended_s = self._ended_s or time.monotonic()
        return time.monotonic() - self._ended_s < FORGOTTEN_WITHIN_S


class Started(threading.Thread):
    """virDomainMigrateToURI3 blocks until it is over; this waits for it elsewhere.

    By a connection of its own: where two threads share one, libvirt's client (seen with 9.0) loses wake-ups, and
    whoever watches the copy would wait for the next keep-alive, 5 s later (virNetClientIOEventLoop).
    """

    def __init__(
        self, domain: Any, connect: Callable[[], Any], destination: Host, policy: Policy, disks: tuple[str, ...]
    ) -> None:
        super().__init__(name="migration", daemon=True)
        self._disks = disks
        self._uuid, self._connect = domain.UUID(), connect
        self._destination, self._policy = destination, policy
        self._over = threading.Event()
        self.error: libvirt.libvirtError | HostError | None = None
        self.start()

    def wait(self, seconds: float) -> bool:
        return self._over.wait(seconds)

    def run(self) -> None:
        try:
            connection = self._connect()
            try:
                self._migrate(connection.lookupByUUID(self._uuid))
            finally:
                connection.close()
        except (libvirt.libvirtError, HostError) as error:
            self.error = error
        finally:
            self._over.set()

    def _migrate(self, domain: Any) -> None:
        try:
            domain.migrateSetMaxDowntime(allowed_downtime_ms(1, self._policy.max_downtime_ms))
        except libvirt.libvirtError:
            pass  # the migration itself will tell
        flags = self._flags(domain)
        domain.migrateToURI3(self._destination.peer_uri, self._parameters(flags), flags)

    def _flags(self, domain: Any) -> int:
        flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
        if domain.isPersistent():  # its definition lives where the guest lives
            flags |= libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
        if domain.connect().getType() == "QEMU":
            flags |= libvirt.VIR_MIGRATE_TLS
            if self._policy.auto_converge:
                flags |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
        if self._disks:  # overlays alone; from then on a write is done once it is done at both ends
            flags |= libvirt.VIR_MIGRATE_NON_SHARED_INC | libvirt.VIR_MIGRATE_NON_SHARED_SYNCHRONOUS_WRITES
        return int(flags)

    def _parameters(self, flags: int) -> dict[str, Any]:
        parameters: dict[str, Any] = {libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{self._destination.address}"}
        if self._policy.bandwidth_mib_s:
            parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = self._policy.bandwidth_mib_s
        if self._disks:
            parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = list(self._disks)
        if flags & libvirt.VIR_MIGRATE_TLS:
            parameters[libvirt.VIR_MIGRATE_PARAM_TLS_DESTINATION] = self._destination.tls_name
        return parameters


def _progress(domain: Any) -> CopyProgress | None:
    """The running job, if libvirt knows of one yet."""
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError:
        return None  # the job is just ending, or the connection is: the migration itself will tell
    if not stats.get("memory_total") and not stats.get("disk_total"):
        return None  # still connecting
    page = stats.get("memory_page_size", 4096)
    return CopyProgress(
        elapsed_ms=int(stats.get("time_elapsed", 0)),
        bytes_total=int(stats.get("memory_total", 0)) + int(stats.get("disk_total", 0)),
        bytes_remaining=int(stats.get("memory_remaining", 0)) + int(stats.get("disk_remaining", 0)),
        bytes_sent=int(stats.get("memory_processed", 0)) + int(stats.get("disk_processed", 0)),
        iteration=int(stats.get("memory_iteration", 0)),
        dirty_mib_s=stats.get("memory_dirty_rate", 0) * page / (1 << 20),
        rate_mib_s=(stats.get("memory_bps") or stats.get("disk_bps", 0)) / (1 << 20),
        throttle_percent=int(stats.get("auto_converge_throttle", 0)),
    )


def _abort(domain: Any) -> None:
    try:
        domain.abortJob()
    except libvirt.libvirtError:
        pass  # no job yet, or no job any more: asked again at the next poll
