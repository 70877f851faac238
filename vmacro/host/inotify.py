"""Folders that are watched for files which are written, put there or removed (inotify(7)); Python has no such thing."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

_CLOSE_WRITE, _MOVED_TO, _DELETE = 0x8, 0x80, 0x200
_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """Readable once something has happened there."""

    def __init__(self, folders: Iterable[Path]) -> None:
        """Raises OSError."""
        self._descriptor = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        for folder in folders:
            wanted = _CLOSE_WRITE | _MOVED_TO | _DELETE
            _checked(_libc.inotify_add_watch(self._descriptor, os.fsencode(folder), wanted))

    def fileno(self) -> int:
        """For select()."""
        return self._descriptor

    def close(self) -> None:
        """Watch no more."""
        os.close(self._descriptor)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
