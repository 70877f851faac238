"""Whether the guest's kernel has room for the addresses that a move brings it: each is an endpoint there. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vmacro.model.facts import Survey
from vmacro.model.moves import Finding
from vmacro.planning import cards
from vmacro.planning.addresses import next_address, next_address6, public_of
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request, blocker, destination_host, target_view
from vmacro.wire.agent_verbs import MOST_ENDPOINTS

MOST_TOLD = 3


def findings(request: Request, survey: Survey) -> Iterator[Finding]:
    """The present addresses need it, too: they become the backup as the guest arrives. Nothing of an older agent, which
    does not tell which endpoints there are."""
    agent, coming = survey.agent, _coming(request, survey)
    if agent is None or not agent.endpoints or not coming:
        return
    present = {a for a in (agent.address, agent.address6) if a} if request.handoff == SEAMLESS else set()
    needed = {*agent.endpoints, *present, *coming}
    if len(needed) <= MOST_ENDPOINTS:
        return
    old = sorted(set(agent.endpoints) - {agent.address, agent.address6})
    more = f" and {len(old) - MOST_TOLD} more" if len(old) > MOST_TOLD else ""
    text = (
        f"its kernel takes {MOST_ENDPOINTS} addresses for MPTCP, and {len(needed)} would be needed: besides its "
        f"present ones it still has {', '.join(old[:MOST_TOLD])}{more}, and {', '.join(sorted(coming))} would come"
    )
    hint = (
        "wait until old addresses are no longer in use, or no longer linger: vmacro carried; vmacro carry closes them"
    )
    yield blocker("endpoints-full", f"guest {request.guest.name}", text, hint)


def _coming(request: Request, survey: Survey) -> set[str]:
    """What the guest would announce, and hold for what is announced."""
    there, target, mac = destination_host(request, survey), target_view(request, survey), cards.mac(survey)
    network = target.network if target is not None else None
    if there is None or network is None or survey.agent is None or not mac:
        return set()
    new = next_address(network, mac, survey.agent.claimed)
    six = request.handoff == SEAMLESS and survey.agent.address6
    new6 = next_address6(network, mac, survey.agent.claimed) if six else ""
    return {a for a in (new, public_of(there, new) if new else "", new6) if a}
