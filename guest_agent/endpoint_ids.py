"""Numbers of MPTCP endpoints."""

from __future__ import annotations

from collections.abc import Iterable


def fresh_id(taken: Iterable[int], last: int) -> int:
    """The next endpoint id after `last`, 1 to 255. Ids are not used again as long as possible: a peer that gets a late
    retransmission of ADD_ADDR or RM_ADDR (RFC 8684 section 3.4) would take it for the new address."""
    used = set(taken)
    return next(i for i in ((last + step) % 255 + 1 for step in range(255)) if i not in used)
