"""SSH sessions with machines of the inventory: strict known hosts, and one way in."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.buffered_pipe import BufferedPipe

from vmacro.errors import UnreachableError, UntrustedError, all_of, reason_of

CONNECT_TIMEOUT_S = 10.0
SSH_PORT = 22
MAX_COMPLAINT_BYTES = 8 << 20
MAX_UNREAD_BYTES = 8 << 20  # paramiko's window is 2 MiB
_KEEPALIVE_S = 5
_COMPLAINT_BYTES = 300
_DRAIN_EVERY_S = 0.25
_READS = 16
_TRUST_HINT = "orchestrator.ssh_known_hosts must have its host key, and its authorized_keys ours"

# What it would log of another party, raw and with tracebacks, comes to us as an exception too.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Ssh:
    """Which key we show and whose host keys we believe; None: SSH's own, and the system's and the user's."""

    key: Path | None
    known_hosts: Path | None

    def connect(self, subject: str, user: str, address: str, slow_s: float = 0.0) -> paramiko.SSHClient:
        """Logged in. `slow_s`: what the machine, once it has taken the connection, may need besides to say who it is
        and to let us in. Raises UnreachableError, UntrustedError, both about `subject`."""
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            self._log_in(client, subject, user, address, CONNECT_TIMEOUT_S + slow_s)
        except BaseException:
            client.close()
            raise
        return client

    def start(self, subject: str, user: str, address: str, program: str, slow_s: float = 0.0) -> SshProgram:
        """A program there, with a connection of its own. Raises as connect()."""
        client = self.connect(subject, user, address, slow_s)
        try:
            return SshProgram(client, program, CONNECT_TIMEOUT_S + slow_s)
        except (OSError, paramiko.SSHException) as error:
            client.close()
            raise UnreachableError(f"{subject}: SSH to {address}: {all_of(error)}") from error

    def _log_in(self, client: paramiko.SSHClient, subject: str, user: str, address: str, within_s: float) -> None:
        self._trust_known_hosts(client)
        try:
            client.connect(
                address,
                username=user,
                key_filename=str(self.key) if self.key else None,
                allow_agent=self.key is None,
                look_for_keys=self.key is None,
                sock=socket.create_connection((address, SSH_PORT), CONNECT_TIMEOUT_S),
                timeout=within_s,
                banner_timeout=within_s,
                auth_timeout=within_s,
            )
        except (paramiko.BadHostKeyException, paramiko.AuthenticationException) as error:
            raise UntrustedError(f"{subject}: SSH to {address}: {all_of(error)}", _TRUST_HINT) from error
        except paramiko.SSHException as error:
            kind = UntrustedError if "not found in known_hosts" in str(error) else UnreachableError
            raise kind(f"{subject}: SSH to {address}: {all_of(error)}", _TRUST_HINT) from error
        except (OSError, ValueError) as error:  # ValueError: the address is none
            text = f"{subject}: no SSH to {address}: {reason_of(error)}"
            raise UnreachableError(text, "is sshd up, and does the firewall let this machine in?") from error

    def _trust_known_hosts(self, client: paramiko.SSHClient) -> None:
        try:
            if self.known_hosts is None:
                client.load_system_host_keys()
            else:
                client.load_host_keys(str(self.known_hosts))
        except (OSError, ValueError, paramiko.SSHException) as error:
            text = f"{self.known_hosts or '~/.ssh/known_hosts'}: cannot be read: {reason_of(error)}"
            raise UntrustedError(text, "orchestrator.ssh_known_hosts in the inventory") from error


class SshProgram:
    """A program at the other end of a connection that is its own. Implements host_side.Program."""

    def __init__(self, client: paramiko.SSHClient, program: str, within_s: float = CONNECT_TIMEOUT_S) -> None:
        """Raises OSError, SSHException; where no session is opened in that time, too."""
        self._client = client
        transport = client.get_transport()
        assert transport is not None
        transport.set_keepalive(_KEEPALIVE_S)
        self._channel = transport.open_session(timeout=within_s)
        self._channel.in_buffer, self._channel.in_stderr_buffer = _Unread(), _Unread()
        self._channel.exec_command(program)
        self._complaint = b""
        self._complained = 0  # bytes since its last output

    @property
    def alive(self) -> bool:
        transport = self._client.get_transport()
        return transport is not None and transport.is_active() and not self._channel.closed

    def send(self, data: bytes, timeout_s: float) -> int:
        with _as_os_error():
            self._channel.settimeout(timeout_s)
            sent = self._channel.send(data)
        if not sent:
            raise OSError("it ended")
        return sent

    def receive(self, timeout_s: float) -> bytes:
        until_s = time.monotonic() + timeout_s
        while True:
            with _as_os_error():
                self._drain()
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError
                self._channel.settimeout(min(left_s, _DRAIN_EVERY_S))
                try:
                    data = self._channel.recv(65536)
                except TimeoutError:
                    continue
            self._complained = 0
            return data

    def complaint(self) -> str:
        with contextlib.suppress(OSError, paramiko.SSHException):
            self._drain()
        return self._complaint.decode(errors="replace")

    def end_input(self) -> None:
        """It may read no more from us; it is not waited for."""
        with contextlib.suppress(OSError):  # it has ended already
            self._channel.shutdown_write()

    def close(self) -> None:
        self._client.close()

    def _drain(self) -> None:
        """Of its standard error only the end is kept; unread, it would fill the channel's window, and nothing come. So
        much of it at a time, since it may have no end. Raises OSError where it is a flood, without any output."""
        for _ in range(_READS):
            if not self._channel.recv_stderr_ready():
                return
            data = self._channel.recv_stderr(65536)
            self._complaint = (self._complaint + data)[-_COMPLAINT_BYTES:]
            self._complained += len(data)
        if self._complained > MAX_COMPLAINT_BYTES:
            raise OSError(f"it writes over {MAX_COMPLAINT_BYTES} bytes to its standard error, and nothing else")


class _Unread(BufferedPipe):  # type: ignore[type-arg]
    """What has come and was not read yet. Who heeds the channel's window (RFC 4254 section 5.2) sends no more than
    that; of who does not, paramiko would keep all."""

    def feed(self, data: bytes | str) -> None:
        if len(self) > MAX_UNREAD_BYTES:
            raise paramiko.SSHException("more came than the window lets through")  # which ends the transport
        super().feed(data)


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except paramiko.SSHException as error:
        raise OSError(str(error)) from error
