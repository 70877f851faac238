"""From what was asked and found to what will be done. Pure."""

from __future__ import annotations

from vmacro.model.facts import Survey
from vmacro.model.moves import Plan
from vmacro.model.nouns import Inventory
from vmacro.planning.checks import Request, destination_host


def plan(move_id: str, inventory: Inventory, request: Request, survey: Survey) -> Plan:
    """Only for a survey that the checks let pass."""
    (source,) = survey.running_at
    here, there = inventory.host(source.host), destination_host(request, survey)
    assert here is not None and there is not None and source.domain is not None and source.facts is not None
    assert survey.agent is not None
    return Plan(
        move_id=move_id,
        handoff=request.handoff,
        guest=request.guest,
        source=here,
        destination=there,
        policy=request.policy,
        hypervisor=f"{source.facts.hypervisor} {'.'.join(map(str, source.facts.hypervisor_version))}",
        accelerator=source.domain.accelerator,
        mac=source.domain.mac,
        address=survey.agent.address,
        boot_id=survey.agent.boot_id,
    )


def move_id(guest: str, stamp: str, salt: str) -> str:
    """Names a move everywhere: `web-20261123-024501-3f9a`."""
    return f"{guest[:40]}-{stamp}-{salt}"
