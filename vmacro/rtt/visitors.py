"""New connections, one after another on schedule: what somebody feels who comes only now.

A visit is a connection that is made, asks once, is answered, and ends. It is measured from the moment when it was due.
MPTCP and plain TCP take turns, unless the target is for plain TCP alone.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from vmacro.rtt import wire
from vmacro.rtt.samples import Visit

PATIENCE_NS = 10_000_000_000  # who waits longer than this has gone elsewhere
LEAST_EVERY_MS = 20.0
MOST_AT_ONCE = 500  # as many as come within PATIENCE_NS; select() takes 1,024 sockets


@dataclass
class _Visitor:
    """One who is being served."""

    seq: int
    due_ns: int
    mptcp: bool
    asked: bool = False
    came: bytearray = field(default_factory=bytearray)


class Visitors:
    """For a loop that waits by select(): `reading` and `writing` are what to wait for, `attend` what to do then."""

    def __init__(
        self, address: str, port: int, mptcp: bool, every_ms: float, take: Callable[[Visit], None], start_ns: int
    ) -> None:
        self._where = (address, port)
        self._mptcp = mptcp
        self._every_ns = round(max(every_ms, LEAST_EVERY_MS) * 1e6)
        self._take = take
        self._open: dict[socket.socket, _Visitor] = {}
        self._next = 0
        self.due_ns = start_ns  # when the next one comes

    @property
    def reading(self) -> list[socket.socket]:
        """Sockets of those who wait for their answer."""
        return [sock for sock, visitor in self._open.items() if visitor.asked]

    @property
    def writing(self) -> list[socket.socket]:
        """Sockets of those whose connection is being made."""
        return [sock for sock, visitor in self._open.items() if not visitor.asked]

    def come(self, now_ns: int) -> None:
        """Begin the visits that are due. Those that could not begin in time, as a name took so long to look up, or this
        process was stopped, have gone elsewhere: each look-up may take that long again."""
        while self.due_ns <= now_ns:
            visitor = _Visitor(self._next, self.due_ns, self._mptcp and self._next % 2 == 0)
            self._next += 1
            self.due_ns += self._every_ns
            late = time.monotonic_ns() - visitor.due_ns > PATIENCE_NS
            if late or len(self._open) >= MOST_AT_ONCE:
                why = "timed out" if late else "too many at once"
                self._take(Visit(visitor.seq, visitor.due_ns, None, visitor.mptcp, why))
                continue
            try:
                self._open[self._called(visitor.mptcp)] = visitor
            except (OSError, UnicodeError) as error:  # the latter for what is no host name
                self._take(Visit(visitor.seq, visitor.due_ns, None, visitor.mptcp, _why(error)))

    def attend(self, ready: Iterable[socket.socket]) -> None:
        """Go on with those whose sockets are ready; those who waited too long leave."""
        now = time.monotonic_ns()
        for sock in ready:
            if sock in self._open:
                try:
                    self._go_on(sock, self._open[sock], now)
                except (OSError, wire.WireError) as error:
                    self._leave(sock, None, _why(error))
        for sock in [s for s, visitor in self._open.items() if now - visitor.due_ns > PATIENCE_NS]:
            self._leave(sock, None, "timed out")

    def close(self) -> None:
        """Those who are still waiting were not served."""
        for sock in list(self._open):
            self._leave(sock, None, "not answered by the end")

    def _called(self, mptcp: bool) -> socket.socket:
        """A name is looked up for each visit: who comes anew resolves anew."""
        family, _, _, _, where = socket.getaddrinfo(*self._where, type=socket.SOCK_STREAM)[0]
        sock = wire.stream_socket(family, mptcp)
        sock.setblocking(False)
        code = sock.connect_ex(where)
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            raise OSError(code, os.strerror(code))
        return sock

    def _go_on(self, sock: socket.socket, visitor: _Visitor, now: int) -> None:
        if not visitor.asked:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            sock.send(wire.encode(visitor.seq))
            visitor.asked = True
            return
        data = sock.recv(wire.RECORD.size)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "closed without an answer")
        visitor.came += data
        if visitor.seq in wire.decode(visitor.came):
            self._leave(sock, now - visitor.due_ns, "")

    def _leave(self, sock: socket.socket, took_ns: int | None, why: str) -> None:
        visitor = self._open.pop(sock)
        sock.close()
        self._take(Visit(visitor.seq, visitor.due_ns, took_ns, visitor.mptcp, why))


def _why(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error))[:100]
