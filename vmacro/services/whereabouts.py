"""Where a guest runs, as both hosts of its move say: what decides whether to go back, forward, or to touch nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vmacro.errors import HostError
from vmacro.model.moves import Plan
from vmacro.model.nouns import Host
from vmacro.planning.handoffs import SEAMLESS
from vmacro.ports import World

LOOK_EVERY_S = 0.5
FENCED = "fenced"
_GONE = ("absent", "shut off")


class Place(Enum):
    SOURCE = "source"
    DESTINATION = "destination"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Whereabouts:
    """The domain's state at either end: libvirt's word, `absent`, `fenced` or why there is none."""

    source: str
    destination: str
    trouble: str = ""

    @property
    def place(self) -> Place:
        """A paused or fenced domain beside a running one is what a migration left; of two that run nobody can say."""
        if self.trouble or (self.source == "running") == (self.destination == "running"):
            return Place.UNKNOWN
        return Place.SOURCE if self.source == "running" else Place.DESTINATION


def look(plan: Plan, world: World) -> Whereabouts:
    """As it is now; a host that cannot be asked is told of, not raised."""
    source, trouble = _state(plan, plan.source, world)
    destination, other = _state(plan, plan.destination, world)
    if source == destination == "running" and plan.handoff == SEAMLESS:
        try:
            if world.host_network(plan.source).fenced(plan.guest.domain):
                source = FENCED
        except HostError as error:
            trouble = error.message
    return Whereabouts(source, destination, "; ".join(t for t in (trouble, other) if t))


def settled(plan: Plan, world: World) -> Whereabouts:
    """Once it is known, at most the policy's phase_timeout_s from now: hosts come back, libvirt tidies up."""
    until = world.clock.monotonic_s() + plan.policy.phase_timeout_s
    seen = look(plan, world)
    while seen.place == Place.UNKNOWN and world.clock.monotonic_s() < until:
        world.clock.sleep(LOOK_EVERY_S)
        seen = look(plan, world)
    return seen


def told(seen: Whereabouts, plan: Plan) -> str:
    pairs = ((plan.source, seen.source), (plan.destination, seen.destination))
    return ", ".join(f"{host.name}: {state}" for host, state in pairs)


def advice(seen: Whereabouts, plan: Plan) -> str:
    """What a person should do who is told that nothing is certain."""
    here, there, domain = plan.source.name, plan.destination.name, plan.guest.domain
    then = f"then `vmacro resume {plan.move_id}` or `vmacro abort {plan.move_id}`"
    if seen.trouble:
        return f"nothing was touched: bring the host back that did not answer, {then}"
    if seen.source == seen.destination == "running":
        return f"it runs TWICE: `virsh suspend {domain}` at {here} first (it was to leave there), look at both, {then}"
    if seen.source in _GONE and seen.destination in _GONE:
        return f"it runs nowhere: see {domain}'s log at {there}, start it there or at {here} from its disk"
    return f"nothing was touched: look at `virsh list --all` on {here} and {there}, resume ONE of them, {then}"


def _state(plan: Plan, host: Host, world: World) -> tuple[str, str]:
    try:
        domain = world.hypervisor(host).domain(plan.guest.domain)
    except HostError as error:
        return "cannot be asked", error.message
    return (domain.state if domain is not None else "absent"), ""
