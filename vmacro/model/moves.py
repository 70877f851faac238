"""A move: what was asked, what was found against it, what will be done, how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

from vmacro.errors import VmacroError, without_subject
from vmacro.model.facts import (
    MOST_DISKS,
    Arrival,
    Connection,
    CopyStatistics,
    DiskCopy,
    HomedAddress,
    IpAddress,
    Leg,
    Mac,
    MaybeAddress,
)
from vmacro.model.nouns import Guest, Host, Policy
from vmacro.wire.agent_verbs import MAX_ADDRESSES, MAX_CONNECTIONS
from vmacro.wire.fields import Items, Said, Text, Word

_Move = Annotated[str, Word()]
_BootId = Annotated[str, Text(64)]
_Legs = Annotated[tuple[Leg, ...], Items(MAX_ADDRESSES)]
_Addresses = Annotated[tuple[IpAddress, ...], Items(MAX_ADDRESSES)]
_Connections = Annotated[tuple[Connection, ...], Items(MAX_CONNECTIONS)]
_Told = Annotated[str, Said(4000)]


class Phase(StrEnum):
    """In the order in which they run. After a failure before the point of no return, `undo` runs instead of the rest.
    That point is the end of `copy`: the guest runs at the destination."""

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
    """A blocker stops a move, a warning does not."""

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

    def __post_init__(self) -> None:
        """Errors of drivers name their subject themselves; here it is said once."""
        object.__setattr__(self, "message", without_subject(self.message, self.subject))


@dataclass(frozen=True)
class Plan:
    """Everything that a move needs to know. The journal keeps it, and undoing is derived from it.

    For `seamless`: `new_address` (by DHCP) and `new_address6` (by SLAAC; '' where a site has no IPv6) are announced
    before the copy and reached by `new_legs`; `old_legs` bring the addresses that the guest has (`addresses`) to where
    it goes; `earlier_legs` are legs of earlier moves, which this one closes. `reserve`: the new address needs a DHCP
    reservation that is not there yet.

    `disks` are the guest's own, which move with it. `chosen_because`: why it goes to this host of its destination.
    `operator` is USER@MACHINE; `takes_over` is the move whose claim on the guest this one ignores. `memory_mib`: the
    guest's, 0 where the plan was written by a vmacro that did not keep it.
    """

    move_id: _Move
    handoff: Annotated[str, Word(16)]
    guest: Guest
    source: Host
    destination: Host
    policy: Policy
    hypervisor: Annotated[str, Text(100)]
    accelerator: Annotated[str, Text(40)]
    mac: Mac
    address: IpAddress
    boot_id: _BootId
    new_address: MaybeAddress = ""
    new_address6: MaybeAddress = ""
    new_legs: _Legs = ()
    old_legs: _Legs = ()
    earlier_legs: _Legs = ()
    addresses: Annotated[tuple[HomedAddress, ...], Items(MAX_ADDRESSES)] = ()
    reserve: bool = False
    operator: Annotated[str, Said(200)] = ""
    takes_over: Annotated[str, Word(optional=True)] = ""
    disks: Annotated[tuple[DiskCopy, ...], Items(MOST_DISKS)] = ()
    chosen_because: _Told = ""
    memory_mib: int = 0


@dataclass(frozen=True)
class ConnectionOutcome:
    """`kept`: it was there after the move. `followed`: it uses the new address. `carried`: it uses an old one."""

    key: Annotated[str, Text(100)]
    client: Annotated[str, Text(100)]
    mptcp: bool
    kept: bool
    followed: bool
    carried: bool = False


class Ending(StrEnum):
    """How a move, or an attempt at it, ended: where the guest is, and whether there is work left."""

    MOVED = "moved"
    ROLLED_BACK = "rolled back"
    INCOMPLETE = "moved, work remains"
    UNCERTAIN = "uncertain"


EXIT_CODES = {Ending.MOVED: 0, Ending.ROLLED_BACK: 4, Ending.INCOMPLETE: 5, Ending.UNCERTAIN: 6}


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended. `remains`: there is work left that `vmacro resume` can do. `carried`: old addresses that
    connections still use."""

    ending: Ending
    reason: _Told = ""
    hint: _Told = ""
    statistics: CopyStatistics | None = None
    arrival: Arrival | None = None
    connections: Annotated[tuple[ConnectionOutcome, ...], Items(MAX_CONNECTIONS)] = field(default=())
    wall_s: float = 0.0
    carried: _Addresses = ()
    remains: bool = False

    @property
    def exit_code(self) -> int:
        """Of the commands `migrate`, `resume` and `abort`."""
        return EXIT_CODES[self.ending]


@dataclass(frozen=True)
class Noted:
    """One step as the journal has it: its result as plain JSON, or the error it ended with. Times in ms since 1970."""

    name: str
    result: Any = None
    error: VmacroError | None = None
    began_ms: int = 0
    ended_ms: int = 0


@dataclass(frozen=True)
class Carriage:
    """An old address that is still in use after a move. `home`: the host whose site routes it; `at`: where the guest
    is; `leg`: its tunnel, None where the guest is at home. `began_s` and `deadline_s` in seconds since 1970."""

    move_id: _Move
    guest: Guest
    address: IpAddress
    home: Host
    at: Host
    leg: Leg | None
    began_s: float
    deadline_s: float


@dataclass(frozen=True)
class Before:
    """What the guest was like just before the copy, to be compared with after."""

    boot_id: _BootId
    connections: _Connections


@dataclass(frozen=True)
class After:
    """The connections once the move has settled, and old addresses that some of them still need."""

    connections: _Connections
    carried: _Addresses = ()
