"""A byte stream to the agent of a guest of Xen: a session with the host side that leads to it, and to nothing else."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vmacro.drivers.host_side import Program, Shell, host_side_at
from vmacro.errors import AgentError
from vmacro.model.nouns import Host
from vmacro.wire import messages, names
from vmacro.wire.agent_way import AGENT, AgentOf
from vmacro.wire.framing import LineReader
from vmacro.wire.messages import ProtocolError

_NO_AGENT_HINT = "is vmacro-agent running in the guest? look at its console: virsh console"
_OLD_HINT = "is vmacro-host there of this version? vmacro provision hosts --tags host_side"


class XenStream:
    """Implements ports.AgentStream."""

    def __init__(self, domain: str, program: Program) -> None:
        self._domain, self._program = domain, program

    def send(self, data: bytes, deadline_s: float) -> None:
        while data:
            try:
                data = data[self._program.send(data, _left_s(deadline_s)) :]
            except TimeoutError:
                raise
            except OSError as error:
                raise AgentError(f"guest {self._domain}: the way to its agent broke: {error}") from error

    def recv(self, deadline_s: float) -> bytes:
        try:
            data = self._program.receive(_left_s(deadline_s))
        except TimeoutError:
            raise
        except OSError as error:
            raise AgentError(f"guest {self._domain}: the way to its agent broke: {error}") from error
        if not data:
            text = f"guest {self._domain}: the way to its agent has ended: it left, or somebody else talks to it"
            raise AgentError(text, _NO_AGENT_HINT)
        return data


class XenChannels:
    """Implements ports.AgentTransport for guests of Xen. `polite` and `turns`: see channel.VirtioChannels."""

    def __init__(self, shell: Shell, polite: bool = False, turns: dict[str, threading.RLock] | None = None) -> None:
        self._shell, self._polite = shell, polite
        self._turns: dict[str, threading.RLock] = turns if turns is not None else {}

    @contextmanager
    def open(self, host: Host, domain: str) -> Iterator[XenStream]:
        with self._turns.setdefault(domain, threading.RLock()):
            user, address = host_side_at(host)
            program = self._shell.start(f"host {host.name}", user, address, names.HOST_SIDE_PROGRAM, host.starting_s)
            try:
                self._lead(program, domain, AGENT.deadline_s + host.starting_s)
                yield XenStream(domain, program)
            finally:
                program.close()

    def _lead(self, program: Program, domain: str, within_s: float) -> None:
        """To the agent, from now on. Raises AgentError."""
        what, deadline_s = f"guest {domain}: its agent cannot be reached", time.monotonic() + within_s
        stream, reader, request_id = XenStream(domain, program), LineReader(4096), secrets.token_hex(8)
        try:
            stream.send(AGENT.request(request_id, AgentOf(domain, self._polite)), deadline_s)
            lines: list[bytes | None] = []
            while not lines:  # it says nothing more before it is asked
                lines = reader.feed(stream.recv(deadline_s))
            reply = messages.decode_reply(lines[0] or b"")
        except TimeoutError:
            text = f"{what}: its host side says nothing within {within_s:g} s"
            raise AgentError(text, _OLD_HINT) from None
        except ProtocolError as error:
            raise AgentError(f"{what}: its host side said something odd: {error}", _OLD_HINT) from error
        if reply.id != request_id or not reply.ok:
            raise AgentError(f"{what}: {reply.error_text}", _OLD_HINT if reply.error_code == "unknown-verb" else "")


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
