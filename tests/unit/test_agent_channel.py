"""The guest's end of the channel, on a pseudo-terminal instead of a virtio port."""

from __future__ import annotations

import asyncio
import json
import os
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest_agent import channel
from guest_agent.channel import ChannelServer
from vmacro.wire.messages import MAX_REQUEST_BYTES, Reply, Request, encode_request

BIG = "x" * 200_000


class Host:
    """The other end: what is written there is read by the agent."""

    def __init__(self) -> None:
        self.fd, far = os.openpty()
        tty.setraw(far)
        self.port = Path(os.ttyname(far))
        self._far = far
        self._lines = os.fdopen(self.fd, "rb", closefd=False)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._far)

    async def reply(self) -> dict[str, object]:
        """The next line, as JSON."""
        return dict(json.loads(await asyncio.wait_for(asyncio.to_thread(self._lines.readline), 20)))


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


async def _handle(request: Request) -> Reply:
    return Reply(request.id, {"verb": request.verb, "text": BIG if request.verb == "big" else ""})


def conversation(host: Host, *pieces: bytes, replies: int) -> list[dict[str, object]]:
    """What the agent answers to these writes."""

    async def talk() -> list[dict[str, object]]:
        serving = asyncio.ensure_future(ChannelServer(host.port, _handle).serve())
        for piece in pieces:
            await asyncio.to_thread(os.write, host.fd, piece)
            await asyncio.sleep(0)
        found = [await host.reply() for _ in range(replies)]
        serving.cancel()
        return found

    return asyncio.run(talk())


def asking(verb: str, request_id: str = "a") -> bytes:
    return encode_request(Request(request_id, verb))


def test_requests_are_answered_in_turn_however_they_arrive(host: Host) -> None:
    both = asking("one", "a") + asking("two", "b")
    found = conversation(host, both[:10], both[10:60], both[60:], replies=2)
    assert [(r["id"], r["ok"]) for r in found] == [("a", True), ("b", True)]


def test_half_a_line_of_an_earlier_caller_is_ended_by_a_newline(host: Host) -> None:
    found = conversation(host, asking("one")[:20], b"\n" + asking("two", "b"), replies=2)
    assert [r["id"] for r in found] == ["none", "b"]


def test_an_overlong_line_is_refused_whole(host: Host) -> None:
    chunk = b"x" * 2000
    found = conversation(host, *[chunk] * 5, asking("swallowed"), asking("two", "b"), replies=2)
    assert 5 * len(chunk) > MAX_REQUEST_BYTES
    error = found[0]["error"]
    assert isinstance(error, dict) and error["code"] == "too-long" and found[1]["id"] == "b"


def test_a_reply_that_the_port_takes_in_parts_arrives_whole(host: Host) -> None:
    (found,) = conversation(host, asking("big"), replies=1)
    assert found["result"] == {"verb": "big", "text": BIG}


def absent(monkeypatch: pytest.MonkeyPatch, looks: int) -> list[int]:
    """The kernel says of no host that it is there, for so many writes; how many are left."""
    write, left = os.write, [looks]

    def written(fd: int, data: bytes) -> int:
        if left[0] > 0 and not isinstance(data, bytes):  # the agent writes views, a host bytes
            left[0] -= 1
            raise BlockingIOError
        return write(fd, data)

    monkeypatch.setattr(os, "write", written)
    monkeypatch.setattr(ChannelServer, "_host_is_gone", lambda _server: left[0] > 0)
    return left


def test_a_host_that_has_asked_is_answered_though_it_is_not_seen_at_once(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent(monkeypatch, looks=3)
    (found,) = conversation(host, asking("one"), replies=1)
    assert found["id"] == "a"


def test_a_host_that_stays_away_is_not_waited_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "GONE_S", 0.1)
    left = absent(monkeypatch, looks=1 << 20)
    monkeypatch.setattr(channel.LOG, "warning", lambda _text: left.__setitem__(0, 0))  # given up: the next one is there
    (found,) = conversation(host, asking("one", "a"), asking("two", "b"), replies=1)
    assert found["id"] == "b"
