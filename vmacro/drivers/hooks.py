"""The operator's own executables, run before and after moves: never by a shell, never longer than they may."""

from __future__ import annotations

import os
import selectors
import signal
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from vmacro.errors import HookError, reason_of
from vmacro.model.facts import HookEnd
from vmacro.wire.text import printable

MOST_SAID = 4096  # bytes of what it writes that are kept
ENDING_S = 1.0  # for the kernel to end what was killed
_LOOK_EVERY_S = 0.05
# Of our own environment nothing: it may have a password in it (VMACRO_DATABASE_URL).
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class Executables:
    """Implements ports.Hooks."""

    def run(self, path: str, told: str, deadline_s: float) -> HookEnd:
        if trouble := why_not(Path(path)):
            raise HookError(f"{path}: {trouble}; it was not run")
        began = time.monotonic()
        try:
            process = subprocess.Popen(
                [path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise HookError(
                f"{path}: cannot be run: {reason_of(error)}", "does its first line name a program?"
            ) from None
        said, late = _heard(process, told.encode(), began + deadline_s)
        code = _ended(process)
        took_ms = round((time.monotonic() - began) * 1000)
        return HookEnd(code, took_ms, printable(said.decode(errors="replace").strip(), MOST_SAID), late)


def why_not(path: Path) -> str:
    """Why an executable may not be run; '' where it may. Whoever could change it could be us."""
    if not path.is_absolute():
        return "must be an absolute path"
    try:
        found = path.stat()
        # Of the name and, where it is a link, of what it leads to: who can put another in its place is one who can
        # change it, between this look and its start, too.
        folders = [folder.stat() for folder in {*path.parents, *path.resolve().parents}]
    except OSError as error:
        return f"cannot be looked at: {reason_of(error)}"
    if not stat.S_ISREG(found.st_mode):
        return "is no file"
    if found.st_mode & 0o022:
        return f"mode {stat.S_IMODE(found.st_mode):04o}: others than its owner may write to it"
    if found.st_uid not in (0, os.geteuid()):
        return f"belongs to user {found.st_uid}, neither to root nor to us"
    if any(f.st_mode & 0o022 and not f.st_mode & stat.S_ISVTX for f in folders):
        return "lies in a folder to which others than its owner may write"
    if any(f.st_uid not in (0, os.geteuid()) for f in folders):
        return "lies in a folder that is neither root's nor ours"
    if not os.access(path, os.X_OK):
        return f"mode {stat.S_IMODE(found.st_mode):04o}: is not executable"
    return ""


def _heard(process: subprocess.Popen[bytes], told: bytes, until_s: float) -> tuple[bytes, bool]:
    """Tells it what it is to know, and hears it until it has ended, or until the deadline. Returns the beginning of
    what it wrote, and whether it was late. It need not read, and what it has started may keep its output open."""
    assert process.stdin is not None and process.stdout is not None
    for end in (process.stdin, process.stdout):
        os.set_blocking(end.fileno(), False)
    said, ended = bytearray(), False
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdin, selectors.EVENT_WRITE)
        selector.register(process.stdout, selectors.EVENT_READ)
        while not ended and time.monotonic() < until_s:
            ended = _has_ended(process.pid)  # what it wrote before that is read below
            for key, _ in selector.select(0 if ended else _LOOK_EVERY_S):
                if key.fileobj is process.stdin:
                    told = _written(process.stdin.fileno(), told)
                    if not told:
                        selector.unregister(process.stdin)
                        with suppress(OSError):
                            process.stdin.close()
                elif not _read(process.stdout.fileno(), said):
                    selector.unregister(process.stdout)
            if not selector.get_map() and not ended:
                time.sleep(_LOOK_EVERY_S)
    return bytes(said), not ended


def _has_ended(pid: int) -> bool:
    """Its number stays its own until it is waited for, so that no other group is ended in its stead."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _written(descriptor: int, told: bytes) -> bytes:
    """What is left to be written; nothing, where nobody reads."""
    try:
        return told[os.write(descriptor, told) :]
    except BlockingIOError:
        return told
    except OSError:
        return b""


def _read(descriptor: int, said: bytearray) -> bool:
    """Reads what has come, and keeps the beginning. False at the end."""
    try:
        data = os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return True
    said += data[: MOST_SAID - len(said)]
    return bool(data)


def _ended(process: subprocess.Popen[bytes]) -> int:
    """Ends all of its process group, whatever it has left there. Its exit status."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        code = process.wait(ENDING_S)
    except subprocess.TimeoutExpired:
        code = -signal.SIGKILL  # it hangs in the kernel
    for end in (process.stdin, process.stdout):
        if end is not None:
            with suppress(OSError):
                end.close()
    return code
