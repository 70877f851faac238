"""How long a pause QEMU may take for granted. Pure.

QEMU stops the guest as soon as what is left would fit into the allowed downtime: asked for 300 ms it takes
300 ms, though an idle guest could do with 20. So it is asked for little first, and for more as passes go by
that do not get it there.
"""

from __future__ import annotations

FIRST_DOWNTIME_MS = 20
PASSES_A_STEP = 3


def allowed_downtime_ms(iteration: int, max_downtime_ms: int) -> int:
    """For a pass of the copy, counted from 1: doubled every few passes, up to the policy's bound."""
    steps = max(0, iteration - 1) // PASSES_A_STEP
    return int(min(max_downtime_ms, FIRST_DOWNTIME_MS * 2 ** min(steps, 20)))
