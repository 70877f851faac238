"""Names that several programs must agree on."""

from __future__ import annotations

import re
import zlib
from typing import Optional

AGENT_CHANNEL = "org.vmacro.agent.0"  # the domain's virtio-serial port
HOST_SIDE_PROGRAM = "vmacro-host"
DHCP_BORROWER = b"vmacro-consent"  # how the client identifier of an agent's second lease begins (RFC 2132 section 9.14)
_OVERLAY = re.compile(r"(?P<base>.+)\.vmacro-(?P<id>[a-z0-9]{4,32})\Z")


def way_token(move_id: str) -> int:
    """A move's number where a kernel has room for no more than that: as the metric of a route (32 bits), larger than
    those that people give."""
    return 1 << 31 | zlib.crc32(move_id.encode()) >> 1


def overlay(base: str, disk_id: str) -> str:
    """The path of a guest's overlay on a frozen base."""
    return f"{base}.vmacro-{disk_id}"


def base_and_id(path: str) -> Optional[tuple[str, str]]:
    """The reverse of overlay(); None where the path is no overlay's."""
    found = _OVERLAY.match(path)
    return (found["base"], found["id"]) if found is not None else None


def base_note(base: str) -> str:
    """The path of the note beside a frozen base that tells hosts whose it is."""
    return f"{base}.vmacro"


def is_base_note(name: str) -> bool:
    """Whether a file of this name could be the note of a base, or become one."""
    return name.endswith((base_note(""), f"{base_note('')}.new"))
