"""A byte stream on two nodes of xenstore, one for each direction: how a guest of Xen and its host talk without a
network and without a device. Sans-IO: each end reads the other's node when its watch fires, and writes its own.

A node holds one record, `SESSION NUMBER SEEN` and a newline, and then a piece of the stream: the piece's number, and
the number of the last piece that was seen of the other end. A piece is followed by the next one only once it was seen,
so that nothing is lost though a watch tells only that there was a change, and not how many. The host begins a session
by writing to its node; the guest answers with the same SESSION.
"""

from __future__ import annotations

import re
from typing import Optional

# In the guest's home, /local/domain/DOMID: libxl has it own the folder `data` (libxl_create.c: libxl__domain_make).
FOLDER = "data/vmacro"
TO_GUEST, TO_HOST = f"{FOLDER}/to-guest", f"{FOLDER}/to-host"
# With its head well below what a guest may write into one node (xenstored's quota maxsize: 2048 bytes).
MOST_PIECE = 1536
_HEAD = re.compile(rb"([0-9a-f]{16}) ([0-9]{1,10}) ([0-9]{1,10})\n")
SESSION = re.compile(r"[0-9a-f]{16}\Z")


class OutOfStepError(ValueError):
    """A record that does not follow from those before it."""


class Mailbox:
    """One end of one session, which is 16 hexadecimal digits that the host has made up."""

    def __init__(self, session: str) -> None:
        self.session = session
        self._waiting = bytearray()  # to be said
        self._piece = b""
        self._number = self._acknowledged = self._seen = 0
        self._written: Optional[tuple[int, int]] = None

    @property
    def idle(self) -> bool:
        """All that was to be said has been seen."""
        return not self._waiting and self._acknowledged == self._number

    def say(self, data: bytes) -> None:
        """More for the other end."""
        self._waiting += data

    def hear(self, record: bytes) -> bytes:
        """What the other end's node has now; returns the piece, if it is new. Another session's record is no news.
        Raises OutOfStepError."""
        head = _HEAD.match(record)
        if head is None:
            raise OutOfStepError(f"no record: {record[:40]!r}")
        if head[1].decode() != self.session:
            return b""
        number, seen = int(head[2]), int(head[3])
        if seen not in (self._acknowledged, self._number) or number not in (self._seen, self._seen + 1):
            raise OutOfStepError(
                f"piece {number}, {seen} seen, after piece {self._seen} and with {self._number} as the last one said"
            )
        self._acknowledged = seen
        if number == self._seen:
            return b""
        self._seen = number
        return record[head.end() :]

    def record(self) -> Optional[bytes]:
        """What to write to this end's node; None where it has that already."""
        if self._waiting and self._acknowledged == self._number:
            self._number += 1
            self._piece = bytes(self._waiting[:MOST_PIECE])
            del self._waiting[:MOST_PIECE]
        if self._written == (self._number, self._seen):
            return None
        self._written = (self._number, self._seen)
        return f"{self.session} {self._number} {self._seen}\n".encode() + self._piece


def session_of(record: bytes) -> str:
    """Raises OutOfStepError."""
    head = _HEAD.match(record)
    if head is None:
        raise OutOfStepError(f"no record: {record[:40]!r}")
    return head[1].decode()
