"""From what was asked and found to what will be done. Pure."""

from __future__ import annotations

from dataclasses import replace

from vmacro.model.facts import Survey
from vmacro.model.moves import Plan
from vmacro.model.nouns import Inventory
from vmacro.planning import disks, handoffs
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request, destination_host


def plan(move_id: str, inventory: Inventory, request: Request, survey: Survey) -> Plan:
    """Only for a survey that the checks let pass."""
    (source,) = survey.running_at
    here, there = inventory.host(source.host), destination_host(request, survey)
    assert here is not None and there is not None and source.domain is not None and source.facts is not None
    assert survey.agent is not None
    address, mac, domain = survey.agent.address, source.domain.mac, source.domain.name
    basis = Plan(
        move_id=move_id,
        handoff=request.handoff,
        guest=request.guest,
        source=here,
        destination=there,
        policy=request.policy,
        hypervisor=f"{source.facts.hypervisor} {'.'.join(map(str, source.facts.hypervisor_version))}",
        accelerator=source.domain.accelerator,
        mac=mac,
        address=address,
        boot_id=survey.agent.boot_id,
        standing=handoffs.standing(survey, inventory, domain),
        operator=request.operator,
        takes_over=survey.agent.claim.move if survey.agent.claim is not None and request.take_over else "",
        disks=disks.copies(source.domain, source.pools, move_id),
    )
    network = survey.view(there.name).network
    if request.handoff != SEAMLESS or network is None:
        return basis
    new = handoffs.next_address(network, mac, survey.agent.held)
    new6 = handoffs.next_address6(network, mac, survey.agent.held) if survey.agent.address6 else ""
    held = handoffs.held(survey.agent, source, here, basis.standing)
    return replace(
        basis,
        new_address=new,
        new_address6=new6,
        leads=tuple(handoffs.lead(move_id, survey, here, there, a) for a in (new, new6) if a),
        trail=handoffs.trail(move_id, survey, here, there, held),
        held=held,
        reserve=(new, mac) not in network.reserved,
    )


def move_id(guest: str, stamp: str, salt: str) -> str:
    """Names a move everywhere: `web-20261123-024501-3f9a`."""
    return f"{guest[:40]}-{stamp}-{salt}"
