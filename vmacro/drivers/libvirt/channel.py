"""A byte stream to a guest's agent by virDomainOpenChannel: through the host's libvirt, on no network of the guest."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import libvirt

from vmacro.drivers.libvirt.connection import Connections
from vmacro.errors import AgentError, all_of
from vmacro.model.nouns import Host
from vmacro.wire.messages import MAX_REPLY_BYTES
from vmacro.wire.names import AGENT_CHANNEL

MAX_UNREAD_BYTES = 2 * MAX_REPLY_BYTES
SEND_POLL_S = 0.01
_RECEIVE_BYTES = 1 << 16
_READABLE = libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP
_NO_AGENT_HINT = "is vmacro-agent running in the guest? look at its console: virsh console"


class VirtioStream:
    """Implements ports.AgentStream on a virStream that is non-blocking.

    libvirt's event thread receives as bytes come; whoever reads takes them from a buffer. That is bounded, since
    guests are not trusted: over MAX_UNREAD_BYTES the stream ends with an error.
    """

    def __init__(self, domain: str, stream: Any) -> None:
        self._domain = domain
        self._stream = stream
        self._changed = threading.Condition()
        self._unread = bytearray()
        self._ended: AgentError | None = None
        stream.eventAddCallback(_READABLE, self._on_event, None)

    def send(self, data: bytes, deadline_s: float) -> None:
        while data:
            try:
                sent = self._stream.send(data)
            except libvirt.libvirtError as error:
                raise AgentError(f"guest {self._domain}: the agent's channel broke: {all_of(error)}") from error
            if sent > 0:
                data = data[sent:]
            elif time.monotonic() > deadline_s:
                raise TimeoutError
            else:
                time.sleep(SEND_POLL_S)

    def recv(self, deadline_s: float) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._unread or self._ended, max(0.0, deadline_s - time.monotonic()))
            if time.monotonic() > deadline_s:  # also for a guest that sends without end
                raise TimeoutError
            if self._unread:
                data = bytes(self._unread)
                self._unread.clear()
                return data
            if self._ended is not None:
                raise self._ended
            raise TimeoutError

    def close(self) -> None:
        self._without_events()
        self._abort()

    def _on_event(self, stream: Any, events: int, _opaque: Any) -> None:
        """In libvirt's event thread, which all connections need: it is back soon, and called again while there is more
        (virNetClientStreamEventTimer)."""
        received = 0
        try:
            while self._ended is None and received <= MAX_UNREAD_BYTES:
                data = stream.recv(_RECEIVE_BYTES)
                if isinstance(data, int):  # -2: nothing more for now
                    return
                received += len(data)
                self._receive(data)
        except libvirt.libvirtError as error:
            self._end(f"the agent's channel broke: {all_of(error)}")
        if self._ended is not None:
            self._without_events()
            self._abort()  # libvirt would go on to queue what comes, without a bound (virNetClientStream's rx)

    def _receive(self, data: bytes) -> None:
        with self._changed:
            fits = len(self._unread) + len(data) <= MAX_UNREAD_BYTES
            if data and fits:
                self._unread += data
                self._changed.notify()
                return
            if not fits:
                self._unread.clear()
        self._end(f"its agent sent over {MAX_UNREAD_BYTES} bytes unread" if data else "the agent's channel closed")

    def _abort(self) -> None:
        try:
            self._stream.abort()
        except libvirt.libvirtError:
            pass  # aborted already; or the guest has moved away, and the channel has ended with it

    def _without_events(self) -> None:
        try:
            self._stream.eventRemoveCallback()
        except libvirt.libvirtError:
            pass  # removed already, or the stream is gone and its events with it

    def _end(self, why: str) -> None:
        with self._changed:
            self._ended = AgentError(f"guest {self._domain}: {why}", _NO_AGENT_HINT)
            self._changed.notify()


class VirtioChannels:
    """Implements ports.AgentTransport for guests with a virtio-serial channel of the agent's name.

    libvirt allows one user at a time: threads of this process take turns, and another process's use ends,
    unless we are `polite` and leave the channel to whoever has it. `turns`, a lock per domain, is what all of a
    process share.
    """

    def __init__(
        self, connections: Connections, polite: bool = False, turns: dict[str, threading.RLock] | None = None
    ) -> None:
        self._connections = connections
        self._flags = 0 if polite else libvirt.VIR_DOMAIN_CHANNEL_FORCE
        self._turns: dict[str, threading.RLock] = turns if turns is not None else {}

    @contextmanager
    def open(self, host: Host, domain: str) -> Iterator[VirtioStream]:
        with self._turns.setdefault(domain, threading.RLock()):
            stream = self._opened(host, domain)
            try:
                yield stream
            finally:
                stream.close()

    def _opened(self, host: Host, domain: str) -> VirtioStream:
        connection = self._connections.get(host)
        try:
            stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
            connection.lookupByName(domain).openChannel(AGENT_CHANNEL, stream, self._flags)
        except libvirt.libvirtError as error:
            raise AgentError(f"guest {domain}: its agent's channel cannot be opened: {all_of(error)}") from error
        return VirtioStream(domain, stream)
