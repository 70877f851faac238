"""Echoes every record as soon as it is complete. Standard library only: it runs in guests as a zipapp.

One thread per connection, which blocks in recv: under emulation an event loop adds 1 ms to each answer.
"""

from __future__ import annotations

import errno
import socket
import sys
import threading

from vmacro.rtt import wire

MAX_CONNECTIONS = 1024


def listen(address: str, port: int, mptcp: bool = True) -> socket.socket:
    """A listening socket. Where the kernel has no MPTCP, it serves plain TCP and says so. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listener = wire.stream_socket(family, mptcp)
    except OSError as error:
        if not mptcp or error.errno not in (errno.EPROTONOSUPPORT, errno.ENOPROTOOPT):
            raise
        print("no MPTCP in this kernel: serving plain TCP", file=sys.stderr)
        listener = wire.stream_socket(family, mptcp=False)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((address, port))
    listener.listen(128)
    return listener


def serve(listener: socket.socket) -> None:
    """Answer until the process ends or the listener is closed, at most MAX_CONNECTIONS at a time."""
    slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
    while True:
        slots.acquire()
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection, slots), daemon=True).start()


def _answer(connection: socket.socket, slots: threading.BoundedSemaphore) -> None:
    buffer = bytearray()
    try:
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := connection.recv(65536):
                buffer += data
                connection.sendall(wire.take_whole(buffer))
    except (OSError, wire.WireError):
        pass  # the prober is gone, or is no prober: either way this connection is over
    finally:
        slots.release()
