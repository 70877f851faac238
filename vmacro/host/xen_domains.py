"""This host's own libvirt, where that drives Xen: it tells of no pause (libxlDomainEventHandler ignores a domain's
suspension). That is read in xenstore, where a guest is asked to suspend itself."""

from __future__ import annotations

import logging
from typing import Any

import libvirt

from vmacro.host.domains import LibvirtDomains
from vmacro.host.xenbus import Xenbus, opened
from vmacro.wire.host_verbs import TUNNEL
from vmacro.wire.xenstore import Xenstore, XenstoreError

LOG = logging.getLogger("vmacro-host")
GONE = "@releaseDomain"  # fires as a domain shuts down, to be suspended too (docs/misc/xenstore.txt)


class XenDomains(LibvirtDomains):
    """As LibvirtDomains; of a domain that is expected to leave, `happened` is told as it is asked to suspend itself,
    and once more when some domain has shut down: it has left then."""

    late = True

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._bus: Xenbus | None = None
        self._store: Xenstore | None = None
        self._watched: dict[str, str] = {}  # by node: which domain
        self._leaving: set[str] = set()
        self._handle = -1

    def expect(self, domain: str) -> None:
        """One that is not here is no news. Raises libvirtError; OSError where xenstore does not answer."""
        number = self.number(domain)
        if number < 0:
            return
        node = f"/local/domain/{number}/control/shutdown"
        if node in self._watched and self._store is not None:
            return
        store = self._connected()
        self._watched[node] = domain
        store.watch(node, node)

    def _connected(self) -> Xenstore:
        if self._bus is None or self._store is None:
            self._bus = opened()
            self._store = Xenstore(self._bus)
            self._store.watch(GONE, GONE)
            wanted = libvirt.VIR_EVENT_HANDLE_READABLE
            self._handle = libvirt.virEventAddHandle(self._bus.fileno(), wanted, self._on_readable, None)
        return self._store

    def _on_readable(self, _watch: int, _fd: int, _events: int, _opaque: Any) -> None:
        try:
            assert self._store is not None
            while True:
                for event in self._store.events():
                    self._fired(self._store, event.token)
                if not self._store.pending:
                    return
        except OSError as error:
            LOG.warning("xenstore is lost, and pauses are not seen until domains are armed again: %s", error)
            self._disconnect()

    def _fired(self, store: Xenstore, token: str) -> None:
        if token == GONE:
            for domain in list(self._leaving):
                self._leaving.discard(domain)
                self.happened(domain, TUNNEL, True)
            return
        domain = self._watched.get(token, "")
        if domain and domain not in self._leaving and _asked_to_suspend(store, token):
            self._leaving.add(domain)
            self.happened(domain, TUNNEL, False)

    def _disconnect(self) -> None:
        libvirt.virEventRemoveHandle(self._handle)
        if self._bus is not None:
            self._bus.close()
        self._bus = self._store = None
        self._watched.clear()


def _asked_to_suspend(store: Xenstore, node: str) -> bool:
    try:
        return store.read(node) == b"suspend"
    except XenstoreError:  # the domain has gone, and its nodes
        return False
