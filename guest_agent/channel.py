"""The guest's end of the virtio-serial channel (Linux drivers/char/virtio_console.c).

While no host is connected the port polls as POLLHUP and reads as empty. Edge-triggered epoll turns
that into one event a change, so an idle agent does not wake up.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
from collections.abc import Awaitable
from pathlib import Path
from typing import Callable

from guest_agent import protocol

LOG = logging.getLogger(__name__)
Handler = Callable[[protocol.Request], Awaitable[protocol.Reply]]


def port_path(name: str = protocol.CHANNEL_NAME) -> Path:
    """The port's device, by sysfs: udev's /dev/virtio-ports may not be there yet.

    Raises FileNotFoundError where the domain has no such channel.
    """
    for entry in Path("/sys/class/virtio-ports").glob("*/name"):
        if entry.read_text().strip() == name:
            return Path("/dev") / entry.parent.name
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"virtio-serial port {name}")


class ChannelServer:
    """Answers requests on a port, one after another, for as long as the guest runs."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self._handler = handler
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLHUP | select.EPOLLET)
        self._changed = asyncio.Event()
        self._buffer = bytearray()
        self._skipping = False

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._epoll.fileno(), self._on_edge)
        try:
            while True:
                for line in self._read_lines():
                    await self._answer(line)
                await self._changed.wait()
                self._changed.clear()
        finally:
            loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            os.close(self._fd)

    def _on_edge(self) -> None:
        self._epoll.poll(0)
        self._changed.set()

    def _read_lines(self) -> list[bytes]:
        lines: list[bytes] = []
        while True:
            try:
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                return lines
            if not data:  # no host: half a line of the old one is worth nothing to the next
                self._buffer.clear()
                return lines
            self._buffer += data
            *complete, rest = self._buffer.split(b"\n")
            self._buffer = rest
            lines += [self._bounded(bytes(line)) for line in complete if line]
            if len(self._buffer) > protocol.MAX_REQUEST_BYTES:
                self._buffer.clear()
                self._skipping = True

    def _bounded(self, line: bytes) -> bytes:
        """The rest of a line whose head was thrown away is no request either."""
        if self._skipping:
            self._skipping = False
            return b"!"
        return line

    async def _answer(self, line: bytes) -> None:
        await self._write(await answer(line, self._handler))

    async def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view[:16384]) :]
            except BlockingIOError:
                if self._host_is_gone():
                    LOG.warning("host left before it read its reply")
                    return
                try:
                    await asyncio.wait_for(self._changed.wait(), timeout=0.05)
                except asyncio.TimeoutError:
                    continue
                # Not cleared: serve() must still see what came in meanwhile.
                await asyncio.sleep(0.002)

    def _host_is_gone(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLHUP)
        return bool(poll.poll(0))


async def answer(line: bytes, handler: Handler) -> bytes:
    """The reply to one line; a line that is no request is answered under the id `none`."""
    try:
        request = protocol.decode_request(line)
    except protocol.ProtocolError as error:
        LOG.warning("ignored a line: %s", error)
        return protocol.encode_reply(protocol.Reply("none", {}, error.code, str(error)))
    try:
        return protocol.encode_reply(await handler(request))
    except protocol.ProtocolError as error:
        return protocol.encode_reply(protocol.Reply(request.id, {}, error.code, str(error)))
    except Exception as error:  # the guest's only tie to its orchestrator must outlive a bug
        LOG.exception("%s failed", request.verb)
        return protocol.encode_reply(protocol.Reply(request.id, {}, "internal", f"{type(error).__name__}: {error}"))
