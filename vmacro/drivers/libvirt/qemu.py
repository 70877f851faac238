"""QEMU by libvirt, with KVM and without."""

from __future__ import annotations

from vmacro.drivers.libvirt.base import LibvirtHypervisor
from vmacro.model.facts import Capabilities


class QemuHypervisor(LibvirtHypervisor):
    """Implements ports.Hypervisor. What it can is in libvirt's qemu_driver.c since long before version 9."""

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
    )
