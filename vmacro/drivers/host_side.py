"""The host side by SSH: one session a host, strict known hosts, one program, fixed verbs."""

from __future__ import annotations

import secrets
import threading
import time
from typing import Any

import paramiko
from pydantic import TypeAdapter

from guest_agent import protocol
from vmacro import config
from vmacro.config import Checked
from vmacro.drivers.ssh import CONNECT_TIMEOUT_S, Ssh
from vmacro.errors import HostError, UnreachableError
from vmacro.model.facts import BaseFacts, DiskCopy, Fetching, Leaving, Leg, LinkFacts, Offer, Turn
from vmacro.model.nouns import Host

_LEAVING = TypeAdapter(Leaving)
PROGRAM = "vmacro-host"  # found by the host's PATH, or what the key is bound to (authorized_keys, command=)
ANSWER_TIMEOUT_S = 15.0
_BASE, _FETCHING, _PORT = TypeAdapter(BaseFacts), TypeAdapter(Fetching), TypeAdapter(int)
_LINK_FACTS, _OFFER, _TURNS = TypeAdapter(LinkFacts), TypeAdapter(Offer), TypeAdapter(tuple[Turn, ...])


class SshHostSide:
    """Implements ports.HostNetwork and ports.HostDisks. What the host says is checked before anybody uses it."""

    def __init__(self, host: Host, session: Session) -> None:
        self._host, self._session = host, session

    def facts(self, bridge: str, peer: str, probe: str) -> LinkFacts:
        return self._checked(_LINK_FACTS, self._ask("facts", bridge=bridge, peer=peer, probe=probe))

    def open(self, leg: Leg) -> Offer:
        return self._checked(_OFFER, self._ask("open", **self._end(leg)))

    def join(self, leg: Leg, far: Offer) -> None:
        self._ask("join", move=leg.move_id, address=leg.address, public_key=far.public_key, port=far.port)

    def arm(self, domain: str) -> None:
        self._ask("arm", domain=domain)

    def turned(self) -> tuple[Turn, ...]:
        return self._checked(_TURNS, self._ask("turned").get("turned"))

    def turn(self, domain: str, to_guest: bool) -> None:
        self._ask("turn", domain=domain, to="guest" if to_guest else "tunnel")

    def leaving(self, domain: str) -> Leaving:
        return self._checked(_LEAVING, self._ask("leaving", domain=domain).get("leaving"))

    def point(self, leg: Leg, to_guest: bool) -> None:
        self._ask("point", move=leg.move_id, address=leg.address, to="guest" if to_guest else "tunnel")

    def close(self, move_id: str, address: str = "") -> None:
        self._ask("close", move=move_id, address=address)

    def look(self, disk: DiskCopy) -> BaseFacts:
        return self._checked(_BASE, self._ask("disk-look", **_words(disk)))

    def serve(self, disk: DiskCopy) -> int:
        return self._checked(_PORT, self._ask("disk-serve", address=self._host.address, **_words(disk)).get("port"))

    def fetch(self, disk: DiskCopy, source: Host, port: int, bytes_s: int) -> None:
        where = {"address": source.address, "tls_name": source.tls_name}
        self._ask("disk-fetch", port=port, bytes_s=bytes_s, **where, **_words(disk))

    def fetched(self, disk: DiskCopy) -> Fetching:
        return self._checked(_FETCHING, self._ask("disk-fetched", **_words(disk)))

    def lay(self, disk: DiskCopy) -> None:
        self._ask("disk-lay", **_words(disk))

    def stop(self, disk: DiskCopy, drop_overlay: bool = False) -> None:
        self._ask("disk-stop", drop_overlay=drop_overlay, **_words(disk))

    def remove(self, disk: DiskCopy) -> None:
        self._ask("disk-remove", **_words(disk))

    def _end(self, leg: Leg) -> dict[str, str]:
        home = self._host.name == leg.home.name
        return {
            "side": "home" if home else "away",
            "kind": leg.kind,
            "move": leg.move_id,
            "domain": leg.domain,
            "address": leg.address,
            "mac": leg.mac,
            "bridge": leg.home_bridge if home else leg.away_bridge,
            "peer": (leg.away if home else leg.home).address,
        }

    def _ask(self, verb: str, **args: protocol.Scalar) -> dict[str, Any]:
        reply = self._session.ask(protocol.Request(secrets.token_hex(8), verb, args))
        if not reply.ok:
            raise HostError(f"host {self._host.name}: its side refused {verb!r}: {reply.error_text}")
        return reply.result

    def _checked(self, adapter: TypeAdapter[Checked], data: object) -> Checked:
        hint = "is vmacro-host there of this version?"
        return config.said(adapter, data, f"host {self._host.name}: its side", HostError, hint)


def _words(disk: DiskCopy) -> dict[str, str]:
    return {"id": disk.id, "base": disk.base, "format": disk.format}


class Session:
    """One SSH channel with the program at its end."""

    def __init__(self, host: Host, client: paramiko.SSHClient) -> None:
        self._host, self._client = host, client
        transport = client.get_transport()
        assert transport is not None
        transport.set_keepalive(5)
        self._channel = transport.open_session(timeout=CONNECT_TIMEOUT_S)
        self._channel.exec_command(PROGRAM)
        self._channel.settimeout(ANSWER_TIMEOUT_S)
        self._buffer = bytearray()
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        transport = self._client.get_transport()
        return transport is not None and transport.is_active() and not self._channel.closed

    def ask(self, request: protocol.Request) -> protocol.Reply:
        """Raises HostError."""
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        with self._lock:
            try:
                self._channel.sendall(protocol.encode_request(request))
                while True:
                    reply = self._next_reply(deadline)
                    if reply.id == request.id:
                        return reply
            except (OSError, paramiko.SSHException) as error:
                self._channel.close()
                late = isinstance(error, TimeoutError)
                what = f"no answer to {request.verb!r} within {ANSWER_TIMEOUT_S:g} s" if late else error
                raise UnreachableError(f"host {self._host.name}: its side: {what}", self._complaint()) from error

    def _next_reply(self, deadline: float) -> protocol.Reply:
        while b"\n" not in self._buffer:
            if time.monotonic() > deadline:
                raise TimeoutError
            chunk = self._channel.recv(65536)
            if not chunk:
                raise OSError("it ended")
            self._buffer += chunk
            if len(self._buffer) > 2 * protocol.MAX_REPLY_BYTES:
                raise OSError(f"it sent over {protocol.MAX_REPLY_BYTES} bytes a line")
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = rest
        try:
            return protocol.decode_reply(bytes(line))
        except protocol.ProtocolError as error:
            raise OSError(f"it does not speak our language: {error}") from error

    def _complaint(self) -> str:
        said = ""
        while self._channel.recv_stderr_ready():
            said += self._channel.recv_stderr(4096).decode(errors="replace")
        return said.strip()[-300:] or "does `ssh HOST vmacro-host` start there, as root?"

    def close(self) -> None:
        self._channel.close()
        self._client.close()


class HostSides:
    """A session a host, opened on demand and again where it broke."""

    def __init__(self, ssh: Ssh) -> None:
        self._ssh = ssh
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()

    def get(self, host: Host) -> SshHostSide:
        """Raises UnreachableError, UntrustedError."""
        with self._lock:
            session = self._open.get(host.name)
            if session is None or not session.alive:
                session = self._connect(host)
                self._open[host.name] = session
            return SshHostSide(host, session)

    def close(self) -> None:
        with self._lock:
            for session in self._open.values():
                session.close()
            self._open.clear()

    def _connect(self, host: Host) -> Session:
        user, _, address = host.ssh.rpartition("@")
        if not address:
            hint = f'hosts.{host.name}.ssh = "root@ADDRESS" in the inventory'
            raise UnreachableError(f"host {host.name}: no SSH to its side is configured", hint)
        client = self._ssh.connect(f"host {host.name}", user or "root", address)
        try:
            return Session(host, client)
        except (OSError, paramiko.SSHException) as error:
            client.close()
            raise UnreachableError(f"host {host.name}: SSH to {address}: {error}") from error
