"""What a guest's agent says of it and of its connections."""

from __future__ import annotations

from dataclasses import replace

from vmacro.errors import AgentError, HostError
from vmacro.model.facts import Connection, Survey
from vmacro.model.nouns import Guest, Host
from vmacro.ports import Agent, World
from vmacro.wire.agent_verbs import CLAIMED, FULL, NO_LEASE


def look(seen: Survey, host: Host, guest: Guest, consent_timeout_ms: int, world: World) -> Survey:
    """With what it says, or why there is nothing. `consent_timeout_ms`: how long its clients are asked whether they
    join an address; 0: not at all."""
    try:
        with world.agent(host, guest.domain) as agent:
            facts = agent.status()
            if not facts.address:
                return replace(seen, agent=facts)
            connections, unasked = _connections(agent, consent_timeout_ms)
    except (AgentError, HostError) as error:
        return replace(seen, agent_trouble=error.message, agent_hint=error.hint)
    return replace(seen, agent=facts, connections=connections, unasked=unasked)


def _connections(agent: Agent, consent_timeout_ms: int) -> tuple[tuple[Connection, ...], str]:
    """And why their clients could not be asked: the guest had no second address, no room for it, or a move has it."""
    try:
        return agent.consent(consent_timeout_ms) if consent_timeout_ms else agent.connections(), ""
    except AgentError as error:
        if error.code not in (NO_LEASE, FULL, CLAIMED):
            raise
        return agent.connections(), error.message
