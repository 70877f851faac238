"""Name servers of the site that the guest is at, told to whoever resolves names in it.

With the interface the agent has taken over this part of DHCP too: the servers of the site that was left may be out
of reach, or answer for its neighbourhood only.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Iterable
from pathlib import Path

LOG = logging.getLogger(__name__)
RESOLVED = Path("/run/systemd/resolve")
RESOLV_CONF = Path("/etc/resolv.conf")
HEAD = "# Written by vmacro-agent, from DHCP.\n"
PATIENCE_S = 30.0
MOST = 3  # MAXNS, resolv.conf(5)


def usable(servers: Iterable[str]) -> list[str]:
    """Addresses only: what a DHCP server sends is not to be believed."""
    found = []
    for text in servers:
        try:
            found.append(str(ipaddress.ip_address(str(text))))
        except ValueError:
            LOG.warning("name server %r: no address, hence ignored", str(text)[:60])
    return found[:MOST]


async def use(interface: str, servers: list[str], resolv_conf: Path = RESOLV_CONF) -> None:
    """By systemd-resolved where it runs; else in resolv.conf, unless somebody else keeps that."""
    if not servers:
        return
    if RESOLVED.is_dir():
        await _tell_resolved(interface, servers)
    elif _is_ours(resolv_conf):
        _write(resolv_conf, servers)
    else:
        LOG.warning("%s is kept by somebody else; name servers here: %s", resolv_conf, ", ".join(servers))


async def _tell_resolved(interface: str, servers: list[str]) -> None:
    command = ["resolvectl", "dns", interface, *servers]
    try:
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, said = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    except (OSError, asyncio.TimeoutError) as error:
        LOG.warning("name servers not set: %s: %r", " ".join(command), error)
        return
    if process.returncode != 0:
        LOG.warning("name servers not set: %s: %s", " ".join(command), said.decode(errors="replace").strip()[:200])


def _is_ours(path: Path) -> bool:
    """Ours, or a plain file that some DHCP client wrote: a link belongs to whoever made it."""
    if path.is_symlink():
        return False
    if not path.exists():
        return True
    text = path.read_text(errors="replace")
    return text.startswith(HEAD) or not any(line.startswith(("#", ";")) for line in text.splitlines())


def _write(path: Path, servers: list[str]) -> None:
    """In place: the agent may write this file, and nothing beside it."""
    try:
        path.write_text(HEAD + "".join(f"nameserver {s}\n" for s in servers))
    except OSError as error:
        LOG.warning("%s: not written: %s", path, error)
