"""What happens during a move, or to a batch of them, one type per kind. The live view, JSON lines, the log and the
report all render these.

Every kind is in KINDS, and in docs/events.md; services/event_json.py writes and reads them as JSON.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from vmacro.model.batch_events import BatchChanged, TryBegan, TryEnded
from vmacro.model.moves import Phase
from vmacro.wire.text import many

Side = Literal["source", "destination"]


@dataclass(frozen=True)
class PhaseBegan:
    """A phase of the move has begun."""

    phase: Phase

    @property
    def text(self) -> str:
        return self.phase.value


@dataclass(frozen=True)
class PhaseEnded:
    """A phase has done what it is for."""

    phase: Phase

    @property
    def text(self) -> str:
        return self.phase.value


@dataclass(frozen=True)
class PhaseFailed:
    """A phase has ended without; `reason` is the error's message."""

    phase: Phase
    reason: str

    @property
    def text(self) -> str:
        return f"{self.phase.value}: {self.reason}"


@dataclass(frozen=True)
class CopyProgress:
    """How far the live migration is, as libvirt's job statistics have it (virDomainGetJobStats). `iteration`: the pass
    over the guest's memory; `dirty_mib_s`: how fast the guest changes it, `rate_mib_s`: how fast it is sent;
    `throttle_percent`: of its processors' time that QEMU takes from the guest so that the copy converges."""

    percent: int
    bytes_sent: int
    bytes_remaining: int
    bytes_total: int
    dirty_mib_s: float
    rate_mib_s: float
    iteration: int
    throttle_percent: int = 0

    @property
    def text(self) -> str:
        slowed = f", guest slowed down by {self.throttle_percent} %" if self.throttle_percent else ""
        return f"{self.percent} %, {self.rate_mib_s:.1f} MiB/s, pass {self.iteration}{slowed}"


@dataclass(frozen=True)
class CopyChosen:
    """How the live migration sends memory, off or zstd, and why."""

    compression: str
    because: str

    @property
    def text(self) -> str:
        return f"compression {self.compression}: {self.because}"


@dataclass(frozen=True)
class CopyForecast:
    """What the live migration is expected to send, to take and to pause the guest for, and how that is reckoned."""

    bytes_sent: int
    seconds: float
    pause_ms: int
    because: str

    @property
    def text(self) -> str:
        amounts = f"{self.bytes_sent / (1 << 20):.0f} MiB in {self.seconds:.1f} s, a pause of {self.pause_ms} ms"
        return f"expected: {amounts} ({self.because})"


@dataclass(frozen=True)
class CopyWarning:
    """The live migration goes on, but may not come to an end by itself."""

    text: str


@dataclass(frozen=True)
class DiskProgress:
    """How much of the frozen base of a disk has reached the destination."""

    disk: str
    percent: int
    bytes_sent: int
    bytes_total: int

    @property
    def text(self) -> str:
        return f"disk {self.disk}: {self.percent} % of {self.bytes_total >> 20} MiB"


@dataclass(frozen=True)
class DomainChanged:
    """A lifecycle event of the guest's domain at one host; `event` and `detail` are libvirt's names in lower case
    (virDomainEventType, virDomainEventSuspendedDetailType and its like)."""

    side: Side
    host: str
    event: str
    detail: str

    @property
    def text(self) -> str:
        return f"{self.event} at {self.host}"


@dataclass(frozen=True)
class Tunnelled:
    """The new addresses reach the guest while it is still at the source. `tunnel`: the kind of their legs."""

    addresses: tuple[str, ...]
    tunnel: str

    @property
    def text(self) -> str:
        secured = "" if self.tunnel == "wireguard" else " (neither encrypted nor authenticated)"
        through = f"goes to the guest at home, through {self.tunnel}{secured}"
        return f"what comes for {' and '.join(self.addresses)} {through}"


@dataclass(frozen=True)
class Joined:
    """How many connections have a subflow to the new addresses before the copy, how many will be carried, and how
    many of these are MPTCP all the same."""

    follow: int
    carried: int
    unwilling: int

    @property
    def text(self) -> str:
        total = self.follow + self.carried
        carried = "; the others will be carried" if self.follow < total else ""
        return f"{self.follow} of {many(total, 'connection')} joined{carried}"


@dataclass(frozen=True)
class Turned:
    """A host has pointed the guest's legs elsewhere, by its own libvirt's events: when (`at_wall_ns`), and how long
    after the event. `rescued` packets were sent after the guest; `trouble`: why it could not."""

    host: str
    to: str
    at_wall_ns: int
    took_us: int
    rescued: int = 0
    trouble: str = ""

    @property
    def text(self) -> str:
        if self.trouble:
            return f"{self.host} could not turn: {self.trouble}"
        rescued = f"; {self.rescued} packets sent after the guest" if self.rescued else ""
        return f"{self.host} turned to the {self.to} within {self.took_us / 1000:.1f} ms of its event{rescued}"


@dataclass(frozen=True)
class NameSet:
    """A name of the guest leads to other addresses now; `instead_of`: those that it led to."""

    name: str
    addresses: tuple[str, ...]
    instead_of: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"{self.name} leads to {', '.join(self.addresses)} (was {', '.join(self.instead_of)})"


@dataclass(frozen=True)
class HookEnded:
    """An executable of the operator's own has ended; `when`: before or after. `trouble`: how it failed; `said`: the
    beginning of what it wrote."""

    path: str
    when: str
    trouble: str
    took_ms: int
    said: str

    @property
    def text(self) -> str:
        said = f": {self.said}" if self.said else ""
        return f"{self.path}: {self.trouble or 'done'} after {self.took_ms / 1000:.1f} s{said}"


@dataclass(frozen=True)
class CarryEnded:
    """An old address that was carried after a move is carried no longer; `reason` says why."""

    address: str
    reason: str

    @property
    def text(self) -> str:
        return f"{self.address}: {self.reason}"


@dataclass(frozen=True)
class CarryTrouble:
    """It could not be asked whether a carried address is still in use; it stays, and is asked about again."""

    address: str
    reason: str

    @property
    def text(self) -> str:
        return f"{self.address}: {self.reason}; asking again"


@dataclass(frozen=True)
class CarryWaits:
    """What an old address is still carried for; told when that changes."""

    address: str
    reason: str

    @property
    def text(self) -> str:
        return f"{self.address}: {self.reason}"


@dataclass(frozen=True)
class MoveEnded:
    """An attempt at a move has ended, and its outcome is written down next; `ending` as `vmacro history` has it."""

    ending: str
    reason: str

    @property
    def text(self) -> str:
        return f"{self.ending}{f': {self.reason}' if self.reason else ''}"


@dataclass(frozen=True)
class JournalTrouble:
    """The journal could not be written during a phase; the first time only."""

    phase: Phase
    reason: str

    @property
    def text(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Interrupted:
    """Somebody asked the program to end (SIGINT or SIGTERM)."""

    text: str


@dataclass(frozen=True)
class Note:
    """Something that people should know, and programs need not."""

    text: str


@dataclass(frozen=True)
class Unreadable:
    """Something was written down here that this version cannot read: of a newer one, or no event at all."""

    reason: str

    @property
    def text(self) -> str:
        return f"cannot be read: {self.reason}"


What = (
    PhaseBegan
    | PhaseEnded
    | PhaseFailed
    | CopyProgress
    | CopyWarning
    | CopyChosen
    | CopyForecast
    | DiskProgress
    | DomainChanged
    | Tunnelled
    | Joined
    | Turned
    | NameSet
    | HookEnded
    | CarryEnded
    | CarryTrouble
    | CarryWaits
    | MoveEnded
    | TryBegan
    | TryEnded
    | BatchChanged
    | JournalTrouble
    | Interrupted
    | Note
    | Unreadable
)

KINDS: dict[str, type[What]] = {
    "phase.begin": PhaseBegan,
    "phase.end": PhaseEnded,
    "phase.failed": PhaseFailed,
    "copy.progress": CopyProgress,
    "copy.warning": CopyWarning,
    "copy.chosen": CopyChosen,
    "copy.forecast": CopyForecast,
    "disk.progress": DiskProgress,
    "domain": DomainChanged,
    "tunnel": Tunnelled,
    "joined": Joined,
    "turn": Turned,
    "name": NameSet,
    "hook": HookEnded,
    "carry": CarryEnded,
    "carry.trouble": CarryTrouble,
    "carry.waits": CarryWaits,
    "ended": MoveEnded,
    "try.begin": TryBegan,
    "try.end": TryEnded,
    "batch": BatchChanged,
    "journal": JournalTrouble,
    "interrupt": Interrupted,
    "note": Note,
    "unreadable": Unreadable,
}
_NAMES = {what: kind for kind, what in KINDS.items()}


@dataclass(frozen=True)
class Event:
    """Something that happened: in which move ('' where it is none), when (`wall_ns`: CLOCK_REALTIME), and what."""

    move_id: str
    wall_ns: int
    what: What

    @property
    def kind(self) -> str:
        """Its name in KINDS; stable."""
        return _NAMES[type(self.what)]

    @property
    def text(self) -> str:
        """For people. Hosts and guests may have said parts of it: never markup, and not free of control characters."""
        return self.what.text

    @property
    def data(self) -> dict[str, Any]:
        """The fields of what happened, for programs."""
        return asdict(self.what)
