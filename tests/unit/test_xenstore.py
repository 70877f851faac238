"""The client of xenstore, on a device that behaves as Linux's, and on one that does not."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from tests.unit.xenbus import EVENT, HOME, READ, FakeXenstore, message
from vmacro.wire import xenbus, xenstore
from vmacro.wire.xenstore import MOST_EVENTS, MOST_PAYLOAD, Conversation, Event, Xenstore, XenstoreError


@pytest.fixture
def fake() -> Iterator[FakeXenstore]:
    found = FakeXenstore()
    yield found
    found.close()


def client(fake: FakeXenstore) -> Xenstore:
    return Xenstore(fake.connect())


def test_nodes_are_read_and_written_relative_to_home(fake: FakeXenstore) -> None:
    store = client(fake)
    assert store.read("domid") == b"7" and store.read(f"{HOME}/domid") == b"7"
    store.write("data/a", b"\0binary\xff")
    assert fake.nodes[f"{HOME}/data/a"] == b"\0binary\xff" == store.read("data/a")
    store.remove("data")
    assert f"{HOME}/data/a" not in fake.nodes


def test_an_error_has_the_number_that_its_name_says(fake: FakeXenstore) -> None:
    with pytest.raises(XenstoreError) as error:
        client(fake).read("nowhere")
    assert error.value.errno == errno.ENOENT


@pytest.mark.parametrize("name", [b"EWHAT\0", b"__doc__\0", b"errorcode\0", b"", b"\xff\xfe"])
def test_an_error_of_another_name_is_an_error_too(fake: FakeXenstore, name: bytes) -> None:
    fake.mangle = lambda reply: message(xenstore.ERROR, 1, name)
    with pytest.raises(XenstoreError) as error:
        client(fake).read("domid")
    assert error.value.errno == errno.EIO


@pytest.mark.parametrize("event_first", [True, False])
@pytest.mark.parametrize("pieces", [1, 3, 16, 1 << 16])
def test_a_watch_fires_at_once_whatever_comes_first_and_in_whatever_pieces(
    fake: FakeXenstore, event_first: bool, pieces: int
) -> None:
    fake.event_first, fake.pieces = event_first, pieces
    store = client(fake)
    store.watch("domid", "here")
    assert store.read("domid") == b"7", "which has the event behind it, or between"
    assert store.pending and store.events() == [Event("domid", "here")] and not store.pending


def test_events_come_again_for_each_change_and_with_the_same_value(fake: FakeXenstore) -> None:
    store = client(fake)
    store.watch("domid", "here")
    fake.write(f"{HOME}/domid", b"7")
    fake.resume()
    store.read("domid")
    assert store.events() == [Event("domid", "here")] * 3
    store.unwatch("domid", "here")
    fake.write(f"{HOME}/domid", b"8")
    assert store.read("domid") == b"8" and not store.events()


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (message(READ, 2, b"7"), "a reply to request 2, not to 1"),
        (message(READ, 0, b"7"), "a reply to request 0, not to 1"),
        (message(xenstore.WRITE, 1, b"7"), "a reply of type 11 to a request of type 2"),
        (message(99, 1, b"7"), "a reply of type 99"),
        (xenstore.HEADER.pack(READ, 1, 0, MOST_PAYLOAD + 1), "a message of 4097 bytes is over the limit"),
        (xenstore.HEADER.pack(99, 1, 0, 0xFFFFFFFF), "a message of 4294967295 bytes"),
        (message(READ, 1, b"7") + message(READ, 1, b"7"), "which nobody asked for"),
        (message(EVENT, 0, b"domid"), "an event without a path and a token"),
        (message(EVENT, 0, b"domid\0here"), "an event without a path and a token"),
    ],
)
def test_what_is_not_the_protocol_ends_the_connection(fake: FakeXenstore, reply: bytes, told: str) -> None:
    fake.mangle = lambda _reply: reply
    store = client(fake)
    with pytest.raises(OSError, match=told) as error:
        store.read("domid")
        store.read("domid")  # behind a second reply to one request
    assert error.value.errno == errno.EPROTO


def test_a_device_that_ends_is_told(fake: FakeXenstore) -> None:
    store = client(fake)
    fake.close()
    with pytest.raises(OSError, match=r"ended|Broken pipe"):
        store.read("domid")


def test_silence_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xenbus, "ANSWER_WITHIN_S", 0.01)
    ours, theirs = socket.socketpair()
    with ours, pytest.raises(OSError, match=r"no answer within 0\.01 s"):
        Xenstore(xenbus.Xenbus(theirs.detach())).read("domid")


def test_a_message_of_the_largest_size_is_understood() -> None:
    conversation = Conversation()
    conversation.request(READ, b"a\0")
    conversation.feed(message(READ, 1, bytes(MOST_PAYLOAD)))
    assert conversation.reply() == bytes(MOST_PAYLOAD)


def test_a_flood_of_events_takes_no_more_memory_than_some() -> None:
    conversation = Conversation()
    conversation.feed(b"".join(message(EVENT, 0, f"a\0{n}\0".encode()) for n in range(MOST_EVENTS + 5)))
    found = conversation.events()
    assert len(found) == MOST_EVENTS and found[-1] == Event("a", str(MOST_EVENTS + 4))


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 4000])
def test_what_no_path_can_be_is_not_sent(fake: FakeXenstore, path: str) -> None:
    with pytest.raises(ValueError, match="no path or token"):
        client(fake).read(path)


def test_no_request_is_larger_than_the_kernel_takes(fake: FakeXenstore) -> None:
    with pytest.raises(ValueError, match="over the limit"):
        client(fake).write("data/a", bytes(4096))


@pytest.mark.parametrize("payload", [b"a\0t\0", b"a\0t\0more", b"a\0t\0more\0"])
def test_an_event_is_a_path_and_a_token_whatever_follows(payload: bytes) -> None:
    assert xenstore._event(payload) == Event("a", "t")
