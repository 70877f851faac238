"""This host's own xenstore: the device that the kernel of dom0 has."""

from __future__ import annotations

import errno
import os
import select
from pathlib import Path

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


def opened() -> Xenbus:
    """Raises OSError where this is no host of Xen."""
    path = next((path for path in PATHS if path.exists()), PATHS[0])
    return Xenbus(os.open(path, os.O_RDWR | os.O_CLOEXEC))
