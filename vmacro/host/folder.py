"""A folder of this host's that is held open. Its files are named by one word each, so that no symbolic link is ever
followed, and whatever becomes of the folder's path meanwhile, it is this one that is worked on (openat(2))."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType

from vmacro.host.errors import RefusedError

_QUIETLY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # not even a fifo makes us wait


class Folder:
    """Every method raises RefusedError for what is there and no regular file, and OSError."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)

    def stat(self, name: str) -> os.stat_result | None:
        """None where there is no such file."""
        try:
            found = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return self._regular(name, found)

    def read(self, name: str, most: int) -> str:
        """At most so many bytes of a file's text; '' where there is none."""
        if self.stat(name) is None:
            return ""
        file = os.open(name, os.O_RDONLY | _QUIETLY, dir_fd=self.descriptor)
        with os.fdopen(file, "rb") as opened:
            self._regular(name, os.fstat(file))
            return opened.read(most).decode(errors="replace")

    def write(self, name: str, text: str) -> None:
        """A file of root's alone, which appears whole in the place of an older one."""
        fresh = f"{name}.new"
        self.remove(fresh)
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _QUIETLY, 0o600, dir_fd=self.descriptor)
        with os.fdopen(file, "w") as opened:
            opened.write(text)
        self.rename(fresh, name)

    def rename(self, name: str, wanted: str) -> None:
        """What has the wanted name already is replaced."""
        self.stat(name)
        self.stat(wanted)
        os.rename(name, wanted, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def remove(self, name: str) -> None:
        """Idempotent."""
        if self.stat(name) is not None:
            os.unlink(name, dir_fd=self.descriptor)

    def _regular(self, name: str, found: os.stat_result) -> os.stat_result:
        if not stat.S_ISREG(found.st_mode):
            raise RefusedError("disk", f"{self.path / name}: is no regular file")
        return found
