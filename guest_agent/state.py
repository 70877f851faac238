"""What an agent that was killed must still know: kept in memory-backed /run, hence gone with the boot it speaks of."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Optional

from vmacro.wire.agent_verbs import Arrival, Lease

LOG = logging.getLogger(__name__)
FILE = Path("/run/vmacro-agent.json")


@dataclass(frozen=True)
class KeptClaim:
    """Who moves the guest; `since_s` and `until_s` on this boot's clock."""

    move: str
    by: str
    since_s: float
    until_s: float


@dataclass
class State:
    """`prepared` are the addresses to come, one of either family. `public`: what clients know an address as, where that
    is another one. `queueing`: what to put back once clients have joined (guest_agent/crowd.py)."""

    lease: Optional[Lease] = None
    prepared: tuple[str, str] = ("", "")
    last_arrival: Optional[Arrival] = None
    last_id: int = 0
    claim: Optional[KeptClaim] = None
    public: dict[str, str] = field(default_factory=dict)
    queueing: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path = FILE) -> None:
        """Write the state, completely or not at all. A failure is logged."""
        fresh = path.with_suffix(".new")
        try:
            fresh.write_text(json.dumps(asdict(self)))
            fresh.replace(path)
        except OSError as error:
            LOG.warning("%s: not kept for an agent after this one: %s", path, error)


def load(path: Path = FILE) -> State:
    """The state that was saved during this boot; an empty one where there is none, or none that can be read."""
    try:
        kept = json.loads(path.read_text())
        lease, arrival, claim = kept["lease"], kept["last_arrival"], kept["claim"]
        return State(
            Lease(**lease) if lease else None,
            (str(kept["prepared"][0]), str(kept["prepared"][1])),
            Arrival(**arrival) if arrival else None,
            int(kept["last_id"]),
            KeptClaim(**claim) if claim else None,
            {str(address): str(public) for address, public in kept.get("public", {}).items()},
            {str(name): str(value) for name, value in kept.get("queueing", {}).items()},
        )
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        LOG.warning("%s: not readable, hence ignored: %s", path, error)
        return State()
