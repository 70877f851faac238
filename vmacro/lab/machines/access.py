"""How people and the lab itself get into machines: by SSH, from the operator's place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vmacro.lab.topology import OPERATOR, Topology


def by_ssh(
    topology: Topology, address: str, lab: Path, command: Sequence[str | Path], terminal: bool = False
) -> list[str]:
    """The command to run here so that `command`, or a shell, runs there. `lab`: the lab's folder, with its keys."""
    keys = lab / "ssh"
    return [
        *("ip", "netns", "exec", topology.network_namespace(OPERATOR)),
        *("ssh", "-q", "-i", str(keys / "id_ed25519"), "-o", f"UserKnownHostsFile={keys / 'known_hosts'}"),
        *("-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes"),
        *(["-t"] if terminal else []),
        f"root@{address}",
        *map(str, command),
    ]
