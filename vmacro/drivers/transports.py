"""The way to a guest's agent, by the hypervisor that its host has."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vmacro.drivers.host_side import Shell
from vmacro.drivers.libvirt.channel import VirtioChannels
from vmacro.drivers.libvirt.connection import Connections
from vmacro.drivers.libvirt.hypervisors import XEN, kind_of
from vmacro.drivers.xen_channel import XenChannels
from vmacro.model.nouns import Host
from vmacro.ports import AgentStream


class Transports:
    """Implements ports.AgentTransport: by libvirt, or on Xen, where that cannot, by the host side. `polite` and
    `turns`: see channel.VirtioChannels."""

    def __init__(
        self,
        connections: Connections,
        shell: Shell,
        polite: bool = False,
        turns: dict[str, threading.RLock] | None = None,
    ) -> None:
        self._connections = connections
        self._of_qemu = VirtioChannels(connections, polite, turns)
        self._of_xen = XenChannels(shell, polite, turns)

    @contextmanager
    def open(self, host: Host, domain: str) -> Iterator[AgentStream]:
        transport = self._of_xen if kind_of(host, self._connections) == XEN else self._of_qemu
        with transport.open(host, domain) as stream:
            yield stream
