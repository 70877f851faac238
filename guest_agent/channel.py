"""The guest's end of the virtio-serial channel (Linux drivers/char/virtio_console.c).

While no host is connected the port polls as POLLHUP and reads as empty. Edge-triggered epoll turns
that into one event per change, so an idle agent does not wake up.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Callable, Optional

from vmacro.wire import messages
from vmacro.wire.framing import LineReader
from vmacro.wire.messages import MAX_REQUEST_BYTES, ProtocolError, Reply, Request
from vmacro.wire.names import AGENT_CHANNEL

LOG = logging.getLogger(__name__)
READ_BYTES = 1 << 16
# As one host leaves and the next one asks, the kernel may hand on the question before it says that anybody is there:
# data comes by interrupt, who is connected by a work queue (handle_control_message). The answer must wait for that.
GONE_S = 2.0
Handler = Callable[[Request], Awaitable[Reply]]


def port_path(name: str = AGENT_CHANNEL) -> Path:
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
        self._reader = LineReader(MAX_REQUEST_BYTES)

    async def serve(self) -> None:
        """Answer until this is cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._epoll.fileno(), self._on_edge)
        try:
            while True:
                data = self._read()
                for line in self._reader.feed(data):
                    await self._write(await answer(line, self._handler))
                if not data:
                    await self._changed.wait()
                    self._changed.clear()
        finally:
            loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            os.close(self._fd)

    def _on_edge(self) -> None:
        self._epoll.poll(0)
        self._changed.set()

    def _read(self) -> bytes:
        """What has come, or nothing."""
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return b""
        if not data:  # the host has closed the channel: half a line of its orchestrator must not begin the next one's
            self._reader.reset()
        return data

    async def _write(self, data: bytes) -> None:
        view, here_s = memoryview(data), time.monotonic()
        while view:
            try:
                view = view[os.write(self._fd, view[:16384]) :]
            except BlockingIOError:
                if not self._host_is_gone():
                    here_s = time.monotonic()
                elif time.monotonic() - here_s > GONE_S:
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


async def answer(line: Optional[bytes], handler: Handler) -> bytes:
    """The reply to one line; one that is no request, or too long (None), is answered under the id `none`."""
    try:
        if line is None:
            raise ProtocolError("too-long", f"line is over the limit of {MAX_REQUEST_BYTES} bytes")
        request = messages.decode_request(line)
    except ProtocolError as error:
        LOG.warning("ignored a line: %s", error)
        return messages.encode_reply(Reply("none", {}, error.code, str(error)))
    try:
        return messages.encode_reply(await handler(request))
    except ProtocolError as error:
        return messages.encode_reply(Reply(request.id, {}, error.code, str(error)))
    except Exception as error:  # the guest's only tie to its orchestrator must outlive a bug
        LOG.exception("%s failed", request.verb)
        return messages.encode_reply(Reply(request.id, {}, "internal", f"{type(error).__name__}: {error}"))
