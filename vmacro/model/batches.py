"""A batch: many moves that were planned together, and what became of them.

The fleet's tables and the journal keep these as JSON; the bounds on the fields hold for what is read from there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from vmacro.model.moves import Ending
from vmacro.wire.fields import Items, Number, Said, Text, Word

MOST_MOVES = 20_000  # of one batch
LATEST_S = 1e11  # since 1970
_Name = Annotated[str, Word()]
_Id = Annotated[str, Word()]
_Time = Annotated[float, Number(0, LATEST_S)]
_Seconds = Annotated[float, Number(0, 1e9)]
_Mib = Annotated[float, Number(0, 1e12)]
_Why = Annotated[str, Said(400)]


class Purpose(StrEnum):
    """What a batch is for. evacuate: empty a site; drain: empty a host; restore: bring back what was there; follow:
    put guests where a policy wants them."""

    EVACUATE = "evacuate"
    DRAIN = "drain"
    RESTORE = "restore"
    FOLLOW = "follow"


@dataclass(frozen=True)
class PlannedMove:
    """A guest, from one host to another. `mib` is what its copy is expected to send, `copy_s` how long that takes where
    it has its link for itself, `seconds` how long the whole move takes then; `because`: why it goes there."""

    guest: _Name
    source: _Name
    source_site: _Name
    destination: _Name
    destination_site: _Name
    mib: _Mib
    copy_s: _Seconds
    seconds: _Seconds
    because: _Why = ""

    @property
    def link(self) -> tuple[str, str]:
        """Its pair of sites, in whichever direction: both share the wire."""
        first, second = sorted((self.source_site, self.destination_site))
        return first, second

    @property
    def hosts(self) -> tuple[str, str]:
        """Those that are busy with it."""
        return self.source, self.destination


@dataclass(frozen=True)
class Stay:
    """A guest that no move is planned for: where it is ('' where that is not known), and what stands against it, by the
    code of a finding."""

    guest: _Name
    at: Annotated[str, Word(optional=True)]
    code: Annotated[str, Word(100)]
    why: _Why
    hint: _Why = ""


@dataclass(frozen=True)
class Limits:
    """How many moves may be under way at once, of all batches: with one host, whether they leave it or come to it; on
    the link between two sites; in all. `tries`: how often a move is begun at most. One that was refused or rolled back
    is tried again no sooner than `retry_after_s`."""

    per_host: int = 2
    per_link: int = 4
    in_all: int = 16
    tries: int = 2
    retry_after_s: float = 30.0


@dataclass(frozen=True)
class Batch:
    """A frozen plan of moves, in the order in which they are to begin: nothing is ever added, and no guest goes
    anywhere but where this says. Times are seconds since 1970; after `deadline_s` (0: none) nothing more begins.
    `subject`: the site, host or policy that it is about. `expected_s`: how long all of it should take."""

    batch_id: _Id
    purpose: Purpose
    subject: Annotated[str, Text(253)]
    moves: Annotated[tuple[PlannedMove, ...], Items(MOST_MOVES)]
    stays: Annotated[tuple[Stay, ...], Items(MOST_MOVES)] = ()
    made_s: _Time = 0.0
    deadline_s: _Time = 0.0
    expected_s: _Seconds = 0.0
    operator: Annotated[str, Said(200)] = ""


class Wish(StrEnum):
    """What its operator wants of a batch. pause: nothing more begins, what is under way goes on. abort: nothing more
    begins for good, and what is under way is undone where it can be. ended: there is nothing left to do."""

    RUN = "run"
    PAUSE = "pause"
    ABORT = "abort"
    ENDED = "ended"


@dataclass(frozen=True)
class Try:
    """One try at a move of a batch, as the queue has it. `number` is the move's place in its batch, `attempt` counts
    from 1."""

    batch_id: _Id
    number: Annotated[int, Number(0, MOST_MOVES)]
    attempt: Annotated[int, Number(1, 1_000_000)]
    made_s: _Time
    deadline_s: _Time
    move: PlannedMove

    @property
    def name(self) -> str:
        """Of its workflow."""
        return f"{self.batch_id}-{self.number}+{self.attempt}"


@dataclass(frozen=True)
class Became:
    """What became of one try. `ending` is the move's; None where it never began: it was refused, and nothing was
    changed. `put_off`: nobody wanted it any more when its turn came, which counts as no try. `again`: whether another
    try may help. `worker` is who did it. `downtime_ms`: how long the guest itself stood still; `outage_ms`: what its
    prober's user felt; None where nobody measured."""

    ending: Ending | None
    reason: Annotated[str, Said(2000)] = ""
    hint: Annotated[str, Said(1000)] = ""
    move_id: Annotated[str, Word(optional=True)] = ""
    downtime_ms: Annotated[int, Number(0, 1 << 40)] | None = None
    mib: _Mib = 0.0
    wall_s: _Seconds = 0.0
    worker: Annotated[str, Said(200)] = ""
    put_off: bool = False
    again: bool = False
    outage_ms: Annotated[float, Number(0, 1 << 40)] | None = None

    @property
    def moved(self) -> bool:
        """Whether the guest is where it was to go."""
        return self.ending is not None and self.ending.moved

    @property
    def text(self) -> str:
        """For people."""
        return "put off" if self.put_off else self.ending.value if self.ending is not None else "refused"


@dataclass(frozen=True)
class Maintenance:
    """A host or a whole site that no plan chooses as a destination, until it is restored. `since_s` is in seconds since
    1970, `by` is USER@MACHINE."""

    subject: _Name
    is_site: bool
    by: Annotated[str, Said(200)]
    since_s: _Time

    @property
    def text(self) -> str:
        """For people."""
        return f"{'site' if self.is_site else 'host'} {self.subject}: in maintenance since {self.by} emptied it"


def batch_id(purpose: Purpose, subject: str, stamp: str, salt: str) -> str:
    """The name of a batch everywhere, such as `evacuate-berlin-20261128-020000-3f9a`."""
    return f"{purpose.value}-{re.sub('[^A-Za-z0-9._-]', '-', subject[:30])}-{stamp}-{salt}"
