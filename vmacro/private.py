"""Files and folders that only their owner can read, whatever the umask: journals, logs and reports name guests, clients
and addresses, and may quote what somebody else has written."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import IO


def folder(path: Path) -> Path:
    """Make a folder, with those above it that are missing, each 0700. One that is there is left as it is. Raises
    OSError, NotADirectoryError where a file is in the way."""
    for each in reversed([path, *path.parents]):
        if each.is_dir():
            continue
        try:
            each.mkdir(mode=0o700)
        except FileExistsError:
            if not each.is_dir():  # it is, where another move has made it meanwhile
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(each)) from None
    return path


def touch(path: Path) -> Path:
    """A file, 0600, for a library to fill; one of ours that is there keeps what it has and becomes 0600. Raises
    OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        found = os.fstat(descriptor)
        if found.st_mode & 0o077 and found.st_uid == os.geteuid():
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    return path


def opened(path: Path, mode: str, errors: str = "strict") -> IO[str]:
    """As open(path, mode), a text file, 0600 if it is made here. Raises OSError."""
    return open(path, mode, errors=errors, opener=lambda name, flags: os.open(name, flags, 0o600))


def write(path: Path, data: bytes | str) -> None:
    """A file, 0600 at any time, which appears only once it is complete, in the place of an older one. Raises
    OSError."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)  # of a process that was killed, or somebody else's
    descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(data.encode() if isinstance(data, str) else data)
    part.rename(path)


def why_no_folder(path: Path) -> str:
    """Why files cannot be written into a folder there, which need not exist yet; '' where they can. Whoever asks knows
    it before any work is done: what is found may be another when it comes to writing."""
    standing = next((each for each in (path, *path.parents) if os.path.lexists(each)), Path("/"))
    if not standing.is_dir():
        return f"{standing} is no folder"
    return "" if os.access(standing, os.W_OK | os.X_OK) else f"nothing can be written into {standing}"


def why_no_file(path: Path) -> str:
    """As why_no_folder(), of a file in a folder that is there."""
    if path.is_dir():
        return "is a folder"
    if not path.parent.exists():
        return f"there is no folder {path.parent}"
    if path.exists() and not os.access(path, os.W_OK):
        return "cannot be written"
    return why_no_folder(path.parent)
