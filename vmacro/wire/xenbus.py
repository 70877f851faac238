"""The way to xenstore: the device that the kernel has, of a guest of Xen as of the first domain of its host. Nothing
else of the wire touches a device: this one is the same at both ends."""

from __future__ import annotations

import errno
import os
import select
from pathlib import Path
from typing import Optional

PATHS = (Path("/dev/xen/xenbus"), Path("/proc/xen/xenbus"))  # a device since Linux 2.6.37; xenfs, where it is mounted
# xenstored answers at once; where it does not for so long, the host is in no state to move anybody.
ANSWER_WITHIN_S = 10.0
_READ_BYTES = 1 << 16


class Xenbus:
    """Implements xenstore.Device."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd

    def fileno(self) -> int:
        """To wait for more."""
        return self._fd

    def close(self) -> None:
        """Watches end with it."""
        os.close(self._fd)

    def send(self, data: bytes) -> None:
        """See xenstore.Device."""
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                self._wait(select.POLLOUT)

    def receive(self, wait: bool) -> bytes:
        """See xenstore.Device."""
        while True:
            try:
                data = os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                if not wait:
                    return b""
                self._wait(select.POLLIN)
                continue
            if not data:
                raise OSError(errno.ECONNRESET, "xenstore: the device has ended")
            return data

    def _wait(self, what: int) -> None:
        poll = select.poll()
        poll.register(self._fd, what)
        if not poll.poll(ANSWER_WITHIN_S * 1000):
            raise OSError(errno.ETIMEDOUT, f"xenstore: no answer within {ANSWER_WITHIN_S:g} s")


def device() -> Optional[Path]:
    """None where this is no domain of Xen."""
    return next((path for path in PATHS if path.exists()), None)


def opened(path: Optional[Path] = None) -> Xenbus:
    """By default what device() finds. Raises OSError."""
    return Xenbus(os.open(path or device() or PATHS[0], os.O_RDWR | os.O_CLOEXEC))
