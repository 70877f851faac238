"""The guest's agent: its verbs as typed calls, over any byte stream to it."""

from __future__ import annotations

import collections
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vmacro.errors import AgentError
from vmacro.model.facts import AgentFacts, Arrival, Connection, CountArgs, Counts, Endings, Watched
from vmacro.model.nouns import Host
from vmacro.ports import AgentStream, AgentTransport
from vmacro.wire import agent_verbs, messages
from vmacro.wire.agent_verbs import MAX_CONNECTIONS, MOST_LISTED
from vmacro.wire.framing import LineReader
from vmacro.wire.messages import MAX_REPLY_BYTES, Args, Hearing, Nothing, ProtocolError, Reply, Result, Verb

_SILENT_HINT = "is vmacro-agent running in the guest? look at its console: virsh console"
_VERSION_HINT = "install the agent of this vmacro in the guest"


class ChannelAgent:
    """Implements ports.Agent. What the guest says is typed and bounded before anybody uses it."""

    def __init__(self, domain: str, stream: AgentStream, now_s: Callable[[], float] = time.monotonic) -> None:
        self._domain, self._stream, self._now_s = domain, stream, now_s
        self._reader = LineReader(MAX_REPLY_BYTES)
        self._lines: collections.deque[bytes | None] = collections.deque()

    def status(self) -> AgentFacts:
        said = self._ask(agent_verbs.STATUS, Nothing())
        return AgentFacts(
            version=said.agent,
            boot_id=said.boot_id,
            kernel=said.kernel,
            hostname=said.hostname,
            uptime_s=said.uptime_s,
            mac=said.mac.lower(),
            address=said.lease.address if said.lease else "",
            gateway=said.lease.gateway if said.lease else "",
            address6=said.address6,
            extra_addresses=said.extra_addresses,
            verbs=said.verbs,
            rp_filter=said.rp_filter,
            claim=said.claim,
            interface=said.interface,
            endpoints=said.endpoints,
        )

    def claim(self, move_id: str, by: str, seconds: float) -> None:
        self._ask(agent_verbs.CLAIM, agent_verbs.ClaimArgs(move_id, round(seconds), by[:80]))

    def release(self, move_id: str) -> None:
        self._ask(agent_verbs.RELEASE, agent_verbs.ReleaseArgs(move_id))

    def connections(self) -> tuple[Connection, ...]:
        return _that_have_subflows(self._ask(agent_verbs.CONNECTIONS, Nothing()))

    def all_connections(self) -> tuple[Connection, ...]:
        page = self._ask(agent_verbs.PAGE, agent_verbs.PageArgs())
        found = [*page.connections]
        # A page that is not full is the last one: nobody is kept by pages of one each.
        while len(page.connections) == MAX_CONNECTIONS and len(found) < min(page.total, MOST_LISTED):
            page = self._ask(agent_verbs.PAGE, agent_verbs.PageArgs(page.snapshot, len(found)))
            found += page.connections
        return tuple(c for c in found if c.subflows)

    def consent(self, timeout_ms: int) -> tuple[Connection, ...]:
        args = agent_verbs.ConsentArgs(timeout_ms)
        return _that_have_subflows(self._ask(agent_verbs.CONSENT, args, wait_s=timeout_ms / 1000))

    def watch(self) -> Watched:
        said = self._ask(agent_verbs.WATCH, Nothing())
        return Watched(said.watch, _that_have_subflows(said))

    def endings(self) -> Endings:
        return self._ask(agent_verbs.ENDINGS, Nothing())

    def count(self, args: CountArgs) -> Counts:
        return self._ask(agent_verbs.COUNT, args)

    def arrive(self, left: str) -> Arrival:
        return self._ask(agent_verbs.ARRIVE, agent_verbs.ArriveArgs(left))

    def prepare(self, address: str, address6: str = "") -> None:
        self._ask(agent_verbs.PREPARE, agent_verbs.PrepareArgs(address, address6))

    def retire(self, address: str, force: bool = False) -> bool:
        return self._ask(agent_verbs.RETIRE, agent_verbs.RetireArgs(address, force)).retired

    def publish(self, address: str, public: str) -> None:
        self._ask(agent_verbs.PUBLISH, agent_verbs.PublishArgs(address, public))

    def drop_page_cache(self) -> int:
        return self._ask(agent_verbs.DROP, Nothing()).mib

    def _ask(self, verb: Verb[Args, Result], args: Args, wait_s: float = 0.0) -> Result:
        """`wait_s`: what the request itself asks the agent to wait. Raises AgentError, whatever the guest says."""
        timeout_s = verb.deadline_s + wait_s
        try:
            reply = self._answer(verb, args, self._now_s() + timeout_s)
            if not reply.ok:
                raise AgentError(
                    f"guest {self._domain}: agent refused {verb.name!r}: {reply.error_text}", code=reply.error_code
                )
            return verb.decode_result(reply)
        except TimeoutError:
            silence = f"its agent does not answer ({verb.name!r}, {timeout_s:g} s)"
            raise AgentError(f"guest {self._domain}: {silence}", _SILENT_HINT) from None
        except ProtocolError as error:
            hint = _VERSION_HINT if error.code == "bad-version" else ""
            text = f"guest {self._domain}: its agent said something odd to {verb.name!r}: {error}"
            raise AgentError(text, hint, error.code) from error

    def _answer(self, verb: Verb[Args, Result], args: Args, deadline_s: float) -> Reply:
        """Raises TimeoutError, ProtocolError (bad-version, too-long or flood), AgentError where the stream ended."""
        request_id, hearing = secrets.token_hex(8), Hearing()
        # The newline ends whatever half a line an earlier caller may have left.
        self._stream.send(b"\n" + verb.request(request_id, args), deadline_s)
        while True:
            reply = self._reply_in(self._next_line(deadline_s, hearing))
            if reply is not None and reply.id == request_id:
                return reply
            hearing.another()

    def _next_line(self, deadline_s: float, hearing: Hearing) -> bytes:
        while True:
            if self._now_s() > deadline_s:  # also for a guest that never stops sending lines
                raise TimeoutError
            if self._lines:
                break
            data = self._stream.recv(deadline_s)
            hearing.more(data)
            self._lines.extend(self._reader.feed(data))
        line = self._lines.popleft()
        if line is None:
            raise ProtocolError("too-long", f"a line of over {MAX_REPLY_BYTES} bytes")
        return line

    @staticmethod
    def _reply_in(line: bytes) -> Reply | None:
        """None where there is none: another caller's leavings, or nonsense. Raises ProtocolError (bad-version)."""
        try:
            return messages.decode_reply(line)
        except ProtocolError as error:
            if error.code == "bad-version":
                raise
            return None


class ChannelAgents:
    """Opens guests' agents over a transport, at the host where each runs."""

    def __init__(self, transport: AgentTransport) -> None:
        self._transport = transport

    @contextmanager
    def open(self, host: Host, domain: str) -> Iterator[ChannelAgent]:
        """Raises AgentError, HostError."""
        with self._transport.open(host, domain) as stream:
            yield ChannelAgent(domain, stream)


def _that_have_subflows(said: agent_verbs.Connections) -> tuple[Connection, ...]:
    """A connection without subflows is about to end."""
    return tuple(c for c in said.connections if c.subflows)
