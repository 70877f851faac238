"""Standard output and error, to which nobody may listen any more: no move ends for that, and every exit code is what it
would have been."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any

from vmacro.errors import reason_of


class _Kept(io.FileIO):
    """Takes all that is written. What cannot be passed on is dropped: `trouble` says why, but where its reader has
    left, who wants no more. Where somebody else has made the pipe one that does not wait, it is waited for."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(stream.fileno(), "wb", closefd=False)
        self.trouble, self._stream = "", stream  # which would close the file, were it forgotten

    def write(self, data: Any) -> int:
        try:
            while (written := super().write(data)) is None:
                room = select.poll()
                room.register(self.fileno(), select.POLLOUT)
                room.poll()
            return written
        except BrokenPipeError:
            pass
        except OSError as error:
            self.trouble = reason_of(error)
        return len(data)


def keep() -> None:
    """From now on no failure to write to standard output or error raises anything. One that was closed from the
    beginning is the null device."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
        setattr(sys, name, _kept(stream))


def unread() -> bool:
    """Whether the reader of standard output has left, as `head` does (poll(2), POLLERR of a pipe)."""
    try:
        number = sys.stdout.fileno()
    except OSError:
        return False
    looked = select.poll()
    looked.register(number, 0)
    return any(seen & (select.POLLERR | select.POLLHUP) for _, seen in looked.poll(0))


def trouble() -> str:
    """Why not all that was printed has come to standard output; '' where it has, or its reader has left."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.trouble if isinstance(raw, _Kept) else ""


def _kept(stream: Any) -> Any:
    """No name of a guest ends a move on a Latin-1 terminal either."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    try:
        raw = _Kept(stream)
    except io.UnsupportedOperation:  # it is in memory
        stream.reconfigure(errors="backslashreplace")
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
