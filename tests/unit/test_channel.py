"""The byte stream to a guest's agent, over a virStream that behaves as libvirt's documentation says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, cast

import libvirt
import pytest

from vmacro.drivers.agent import ChannelAgents
from vmacro.drivers.fake import host
from vmacro.drivers.libvirt.channel import MAX_UNREAD_BYTES, VirtioChannels, VirtioStream
from vmacro.drivers.libvirt.connection import Connections
from vmacro.errors import AgentError


class Stream:
    """`incoming`: what each recv() gives; then -2, nothing for now. An error where libvirt raises one."""

    def __init__(self, *incoming: bytes | libvirt.libvirtError) -> None:
        self._incoming = list(incoming)
        self.sent = b""
        self.takes = 1 << 20
        self.callback: Callable[..., None] | None = None
        self.aborted = False

    def eventAddCallback(self, _events: int, callback: Callable[..., None], _opaque: object) -> None:  # noqa: N802
        self.callback = callback

    def eventRemoveCallback(self) -> None:  # noqa: N802
        if self.callback is None:
            raise libvirt.libvirtError("no callback")
        self.callback = None

    def recv(self, _size: int) -> bytes | int:
        if not self._incoming:
            return -2
        data = self._incoming.pop(0)
        if isinstance(data, bytes):
            return data
        raise data

    def send(self, data: bytes) -> int:
        taken = data[: self.takes]
        self.sent += taken
        return len(taken) or -2

    def abort(self) -> None:
        self.aborted = True

    def arrives(self, *data: bytes) -> None:
        """As libvirt's event thread tells it."""
        self._incoming += data
        if self.callback is not None:
            self.callback(self, libvirt.VIR_STREAM_EVENT_READABLE, None)


def opened(*incoming: bytes | libvirt.libvirtError) -> tuple[VirtioStream, Stream]:
    raw = Stream(*incoming)
    stream = VirtioStream("web", raw)
    raw.arrives()
    return stream, raw


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


def test_what_comes_is_received_in_order_and_all_of_it() -> None:
    stream, raw = opened(b"one ", b"two")
    assert stream.recv(soon()) == b"one two"
    raw.arrives(b"three")
    assert stream.recv(soon()) == b"three"


def test_a_reader_is_woken_by_bytes() -> None:
    stream, raw = opened()
    threading.Timer(0.01, raw.arrives, [b"late"]).start()
    assert stream.recv(soon()) == b"late"


def test_silence_ends_at_the_deadline() -> None:
    stream, _ = opened()
    with pytest.raises(TimeoutError):
        stream.recv(soon(0.01))


def test_a_guest_that_sends_without_end_keeps_nobody_past_the_deadline() -> None:
    stream, _ = opened(b"more")
    with pytest.raises(TimeoutError):
        stream.recv(soon(-0.001))


def test_a_flood_ends_the_stream_and_takes_no_more_memory() -> None:
    chunk = bytes(1 << 16)
    stream, raw = opened(*[chunk] * (MAX_UNREAD_BYTES // len(chunk) + 9))
    assert raw.callback is None and len(raw._incoming) == 8
    assert raw.aborted, "else libvirt itself would queue what comes, without a bound"
    with pytest.raises(AgentError, match=f"guest web: its agent sent over {MAX_UNREAD_BYTES} bytes"):
        stream.recv(soon())


def test_a_flood_that_is_read_as_it_comes_leaves_the_event_thread_to_others() -> None:
    """libvirt calls again while there is more; all connections of the process wait for that thread."""
    stream, raw = opened()
    given = [0]

    def endless(_size: int) -> bytes:
        given[0] += 1
        stream._unread.clear()  # as a reader would that is as quick
        return bytes(1 << 16)

    raw.recv = endless  # type: ignore[method-assign]
    raw.arrives()
    assert given[0] == MAX_UNREAD_BYTES // (1 << 16) + 1 and raw.callback is not None


def test_as_much_as_the_bound_is_no_flood() -> None:
    stream, raw = opened(bytes(MAX_UNREAD_BYTES))
    assert len(stream.recv(soon())) == MAX_UNREAD_BYTES and raw.callback is not None
    raw.arrives(b"x")
    assert stream.recv(soon()) == b"x"


@pytest.mark.parametrize("end", [b"", libvirt.libvirtError("gone")])
def test_what_came_before_the_end_is_read_and_then_the_end_is_told(end: bytes | libvirt.libvirtError) -> None:
    stream, raw = opened(b"last words", end)
    assert raw.callback is None
    assert stream.recv(soon()) == b"last words"
    for _ in range(2):
        with pytest.raises(AgentError, match=r"guest web: the agent's channel (closed|broke: gone)"):
            stream.recv(soon())


def test_all_is_sent_however_little_the_stream_takes() -> None:
    stream, raw = opened()
    raw.takes = 3
    stream.send(b"0123456789", soon())
    assert raw.sent == b"0123456789"


def test_a_channel_that_takes_nothing_ends_at_the_deadline() -> None:
    stream, raw = opened()
    raw.takes = 0
    with pytest.raises(TimeoutError):
        stream.send(b"x", soon(0.01))


def test_a_stream_whose_events_have_ended_is_aborted_all_the_same() -> None:
    stream, raw = opened(b"")
    stream.close()
    assert raw.aborted


class _Domain:
    def __init__(self, log: list[Stream]) -> None:
        self._log = log

    def openChannel(self, _name: str, stream: Stream, flags: int) -> None:  # noqa: N802
        self._log.append(stream)
        stream.flags = flags  # type: ignore[attr-defined]


class _Connection:
    def __init__(self, log: list[Stream]) -> None:
        self._domain = _Domain(log)

    def newStream(self, _flags: int) -> Stream:  # noqa: N802
        return Stream()

    def lookupByName(self, name: str) -> _Domain:  # noqa: N802
        if name != "web":
            raise libvirt.libvirtError(f"no domain {name}")
        return self._domain


class _Connections:
    def __init__(self) -> None:
        self.opened: list[Stream] = []

    def get(self, _host: object) -> _Connection:
        return _Connection(self.opened)


def channels(polite: bool = False) -> tuple[VirtioChannels, list[Stream]]:
    connections: Any = _Connections()
    return VirtioChannels(cast(Connections, connections), polite), connections.opened


@pytest.mark.parametrize(("polite", "flags"), [(True, 0), (False, libvirt.VIR_DOMAIN_CHANNEL_FORCE)])
def test_only_who_is_not_polite_ends_another_process_s_use(polite: bool, flags: int) -> None:
    transport, streams = channels(polite)
    with transport.open(host("berlin"), "web"):
        pass
    assert streams[0].flags == flags and streams[0].aborted  # type: ignore[attr-defined]


def test_a_channel_that_cannot_be_opened_says_of_which_guest() -> None:
    transport, _ = channels()
    with (
        pytest.raises(AgentError, match="guest nobody: its agent's channel cannot be opened: no domain"),
        transport.open(host("berlin"), "nobody"),
    ):
        pass


def test_users_of_one_guests_channel_take_turns() -> None:
    """Several carriages of a guest are watched at a time; libvirt would end one's use for the other's."""
    transport, streams = channels()
    agents = ChannelAgents(transport)
    worst = [0]

    def use() -> None:
        with agents.open(host("berlin"), "web"):
            worst[0] = max(worst[0], sum(not s.aborted for s in streams))
            time.sleep(0.005)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst == [1] and len(streams) == 8
