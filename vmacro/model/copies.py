"""A live migration in figures: while it runs, once it has ended, and as it is expected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vmacro.model.nouns import Compression
from vmacro.wire.fields import Number, Said, Word

_MAX = 1 << 62


@dataclass(frozen=True)
class CopyProgress:
    """A running copy at one moment. `dirty_mib_s`: how fast the guest changes its memory, 0 where unknown;
    `rate_mib_s`: how fast the link takes what is sent, `memory_mib_s`: how much of the guest's memory that is, which is
    more where it is compressed; `warning`: what an operator should know."""

    elapsed_ms: int
    bytes_total: int
    bytes_remaining: int
    bytes_sent: int
    iteration: int
    dirty_mib_s: float
    rate_mib_s: float
    throttle_percent: Annotated[int, Number(0, 100)] = 0
    warning: str = ""
    memory_mib_s: float = 0.0


@dataclass(frozen=True)
class CopyStatistics:
    """libvirt's VIR_DOMAIN_JOB_STATS_COMPLETED at the destination; downtime is the guest's own pause."""

    downtime_ms: int
    elapsed_ms: int
    bytes_transferred: int
    iterations: int


@dataclass(frozen=True)
class PastCopy:
    """A copy of the same guest that has ended, between two hosts of these names. `memory_mib`: the guest's then."""

    source: Annotated[str, Word()]
    destination: Annotated[str, Word()]
    compression: Compression
    memory_mib: int
    statistics: CopyStatistics

    @property
    def rate_mib_s(self) -> float:
        """What was sent by the time that it took, pause included; 0.0 where nothing is known."""
        took_ms = self.statistics.elapsed_ms
        return self.statistics.bytes_transferred / (1 << 20) / (took_ms / 1000) if took_ms > 0 else 0.0


@dataclass(frozen=True)
class Forecast:
    """What a copy is expected to send, to take and to pause the guest for, and what that is reckoned from.
    `dirty_mib_s`: how fast the guest changed its memory as it was looked at, None where that was not measured."""

    bytes_sent: Annotated[int, Number(0, _MAX)]
    seconds: Annotated[float, Number(0, 1e9)]
    pause_ms: Annotated[int, Number(0, _MAX)]
    dirty_mib_s: Annotated[float, Number(0, 1e9)] | None
    because: Annotated[str, Said(400)]

    @property
    def text(self) -> str:
        """For people."""
        dirty = f", guest changes {self.dirty_mib_s:.1f} MiB/s" if self.dirty_mib_s is not None else ""
        amounts = f"{self.bytes_sent / (1 << 20):.0f} MiB in {self.seconds:.1f} s, a pause of {self.pause_ms} ms"
        return f"{amounts} ({self.because}{dirty})"
