"""SSH sessions with machines of the inventory: strict known hosts, and one way in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import paramiko

from vmacro.errors import UnreachableError, UntrustedError

CONNECT_TIMEOUT_S = 10.0
_TRUST_HINT = "orchestrator.ssh_known_hosts must have its host key, and its authorized_keys ours"


@dataclass(frozen=True)
class Ssh:
    """Which key we show and whose host keys we believe; None: SSH's own, and the system's and the user's."""

    key: Path | None
    known_hosts: Path | None

    def connect(self, subject: str, user: str, address: str) -> paramiko.SSHClient:
        """Logged in. Raises UnreachableError, UntrustedError, both about `subject`."""
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            self._log_in(client, subject, user, address)
        except BaseException:
            client.close()
            raise
        return client

    def _log_in(self, client: paramiko.SSHClient, subject: str, user: str, address: str) -> None:
        self._trust_known_hosts(client)
        try:
            client.connect(
                address,
                username=user,
                key_filename=str(self.key) if self.key else None,
                allow_agent=self.key is None,
                look_for_keys=self.key is None,
                timeout=CONNECT_TIMEOUT_S,
                banner_timeout=CONNECT_TIMEOUT_S,
                auth_timeout=CONNECT_TIMEOUT_S,
            )
        except (paramiko.BadHostKeyException, paramiko.AuthenticationException) as error:
            raise UntrustedError(f"{subject}: SSH to {address}: {error}", _TRUST_HINT) from error
        except paramiko.SSHException as error:
            kind = UntrustedError if "not found in known_hosts" in str(error) else UnreachableError
            raise kind(f"{subject}: SSH to {address}: {error}", _TRUST_HINT) from error
        except OSError as error:
            text = f"{subject}: no SSH to {address}: {error.strerror or error}"
            raise UnreachableError(text, "is sshd up, and does the firewall let this machine in?") from error

    def _trust_known_hosts(self, client: paramiko.SSHClient) -> None:
        if self.known_hosts is None:
            client.load_system_host_keys()
            return
        try:
            client.load_host_keys(str(self.known_hosts))
        except OSError as error:
            text = f"{self.known_hosts}: cannot be read: {error.strerror}"
            raise UntrustedError(text, "orchestrator.ssh_known_hosts in the inventory") from error
