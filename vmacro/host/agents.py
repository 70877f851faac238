"""The way to a guest's agent on a host of Xen: bytes between this program's standard input and output and two nodes of
xenstore (wire.mailbox). A session becomes one such way, and does nothing else any more: who is busy with an agent keeps
no turn of a leg waiting."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import select
from pathlib import Path

from vmacro.host.errors import RefusedError
from vmacro.host.xenbus import Xenbus
from vmacro.wire.mailbox import FOLDER, TO_GUEST, TO_HOST, Mailbox, OutOfStepError, session_of
from vmacro.wire.xenstore import Xenstore, XenstoreError

RUN = Path("/run/vmacro")
_READ_BYTES = 1 << 16


class AgentRelay:
    """To the agent of one guest, for one session. Raises OSError as it is made and as it runs; RefusedError where
    somebody else talks to the agent, if we are `polite`."""

    def __init__(self, bus: Xenbus, number: int, polite: bool) -> None:
        """`number`: of the domain (domid)."""
        self._bus, self._store = bus, Xenstore(bus)
        self._home = f"/local/domain/{number}"
        self._turn = _turn(number, polite)
        self._box = Mailbox(secrets.token_hex(8))
        self._tell()
        for node in (TO_GUEST, TO_HOST):
            self._store.watch(f"{self._home}/{node}", node)

    def run(self, first: bytes = b"", given: int = 0, taken: int = 1) -> None:
        """Until the input ends, the guest goes, or somebody else wants to talk to its agent. `given` and `taken`: file
        descriptors; `first`: what was read of the input already."""
        try:
            self._say(first)
            while self._pass_on(given, taken):
                pass
        finally:
            self._leave()

    def _pass_on(self, given: int, taken: int) -> bool:
        """What has come. False: it is over."""
        waiting = select.poll()
        waiting.register(self._bus.fileno(), select.POLLIN)
        # More is not read than the guest takes. It may take nothing, for ever: who has asked and left is seen all the
        # same.
        waiting.register(given, select.POLLIN if self._box.idle else select.POLLRDHUP)
        ready = dict(waiting.poll(0 if self._store.pending else None))
        if given in ready:
            data = os.read(given, _READ_BYTES) if ready[given] & select.POLLIN else b""
            if not data:
                return False
            self._say(data)
        tokens = {event.token for event in self._store.events()}
        if TO_GUEST in tokens and not self._is_ours():
            return False
        return TO_HOST not in tokens or self._hear(taken)

    def _say(self, data: bytes) -> None:
        self._box.say(data)
        self._tell()

    def _tell(self) -> None:
        record = self._box.record()
        if record is not None:
            self._store.write(f"{self._home}/{TO_GUEST}", record)

    def _hear(self, taken: int) -> bool:
        record = self._read(TO_HOST)
        try:
            data = self._box.hear(record) if record else b""
        except OutOfStepError:
            return False  # the guest may write what it likes
        self._tell()
        while data:
            data = data[os.write(taken, data) :]
        return True

    def _is_ours(self) -> bool:
        """As long as nobody has begun another session; the guest may have left, too."""
        try:
            return session_of(self._read(TO_GUEST)) == self._box.session
        except OutOfStepError:
            return False

    def _read(self, node: str) -> bytes:
        """b'' where there is no such node."""
        try:
            return self._store.read(f"{self._home}/{node}")
        except XenstoreError as error:
            if error.errno != errno.ENOENT:
                raise
            return b""

    def _leave(self) -> None:
        try:
            if self._is_ours():
                self._store.remove(f"{self._home}/{FOLDER}")
        finally:
            self._bus.close()
            os.close(self._turn)


def _turn(number: int, polite: bool) -> int:
    """A lock that is held as long as it is open. Raises RefusedError."""
    RUN.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(RUN / f"agent-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if polite:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(lock, fcntl.LOCK_SH)
    except BlockingIOError:
        os.close(lock)
        raise RefusedError("in-use", f"somebody else talks to the agent of domain {number}") from None
    return lock
