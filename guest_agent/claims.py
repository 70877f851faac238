"""Which move has the guest: one at a time, and each for a limited time (docs/decisions/0008)."""

from __future__ import annotations

import logging
from typing import Optional

from guest_agent.guest import Guest
from guest_agent.retirement import retire
from guest_agent.state import KeptClaim
from vmacro.wire.agent_verbs import CLAIMED, Claim, ClaimArgs
from vmacro.wire.messages import ProtocolError

LOG = logging.getLogger(__name__)


def present_claim(guest: Guest) -> Optional[Claim]:
    """The claim that is in force."""
    claim = guest.state.claim
    return _told(guest, claim) if claim is not None and not _is_over(guest, claim) else None


def claim_guest(guest: Guest, args: ClaimArgs) -> Claim:
    """Repeatable, which renews it. Raises ProtocolError (claimed) where another move has the guest."""
    now, known = guest.clock.now_s(), guest.state.claim
    since = now
    if known is not None and not _is_over(guest, known):
        if known.move != args.move:
            text = f"move {known.move} of {known.by} has it for {now - known.since_s:.0f} s"
            raise ProtocolError(CLAIMED, text)
        since = known.since_s
    claim = guest.state.claim = KeptClaim(args.move, args.by, since, now + args.seconds)
    guest.save()
    guest.later(expire(guest, claim))
    return _told(guest, claim)


def release_guest(guest: Guest, move: str) -> None:
    """Idempotent; another move's claim stays."""
    claim = guest.state.claim
    if claim is not None and claim.move == move:
        guest.state.claim = None
        guest.save()


async def expire(guest: Guest, claim: KeptClaim) -> None:
    """At its end, if it still stands: nobody is left to take back what was announced for a move that never came."""
    await guest.clock.sleep(max(0.0, claim.until_s - guest.clock.now_s()))
    if guest.state.claim != claim:
        return  # renewed or released
    LOG.warning("move %s of %s is over its time; its claim ends", claim.move, claim.by)
    guest.state.claim = None
    guest.save()
    for address in guest.state.prepared:
        if address:
            await retire(guest, address)


def _is_over(guest: Guest, claim: KeptClaim) -> bool:
    return guest.clock.now_s() >= claim.until_s


def _told(guest: Guest, claim: KeptClaim) -> Claim:
    return Claim(claim.move, claim.by, round(guest.clock.now_s() - claim.since_s, 1))
