"""A guest's connections as they are now, whether or not it is to move."""

from __future__ import annotations

from dataclasses import replace

from vmacro.errors import AgentError, UnreachableError, VmacroError
from vmacro.model.facts import Survey
from vmacro.model.nouns import Guest, Inventory
from vmacro.planning import states
from vmacro.ports import World
from vmacro.services.survey import survey
from vmacro.wire.agent_verbs import MAX_CONNECTIONS


def connections_of(inventory: Inventory, guest: Guest, world: World, every: bool = False) -> Survey:
    """A survey for a guest's connections, which tells which clients would follow; `every` one of them, also where they
    are more than a reply has room for. Raises AgentError where its agent cannot be asked; UnreachableError where it
    runs at none of the hosts that answer, and others do not."""
    seen = survey(inventory, guest, world, ask_clients=True, ask_host_sides=False)
    if seen.agent is None:
        raise _why_unasked(guest, seen)
    if every and len(seen.connections) == MAX_CONNECTIONS:
        (host,) = (h for h in inventory.hosts if h.name == seen.running_at[0].host)
        with world.agent(host, guest.domain) as agent:
            return replace(seen, connections=agent.all_connections())
    return seen


def _why_unasked(guest: Guest, seen: Survey) -> VmacroError:
    """Why nobody could ask its agent."""
    silent = [view for view in seen.views if view.trouble]
    wrong = next(states.runs_once(guest, seen), None)
    if wrong is not None and silent and not seen.running_at:
        text = "; ".join([f"{wrong.subject}: {wrong.message}", *(view.trouble for view in silent)])
        return UnreachableError(text, silent[0].trouble_hint)
    if wrong is not None:
        return AgentError(f"{wrong.subject}: {wrong.message}", wrong.hint)
    if seen.agent_trouble:
        return AgentError(seen.agent_trouble, seen.agent_hint)
    text = f"guest {guest.name}: the domain has no channel org.vmacro.agent.0"
    return AgentError(text, "add a virtio-serial <channel> of that name, and the agent")
