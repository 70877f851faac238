"""An open-loop prober: requests are sent on schedule whatever is outstanding, so that a stall counts in full.

A round trip is measured from the moment when its request was due, even where the socket could not
take it at that moment (no "coordinated omission").
"""

from __future__ import annotations

import contextlib
import errno
import re
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from vmacro.rtt import recording, wire
from vmacro.rtt.samples import Sample, Visit
from vmacro.rtt.visitors import Visitors

SOL_MPTCP, MPTCP_INFO = 284, 1  # include/uapi/linux/mptcp.h
# struct mptcp_info: 8 x u8, flags u32, token u32
_MPTCP_INFO = struct.Struct("=8BII")
_FLAG_FALLBACK = 1


@dataclass(frozen=True)
class Target:
    """Where a responder listens; `address` may be a name."""

    address: str
    port: int = wire.DEFAULT_PORT
    mptcp: bool = True

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


# HOST, HOST:PORT, [ADDRESS6]:PORT; or ADDRESS6, whose last part is no port.
_TARGET = re.compile(r"(?:([^:\[\]]+)|\[([^\[\]]+)\])(?::([0-9]{1,5}))?|([^\[\]]*:[^\[\]]*:[^\[\]]*)")


def target_named(text: str, port: int | None, mptcp: bool) -> Target:
    """The target that a user means: `port` is what was said besides its name, if anything. Raises ValueError."""
    found = _TARGET.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r}: names no target; HOST, HOST:PORT or [ADDRESS]:PORT")
    host, within = found[1] or found[2] or found[4], found[3]
    if within is None:
        return Target(host, wire.DEFAULT_PORT if port is None else port, mptcp)
    if port is not None:
        raise ValueError(f"{text!r}: has a port already, and {port} is given besides; say one")
    if not 0 < int(within) < 1 << 16:
        raise ValueError(f"{text!r}: port {within} is not one of 1 to 65535")
    return Target(host, int(within), mptcp)


class ProbeError(Exception):
    """The connection could not be made, or broke; what was measured so far is recorded."""


class Prober:
    """Measures over one connection, and writes each round trip to the recording as it ends; with `visit_every_ms`, new
    connections come beside it on a schedule of their own."""

    def __init__(
        self,
        target: Target,
        interval_ms: float,
        out: TextIO,
        observe: Callable[[Sample], None] = lambda _sample: None,
        connected: Callable[[str], None] = lambda _transport: None,
        visit_every_ms: float = 0,
    ) -> None:
        self._target = target
        self._interval_ns = round(interval_ms * 1e6)
        self._out = out
        self._observe = observe
        self._connected = connected
        self._visit_every_ms = visit_every_ms
        self._due: dict[int, int] = {}
        self._unsent = bytearray()
        self._received = bytearray()
        self._next = 0
        self._visitors: Visitors | None = None
        self.transport = ""  # "mptcp" or "tcp", once it is connected

    @property
    def silent_s(self) -> float:
        """How many seconds ago the oldest unanswered request was due; 0 if there is none."""
        oldest = min(list(self._due.values()), default=None)
        return 0.0 if oldest is None else max(0.0, (time.monotonic_ns() - oldest) / 1e9)

    def run(self, keep_going: Callable[[], bool], grace_s: float, connect_timeout_s: float = 10.0) -> None:
        """Probe while keep_going(), then wait up to grace_s for what is outstanding.

        Raises ProbeError. Nothing is lost silently: unanswered requests are recorded as lost.
        """
        sock, self.transport, token = self._connect(connect_timeout_s)
        self._connected(self.transport)
        offset = time.time_ns() - time.monotonic_ns()
        interval_ms = self._interval_ns / 1e6
        self._out.write(recording.header(str(self._target), self.transport, interval_ms, token, offset))
        self._out.flush()
        try:
            with sock:
                self._probe(sock, keep_going)
                self._drain(sock, grace_s)
        except (OSError, wire.WireError) as error:
            raise ProbeError(f"connection to {self._target} broke: {error}") from error
        finally:
            for seq, due in sorted(self._due.items()):
                self._take(Sample(seq, due, None))
            if self._visitors is not None:
                self._visitors.close()
            self._out.write(recording.end_line(time.time_ns()))
            self._out.flush()

    def _connect(self, timeout_s: float) -> tuple[socket.socket, str, int]:
        try:
            sock = wire.connect(self._target.address, self._target.port, self._target.mptcp, timeout_s)
        except (OSError, UnicodeError) as error:  # the latter for what is no host name
            raise ProbeError(f"no connection to {self._target}: {error}") from error
        sock.setblocking(False)
        return sock, *_transport(sock, self._target.mptcp)

    def _probe(self, sock: socket.socket, keep_going: Callable[[], bool]) -> None:
        due = time.monotonic_ns()
        visitors = self._visitors = self._invite(due)
        while keep_going():
            now = time.monotonic_ns()
            while due <= now:
                self._due[self._next] = due
                self._unsent += wire.encode(self._next)
                self._next += 1
                due += self._interval_ns
            if visitors is not None:
                visitors.come(now)
            self._exchange(sock, due if visitors is None else min(due, visitors.due_ns))

    def _invite(self, start_ns: int) -> Visitors | None:
        if not self._visit_every_ms:
            return None
        target, every_ms = self._target, self._visit_every_ms
        return Visitors(target.address, target.port, target.mptcp, every_ms, self._visited, start_ns)

    def _drain(self, sock: socket.socket, grace_s: float) -> None:
        deadline = time.monotonic_ns() + round(grace_s * 1e9)
        while (self._due or self._waiting) and time.monotonic_ns() < deadline:
            self._exchange(sock, deadline)

    def _exchange(self, sock: socket.socket, until_ns: int) -> None:
        """Send what is due, receive what has come, and sleep until there is more of either."""
        if self._unsent:
            with contextlib.suppress(BlockingIOError):
                del self._unsent[: sock.send(self._unsent)]
        wait_s = max(0.0, (until_ns - time.monotonic_ns()) / 1e9)
        visitors = self._visitors
        reading, writing = [sock], [sock] if self._unsent else []
        if visitors is not None:
            reading, writing = reading + visitors.reading, writing + visitors.writing
        readable, writable, _ = select.select(reading, writing, [], min(wait_s, 0.25))
        if visitors is not None:
            visitors.attend(readable + writable)
        if sock in readable:
            self._receive(sock)

    @property
    def _waiting(self) -> bool:
        visitors = self._visitors
        return visitors is not None and bool(visitors.reading or visitors.writing)

    def _receive(self, sock: socket.socket) -> None:
        data = sock.recv(65536)
        now = time.monotonic_ns()
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "the responder closed it")
        self._received += data
        for seq in wire.decode(self._received):
            due = self._due.pop(seq, None)
            if due is not None:
                self._take(Sample(seq, due, now - due))
        self._out.flush()

    def _visited(self, visit: Visit) -> None:
        self._out.write(recording.visit_line(visit))

    def _take(self, sample: Sample) -> None:
        self._out.write(recording.sample_line(sample))
        self._observe(sample)


def _transport(sock: socket.socket, mptcp: bool) -> tuple[str, int]:
    """("mptcp" | "tcp", the prober's own token); MPTCP that fell back is TCP (RFC 8684 section 3.7)."""
    if not mptcp:
        return "tcp", 0
    try:
        raw = sock.getsockopt(SOL_MPTCP, MPTCP_INFO, 256)
    except OSError:  # a socket that fell back answers as TCP does: ENOPROTOOPT
        return "tcp", 0
    *_, flags, token = _MPTCP_INFO.unpack_from(raw)
    return ("tcp", 0) if flags & _FLAG_FALLBACK else ("mptcp", token)
