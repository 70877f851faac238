"""The guest's agent by virDomainOpenChannel: through the host's libvirt, on no network of the guest."""

from __future__ import annotations

import collections
import queue
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import libvirt
from pydantic import TypeAdapter

from guest_agent import protocol
from vmacro import config
from vmacro.config import Checked, Strict
from vmacro.drivers.libvirt_connection import Connections
from vmacro.errors import AgentError
from vmacro.model.facts import AgentFacts, Arrival, Connection, Subflow
from vmacro.model.nouns import Host

ANSWER_TIMEOUT_S = 5.0
ARRIVAL_TIMEOUT_S = 45.0
_READABLE = libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP
_SILENT_HINT = "is vmacro-agent running in the guest? look at its console: virsh console"


class _WireSubflow(Strict):
    local: str
    local_port: int
    remote: str
    remote_port: int
    local_id: int
    joined: bool
    backup: bool
    established: bool
    bytes: int = 0


class _WireConnection(Strict):
    token: int
    subflows: tuple[_WireSubflow, ...]
    willing: bool


_CONNECTIONS = TypeAdapter(tuple[_WireConnection, ...])
_AGENT_FACTS = TypeAdapter(AgentFacts)
_ARRIVAL = TypeAdapter(Arrival)


class ChannelAgent:
    """Implements ports.Agent. What the guest says is checked before anybody uses it."""

    def __init__(self, domain: str, stream: Any) -> None:
        self._domain = domain
        self._stream = stream
        self._incoming: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._buffer = bytearray()
        self._silence = ""
        stream.eventAddCallback(_READABLE, self._on_event, None)

    def close(self) -> None:
        try:
            self._stream.eventRemoveCallback()
            self._stream.abort()
        except libvirt.libvirtError:
            pass  # the guest has moved away, and the channel has ended with it

    def status(self) -> AgentFacts:
        said = self._ask("status", {}, ANSWER_TIMEOUT_S)
        lease = said.get("lease") or {}
        flat = {k: said.get(k) for k in ("boot_id", "kernel", "hostname", "uptime_s", "mac")}
        place = {"address": lease.get("address", ""), "gateway": lease.get("gateway", "")}
        place |= {k: said[k] for k in ("address6", "held", "verbs", "rp_filter", "claim") if k in said}
        return self._checked(_AGENT_FACTS, {"version": said.get("agent"), **flat, **place})

    def claim(self, move_id: str, by: str, seconds: float) -> None:
        self._ask("claim", {"move": move_id, "by": by[:80], "seconds": round(seconds)}, ANSWER_TIMEOUT_S)

    def release(self, move_id: str) -> None:
        self._ask("release", {"move": move_id}, ANSWER_TIMEOUT_S)

    def connections(self) -> tuple[Connection, ...]:
        return self._connections(self._ask("connections", {}, ANSWER_TIMEOUT_S))

    def consent(self, timeout_ms: int) -> tuple[Connection, ...]:
        # Besides the wait for joins, the guest borrows an address from DHCP.
        said = self._ask("consent", {"timeout_ms": timeout_ms}, 2 * ANSWER_TIMEOUT_S + timeout_ms / 1000)
        return self._connections(said)

    def arrive(self, left: str) -> Arrival:
        return self._checked(_ARRIVAL, self._ask("arrive", {"left": left}, ARRIVAL_TIMEOUT_S))

    def prepare(self, address: str, address6: str = "") -> None:
        self._ask("prepare", {"address": address, "address6": address6}, ANSWER_TIMEOUT_S)

    def retire(self, address: str, force: bool = False) -> bool:
        args: dict[str, protocol.Scalar] = {"address": address, "force": force}
        return self._ask("retire", args, ANSWER_TIMEOUT_S).get("retired") is True

    def _connections(self, said: dict[str, Any]) -> tuple[Connection, ...]:
        found = self._checked(_CONNECTIONS, said.get("connections"))
        return tuple(
            Connection(c.token, tuple(_subflow(s) for s in c.subflows), c.willing if c.token else False)
            for c in found
            if c.subflows
        )

    def _checked(self, adapter: TypeAdapter[Checked], data: object) -> Checked:
        return config.said(adapter, data, f"guest {self._domain}: its agent", AgentError)

    def _ask(self, verb: str, args: dict[str, protocol.Scalar], timeout_s: float) -> dict[str, Any]:
        request = protocol.Request(secrets.token_hex(8), verb, args)
        deadline = time.monotonic() + timeout_s
        self._silence = f"its agent does not answer ({verb!r}, {timeout_s:g} s)"
        # The newline ends whatever half a line an earlier caller may have left.
        self._send(b"\n" + protocol.encode_request(request), deadline)
        while True:
            reply = self._next_reply(deadline)
            if reply is not None and reply.id == request.id:
                if not reply.ok:
                    text = f"guest {self._domain}: agent refused {verb!r}: {reply.error_text}"
                    raise AgentError(text, code=reply.error_code)
                return reply.result

    def _send(self, data: bytes, deadline: float) -> None:
        while data:
            try:
                sent = self._stream.send(data)
            except libvirt.libvirtError as error:
                raise AgentError(f"guest {self._domain}: the agent's channel broke: {error}") from error
            if sent > 0:
                data = data[sent:]
            elif time.monotonic() > deadline:
                raise AgentError(f"guest {self._domain}: {self._silence}", _SILENT_HINT)
            else:
                time.sleep(0.01)

    def _next_reply(self, deadline: float) -> protocol.Reply | None:
        """The next whole line as a reply; None where it is none. Raises AgentError at the deadline."""
        while b"\n" not in self._buffer:
            try:
                chunk = self._incoming.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AgentError(f"guest {self._domain}: {self._silence}", _SILENT_HINT) from None
            if not chunk:
                raise AgentError(f"guest {self._domain}: the agent's channel closed", _SILENT_HINT)
            self._buffer += chunk
            if len(self._buffer) > 2 * protocol.MAX_REPLY_BYTES:
                raise AgentError(f"guest {self._domain}: its agent sent over {protocol.MAX_REPLY_BYTES} bytes a line")
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = rest
        try:
            return protocol.decode_reply(bytes(line))
        except protocol.ProtocolError as error:
            if error.code == "bad-version":
                hint = "install the agent of this vmacro in the guest"
                raise AgentError(f"guest {self._domain}: {error}", hint, error.code) from error
            return None

    def _on_event(self, stream: Any, events: int, _opaque: Any) -> None:
        """In libvirt's event thread."""
        try:
            while True:
                data = stream.recv(65536)
                if isinstance(data, int):  # -2: nothing more for now
                    return
                self._incoming.put(data)
                if not data:
                    stream.eventRemoveCallback()
                    return
        except libvirt.libvirtError:
            self._incoming.put(b"")
            try:
                stream.eventRemoveCallback()
            except libvirt.libvirtError:
                return


class ChannelAgents:
    """Opens a guest's channel at the host where it runs.

    libvirt allows one user at a time: threads of this process take turns, and another process's use ends,
    unless we are `polite` and leave the channel to whoever has it.
    """

    def __init__(self, connections: Connections, polite: bool = False) -> None:
        self._connections = connections
        self._flags = 0 if polite else libvirt.VIR_DOMAIN_CHANNEL_FORCE
        self._turns: collections.defaultdict[str, threading.RLock] = collections.defaultdict(threading.RLock)

    @contextmanager
    def open(self, host: Host, domain: str) -> Iterator[ChannelAgent]:
        """Raises AgentError, HostError."""
        with self._turns[domain], self._opened(host, domain) as agent:
            yield agent

    @contextmanager
    def _opened(self, host: Host, domain: str) -> Iterator[ChannelAgent]:
        connection = self._connections.get(host)
        try:
            handle = connection.lookupByName(domain)
            stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
            handle.openChannel(protocol.CHANNEL_NAME, stream, self._flags)
        except libvirt.libvirtError as error:
            raise AgentError(f"guest {domain}: its agent's channel cannot be opened: {error}") from error
        agent = ChannelAgent(domain, stream)
        try:
            yield agent
        finally:
            agent.close()


def _subflow(wire: _WireSubflow) -> Subflow:
    return Subflow(
        wire.local,
        wire.local_port,
        wire.remote,
        wire.remote_port,
        wire.joined,
        wire.backup,
        wire.established,
        wire.bytes,
    )
