"""Xen by libvirt's libxl driver, and by the host side what that driver cannot do (docs/xen.md says which, and since
when)."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit

import libvirt

from vmacro.drivers.libvirt import xml
from vmacro.drivers.libvirt.base import LibvirtHypervisor
from vmacro.drivers.libvirt.connection import Connections
from vmacro.drivers.libvirt.migration import Order
from vmacro.errors import CopyError, HostError
from vmacro.model.facts import ARRIVING, LEAVING, PV, Capabilities, CopyProgress, DomainFacts, HostFacts
from vmacro.model.nouns import Host, Policy
from vmacro.wire.xen_verbs import SUSPENDED, Saving, XenFacts

SHADOW = "shadow"
LIBVIRT_TLS_PORT = 16514
# An earlier connection may lead there, too: that one is slow says nothing of the copy's own, which begins later. To
# look costs the host something: the longer the copy takes, the rarer it is.
PACED_EVERY_S, PACED_RARELY, UNPACED_S = 2.0, 0.25, 5.0
NO_SHADOW = "it is a PV guest, and this Xen has no shadow paging, by which one is copied while it runs"


class XenSide(Protocol):
    """What the host side of a host of Xen is asked for. Every method raises HostError."""

    def xen(self) -> XenFacts: ...

    def saving(self, domain: str) -> Saving: ...

    def abort_saving(self, domain: str) -> str:
        """What became of it: ENDED, NOTHING or SUSPENDED."""

    def pace(self, address: str, port: int, bytes_s: int) -> int:
        """Of how many connections to there that is true now."""


class _Pacing:
    """What libvirt sends there may be so fast and no faster: each of its connections, whenever that has begun."""

    def __init__(self, side: Callable[[], XenSide], destination: Host, bytes_s: int) -> None:
        self._side, self._bytes_s = side, bytes_s
        self._there = (destination.address, urlsplit(destination.peer_uri).port or LIBVIRT_TLS_PORT)
        self._began_s = self._next_s = time.monotonic()
        self._heeded = False

    def see_to(self) -> str:
        """See Order."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return ""
        trouble = f"no connection of its libvirt to {self._there[0]}, port {self._there[1]}, can be slowed down"
        try:
            if self._side().pace(*self._there, self._bytes_s):
                self._heeded = True
                self._next_s = now_s + max(PACED_EVERY_S, PACED_RARELY * (now_s - self._began_s))
        except HostError as error:
            trouble = error.message
        late = not self._heeded and now_s - self._began_s > UNPACED_S
        return f"the copy goes as fast as it can (policy bandwidth_mib_s is not heeded): {trouble}" if late else ""


class XenHypervisor(LibvirtHypervisor):
    """Implements ports.Hypervisor. What libvirt's driver can is in its libxl_driver.c and libxl_migration.c (9.0 to
    11.3): no abortJob, no bandwidth, no pause to aim at, no TLS but through its own connection, job statistics with the
    time alone, no snapshots."""

    known = Capabilities(
        live_migration=True,
        abort=False,
        abort_standing=False,
        bandwidth_cap=False,
        max_downtime=False,
        auto_converge=False,
        encrypted_copy=True,
        progress=False,
        completed_statistics=False,
        local_disks=False,
        agent_channel=True,
        compressed_copy=False,
    )
    undefining = 0

    def __init__(self, host: Host, connections: Connections, side: Callable[[Host], XenSide] | None = None) -> None:
        super().__init__(host, connections)
        self._sides, self._side = side, partial(side, host) if side is not None else None

    def facts(self) -> HostFacts:
        """Without a host side some of it is not known, and less can be done."""
        found = super().facts()
        if self._side is None:
            return found
        with suppress(HostError):
            words = self._side().xen().virtualisation
            can = replace(found.capabilities, abort=True, bandwidth_cap=True)
            return replace(found, capabilities=can, shadow_paging=SHADOW in words)
        return found

    def domain(self, name: str) -> DomainFacts | None:
        """libvirt calls a guest running all through its migration; Xen says when it is suspended."""
        found = super().domain(name)
        if found is None or not found.running or self._side is None:
            return found
        with suppress(HostError):
            if self._side().saving(name).suspended:
                return replace(found, state="paused", reason="for a migration")
        return found

    def copy(
        self,
        domain: str,
        destination: Host,
        policy: Policy,
        report: Callable[[CopyProgress], None],
        cancelled: Callable[[], bool],
        disks: tuple[str, ...] = (),
    ) -> None:
        facts, seen = self.facts(), self.domain(domain)
        live = not (seen is not None and seen.machine == PV and facts.shadow_paging is False)
        if not live and not policy.allow_standstill:
            text = f"host {self._host.name}: migration of {domain} to {destination.name} failed: {NO_SHADOW}"
            raise CopyError(text, "policy allow_standstill; or make it a PVH guest")
        order = Order(
            destination,
            policy,
            disks,
            replace(facts.capabilities, bandwidth_cap=False),  # libvirt has no parameter for it
            tunnelled=True,
            job=self.job,
            abort=partial(self._abort, destination),
            live=live,
        )
        if self._side is not None and policy.bandwidth_mib_s:
            order = replace(order, see_to=_Pacing(self._side, destination, policy.bandwidth_mib_s << 20).see_to)
        self.carry_out(domain, order, report, cancelled)

    def _abort(self, destination: Host, domain: Any) -> None:
        """Ends what sends its memory, and what receives it: libvirt cannot, and waits for the latter for ever. Asked
        again and again."""
        if self._sides is None:
            return
        name = str(domain.name())
        with suppress(HostError):
            if self._sides(self._host).abort_saving(name) != SUSPENDED:
                self._sides(destination).abort_saving(name)

    @staticmethod
    def job(domain: Any) -> str:
        """libvirt says that there is one, and not which (virDomainGetJobStats): but only a migration takes long. Its
        guest is `running` at the source, and not yet at the destination."""
        try:
            kind = domain.jobStats().get("type", libvirt.VIR_DOMAIN_JOB_NONE)
            state, _ = domain.state()
        except libvirt.libvirtError as error:
            if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
                return ""
            raise
        if kind == libvirt.VIR_DOMAIN_JOB_NONE:
            return ""
        return LEAVING if state in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED) else ARRIVING

    @staticmethod
    def has_agent_channel(described: xml.DomainDescription) -> bool:
        """Every guest of Xen has xenstore."""
        return True

    @staticmethod
    def free_memory_mib(connection: Any) -> int:
        """Xen's, of which its first domain has its own part already."""
        return int(connection.getFreeMemory()) >> 20
