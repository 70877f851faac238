"""SSH whose library is loaded as it is first used: that takes a tenth of a second, in which hosts answer others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vmacro.drivers.host_side import Program


@dataclass(frozen=True)
class LateSsh:
    """Implements host_side.Shell. The key and the hosts that are known are those of drivers.ssh.Ssh."""

    key: Path | None
    known_hosts: Path | None

    def start(self, subject: str, user: str, address: str, program: str, slow_s: float = 0.0) -> Program:
        from vmacro.drivers.ssh import Ssh

        return Ssh(self.key, self.known_hosts).start(subject, user, address, program, slow_s)
