"""The way to guests' agents, without the protocol that is spoken over it. On real parts alone: the world in memory
begins with agents.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.contract import certifies
from tests.support import site_of
from vmacro.drivers.libvirt.channel import VirtioChannels
from vmacro.drivers.libvirt.connection import Connections
from vmacro.errors import AgentError
from vmacro.inventory import Settings
from vmacro.lab import namespaces
from vmacro.lab.lab import Lab
from vmacro.model.nouns import Host
from vmacro.ports import AgentStream, AgentTransport
from vmacro.wire.agent_verbs import STATUS
from vmacro.wire.framing import LineReader
from vmacro.wire.messages import MAX_REPLY_BYTES, Nothing, Reply, decode_reply

pytestmark = pytest.mark.lab


@pytest.fixture
def transport(lab: Lab) -> Iterator[AgentTransport]:
    connections = Connections(lab.folder / "operator")
    with namespaces.inside(lab.namespace("operator")):
        yield VirtioChannels(connections)
    connections.close()


@pytest.fixture
def host(lab: Lab, settings: Settings) -> Host:
    found = settings.inventory.host(site_of(lab, "web"))
    assert found is not None
    return found


def asked(stream: AgentStream, request_id: str) -> Reply:
    """For its status; whatever else is on its way is skipped."""
    deadline_s, reader = time.monotonic() + STATUS.deadline_s, LineReader(MAX_REPLY_BYTES)
    stream.send(b"\n" + STATUS.request(request_id, Nothing()), deadline_s)
    while True:
        for line in reader.feed(stream.recv(deadline_s)):
            reply = decode_reply(line or b"")
            if reply.id == request_id:
                return reply


@certifies("AgentTransport.open", "AgentStream.send", "AgentStream.recv")
def test_a_stream_reaches_the_agent_each_time_it_is_opened(transport: AgentTransport, host: Host) -> None:
    for request_id in ("one", "two"):
        with transport.open(host, "web") as stream:
            assert STATUS.decode_result(asked(stream, request_id)).boot_id
            with pytest.raises(TimeoutError):
                stream.recv(time.monotonic())


@certifies("AgentTransport.open")
def test_a_domain_that_is_not_there_has_none(transport: AgentTransport, host: Host) -> None:
    with pytest.raises(AgentError, match="guest nobody"), transport.open(host, "nobody"):
        pass
