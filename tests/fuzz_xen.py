"""Targets of fuzz.py that are about Xen: what comes from xenstore."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from tests.hostile import is_harmless
from vmacro.wire import xenstore
from vmacro.wire.mailbox import Mailbox, OutOfStepError, session_of
from vmacro.wire.xenstore import MOST_EVENTS, MOST_PAYLOAD, Xenstore

_ASKED: tuple[Callable[[Xenstore], object], ...] = (
    lambda store: store.read("domid"),
    lambda store: store.watch("domid", "here"),
    lambda store: store.directory("data"),
    lambda store: store.write("data/a", b"x"),
)
_SESSION = "0123456789abcdef"


class _Device:
    """Implements xenstore.Device: says this, in pieces, whatever it is asked."""

    def __init__(self, data: bytes) -> None:
        self._chunks = [chunk for chunk in data.split(b"\xff\xfe") if chunk]

    def send(self, data: bytes) -> None:
        pass

    def receive(self, wait: bool) -> bytes:
        if self._chunks:
            return self._chunks.pop(0)
        if wait:
            raise OSError("it does not answer")
        return b""


def store(data: bytes) -> None:
    """What the kernel, or the host behind it, says to a client of xenstore."""
    client = Xenstore(_Device(data[1:]))
    for _ in range(3):
        try:
            _ASKED[data[0] % len(_ASKED) if data else 0](client)
        except OSError as error:
            assert is_harmless(str(error)) and len(str(error)) < 500
            break
    with suppress(OSError):
        assert len(client.events()) <= MOST_EVENTS


def mailbox(data: bytes) -> None:
    """What the other end writes into its node, one record after the other."""
    box = Mailbox(_SESSION)
    box.say(bytes(5000))
    for record in data.split(b"\xff\xfe"):
        try:
            session_of(record)
            assert len(box.hear(record)) <= max(0, len(record) - 20)
        except OutOfStepError as error:
            assert is_harmless(str(error)) and len(str(error)) < 500
        said = box.record()
        assert said is None or len(said) < 2048


TARGETS: dict[str, Callable[[bytes], None]] = {target.__name__: target for target in (store, mailbox)}
_READ = xenstore.HEADER.pack(xenstore.READ, 1, 0, 1) + b"7"
_EVENT = xenstore.HEADER.pack(xenstore.WATCH_EVENT, 9, 0, 11) + b"domid\0here\0"
SEEDS = {
    "store": [
        b"\0" + _READ,
        b"\0" + _EVENT + _READ[:7] + b"\xff\xfe" + _READ[7:],
        b"\1" + _EVENT + xenstore.HEADER.pack(xenstore.WATCH, 0, 0, 3) + b"OK\0",
        b"\0" + xenstore.HEADER.pack(xenstore.ERROR, 1, 0, 7) + b"ENOENT\0",
        b"\2" + xenstore.HEADER.pack(xenstore.DIRECTORY, 1, 0, 4) + b"a\0b\0",
        b"\0" + xenstore.HEADER.pack(xenstore.READ, 1, 0, MOST_PAYLOAD + 1),
    ],
    "mailbox": [f"{_SESSION} 1 0\nx".encode() + b"\xff\xfe" + f"{_SESSION} 2 1\ny".encode()],
}
