"""What a copy will send and take, before it begins. Pure.

A guest's next copy is much like its last ones of the same kind between the same hosts. Where there are none, its memory
is reckoned with: what is in use of it once, and what it changes meanwhile, over and over. That is an upper bound: a
page that it changes often is sent once a pass, and nobody can see before how many such pages there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from vmacro.model.copies import Forecast, PastCopy
from vmacro.model.facts import HostView, Survey
from vmacro.model.moves import Finding, Severity
from vmacro.model.nouns import Compression
from vmacro.planning import compression
from vmacro.planning.convergence import FIRST_DOWNTIME_MS
from vmacro.planning.request import Request, source_view, target_view

LAST = 5  # copies that a forecast looks at
COMPRESSED = 0.3  # of memory's bytes are left by zstd (docs/benchmarks.md)
SENT_AT_FIRST = 0.6  # of a guest's memory: the rest is zero, as in the guests that were measured (docs/copy.md)
PAUSE_MS = 150 + FIRST_DOWNTIME_MS  # libvirt's own steps at a pause over 50 ms, and what QEMU is allowed
HOPELESS = 0.9  # of the link's rate: a guest that changes more is not caught up with
# What hosts say may be anything, and a plan that the journal cannot read back is a move that nobody can end.
_MOST, _MOST_S, _MOST_MIB_S = 1 << 53, 1e9, 1e9


def forecast(request: Request, survey: Survey, method: Compression) -> Forecast | None:
    """None where nothing says how fast the link is, or where the guest is."""
    source, target = source_view(survey), target_view(request, survey)
    if source is None or source.domain is None or target is None:
        return None
    earlier = compression.over_the_link(survey, source, target)
    alike = [c for c in earlier if c.compression == method and c.memory_mib == source.domain.memory_mib][:LAST]
    if alike:
        return _as_before(alike, source.dirty_mib_s)
    rate, whence = compression.link_mib_s(request.policy, earlier)
    if not rate:
        return None
    left = COMPRESSED if method == Compression.ZSTD else 1.0
    share = min(HOPELESS, (source.dirty_mib_s or 0.0) * left / rate)
    mib = source.domain.memory_mib * SENT_AT_FIRST * left / (1 - share)
    because = (
        f"no copy like it yet: at most, if {SENT_AT_FIRST:.0%} of its {source.domain.memory_mib} MiB are in use, since "
        f"what it changes again and again is counted each time; {rate:.0f} MiB/s: {whence}"
    )
    return _bounded(mib * (1 << 20), mib / rate, PAUSE_MS, source.dirty_mib_s, because)


def sent_before_mib(survey: Survey, source: HostView, target: HostView) -> float | None:
    """What the guest's last copies between these hosts sent of as much memory as it has; None where there are none."""
    earlier = compression.over_the_link(survey, source, target)
    memory_mib = source.domain.memory_mib if source.domain is not None else 0
    sent = [min(c.statistics.bytes_transferred, _MOST) / (1 << 20) for c in earlier if c.memory_mib == memory_mib]
    return median(sent[:LAST]) if sent else None


def findings(request: Request, survey: Survey) -> Iterator[Finding]:
    """A guest that changes its memory faster than the link takes it, and what can be done."""
    source, target = source_view(survey), target_view(request, survey)
    chosen = compression.between(request, survey)
    if source is None or target is None or chosen is None or not source.dirty_mib_s:
        return
    rate, whence = compression.link_mib_s(request.policy, compression.over_the_link(survey, source, target))
    method = chosen.method
    left = COMPRESSED if method == Compression.ZSTD else 1.0
    if not rate or source.dirty_mib_s * left < HOPELESS * rate:
        return
    slows = request.policy.auto_converge
    ends = "it ends by slowing the guest down, which its clients feel, or not at all" if slows else "it does not end"
    text = (
        f"changes {source.dirty_mib_s:.0f} MiB/s of its memory, {source.dirty_mib_s * left:.0f} as it is sent, and the "
        f"copy gets {rate:.0f} ({whence}): {ends}"
    )
    choices = ["move it when it has less to do", "a longer pause: max_downtime_ms"]
    choices += [] if slows else ["slow it down: auto_converge"]
    choices += [] if method == Compression.ZSTD else ['compression = "zstd"']
    yield Finding("copy-outrun", Severity.WARNING, f"guest {request.guest.name}", text, "; or ".join(choices))


def _as_before(alike: Sequence[PastCopy], dirty_mib_s: float | None) -> Forecast:
    seen = [copy.statistics for copy in alike]
    return _bounded(
        median(s.bytes_transferred for s in seen),
        median(s.elapsed_ms for s in seen) / 1000,
        median(s.downtime_ms for s in seen),
        dirty_mib_s,
        f"as its last {len(seen)} copies went" if len(seen) > 1 else "as its last copy went",
    )


def _bounded(sent: float, seconds: float, pause_ms: float, dirty_mib_s: float | None, because: str) -> Forecast:
    """As the journal takes it."""
    dirty = dirty_mib_s if dirty_mib_s is None else min(dirty_mib_s, _MOST_MIB_S)
    took = round(min(seconds, _MOST_S), 1)
    return Forecast(int(min(sent, _MOST)), took, int(min(pause_ms, _MOST)), dirty, because)
