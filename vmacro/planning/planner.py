"""From a request and what the survey found to the plan of a move. Pure."""

from __future__ import annotations

from dataclasses import replace

from vmacro.model import marks
from vmacro.model.facts import Survey
from vmacro.model.moves import Plan
from vmacro.model.nouns import Inventory
from vmacro.planning import cards, checks, compression, disks, forecast, handoffs, names
from vmacro.planning.addresses import claims, next_address, next_address6, public_of
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request, destination_host
from vmacro.planning.standing import standing


def plan(move_id: str, inventory: Inventory, request: Request, survey: Survey) -> Plan:
    """The plan of a move. The checks must have found no blocker in this survey."""
    request = checks.place(request, survey)
    (source,) = survey.running_at
    here, there = inventory.host(source.host), destination_host(request, survey)
    assert here is not None and there is not None and source.domain is not None and source.facts is not None
    assert survey.agent is not None
    chosen = compression.between(request, survey)
    assert chosen is not None
    mac, claimed = cards.mac(survey), survey.agent.claimed
    earlier = standing(survey, source.domain, request.take_over).ours
    basis = Plan(
        move_id=move_id,
        handoff=request.handoff,
        guest=request.guest,
        source=here,
        destination=there,
        policy=replace(request.policy, compression=chosen.method),
        hypervisor=f"{source.facts.hypervisor} {'.'.join(map(str, source.facts.hypervisor_version))}",
        accelerator=source.domain.accelerator,
        mac=mac,
        address=survey.agent.address,
        address6=survey.agent.address6,
        boot_id=survey.agent.boot_id,
        earlier_legs=earlier,
        operator=request.operator,
        chosen_because=request.because,
        takes_over=survey.agent.claim.move if survey.agent.claim is not None and request.take_over else "",
        disks=disks.copies(source.domain, source.pools, move_id),
        memory_mib=source.domain.memory_mib,
        uuid=source.domain.uuid,
        transient=not source.domain.persistent,
        autostart=survey.definition is not None and survey.definition.autostart,
        compression_because=chosen.because,
        forecast=forecast.forecast(request, survey, chosen.method),
    )
    network = survey.view(there.name).network
    if request.handoff != SEAMLESS or network is None:
        return basis
    new = next_address(network, mac, claimed)
    new6 = next_address6(network, mac, claimed) if survey.agent.address6 else ""
    addresses = handoffs.that_go_along(claims(survey, earlier).homed, survey, there)
    return replace(
        basis,
        new_address=new,
        new_address6=new6,
        new_legs=tuple(handoffs.new_leg(move_id, survey, here, there, a) for a in (new, new6) if a),
        old_legs=handoffs.old_legs(move_id, survey, here, there, addresses),
        addresses=addresses,
        linger_s=names.linger_s(request.policy, survey.names),
        lingering=survey.past.lingering,
        new_public=public_of(there, new) if new else "",
        # What bears a mark is another move's to give back: ours takes its place then (ports.Hypervisor.reserve).
        reserve=(new, mac) not in {(r.address, r.mac) for r in network.reserved if not marks.is_marked(r)},
        marked=True,
    )


def move_id(guest: str, stamp: str, salt: str) -> str:
    """The name of a move everywhere, such as `web-20261123-024501-3f9a`."""
    return f"{guest[:40]}-{stamp}-{salt}"
