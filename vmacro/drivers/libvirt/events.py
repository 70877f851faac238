"""Lifecycle events of a connection's domains, for any number of watchers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import libvirt

See = Callable[[str, str, str], None]  # domain, event, detail
_EVENTS = {
    libvirt.VIR_DOMAIN_EVENT_DEFINED: "defined",
    libvirt.VIR_DOMAIN_EVENT_UNDEFINED: "undefined",
    libvirt.VIR_DOMAIN_EVENT_STARTED: "started",
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: "suspended",
    libvirt.VIR_DOMAIN_EVENT_RESUMED: "resumed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED: "stopped",
    libvirt.VIR_DOMAIN_EVENT_SHUTDOWN: "shutdown",
    libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED: "pmsuspended",
    libvirt.VIR_DOMAIN_EVENT_CRASHED: "crashed",
}


class LifecycleEvents:
    """Registers once for all watchers: libvirt knows a callback by its C function, which Python's binding has but one
    of, and refuses a second («event callback already tracked», virObjectEventStateRegisterID)."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._lock = threading.Lock()
        self._watchers: list[See] = []
        self._number = 0

    @contextmanager
    def watched(self, see: See) -> Iterator[None]:
        """`see` is called in libvirt's event thread while this is open. Raises libvirtError."""
        with self._lock:
            if not self._watchers:
                kind = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
                self._number = self.connection.domainEventRegisterAny(None, kind, self._on_event, None)
            self._watchers.append(see)
        try:
            yield
        finally:
            with self._lock:
                self._watchers.remove(see)
                if not self._watchers:
                    self._deregister()

    def _deregister(self) -> None:
        """So that the connection can be closed: what is registered holds a reference to it."""
        try:
            self.connection.domainEventDeregisterAny(self._number)
        except libvirt.libvirtError:
            pass  # the connection is gone, and the watch with it

    def _on_event(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        try:
            name = str(domain.name())
        except (libvirt.libvirtError, ValueError):  # the latter where it is no UTF-8: none of ours has such a name
            return
        for see in tuple(self._watchers):
            see(name, _EVENTS.get(event, str(event)), str(detail))
