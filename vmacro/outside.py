"""Tables of the inventory for what stands outside all sites: probers, the name server, and the operator's own
executables."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, model_validator

from vmacro.addresses import File, Login, Plain
from vmacro.config import Strict, shown
from vmacro.wording import spelled

_namespace = spelled(r"[A-Za-z0-9._-]{0,255}", "a namespace's name has letters, digits, dots, dashes and underscores")
Namespace = Annotated[str, AfterValidator(_namespace)]


class Probe(Strict):
    """How a guest's round trips are measured, for ever or while it moves. The guest needs a responder."""

    # `from` is a keyword in Python, but not in TOML.
    from_: str = Field(alias="from", description="the prober that measures")
    address: Plain = Field(default="", description="the name that clients use; default: the guest's address")
    port: int = Field(default=7000, ge=1, le=65535, description="where the guest's responder listens (TCP)")
    mptcp: bool = Field(default=True, description="by MPTCP; else by plain TCP")
    interval_ms: float = Field(default=10.0, ge=1, le=60_000, description="time from one request to the next")
    visit_every_ms: float = Field(
        default=0,
        ge=0,
        le=60_000,
        description="while it moves, time from one new connection to the next, MPTCP and plain TCP in turns; 20 at "
        "least, 0 for none",
    )


class Prober(Strict):
    """What measures as a client would: a machine that SSH reaches, or a network namespace of this one."""

    ssh: Login = Field(default="", description="USER@ADDRESS of the machine")
    network_namespace: Namespace = Field(default="", description="of this machine")
    ansible: dict[str, JsonValue] = Field(default_factory=dict, description="further variables for the playbooks")

    @model_validator(mode="after")
    def _is_somewhere(self) -> Prober:
        if bool(self.ssh) == bool(self.network_namespace):
            raise ValueError('needs either ssh = "USER@ADDRESS" or network_namespace')
        if self.ssh and not all(self.ssh.rpartition("@")):
            raise ValueError(f"ssh = {shown(self.ssh)!r}: must be USER@ADDRESS")
        return self


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
