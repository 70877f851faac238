"""What a measurement is made of. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sample:
    """One request. Times in ns of the prober's monotonic clock; rtt_ns None: never answered."""

    seq: int
    due_ns: int
    rtt_ns: int | None

    @property
    def answered_ns(self) -> int | None:
        """When its response came, on the prober's monotonic clock; None: never."""
        return None if self.rtt_ns is None else self.due_ns + self.rtt_ns


@dataclass(frozen=True)
class Visit(Sample):
    """A new connection that asked once: rtt_ns is from when it was due until its answer, None where it got none; `why`
    says what it got instead."""

    mptcp: bool = True
    why: str = ""


@dataclass(frozen=True)
class Marker:
    """Something that happened, in ns of the wall clock."""

    name: str
    wall_ns: int


@dataclass(frozen=True)
class Recording:
    """A whole measurement, on one connection, and by visitors if any came. `mono_to_wall_ns`, added to a time of the
    prober's monotonic clock, gives its wall clock time. `samples` are in the order of sending, `arrival_order` has the
    sequence numbers in the order of responses."""

    target: str
    transport: str
    interval_ms: float
    token: int
    mono_to_wall_ns: int
    samples: tuple[Sample, ...]
    arrival_order: tuple[int, ...]
    markers: tuple[Marker, ...] = field(default=())
    complete: bool = True
    visits: tuple[Visit, ...] = field(default=())

    @property
    def start_ns(self) -> int:
        """When the first request was due, on the prober's monotonic clock."""
        return self.samples[0].due_ns if self.samples else 0
