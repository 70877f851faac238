"""The way to a guest's agent on a host of Xen: bytes between this program's standard input and output and two nodes of
xenstore (wire.mailbox). A session that begins by asking for one does nothing else any more: who is busy with an agent
keeps no turn of a leg waiting. It needs neither netlink nor libvirt, to import which takes most of a start."""

from __future__ import annotations

import errno
import fcntl
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmacro.host import dom0
from vmacro.host.dispatch import Dispatcher, handler
from vmacro.host.errors import RefusedError
from vmacro.wire import messages
from vmacro.wire.agent_way import AGENT, AgentOf
from vmacro.wire.mailbox import FOLDER, TO_GUEST, TO_HOST, Mailbox, OutOfStepError, session_of
from vmacro.wire.messages import Nothing, ProtocolError
from vmacro.wire.xenbus import Xenbus, opened
from vmacro.wire.xenstore import Xenstore, XenstoreError

RUN = Path("/run/vmacro")
_READ_BYTES = 1 << 16


def is_asked_for(line: bytes) -> bool:
    """Whether a session that begins with this line is to be such a way."""
    try:
        return messages.decode_request(line.rstrip(b"\n")).verb == AGENT.name
    except ProtocolError:
        return False


def serve(line: bytes, given: int = 0, taken: int = 1) -> None:
    """The whole of such a session: its first line is answered, and then it leads to that agent. `given` and `taken`:
    file descriptors. Raises OSError."""
    relays: list[AgentRelay] = []

    def lead(args: AgentOf) -> Nothing:
        dom0.require()
        bus = opened()
        relays.append(AgentRelay(bus, dom0.number_of(Xenstore(bus), args.domain), args.polite))
        return Nothing()

    write(Dispatcher([handler(AGENT, lead)]).answer(line.rstrip(b"\n")), taken)
    for relay in relays:
        relay.run(given, taken)


class AgentRelay:
    """To the agent of one guest, for one session. Raises OSError as it is made and as it runs; RefusedError where
    somebody else talks to the agent, if we are `polite`."""

    def __init__(self, bus: Xenbus, number: int, polite: bool) -> None:
        """`number`: of the domain (domid)."""
        self._bus, self._store = bus, Xenstore(bus)
        self._home = f"/local/domain/{number}"
        self._box = Mailbox(os.urandom(8).hex())
        self._turn = _Turn(number, self._box.session, polite)
        self._tell()
        for node in (TO_GUEST, TO_HOST):
            self._store.watch(f"{self._home}/{node}", node)

    def run(self, given: int, taken: int) -> None:
        """Until the input ends, the guest goes, or somebody else wants to talk to its agent."""
        try:
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
            self._box.say(data)
            self._tell()
        tokens = {event.token for event in self._store.events()}
        if TO_GUEST in tokens and not self._is_ours():
            return False
        return TO_HOST not in tokens or self._hear(taken)

    def _tell(self) -> None:
        record = self._box.record()
        if record is not None:
            with self._turn.locked() as ours:
                if ours:
                    self._store.write(f"{self._home}/{TO_GUEST}", record)

    def _hear(self, taken: int) -> bool:
        record = self._read(TO_HOST)
        try:
            data = self._box.hear(record) if record else b""
        except OutOfStepError:
            return False  # the guest may write what it likes
        self._tell()
        write(data, taken)
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
        """Nothing stays, unless somebody else talks to this agent: then what is there is theirs."""
        try:
            if self._turn.is_last():
                self._store.remove(f"{self._home}/{FOLDER}")
        except XenstoreError as error:
            if error.errno != errno.ENOENT:  # the guest has gone
                raise
        finally:
            self._bus.close()
            self._turn.close()


def write(data: bytes, taken: int) -> None:
    """All of it. Raises OSError."""
    while data:
        data = data[os.write(taken, data) :]


class _Turn:
    """Whose turn it is to talk to an agent: that of who came last. One file has its session, and is locked while
    anybody writes to the guest, so that nobody does whose turn is over. The other is locked by all who talk, as long as
    they do."""

    def __init__(self, number: int, session: str, polite: bool) -> None:
        """It begins. Raises RefusedError, OSError."""
        RUN.mkdir(mode=0o700, exist_ok=True)
        self._session = session.encode()
        self._last = _opened(RUN / f"agent-{number}.last")
        self._talking = _opened(RUN / f"agent-{number}")
        fcntl.flock(self._last, fcntl.LOCK_EX)
        try:
            if polite:
                fcntl.flock(self._talking, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(self._talking, fcntl.LOCK_SH)
            os.pwrite(self._last, self._session, 0)
        except BlockingIOError:
            self.close()
            raise RefusedError("in-use", f"somebody else talks to the agent of domain {number}") from None
        fcntl.flock(self._last, fcntl.LOCK_UN)

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Whether it is still ours, which does not change meanwhile."""
        fcntl.flock(self._last, fcntl.LOCK_EX)
        try:
            yield os.pread(self._last, len(self._session), 0) == self._session
        finally:
            fcntl.flock(self._last, fcntl.LOCK_UN)

    def is_last(self) -> bool:
        """Whether nobody else talks to the agent, nor begins to until this is closed."""
        try:
            fcntl.flock(self._talking, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Its locks end with it."""
        os.close(self._talking)
        os.close(self._last)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
