"""A move: what was asked, what was found against it, what will be done, how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from vmacro.errors import VmacroError
from vmacro.model.facts import Arrival, Connection, CopyStatistics, DiskCopy, Leg
from vmacro.model.nouns import Guest, Host, Policy


class Phase(StrEnum):
    """In this order; `undo` instead of all that come after a failure. The point of no return lies at the end of
    `copy`: the guest runs at the destination."""

    SURVEY = "survey"
    DISKS = "disks"
    PREPARE = "prepare"
    COPY = "copy"
    ARRIVE = "arrive"
    SETTLE = "settle"
    VERIFY = "verify"
    CLEAN = "clean"
    UNDO = "undo"


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
class Held:
    """An address that the guest has, and the host whose site routes it."""

    address: str
    home: Host


@dataclass(frozen=True)
class Plan:
    """Everything a move needs to know; it is what the journal keeps, and undo is derived from it.

    For `seamless`: `new_address` (by DHCP) and `new_address6` (by SLAAC; '' where a site has no IPv6) are
    announced before the copy and reached by `leads`; `trail` brings the
    addresses that the guest has (`held`) to where it goes; `standing` are legs of earlier moves, which this
    one ends.
    `disks` are its own, which move with it.
    `reserve`: the new address needs a DHCP reservation that is not there yet. `operator` is USER@MACHINE;
    `takes_over` is a move whose claim on the guest is void.
    """

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
    new_address: str = ""
    new_address6: str = ""
    leads: tuple[Leg, ...] = ()
    trail: tuple[Leg, ...] = ()
    standing: tuple[Leg, ...] = ()
    held: tuple[Held, ...] = ()
    reserve: bool = False
    operator: str = ""
    takes_over: str = ""
    disks: tuple[DiskCopy, ...] = ()


@dataclass(frozen=True)
class ConnectionOutcome:
    """`kept`: it was there after the move. `followed`: it uses the new address. `carried`: it uses an old one."""

    key: str
    client: str
    mptcp: bool
    kept: bool
    followed: bool
    carried: bool = False


class Ending(StrEnum):
    MOVED = "moved"
    ROLLED_BACK = "rolled back"
    INCOMPLETE = "moved, work remains"
    UNCERTAIN = "uncertain"


EXIT_CODES = {Ending.MOVED: 0, Ending.ROLLED_BACK: 4, Ending.INCOMPLETE: 5, Ending.UNCERTAIN: 6}


@dataclass(frozen=True)
class Outcome:
    """`remains`: there is work left that `vmacro resume` can do."""

    ending: Ending
    reason: str = ""
    hint: str = ""
    statistics: CopyStatistics | None = None
    arrival: Arrival | None = None
    connections: tuple[ConnectionOutcome, ...] = field(default=())
    wall_s: float = 0.0
    carried: tuple[str, ...] = ()
    remains: bool = False

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.ending]


@dataclass(frozen=True)
class Noted:
    """One step as the journal has it: a plain result, or the error with which it ended. Times in ms since 1970."""

    name: str
    result: Any = None
    error: VmacroError | None = None
    began_ms: int = 0
    ended_ms: int = 0


@dataclass(frozen=True)
class Carriage:
    """An old address that a move left in use: whose, from which home, by which leg (None: the guest is home),
    since when and until when at most (seconds of the wall clock)."""

    move_id: str
    guest: Guest
    address: str
    home: Host
    at: Host
    leg: Leg | None
    began_s: float
    deadline_s: float


@dataclass(frozen=True)
class Before:
    """What the guest was like just before the copy, to be compared with after."""

    boot_id: str
    connections: tuple[Connection, ...]


@dataclass(frozen=True)
class After:
    """The connections once the move has settled, and old addresses that some of them still need."""

    connections: tuple[Connection, ...]
    carried: tuple[str, ...] = ()
