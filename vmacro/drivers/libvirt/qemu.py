"""QEMU by libvirt, with KVM and without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vmacro.drivers.libvirt.base import LibvirtHypervisor, Version
from vmacro.drivers.libvirt.yank import Abort
from vmacro.model.facts import Capabilities


class QemuHypervisor(LibvirtHypervisor):
    """Implements ports.Hypervisor. What it can is in libvirt's qemu_driver.c since long before version 9, but for
    compression."""

    known = Capabilities(
        live_migration=True,
        abort=True,
        abort_standing=True,
        bandwidth_cap=True,
        max_downtime=True,
        auto_converge=True,
        encrypted_copy=True,
        progress=True,
        completed_statistics=True,
        local_disks=True,
        agent_channel=True,
        compressed_copy=False,
    )

    @staticmethod
    def abort() -> Callable[[Any], None]:
        """Also one that waits for a link which carries nothing any more."""
        return Abort()

    def able(self, libvirt_version: Version, version: Version) -> Capabilities:
        """zstd over multifd: of libvirt since 9.4 (VIR_MIGRATE_PARAM_COMPRESSION), of QEMU since 5.0
        (multifd-compression)."""
        return replace(self.known, compressed_copy=libvirt_version >= (9, 4, 0) and version >= (5, 0, 0))
