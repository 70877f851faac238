"""Where a guest runs, as both hosts of its move say. This decides whether to go back, forward, or to touch nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from vmacro.errors import AgentError, HostError
from vmacro.model.facts import CRASHED, SHUT_OFF, SUSPENDED, Leaving
from vmacro.model.moves import Plan
from vmacro.model.nouns import Host
from vmacro.planning.handoffs import SEAMLESS
from vmacro.ports import World

LOOK_EVERY_S = 0.5
BLIND, MIGRATING, FENCED, STAYED = "cannot be asked", "migrating", "fenced", "running, and never paused to leave"
ABSENT = "absent"
OFF = (SHUT_OFF, CRASHED)
_STILL = (*OFF, SUSPENDED)
_GONE = (ABSENT, *OFF)


class Place(Enum):
    """Where the guest is: it runs there, or stands still there, and the other host does not have it at all."""

    SOURCE = "source"
    DESTINATION = "destination"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Whereabouts:
    """The domain's state at source and destination: libvirt's name for it, or `absent`, `migrating`, `fenced`,
    `cannot be asked`. `trouble`: why a host could not be asked."""

    source: str
    destination: str
    trouble: str = ""

    @property
    def place(self) -> Place:
        """A paused or fenced domain beside a running one is the remains of a migration. If both run it is unknown.

        A domain that libvirt has as off is a persistent one: it is written down at the destination before it may run
        there (qemuMigrationDstFinish), and forgotten at the source once it does. So a guest that is off has run where
        its domain is, and at no other host that does not have it; of a transient one see look(). One that has suspended
        itself has left nowhere: a domain that a migration has left is paused.
        """
        if self.source == STAYED:
            return Place.SOURCE
        if self.still:
            return Place.DESTINATION if self.source == ABSENT else Place.SOURCE
        if self.trouble or (self.source == "running") == (self.destination == "running"):
            return Place.UNKNOWN
        return Place.SOURCE if self.source == "running" else Place.DESTINATION

    @property
    def still(self) -> str:
        """Its state where it is, if it stands still there; '' where it runs, or nobody knows."""
        found = self.destination if self.source == ABSENT else self.source
        return found if ABSENT in (self.source, self.destination) and found in _STILL else ""


def look(plan: Plan, world: World) -> Whereabouts:
    """As it is now. Raises nothing: that a host cannot be asked is part of the answer."""
    source, trouble = _state(plan, plan.source, world)
    destination, other = _state(plan, plan.destination, world)
    if source == "running" and destination in ("running", BLIND) and plan.handoff == SEAMLESS:
        source = _as_the_host_knows(plan, world, destination)
    if plan.transient and source == destination == ABSENT and plan.handoff == SEAMLESS:
        source = _gone_or_off(plan, world)
    return Whereabouts(source, destination, "; ".join(t for t in (trouble, other) if t))


def settled(plan: Plan, world: World) -> Whereabouts:
    """Look until the place is known, for the policy's phase_timeout_s at most, since hosts may come back and libvirt
    tidies up. A copy that goes on without us is waited for, for copy_timeout_s at most."""
    began, seen = world.clock.monotonic_s(), look(plan, world)
    while seen.place == Place.UNKNOWN:
        patience_s = plan.policy.copy_timeout_s if seen.source == MIGRATING else plan.policy.phase_timeout_s
        if world.clock.monotonic_s() > began + patience_s:
            break
        world.clock.sleep(LOOK_EVERY_S)
        seen = look(plan, world)
    return seen


def still_at(host: Host, plan: Plan, world: World) -> str:
    """The state of the guest at a host, if it stands still there; else ''. The guest was there: a transient domain that
    is no more is off. Raises nothing."""
    state, _ = _state(plan, host, world)
    state = SHUT_OFF if plan.transient and state == ABSENT else state
    return state if state in _STILL else ""


def how_to_start(still: str, plan: Plan) -> str:
    """One that has crashed holds its domain, if that is to be looked at (on_crash)."""
    if still == SUSPENDED:
        return f"virsh dompmwakeup {plan.guest.domain} there"
    if plan.transient:
        return f"its domain is transient, and forgotten: virsh create there, as {plan.guest.domain} was made"
    first = "" if still == SHUT_OFF else f"virsh destroy {plan.guest.domain}; "
    return f"{first}virsh start {plan.guest.domain} there"


@contextmanager
def in_memory(host: Host, plan: Plan, world: World) -> Iterator[None]:
    """What is to be undone here is in the guest's memory: if that is off at `host`, so that its agent does not answer,
    it is undone. Raises AgentError where it is not off."""
    try:
        yield
    except AgentError:
        if still_at(host, plan, world) not in OFF:
            raise


def told(seen: Whereabouts, plan: Plan) -> str:
    """What each host said, for messages."""
    pairs = ((plan.source, seen.source), (plan.destination, seen.destination))
    return ", ".join(f"{host.name}: {state}" for host, state in pairs)


def advice(seen: Whereabouts, plan: Plan) -> str:
    """What an operator should do if the place is unknown."""
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
        return BLIND, error.message
    if domain is None or plan.uuid.lower() not in ("", domain.uuid.lower()):
        return ABSENT, ""  # what somebody has defined since under its name is another guest
    return MIGRATING if domain.migrating else domain.state, ""


def _gone_or_off(plan: Plan, world: World) -> str:
    """Of a transient guest that neither host has any more: if it has not paused to leave, it was at its source that it
    was shut off."""
    try:
        stayed = world.host_network(plan.source).leaving(plan.guest.domain) == Leaving.STAYED
    except HostError:
        return ABSENT
    return SHUT_OFF if stayed else ABSENT


def _as_the_host_knows(plan: Plan, world: World, destination: str) -> str:
    """The state of a guest that runs at its source, from the source's host side: it knows whether the guest has paused
    to leave, which decides if the destination runs it, too, or cannot be asked."""
    try:
        left = world.host_network(plan.source).leaving(plan.guest.domain)
    except HostError:
        return "running"
    if left == Leaving.FENCED:
        return FENCED
    return STAYED if left == Leaving.STAYED and destination == BLIND else "running"
