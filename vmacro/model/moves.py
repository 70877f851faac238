"""A move: what was asked, what was found against it, what will be done, how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

from vmacro.errors import PlanRejectedError, VmacroError, without_subject
from vmacro.model.copies import Forecast
from vmacro.model.facts import (
    MOST_DISKS,
    Arrival,
    Beyond,
    Connection,
    CopyStatistics,
    DiskCopy,
    Endings,
    Flows,
    HomedAddress,
    IpAddress,
    Leg,
    Lingering,
    Mac,
    MaybeAddress,
)
from vmacro.model.nouns import Guest, Host, Policy
from vmacro.wire.agent_verbs import MAX_ADDRESSES, MAX_CONNECTIONS
from vmacro.wire.fields import Items, Number, Said, Text, Word

_Move = Annotated[str, Word()]
_BootId = Annotated[str, Text(64)]
_Legs = Annotated[tuple[Leg, ...], Items(MAX_ADDRESSES)]
_Addresses = Annotated[tuple[IpAddress, ...], Items(MAX_ADDRESSES)]
_Flows = Annotated[tuple[Flows, ...], Items(MAX_ADDRESSES)]
_Connections = Annotated[tuple[Connection, ...], Items(MAX_CONNECTIONS)]
_Told = Annotated[str, Said(4000)]
_Seconds = Annotated[float, Number(0, 366 * 86_400)]
NONE_BEYOND = Beyond()


class Phase(StrEnum):
    """In the order in which they run; those of disks, names and hooks where there are some. After a failure before the
    point of no return, `undo` runs instead of the rest. That point is the end of `copy`: the guest runs at the
    destination."""

    HOOKS_BEFORE = "hooks-before"
    SURVEY = "survey"
    DISKS = "disks"
    PREPARE = "prepare"
    COPY = "copy"
    ARRIVE = "arrive"
    NAMES = "names"
    HOOKS_AFTER = "hooks-after"
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

    @property
    def text(self) -> str:
        """All of it, its hint in a line below."""
        hint = f"\n  hint: {self.hint}" if self.hint else ""
        return f"{self.severity.value} {self.code}: {self.subject}: {self.message}{hint}"


class StoppedError(PlanRejectedError):
    """The checks' own refusal: `findings` are all that they found, blockers first, warnings too."""

    def __init__(self, message: str, hint: str = "", findings: tuple[Finding, ...] = ()) -> None:
        super().__init__(message, hint)
        self.findings = findings


@dataclass(frozen=True)
class Plan:
    """Everything that a move needs to know. The journal keeps it, and undoing is derived from it.

    For `seamless`: `new_address` (by DHCP) and `new_address6` (by SLAAC; '' where a site has no IPv6) are announced
    before the copy and reached by `new_legs`; `old_legs` bring the addresses that the guest has (`addresses`) to where
    it goes; `earlier_legs` are legs of earlier moves, which this one closes. `reserve`: the new address needs a DHCP
    reservation that is not there yet. `marked`: its reservations bear its mark; a vmacro without marks planned others.

    `disks` are the guest's own, which move with it. `chosen_because`: why it goes to this host of its destination.
    `operator` is USER@MACHINE; `takes_over` is the move whose claim on the guest this one ignores. `memory_mib`: the
    guest's, 0 where the plan was written by a vmacro that did not keep it. `new_public`: what clients know
    `new_address` as, '' where that is itself.

    `linger_s`: how long the addresses that the guest has before the move, `address` and `address6`, take new
    connections after it; `lingering`: those of earlier moves that still do. `autostart`: its
    host starts it by itself, and so does its next one. `policy`
    says how its copy is compressed, not `auto` any more, and `compression_because` why;
    `forecast`: what the copy is expected to take, None where nobody can tell. `uuid`: the domain's, by which it is told
    from others of its name; '' where the plan was written by a vmacro that did not keep it. `transient`: its libvirt
    forgets it once it is off.
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
    address6: MaybeAddress = ""
    new_address: MaybeAddress = ""
    new_address6: MaybeAddress = ""
    new_legs: _Legs = ()
    old_legs: _Legs = ()
    earlier_legs: _Legs = ()
    addresses: Annotated[tuple[HomedAddress, ...], Items(MAX_ADDRESSES)] = ()
    reserve: bool = False
    marked: bool = False
    operator: Annotated[str, Said(200)] = ""
    takes_over: Annotated[str, Word(optional=True)] = ""
    disks: Annotated[tuple[DiskCopy, ...], Items(MOST_DISKS)] = ()
    chosen_because: _Told = ""
    memory_mib: int = 0
    new_public: MaybeAddress = ""
    linger_s: _Seconds = 0.0
    lingering: Annotated[tuple[Lingering, ...], Items(MAX_ADDRESSES)] = ()
    autostart: bool = False
    compression_because: _Told = ""
    forecast: Forecast | None = None
    uuid: Annotated[str, Text(40)] = ""
    transient: bool = False

    def lingers_until_s(self, address: str, wall_s: float) -> float:
        """When an old address stops taking new connections, if the move ends at `wall_s`; 0.0: it does not linger."""
        earlier = [old.until_s for old in self.lingering if old.address == address]
        left_now = address in (self.address, self.address6) or 0.0 in earlier
        return max([*earlier, wall_s + self.linger_s if left_now and self.linger_s else 0.0])


class Verdict(StrEnum):
    """What became of a connection. followed: it uses the new address. carried: it uses an old one, through a leg or at
    home. ended: it was closed, by whom it belongs to. lost: the move may have ended it, or left it without a path.
    unknown: it could not be found out."""

    FOLLOWED = "followed"
    CARRIED = "carried"
    ENDED = "ended"
    LOST = "lost"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class ConnectionOutcome:
    """A connection that was there before a move, or came meanwhile and was lost; `why`, in words, '' where the verdict
    says it all."""

    key: Annotated[str, Text(100)]
    client: Annotated[str, Text(100)]
    mptcp: bool
    verdict: Verdict
    why: Annotated[str, Said(300)] = ""

    @property
    def kept(self) -> bool:
        """Whether it goes on after the move."""
        return self.verdict in (Verdict.FOLLOWED, Verdict.CARRIED)


@dataclass(frozen=True)
class FlowsOutcome:
    """Flows of datagrams that an address had before the copy and has after the move. `carried`: it is still reached."""

    before: Flows
    after: Flows
    carried: bool

    @property
    def address(self) -> str:
        """Whose they are."""
        return self.before.address


class Ending(StrEnum):
    """How a move, or an attempt at it, ended: where the guest is, and whether there is work left."""

    MOVED = "moved"
    ROLLED_BACK = "rolled back"
    INCOMPLETE = "moved, work remains"
    WITH_LOSSES = "moved, connections were lost"
    UNCERTAIN = "uncertain"

    @property
    def moved(self) -> bool:
        """Whether the guest is where it was to go."""
        return self in (Ending.MOVED, Ending.INCOMPLETE, Ending.WITH_LOSSES)


EXIT_CODES = {
    Ending.MOVED: 0,
    Ending.ROLLED_BACK: 4,
    Ending.INCOMPLETE: 5,
    Ending.WITH_LOSSES: 5,
    Ending.UNCERTAIN: 6,
}


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended. `remains`: there is work left that `vmacro resume` can do. `carried`: old addresses that
    connections or datagrams still use, or that linger. `names_remain`: a name may still lead to one of these.
    `beyond`: connections that are judged and only counted, as there were too many to tell of each. `still`: libvirt's
    word for the guest where it is, if it does not run there; '' where it does."""

    ending: Ending
    reason: _Told = ""
    hint: _Told = ""
    statistics: CopyStatistics | None = None
    arrival: Arrival | None = None
    connections: Annotated[tuple[ConnectionOutcome, ...], Items(MAX_CONNECTIONS)] = field(default=())
    wall_s: float = 0.0
    carried: _Addresses = ()
    remains: bool = False
    names_remain: bool = False
    flows: Annotated[tuple[FlowsOutcome, ...], Items(2 * MAX_ADDRESSES)] = ()
    beyond: Beyond = NONE_BEYOND
    still: Annotated[str, Text(40)] = ""

    @property
    def exit_code(self) -> int:
        """Of the commands `migrate`, `resume` and `abort`."""
        return EXIT_CODES[self.ending]

    @property
    def downtime_ms(self) -> int | None:
        """The guest's own pause, as its hypervisor has measured it, else as its clocks say; None where neither does."""
        if self.statistics is not None:
            return self.statistics.downtime_ms
        return (self.arrival.stood_still_ms or None) if self.arrival is not None else None


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
    is; `leg`: its tunnel, None where the guest is at home. Times in seconds since 1970: until `lingers_until_s` it
    stays whether or not a connection uses it, for new ones. `named`: a name may still lead there, since the move could
    not lead it elsewhere, or has not seen the guest reached elsewhere."""

    move_id: _Move
    guest: Guest
    address: IpAddress
    home: Host
    at: Host
    leg: Leg | None
    began_s: float
    deadline_s: float
    lingers_until_s: float = 0.0
    named: bool = False

    @property
    def open_until_s(self) -> float:
        """Until when it takes new connections; while a name may lead there, whoever asks for that comes there."""
        return self.deadline_s if self.named else min(self.lingers_until_s, self.deadline_s)


@dataclass(frozen=True)
class Before:
    """What the guest was like just before the copy, to be compared with after. `watch`: see facts.Watched.
    `addresses`: those of the card that moves, as its agent says; none where the row is of an older vmacro."""

    boot_id: _BootId
    connections: _Connections
    watch: Annotated[str, Word(optional=True)] = ""
    flows: _Flows = ()
    addresses: _Addresses = ()


NOTHING_HEARD = Endings("", False, (), 0)


@dataclass(frozen=True)
class After:
    """The connections once the move has settled, old addresses that some of them, or datagrams, still need, how others
    ended, and what became of those that there were too many of to be told."""

    connections: _Connections
    carried: _Addresses = ()
    endings: Endings = NOTHING_HEARD
    flows: _Flows = ()
    beyond: Beyond = NONE_BEYOND
