"""Echoes every record as soon as it is whole. Standard library only: it runs in guests as a zipapp."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys

from vmacro.rtt import wire


class _Echo(asyncio.Protocol):
    def __init__(self) -> None:
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        with contextlib.suppress(OSError):
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._buffer += data
        try:
            sequences = wire.decode(self._buffer)
        except wire.WireError:
            self._transport.abort()
            return
        if sequences:
            self._transport.write(b"".join(map(wire.encode, sequences)))

    # A prober that does not read stops being read: its own buffers fill, not ours.
    def pause_writing(self) -> None:
        assert self._transport is not None
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        assert self._transport is not None
        self._transport.resume_reading()


async def serve(address: str, port: int, mptcp: bool = True) -> None:
    """Runs until cancelled. Listens on plain TCP, and says so, where the kernel has no MPTCP."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listener = wire.stream_socket(family, mptcp)
    except OSError as error:
        if not mptcp or error.errno not in (errno.EPROTONOSUPPORT, errno.ENOPROTOOPT):
            raise
        print("no MPTCP in this kernel: serving plain TCP", file=sys.stderr)
        listener = wire.stream_socket(family, mptcp=False)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    server = await asyncio.get_running_loop().create_server(_Echo, sock=listener)
    async with server:
        await server.serve_forever()
