"""A move: what was asked, what was found against it, what will be done, how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from vmacro.model.facts import Arrival, Connection, CopyStatistics
from vmacro.model.nouns import Guest, Host, Policy


class Phase(StrEnum):
    """In this order. The point of no return lies at the end of `copy`: the guest runs at the destination."""

    SURVEY = "survey"
    PREPARE = "prepare"
    COPY = "copy"
    ARRIVE = "arrive"
    SETTLE = "settle"
    VERIFY = "verify"
    CLEAN = "clean"


class Severity(StrEnum):
    BLOCKER = "blocker"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One reason against a move, or something an operator should know first. `code` is stable."""

    code: str
    severity: Severity
    subject: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Plan:
    """Everything a move needs to know; it is what the journal keeps, and undo is derived from it."""

    move_id: str
    handoff: str
    guest: Guest
    source: Host
    destination: Host
    policy: Policy
    hypervisor: str
    accelerator: str
    mac: str
    address: str
    boot_id: str


@dataclass(frozen=True)
class ConnectionOutcome:
    """`kept`: it was there after the move. `followed`: and it uses the new address."""

    key: str
    client: str
    mptcp: bool
    kept: bool
    followed: bool


class Ending(StrEnum):
    MOVED = "moved"
    ROLLED_BACK = "rolled back"
    INCOMPLETE = "moved, work remains"
    UNCERTAIN = "uncertain"


EXIT_CODES = {Ending.MOVED: 0, Ending.ROLLED_BACK: 4, Ending.INCOMPLETE: 5, Ending.UNCERTAIN: 6}


@dataclass(frozen=True)
class Outcome:
    ending: Ending
    reason: str = ""
    hint: str = ""
    statistics: CopyStatistics | None = None
    arrival: Arrival | None = None
    connections: tuple[ConnectionOutcome, ...] = field(default=())
    wall_s: float = 0.0

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.ending]


@dataclass(frozen=True)
class Before:
    """What the guest was like just before the copy, to be compared with after."""

    boot_id: str
    connections: tuple[Connection, ...]


@dataclass(frozen=True)
class After:
    """The connections once the move has settled."""

    connections: tuple[Connection, ...]
