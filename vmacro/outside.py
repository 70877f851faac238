"""Tables of the inventory for what stands outside all sites: the name server, and executables of the operator's own."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from pydantic import Field

from vmacro.addresses import File
from vmacro.config import Strict


class Dns(Strict):
    """The name server that has the guests' names, and the key by which it lets us change them (RFC 2136, RFC 8945)."""

    server: IPv4Address | IPv6Address = Field(description="the primary's address, not its name")
    port: int = Field(default=53, ge=1, le=65535, description="its TCP port")
    key_file: File = Field(description="the TSIG key as `tsig-keygen` writes it; mode 0600")


class Hooks(Strict):
    """Executables of your own, run by the orchestrator with the move as JSON on standard input (docs/names.md)."""

    before: tuple[File, ...] = Field(
        default=(), max_length=8, description="absolute paths; run before anything is touched"
    )
    after: tuple[File, ...] = Field(
        default=(), max_length=8, description="absolute paths; run once the guest has arrived"
    )
    deadline_s: float = Field(default=10, gt=0, le=300, description="longest that each may take; then it is ended")
    on_failure: Literal["stop", "warn"] = Field(
        default="stop", description="stop: no move, or after it exit code 5; warn: it is told, and nothing follows"
    )
