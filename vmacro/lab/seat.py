"""The operator's seat in a lab with bare hosts: a shell in the operator's network, with SSH keys, /etc/vmacro and
/var/lib/vmacro of the lab's own, so that commands are the same as on a real operator's machine.

Mounts live in the mount namespace that `ip netns exec` makes, and end with the shell.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vmacro.inventory import DEFAULT_STATE_DIR
from vmacro.lab import process

_HOME = "operator"  # in /etc, since all that is written there stays in the seat's overlay
# $1 the seat, $2 the state's folder; the rest is the command.
_SIT_DOWN = """
set -e
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/etc,workdir=$1/work" /etc
mount --bind "$1/state" "$2"
shift 2
exec "$@"
"""


def folder(lab: Path) -> Path:
    """What belongs to the seat, in the lab's folder."""
    return lab / "seat"


def etc(lab: Path) -> Path:
    """The seat's /etc/vmacro, seen from outside."""
    return folder(lab) / "etc/vmacro"


def is_there(lab: Path) -> bool:
    """Whether the lab has one: its operator provisions the hosts, by an inventory of their own."""
    return folder(lab).is_dir()


def inventory_file(lab: Path) -> Path:
    """The inventory of a lab, by its folder; in one with bare hosts, the one that its operator writes."""
    return (etc(lab) if is_there(lab) else lab) / "inventory.toml"


def create(lab: Path) -> None:
    """Make the seat's folders. The lab's SSH keys go into root's home there, which the seat's /etc/passwd names, since
    OpenSSH looks it up in that file. Idempotent."""
    seat, home = folder(lab), folder(lab) / "etc" / _HOME
    for path in (seat / "work", seat / "state", etc(lab), home):
        path.mkdir(parents=True, exist_ok=True)
    (home / ".ssh").mkdir(mode=0o700, exist_ok=True)
    process.run(["cp", "-aT", lab / "ssh", home / ".ssh"])
    (home / ".ssh").chmod(0o700)
    accounts = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
    moved = [[*a[:5], f"/etc/{_HOME}", *a[6:]] if a[0] == "root" else a for a in accounts]
    (seat / "etc/passwd").write_text("".join(":".join(account) + "\n" for account in moved))


def command(lab: Path, network_namespace: str, words: Sequence[str]) -> list[str]:
    """The command that runs `words` in the seat."""
    DEFAULT_STATE_DIR.mkdir(parents=True, exist_ok=True)
    search = f"PATH={Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    inside = ["env", f"HOME=/etc/{_HOME}", search, "sh", "-c", _SIT_DOWN, "vmacro-seat"]
    return ["ip", "netns", "exec", network_namespace, *inside, str(folder(lab)), str(DEFAULT_STATE_DIR), *words]
