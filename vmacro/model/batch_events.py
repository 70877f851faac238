"""What happens to a batch of moves. events.py has the kinds of all that happens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TryBegan:
    """A worker has begun a move of a batch; the event's move is the batch. `attempt` counts from 1."""

    guest: str
    source: str
    destination: str
    source_site: str
    destination_site: str
    attempt: int
    worker: str

    @property
    def text(self) -> str:
        again = f", try {self.attempt}" if self.attempt > 1 else ""
        return f"{self.guest}: from {self.source} to {self.destination}{again}, by {self.worker}"


@dataclass(frozen=True)
class TryEnded:
    """And it has ended, or was not begun after all. `ending`: the move's, or `refused` or `put off`; `move` is its
    name, '' where it got none. `guest_downtime_ms`: how long the guest itself stood still; `outage_ms`: what its
    prober's user felt, None where nobody measured."""

    guest: str
    source: str
    destination: str
    source_site: str
    destination_site: str
    attempt: int
    worker: str
    ending: str
    move: str
    reason: str
    guest_downtime_ms: int | None = None
    outage_ms: float | None = None

    @property
    def text(self) -> str:
        return f"{self.guest}: {self.ending}{f': {self.reason}' if self.reason else ''}"


@dataclass(frozen=True)
class BatchChanged:
    """A batch is `planned`, `paused`, `resumed`, `aborted` or `ended`; `detail` says more."""

    state: str
    detail: str

    @property
    def text(self) -> str:
        return f"{self.state}{f': {self.detail}' if self.detail else ''}"
