"""How long a pause QEMU may plan for, and whether a copy converges. Pure.

QEMU pauses the guest as soon as it could send what is left within the allowed downtime: if 300 ms are allowed it takes
300 ms, although 20 would do for an idle guest. So it is allowed little at first, and more after every few passes that
did not end the copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmacro.model.facts import CopyProgress
from vmacro.model.nouns import Policy

FIRST_DOWNTIME_MS = 20
PASSES_PER_STEP = 3
# Passes in a row without a gain: after so many the operator is warned, after so many the copy is given up.
WARN_AFTER, GIVE_UP_AFTER = 3, 8
LEAST_GAIN = 0.9  # a pass gains if it has to send less than this share of what the pass before it sent
FULL_THROTTLE = 99  # max-cpu-throttle of QEMU


@dataclass(frozen=True)
class Verdict:
    """`text` is what to tell the operator, '' if nothing. `hopeless`: the copy should be given up."""

    text: str = ""
    hopeless: bool = False


def allowed_downtime_ms(iteration: int, max_downtime_ms: int) -> int:
    """What a pass (counted from 1) is allowed: doubled every few passes, up to the policy's limit."""
    steps = max(0, iteration - 1) // PASSES_PER_STEP
    return int(min(max_downtime_ms, FIRST_DOWNTIME_MS * 2 ** min(steps, 20)))


def judge(passes: Sequence[CopyProgress], policy: Policy) -> Verdict:
    """Whether a copy converges. `passes` has the first progress report of each pass; its `bytes_remaining` is what the
    guest has dirtied during the pass before.

    A copy is hopeless once many passes in a row have not made that less, the pause that would end it is longer than the
    policy allows, and QEMU cannot slow the guest down any further.
    """
    if not passes or passes[-1].rate_mib_s <= 0:
        return Verdict()
    last = passes[-1]
    goes_mib_s = max(last.rate_mib_s, last.memory_mib_s)
    pause_ms = last.bytes_remaining / (goes_mib_s * (1 << 20)) * 1000
    if pause_ms <= policy.max_downtime_ms or not _stuck(passes, WARN_AFTER):
        return Verdict()
    dirty = f"dirties {last.dirty_mib_s:.1f} MiB/s, " if last.dirty_mib_s else ""
    text = (
        f"the copy does not converge: the guest {dirty}{last.rate_mib_s:.1f} MiB/s are sent; to end it now takes a "
        f"pause of {pause_ms:.0f} ms, {policy.max_downtime_ms} are allowed (policy max_downtime_ms)"
    )
    slowing = policy.auto_converge and last.throttle_percent < FULL_THROTTLE
    return Verdict(text, hopeless=not slowing and _stuck(passes, GIVE_UP_AFTER))


def _stuck(passes: Sequence[CopyProgress], count: int) -> bool:
    """Whether the last `count` passes had no less to send than the pass before them. The first pass sends everything,
    and does not count."""
    recent = passes[1:][-count - 1 :]
    return len(recent) > count and min(p.bytes_remaining for p in recent[1:]) > LEAST_GAIN * recent[0].bytes_remaining
