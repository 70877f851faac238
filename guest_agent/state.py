"""What an agent that was killed must still know: kept in memory-backed /run, hence gone with the boot it speaks of."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from guest_agent import protocol
from guest_agent.lease import Lease

LOG = logging.getLogger(__name__)
FILE = Path("/run/vmacro-agent.json")
LONGEST_CLAIM_S = 7 * 86_400


def now_s() -> float:
    """CLOCK_BOOTTIME: goes on where the guest goes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Arrival:
    """What the guest did when it found itself at a new site. Times in ms."""

    seen_by: str
    old: str
    new: str
    gateway: str
    endpoint_id: int
    lease_ms: int
    total_ms: int
    old6: str = ""
    new6: str = ""


@dataclass(frozen=True)
class Claim:
    """Who moves the guest; `since_s` and `until_s` on this boot's clock."""

    move: str
    by: str
    since_s: float
    until_s: float

    @property
    def over(self) -> bool:
        return now_s() >= self.until_s

    def as_wire(self) -> dict[str, Any]:
        return {"move": self.move, "by": self.by, "age_s": round(now_s() - self.since_s, 1)}


@dataclass
class State:
    """`prepared` are the addresses to come, one of either family."""

    lease: Optional[Lease] = None
    prepared: tuple[str, str] = ("", "")
    last_arrival: Optional[Arrival] = None
    last_id: int = 0
    claim: Optional[Claim] = None

    def save(self, path: Path = FILE) -> None:
        """Whole or not at all."""
        fresh = path.with_suffix(".new")
        try:
            fresh.write_text(json.dumps(asdict(self)))
            fresh.replace(path)
        except OSError as error:
            LOG.warning("%s: not kept for an agent after this one: %s", path, error)


def load(path: Path = FILE) -> State:
    """As it was saved during this boot; else as new."""
    try:
        kept = json.loads(path.read_text())
        lease, arrival, claim = kept["lease"], kept["last_arrival"], kept["claim"]
        return State(
            Lease(**lease) if lease else None,
            (str(kept["prepared"][0]), str(kept["prepared"][1])),
            Arrival(**arrival) if arrival else None,
            int(kept["last_id"]),
            Claim(**claim) if claim else None,
        )
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        LOG.warning("%s: not readable, hence ignored: %s", path, error)
        return State()


def claimed(known: Optional[Claim], args: dict[str, Any]) -> Claim:
    """The claim that a request asks for. Raises ProtocolError, `claimed` where another move has the guest."""
    move, by, seconds = args.get("move"), args.get("by", ""), args.get("seconds")
    if not isinstance(move, str) or not protocol.is_identifier(move):
        raise protocol.ProtocolError("bad-args", "move must be an identifier")
    if not isinstance(by, str) or len(by) > 80 or not by.isprintable():
        raise protocol.ProtocolError("bad-args", "by must be up to 80 printable characters")
    if not isinstance(seconds, int) or not 0 < seconds <= LONGEST_CLAIM_S:
        raise protocol.ProtocolError("bad-args", f"seconds must be 1 to {LONGEST_CLAIM_S}")
    now = now_s()
    if known is None or known.over:
        return Claim(move, by, now, now + seconds)
    if known.move != move:
        raise protocol.ProtocolError(
            "claimed", f"move {known.move} of {known.by} has it for {now - known.since_s:.0f} s"
        )
    return Claim(move, by, known.since_s, now + seconds)
