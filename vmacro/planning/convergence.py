"""How long a pause QEMU may take for granted, and whether a copy gets anywhere. Pure.

QEMU stops the guest as soon as what is left would fit into the allowed downtime: asked for 300 ms it takes
300 ms, though an idle guest could do with 20. So it is asked for little first, and for more as passes go by
that do not get it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmacro.model.facts import CopyProgress
from vmacro.model.nouns import Policy

FIRST_DOWNTIME_MS = 20
PASSES_A_STEP = 3
# Told after so many passes that bring nothing, given up after so many more.
WARN_AFTER, GIVE_UP_AFTER = 3, 8
LEAST_GAIN = 0.9
FULL_THROTTLE = 99  # max-cpu-throttle of QEMU


@dataclass(frozen=True)
class Verdict:
    """`text` is '' while there is nothing to say."""

    text: str = ""
    hopeless: bool = False


def allowed_downtime_ms(iteration: int, max_downtime_ms: int) -> int:
    """For a pass of the copy, counted from 1: doubled every few passes, up to the policy's bound."""
    steps = max(0, iteration - 1) // PASSES_A_STEP
    return int(min(max_downtime_ms, FIRST_DOWNTIME_MS * 2 ** min(steps, 20)))


def judge(passes: Sequence[CopyProgress], policy: Policy) -> Verdict:
    """Of a copy, by its first look at each pass: what the guest has dirtied meanwhile is what that pass must send.

    It is hopeless once many passes in a row have not made that less, the pause that would end it is longer than the
    policy allows, and the guest is not being slowed down any further.
    """
    if not passes or passes[-1].rate_mib_s <= 0:
        return Verdict()
    last = passes[-1]
    pause_ms = last.bytes_remaining / (last.rate_mib_s * (1 << 20)) * 1000
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
    """The last `count` passes have had no less to send than the one before them; the first pass sends everything."""
    recent = passes[1:][-count - 1 :]
    return len(recent) > count and min(p.bytes_remaining for p in recent[1:]) > LEAST_GAIN * recent[0].bytes_remaining
