"""The end of a migration that QEMU cannot cancel: its command `yank` shuts down all connections of a migration (QEMU
6.0, qapi/yank.json).

A cancel (migrate_cancel, migration.c) shuts down the first one alone. Where the link is cut, the thread that sends
memory by another one (multifd.c) waits in it until the kernel gives that up, a quarter of an hour, and so does QEMU, in
state `cancelling`, and libvirt. Neither sends a yank. For one that came by its passage to QEMU's monitor libvirt marks
the domain as tainted (custom-monitor): a word in `virsh dominfo` and a line in its log, until its process ends.
"""

from __future__ import annotations

import json
import time
from typing import Any

import libvirt_qemu

CANCELS_WITHIN_S = 5.0
COMMAND = json.dumps({"execute": "yank", "arguments": {"instances": [{"type": "migration"}]}})


class Abort:
    """Ends one migration; asked again and again until it has ended."""

    def __init__(self) -> None:
        self._next_s: float | None = None

    def __call__(self, domain: Any) -> None:
        """Raises libvirtError."""
        now_s = time.monotonic()
        if self._next_s is None:
            self._next_s = now_s + CANCELS_WITHIN_S
        if now_s > self._next_s:
            self._next_s = now_s + CANCELS_WITHIN_S
            libvirt_qemu.qemuMonitorCommand(domain, COMMAND, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT)
        domain.abortJob()
