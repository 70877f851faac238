"""One live migration, peer to peer: started or followed, watched, given up where it must be."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Protocol

import libvirt

from vmacro.drivers.libvirt import chains
from vmacro.drivers.libvirt.states import job, state_word
from vmacro.errors import CopyError, HostError, all_of
from vmacro.model.facts import LEAVING, Capabilities, CopyProgress, CopyStatistics
from vmacro.model.nouns import Compression, Host, Policy
from vmacro.planning.convergence import allowed_downtime_ms, judge
from vmacro.wire import fields
from vmacro.wire.fields import Number

POLL_S = 0.25
# libvirt itself gives up after 30 s without a sign of life of the other host (keepalive_interval and keepalive_count of
# its qemu.conf), and may then wait for a QEMU that cannot.
STALLED_S = 45.0
FORGOTTEN_WITHIN_S = 10.0


@dataclass(frozen=True)
class Order:
    """What to do, and what the source's hypervisor can do of it. `disks`: targets whose overlays go along. `tunnelled`:
    through libvirt's own connection. `job`: what libvirt is at work on with a domain (states.job). `abort`: ends a
    migration. `live`: the guest runs while it is copied. `see_to`: called again and again meanwhile; what it says
    first is told."""

    destination: Host
    policy: Policy
    disks: tuple[str, ...]
    capabilities: Capabilities
    tunnelled: bool = False
    job: Callable[[Any], str] = job
    abort: Callable[[Any], None] = lambda domain: domain.abortJob()
    live: bool = True
    see_to: Callable[[], str] = lambda: ""

    def under_way(self, domain: Any) -> bool:
        """Whether a migration of the domain to elsewhere runs, whoever began it: it goes on after its orchestrator has
        gone. Raises libvirtError where that cannot be known."""
        return self.job(domain) == LEAVING


class Migration(Protocol):
    """`error`: how it failed, once it is over; None where the domain has left."""

    error: BaseException | None

    def wait(self, seconds: float) -> bool:
        """Whether it is over."""


def migrate(
    host: str,
    domain: Any,
    connect: Callable[[], Any],
    order: Order,
    report: Callable[[CopyProgress], None],
    cancelled: Callable[[], bool],
) -> None:
    """Returns when the domain has left. `connect` gives a connection to its host that nobody else uses.

    Raises CopyError; HostError where nobody can say whether a migration runs already.
    """
    what = f"host {host}: migration of {domain.name()} to {order.destination.name} failed"
    migration: Migration
    if order.under_way(domain):
        migration = Followed(domain, order)
    elif cancelled():
        raise CopyError(f"{what}: it was interrupted before it began")
    else:
        migration = Started(domain, connect, order)
    watch = _Watch(domain, order, report, cancelled)
    while not migration.wait(POLL_S):
        watch.look()
    if migration.error is not None:
        raise CopyError(f"{what}: {watch.reason or _told(migration.error)}") from migration.error


class _Watch:
    """Reports, and gives up for one of several reasons."""

    def __init__(
        self, domain: Any, order: Order, report: Callable[[CopyProgress], None], cancelled: Callable[[], bool]
    ) -> None:
        self._domain, self._policy, self._report, self._cancelled = domain, order.policy, report, cancelled
        self._can, self._abort, self._see_to = order.capabilities, order.abort, order.see_to
        self._began_s = time.monotonic()
        self._paused_s: float | None = None
        self._allowed_ms = 0
        self._passes: list[CopyProgress] = []
        self._warned = ""
        self._sent, self._sent_s = -1, self._began_s
        self.reason = ""

    def look(self) -> None:
        self._warn(self._see_to())
        progress = _progress(self._domain) if self._can.progress else None
        # A migration that libvirt gives up itself says nothing more of it, also where its QEMU does not end.
        if progress is not None and progress.bytes_sent != self._sent:
            self._sent, self._sent_s = progress.bytes_sent, time.monotonic()
        if progress is not None:
            self._allow(allowed_downtime_ms(progress.iteration, self._policy.max_downtime_ms))
            self._report(self._judged(progress))
        self.reason = self.reason or self._why_to_give_up()
        if self.reason and self._can.abort:
            try:
                self._abort(self._domain)
            except libvirt.libvirtError:
                pass  # no job yet, or no job any more: asked again at the next poll

    def _warn(self, text: str) -> None:
        """Where the copy's figures are not known."""
        if text and not self._warned:
            self._warned = text
            self._report(CopyProgress(0, 0, 0, 0, 0, 0.0, 0.0, warning=text))

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
            return "it was interrupted by its operator (Ctrl-C, SIGTERM, or an abort)"
        if time.monotonic() - self._began_s > self._policy.copy_timeout_s:
            return f"it took over {self._policy.copy_timeout_s:g} s (policy copy_timeout_s, move_timeout_s)"
        if time.monotonic() - self._sent_s > STALLED_S and self._sent >= 0:
            return f"nothing of it was sent for over {STALLED_S:g} s"
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
        """How long a pause the hypervisor may aim at."""
        if downtime_ms == self._allowed_ms or not self._can.max_downtime:
            return
        try:
            self._domain.migrateSetMaxDowntime(downtime_ms)
            self._allowed_ms = downtime_ms
        except libvirt.libvirtError:
            pass  # the job is just ending: the migration itself will tell


class Followed:
    """A migration that somebody else began, who is gone."""

    def __init__(self, domain: Any, order: Order) -> None:
        self._domain, self._order = domain, order
        self._ended_s: float | None = None
        self.error: BaseException | None = None

    def wait(self, seconds: float) -> bool:
        try:
            if self._order.under_way(self._domain) or self._is_being_forgotten():
                time.sleep(seconds)
                return False
            state = state_word(self._domain.state()[0])
        except libvirt.libvirtError as error:
            gone = error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN
            self.error = None if gone else error
            return True
        text = f"the migration that was under way is over, and the domain is still here, {state}: see its libvirt's log"
        self.error = libvirt.libvirtError(text)
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

    def __init__(self, domain: Any, connect: Callable[[], Any], order: Order) -> None:
        super().__init__(name="migration", daemon=True)
        self._uuid, self._connect = domain.UUID(), connect
        self._order, self._policy, self._can = order, order.policy, order.capabilities
        self._over = threading.Event()
        self.error: BaseException | None = None
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
        except BaseException as error:  # a thread that ends without one says that the domain has left
            self.error = error
        finally:
            self._over.set()

    def _migrate(self, domain: Any) -> None:
        if self._can.max_downtime:
            try:
                domain.migrateSetMaxDowntime(allowed_downtime_ms(1, self._policy.max_downtime_ms))
            except libvirt.libvirtError:
                pass  # the migration itself will tell
        parameters = {**self._parameters(), **self._definitions(domain)}
        domain.migrateToURI3(self._order.destination.peer_uri, parameters, self._flags(domain))

    @property
    def _compressed(self) -> bool:
        return self._policy.compression == Compression.ZSTD and self._can.compressed_copy

    def _flags(self, domain: Any) -> int:
        flags = libvirt.VIR_MIGRATE_PEER2PEER
        if self._order.live:
            flags |= libvirt.VIR_MIGRATE_LIVE
        if domain.isPersistent():  # its definition lives where the guest lives
            flags |= libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
        if self._order.tunnelled:
            flags |= libvirt.VIR_MIGRATE_TUNNELLED
        elif self._can.encrypted_copy:
            flags |= libvirt.VIR_MIGRATE_TLS
        if self._can.auto_converge and self._policy.auto_converge:
            flags |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
        if self._compressed:
            flags |= libvirt.VIR_MIGRATE_PARALLEL | libvirt.VIR_MIGRATE_COMPRESSED
        if self._order.disks:  # overlays alone; from then on a write is done once it is done at both ends
            flags |= libvirt.VIR_MIGRATE_NON_SHARED_INC | libvirt.VIR_MIGRATE_NON_SHARED_SYNCHRONOUS_WRITES
        return int(flags)

    def _parameters(self) -> dict[str, Any]:
        destination = self._order.destination
        parameters: dict[str, Any] = {}
        if not self._order.tunnelled:
            parameters[libvirt.VIR_MIGRATE_PARAM_URI] = f"tcp://{destination.address}"
        if self._can.bandwidth_cap and self._policy.bandwidth_mib_s:
            parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = self._policy.bandwidth_mib_s
        if self._compressed:  # QEMU compresses what it sends by multifd alone; its level is 1 (decision 0029)
            parameters[libvirt.VIR_MIGRATE_PARAM_COMPRESSION] = self._policy.compression.value
            parameters[libvirt.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS] = 1
        if self._order.disks:
            parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = list(self._order.disks)
        if self._can.encrypted_copy and not self._order.tunnelled:
            parameters[libvirt.VIR_MIGRATE_PARAM_TLS_DESTINATION] = destination.tls_name
        return parameters

    def _definitions(self, domain: Any) -> dict[str, Any]:
        """As the destination is to have the domain, where its own disks go along. Raises ValueError, libvirtError."""
        disks = self._order.disks
        if not disks:
            return {}
        live = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_MIGRATABLE)
        found = {libvirt.VIR_MIGRATE_PARAM_DEST_XML: chains.without(live, disks)}
        if domain.isPersistent():
            stored = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE)
            found[libvirt.VIR_MIGRATE_PARAM_PERSIST_XML] = chains.without(stored, disks)
        return found


def _told(error: BaseException) -> str:
    """An error that nobody expects has a name that says more than its text."""
    expected = isinstance(error, (libvirt.libvirtError, HostError))
    return all_of(error) if expected else f"{type(error).__name__}: {all_of(error)}"


def _progress(domain: Any) -> CopyProgress | None:
    """The running job, if libvirt knows of one yet, and says what can be."""
    try:
        return progress(domain.jobStats())
    except (libvirt.libvirtError, ValueError):
        return None  # the job is just ending, or the connection is: the migration itself will tell


def progress(stats: dict[str, Any]) -> CopyProgress | None:
    """From virDomainGetJobStats; None while it still connects. Raises ValueError."""
    job = _job(stats)
    if not job.memory_total and not job.disk_total:
        return None
    rate = job.memory_bps or job.disk_bps
    found = {
        "elapsed_ms": job.time_elapsed,
        "bytes_total": job.memory_total + job.disk_total,
        "bytes_remaining": job.memory_remaining + job.disk_remaining,
        "bytes_sent": job.memory_processed + job.disk_processed,
        "iteration": job.memory_iteration,
        "dirty_mib_s": job.memory_dirty_rate * job.memory_page_size / (1 << 20),
        "rate_mib_s": rate / (1 << 20),
        "memory_mib_s": rate * _gain(job) / (1 << 20),
        "throttle_percent": job.auto_converge_throttle,
    }
    return fields.decode(CopyProgress, found, "job")


def statistics(stats: dict[str, Any]) -> CopyStatistics:
    """From virDomainGetJobStats, of a job that is complete. Raises ValueError."""
    job = _job(stats)
    sent = job.memory_processed + job.disk_processed
    return CopyStatistics(job.downtime, job.time_elapsed, sent, job.memory_iteration)


@dataclass(frozen=True)
class _Job:
    """VIR_DOMAIN_JOB_*, as far as it is read."""

    downtime: int = 0
    time_elapsed: int = 0
    memory_total: int = 0
    memory_remaining: int = 0
    memory_processed: int = 0
    memory_iteration: int = 0
    memory_dirty_rate: Annotated[int, Number(0, 1 << 40)] = 0
    memory_page_size: Annotated[int, Number(0, 1 << 30)] = 4096
    memory_normal_bytes: int = 0
    memory_bps: int = 0
    disk_total: int = 0
    disk_remaining: int = 0
    disk_processed: int = 0
    disk_bps: int = 0
    auto_converge_throttle: int = 0


_JOB_FIELDS = frozenset(field.name for field in dataclasses.fields(_Job))


def _gain(job: _Job) -> float:
    """How much memory a byte that is sent stands for: QEMU counts pages that are not zero in full, and what it sends
    compressed (ram.normal-bytes and ram.transferred of query-migrate)."""
    return max(1.0, job.memory_normal_bytes / job.memory_processed) if job.memory_processed else 1.0


def _job(stats: dict[str, Any]) -> _Job:
    return fields.decode(_Job, {name: value for name, value in stats.items() if name in _JOB_FIELDS}, "job")
