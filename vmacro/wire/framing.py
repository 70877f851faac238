"""Bytes to lines, bounded. Sans-IO: whoever reads a socket, a pipe or a port feeds what it got."""

from __future__ import annotations

from typing import Optional


class LineReader:
    """Splits a byte stream into lines of at most `limit` bytes, without their newline; empty lines are dropped.

    It never keeps more than `limit` bytes, whatever the other end sends.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._partial = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list[Optional[bytes]]:
        """The lines that `data` completes, oldest first; None stands for a line over the limit."""
        *complete, rest = (bytes(self._partial) + data).split(b"\n")
        self._partial.clear()
        lines = [self._bounded(line) for line in complete if line or self._skipping]
        if len(rest) > self._limit:
            self._skipping = True
        elif not self._skipping:
            self._partial += rest
        return lines

    def reset(self) -> None:
        """Forget a partial line: its sender is gone, and the next one starts afresh."""
        self._partial.clear()
        self._skipping = False

    def _bounded(self, line: bytes) -> Optional[bytes]:
        overlong = self._skipping or len(line) > self._limit
        self._skipping = False
        return None if overlong else line
