"""Xenstore's wire protocol (xen/include/public/io/xs_wire.h), as Linux speaks it on /dev/xen/xenbus. Sans-IO: whoever
reads the device feeds what came.

What differs from xenstored's own socket (Linux drivers/xen/xenbus/xenbus_dev_frontend.c): the kernel itself answers
WATCH and UNWATCH, with request id 0 and after the watch may have fired; headers of events have any id; a message may be
read in pieces; one that is written has 4096 bytes at most, header included.
"""

from __future__ import annotations

import errno
import struct
from collections import deque
from dataclasses import dataclass
from typing import Optional, Protocol

HEADER = struct.Struct("=IIII")  # type, request id, transaction id, length of what follows
MOST_PAYLOAD = 4096  # XENSTORE_PAYLOAD_MAX
MOST_WRITTEN = 4096 - HEADER.size
MOST_PATH = 3072  # XENSTORE_ABS_PATH_MAX
# enum xsd_sockmsg_type
DIRECTORY, READ, WATCH, UNWATCH, WRITE, RM, WATCH_EVENT, ERROR = 1, 2, 4, 5, 11, 13, 15, 16
_BY_KERNEL = frozenset({WATCH, UNWATCH})
_NO_TRANSACTION = 0
MOST_EVENTS = 256  # that nobody has taken yet. They are signs, of which the latest count


class XenstoreError(OSError):
    """Xenstore refuses a request; `errno` by the name that it gives (xsd_errors)."""


class BrokenError(ValueError):
    """What was read is not the protocol: nothing that follows can be understood."""


@dataclass(frozen=True)
class Event:
    """A watch has fired: `path` has changed, or something below it, or the guest was resumed."""

    path: str
    token: str


class Device(Protocol):
    """A connection to xenstore: bytes. Every method raises OSError."""

    def send(self, data: bytes) -> None:
        """All of it."""

    def receive(self, wait: bool) -> bytes:
        """What has come; b'' for nothing, which with `wait` is an error: it does not answer."""


class Conversation:
    """One request at a time, and events at any time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._last_id = 0
        self._asked = 0  # type of the request that waits for its reply
        self._reply: Optional[tuple[int, bytes]] = None
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)

    def request(self, kind: int, *parts: bytes) -> bytes:
        """What to write. All `parts` end with a NUL where they must. Raises ValueError for what is too long."""
        payload = b"".join(parts)
        if len(payload) > MOST_WRITTEN:
            raise ValueError(f"xenstore: a request of {len(payload)} bytes is over the limit of {MOST_WRITTEN}")
        self._last_id = self._last_id % 0xFFFFFFFF + 1
        self._asked, self._reply = kind, None
        return HEADER.pack(kind, self._last_id, _NO_TRANSACTION, len(payload)) + payload

    def feed(self, data: bytes) -> None:
        """What was read. Raises BrokenError."""
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            kind, request_id, _, length = HEADER.unpack_from(self._buffer)
            if length > MOST_PAYLOAD:
                raise BrokenError(f"xenstore: a message of {length} bytes is over the limit of {MOST_PAYLOAD}")
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            self._take(kind, request_id, payload)

    def reply(self) -> Optional[bytes]:
        """The reply to the last request, once; None as long as it has not come. Raises XenstoreError."""
        if self._reply is None:
            return None
        (kind, payload), self._reply = self._reply, None
        if kind != ERROR:
            return payload
        name = payload.rstrip(b"\0").decode("ascii", "replace")[:20]
        number = getattr(errno, name, None) if name.isalnum() and name.startswith("E") else None
        raise XenstoreError(number if isinstance(number, int) else errno.EIO, f"xenstore refuses: {name!r}")

    @property
    def pending(self) -> bool:
        """Whether events() has any."""
        return bool(self._events)

    def events(self) -> list[Event]:
        """Those that have come since the last call."""
        found = list(self._events)
        self._events.clear()
        return found

    def _take(self, kind: int, request_id: int, payload: bytes) -> None:
        if kind == WATCH_EVENT:
            self._events.append(_event(payload))
            return
        if not self._asked:
            raise BrokenError(f"xenstore: a message of type {kind}, which nobody asked for")
        if kind not in (self._asked, ERROR):
            raise BrokenError(f"xenstore: a reply of type {kind} to a request of type {self._asked}")
        if request_id != self._last_id and not (request_id == 0 and self._asked in _BY_KERNEL):
            raise BrokenError(f"xenstore: a reply to request {request_id}, not to {self._last_id}")
        self._asked, self._reply = 0, (kind, payload)


def text(value: str) -> bytes:
    """A path or a token, as requests have it. Raises ValueError for what none may be."""
    raw = value.encode()
    if not raw or b"\0" in raw or len(raw) > MOST_PATH:
        raise ValueError(f"xenstore: no path or token: {value[:100]!r}")
    return raw + b"\0"


def _event(payload: bytes) -> Event:
    """Path and token, each with its NUL; of newer protocols more may follow."""
    path, end, rest = payload.partition(b"\0")
    token, end2, _ = rest.partition(b"\0")
    if not end or not end2:
        raise BrokenError("xenstore: an event without a path and a token")
    return Event(path.decode("ascii", "replace"), token.decode("ascii", "replace"))


class Xenstore:
    """Reads, writes and watches. Paths may be relative to the guest's own home, /local/domain/DOMID. Raises OSError:
    XenstoreError where xenstore refuses, after all others the connection is of no use any more."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._conversation = Conversation()

    def read(self, path: str) -> bytes:
        """Raises XenstoreError, ENOENT where there is no such node."""
        return self._ask(READ, text(path))

    def write(self, path: str, value: bytes) -> None:
        """Makes the node, and those above it, where there are none."""
        self._ask(WRITE, text(path), value)

    def remove(self, path: str) -> None:
        """The node and all below it. Raises XenstoreError, ENOENT where there is none."""
        self._ask(RM, text(path))

    def directory(self, path: str) -> list[str]:
        """Names of the nodes below one. Raises XenstoreError, ENOENT where there is no such node."""
        return [name.decode("ascii", "replace") for name in self._ask(DIRECTORY, text(path)).split(b"\0") if name]

    def watch(self, path: str, token: str) -> None:
        """An event comes at once, and each time that the node changes, or something below it; in a guest also after it
        was resumed, as its kernel then sets its watches anew (drivers/xen/xenbus/xenbus_xs.c: xs_resume)."""
        self._ask(WATCH, text(path), text(token))

    def unwatch(self, path: str, token: str) -> None:
        """What has fired already may still come."""
        self._ask(UNWATCH, text(path), text(token))

    def events(self) -> list[Event]:
        """Those that have come, without waiting."""
        self._receive(wait=False)
        return self._conversation.events()

    @property
    def pending(self) -> bool:
        """Events have come with a reply: nothing more need become readable before events() has them."""
        return self._conversation.pending

    def _ask(self, kind: int, *parts: bytes) -> bytes:
        self._device.send(self._conversation.request(kind, *parts))
        while True:
            reply = self._conversation.reply()
            if reply is not None:
                return reply
            self._receive(wait=True)

    def _receive(self, wait: bool) -> None:
        try:
            self._conversation.feed(self._device.receive(wait))
        except BrokenError as error:
            raise OSError(errno.EPROTO, str(error)) from None
