"""This host's own libvirt, where that drives Xen: it tells of no pause (libxlDomainEventHandler ignores a domain's
suspension). That is read in xenstore, where a guest is asked to suspend itself."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Any

import libvirt

from vmacro.host.domains import LibvirtDomains
from vmacro.host.errors import RefusedError
from vmacro.host.xen import look
from vmacro.wire.host_verbs import TUNNEL
from vmacro.wire.xenbus import Xenbus, opened
from vmacro.wire.xenstore import Xenstore, XenstoreError

LOG = logging.getLogger("vmacro-host")
GONE = "@releaseDomain"  # fires as a domain shuts down, to be suspended too (docs/misc/xenstore.txt)
# A guest that was asked longer ago may never have done it: libxl gives up (libxl_dom_suspend.c), and it goes on.
SUSPENDS_WITHIN_S = 10.0


class XenDomains(LibvirtDomains):
    """As LibvirtDomains; of a domain that is expected to leave, `happened` is told as it is asked to suspend itself,
    and once more when some domain has shut down: it has left then. Of one that may have been asked unseen, the latter
    is told as soon as xl calls it suspended."""

    late = True

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._bus: Xenbus | None = None
        self._store: Xenstore | None = None
        self._watched: dict[str, str] = {}  # by node: which domain
        self._fresh: set[str] = set()  # nodes whose watch has not fired yet, as it does once when it is set
        self._doubted: set[str] = set()
        self._leaving: dict[str, float] = {}  # since when, by the monotonic clock
        self._handle = self._again = -1

    def expect(self, domain: str) -> None:
        """One that is not here is no news. Raises libvirtError; OSError where xenstore does not answer."""
        self._doubted.discard(domain)
        self._leaving.pop(domain, None)  # what an earlier migration asked for came to nothing
        number = self.number(domain)
        if number < 0:
            return
        node = f"/local/domain/{number}/control/shutdown"
        if node in self._watched and self._store is not None:
            return
        self._connected().watch(node, node)
        self._watched[node] = domain
        self._fresh.add(node)

    def sees_pauses(self, domain: str) -> bool:
        """Not if xenstore was lost, or if its node has changed and was read too late: a guest that is asked to suspend
        itself clears what it was asked."""
        return domain in self._watched.values() and domain not in self._doubted

    def _connected(self) -> Xenstore:
        if self._bus is None or self._store is None:
            self._bus = opened()
            self._store = Xenstore(self._bus)
            self._store.watch(GONE, GONE)
            wanted = libvirt.VIR_EVENT_HANDLE_READABLE
            self._handle = libvirt.virEventAddHandle(self._bus.fileno(), wanted, self._on_readable, None)
        return self._store

    def _on_readable(self, _watch: int, _fd: int, _events: int, _opaque: Any) -> None:
        self._look()

    def _look(self) -> None:
        """At what has come, once: a guest may write its nodes without end, and others wait for this thread."""
        if self._store is None:
            return
        try:
            for token, times in Counter(event.token for event in self._store.events()).items():
                self._fired(self._store, token, times)
        except OSError as error:
            LOG.warning("xenstore is lost, and pauses are not seen until domains are armed again: %s", error)
            self._disconnect()
            return
        if self._store.pending and self._again < 0:  # it came with a reply: nothing becomes readable
            self._again = libvirt.virEventAddTimeout(0, self._on_again, None)

    def _on_again(self, timer: int, _opaque: Any) -> None:
        libvirt.virEventRemoveTimeout(timer)
        self._again = -1
        self._look()

    def _fired(self, store: Xenstore, token: str, times: int) -> None:
        if token == GONE:
            left = [d for d, asked_s in self._leaving.items() if _has_left(d, asked_s)]
            for domain in [*left, *(d for d in self._doubted if _is_suspended(d))]:
                self._leaving.pop(domain, None)
                self._doubted.discard(domain)
                self.happened(domain, TUNNEL, True)
            return
        domain, as_set = self._watched.get(token, ""), token in self._fresh
        self._fresh.discard(token)
        if not domain or domain in self._leaving:
            return
        if _asked_to_suspend(store, token):
            self._leaving[domain] = time.monotonic()
            self.happened(domain, TUNNEL, False)
        elif times > as_set:
            self._doubted.add(domain)

    def _disconnect(self) -> None:
        libvirt.virEventRemoveHandle(self._handle)
        if self._bus is not None:
            self._bus.close()
        self._bus = self._store = None
        self._watched.clear()
        self._fresh.clear()


def _asked_to_suspend(store: Xenstore, node: str) -> bool:
    try:
        return store.read(node) == b"suspend"
    except XenstoreError:  # the domain has gone, and its nodes
        return False


def _has_left(domain: str, asked_s: float) -> bool:
    """Some domain has shut down. Of one that was asked just now it is not awaited what xl says: a fence that is too
    early costs less than one that is missing. Any other's end must not cut off a guest that was asked in vain."""
    if time.monotonic() - asked_s < SUSPENDS_WITHIN_S:
        return True
    return _is_suspended(domain)


def _is_suspended(domain: str) -> bool:
    """Or has gone, or nobody says."""
    try:
        seen = look(domain)
    except (RefusedError, OSError) as error:
        LOG.warning("%s is taken to have left, as nobody says: %s", domain, error)
        return True
    return seen.suspended or seen.number < 0
