"""A move, from top to bottom. `run_move` decides the order of the phases, and no other file does.

Each phase is a step of a durable workflow: its result is in the journal before the next begins.
Before the guest runs at the destination everything rolls back; after it everything goes forward.
Failure, Ctrl-C, SIGKILL with `resume`, and `abort` take the same way through this file.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import replace

from vmacro.errors import AgentError, CopyError, HostError, NotReachedError, VmacroError
from vmacro.model import events
from vmacro.model.facts import Arrival, CopyProgress, CopyStatistics, HomedAddress
from vmacro.model.moves import After, Before, ConnectionOutcome, Ending, Outcome, Phase, Plan, Verdict
from vmacro.model.nouns import Host
from vmacro.planning.outcome import REBOOTED, SHUT_OFF, all_lost, bounded, compare_flows, judge, unjudged
from vmacro.ports import World
from vmacro.services import datagrams, dhcp, disks, outside, reach, ways, whereabouts
from vmacro.services.handoff import Handoff
from vmacro.services.handoffs import HANDOFFS
from vmacro.services.outside import Untold
from vmacro.services.phases import Journal, Phases
from vmacro.services.troubles import Troubles
from vmacro.services.whereabouts import Place
from vmacro.wire.agent_verbs import MAX_ADDRESSES

MOST_CHANGES = 100  # of a domain at one host in a copy; an honest one tells of five
_MAYBE_STATISTICS: type[CopyStatistics | None] = CopyStatistics | None  # type: ignore[assignment]


def run_move(plan: Plan, world: World, journal: Journal, again: bool = False) -> Outcome:
    """Carry out a move that was checked and planned. Whatever hosts and guests do, it ends in an Outcome, not in an
    error. Raises TakenOverError where another process goes on with it.

    `again`: an earlier attempt has prepared the move, but what it prepared may be gone.
    """
    began = world.clock.monotonic_s()
    handoff = HANDOFFS[plan.handoff]
    phases = Phases(plan, world, journal)
    before, failed = Before("", ()), None
    statistics: CopyStatistics | None = None

    def prepare_again(bounded: World) -> None:
        """The claim of the earlier attempt, or what it prepared, may have ended. All of it may be repeated, and the
        agent counts from then on."""
        nonlocal before
        before = handoff.prepare(plan, bounded, _look_once_more(plan, bounded))

    renew = prepare_again if again else None
    try:
        outside.before(plan, world, phases)
        seen = phases.run(Phase.SURVEY, Before, lambda w: _look_once_more(plan, w))
        if plan.disks:
            phases.do(Phase.DISKS, lambda w: disks.send_ahead(plan, w))
        before = phases.run(Phase.PREPARE, Before, lambda w: handoff.prepare(plan, w, seen))
        statistics = phases.run(Phase.COPY, _MAYBE_STATISTICS, lambda w: _copy(plan, w, handoff, phases.left_s, renew))
    except VmacroError as error:
        failed = _unless_it_arrived(plan, world, phases, error, again)
    if failed is None:
        outcome = _go_forward(plan, world, phases, handoff, before, Outcome(Ending.MOVED, statistics=statistics))
    else:
        outcome = failed
    if phases.unwritten:
        ending = Ending.INCOMPLETE if outcome.ending == Ending.MOVED else outcome.ending
        reason = "; ".join(t for t in (outcome.reason, phases.unwritten) if t)
        outcome = replace(outcome, ending=ending, reason=reason, remains=True)
    world.claim.still()  # else how it ends is not for us to say
    world.tell(plan.move_id, events.MoveEnded(outcome.ending.value, outcome.reason))
    return replace(outcome, wall_s=round(world.clock.monotonic_s() - began, 3))


def _go_forward(
    plan: Plan, world: World, phases: Phases, handoff: Handoff, before: Before, outcome: Outcome
) -> Outcome:
    """After the point of no return."""
    after: After | None = None
    untold = Untold()
    try:
        arrival = phases.run(Phase.ARRIVE, Arrival, lambda w: _arrive(plan, w, handoff, before))
        outcome = replace(outcome, arrival=arrival)
        untold = outside.after(plan, world, phases, arrival)
        after = phases.run(Phase.SETTLE, After, lambda w: _settle(plan, w, handoff, before, arrival))
        found, beyond = bounded(judge(before, after, arrival.present, plan.guest.probe), after.beyond)
        flows = tuple(compare_flows(before.flows, after.flows, after.carried))
        outcome = replace(outcome, connections=tuple(found), beyond=beyond, carried=after.carried, flows=flows)
        if not phases.run(Phase.VERIFY, bool, lambda w: _is_the_same(plan, w, before)):
            outcome = replace(outcome, connections=tuple(all_lost(found, REBOOTED)), reason=REBOOTED)
        phases.do(Phase.CLEAN, lambda w: _clean(plan, w, handoff, after))
    except VmacroError as error:
        outcome = replace(outcome, still=whereabouts.still_at(plan.destination, plan, world))
        if outcome.still in whereabouts.OFF:
            return untold.left_in(_shut_off(plan, phases, handoff, before, outcome))
        if isinstance(error, NotReachedError):
            outcome = replace(outcome, arrival=None)  # its old addresses stay open
        reason, hint = error.message, error.hint
        if outcome.still:
            reason = f"it is {outcome.still} at {plan.destination.name}: {reason}"
            hint = f"{whereabouts.how_to_start(outcome.still, plan)}; vmacro resume {plan.move_id} goes on then"
        outcome = replace(outcome, ending=Ending.INCOMPLETE, reason=reason, hint=hint, remains=True)
        if Phase.CLEAN not in phases.begun:
            outcome = _without_the_guest(plan, phases, handoff, after, outcome)
        return untold.left_in(outcome)
    return untold.left_in(_with_verdicts(outcome, plan.policy.allow_connection_loss))


def _shut_off(plan: Plan, phases: Phases, handoff: Handoff, before: Before, outcome: Outcome) -> Outcome:
    """It has arrived, and somebody has shut it off since, or it has crashed: nothing is carried for it."""
    lost = all_lost(unjudged(before), SHUT_OFF)
    outcome = replace(outcome, ending=Ending.WITH_LOSSES, connections=tuple(lost), carried=(), flows=())
    reason = f"it is {outcome.still} at {plan.destination.name}, since it was shut off after it had arrived"
    hint = whereabouts.how_to_start(outcome.still, plan)
    try:
        phases.do(Phase.CLEAN, lambda w: _clean(plan, w, handoff, After(())))
    except VmacroError as error:
        reason = f"{reason}; and what the move needed remains: {error.message}"
        return replace(outcome, ending=Ending.INCOMPLETE, reason=reason, hint=error.hint, remains=True)
    return replace(outcome, reason=reason, hint=hint)


def _without_the_guest(plan: Plan, phases: Phases, handoff: Handoff, after: After | None, outcome: Outcome) -> Outcome:
    """What hosts have for the move does not stay because its guest does not do its part. What is left in the guest, and
    what a broken libvirt left at the source, is for `resume`."""
    carried = after.carried if after is not None else tuple(homed.address for homed in plan.addresses)

    def let_go(world: World) -> None:
        troubles = Troubles()
        with troubles.of(VmacroError):
            ways.narrow(plan, world)
        with troubles.of(VmacroError):
            handoff.let_go(plan, world) if after is None else handoff.clean(plan, world, after)
        with troubles.of(VmacroError):
            disks.let_go(plan, world)
        troubles.raise_first()

    with suppress(VmacroError):  # told as the phase's own
        phases.do(Phase.CLEAN, let_go)
    return replace(outcome, carried=carried)


def _look_once_more(plan: Plan, world: World) -> Before:
    """Claim the guest, and look at its connections again: there may be new ones since the checks."""
    with world.agent(plan.source, plan.guest.domain) as agent:
        if plan.takes_over:
            agent.release(plan.takes_over)
        agent.claim(plan.move_id, plan.operator, plan.policy.claim_s)
        facts, watched = agent.status(), agent.watch()
    homed = plan.addresses or (HomedAddress(plan.address, plan.source),)
    flows, addresses = datagrams.known(homed, world), facts.claimed[:MAX_ADDRESSES]
    return Before(facts.boot_id, watched.connections, watched.name, flows, addresses)


def _copy(
    plan: Plan,
    world: World,
    handoff: Handoff,
    left_s: Callable[[], float],
    prepare_again: Callable[[World], None] | None = None,
) -> CopyStatistics | None:
    """Live migration; ends when the guest runs at the destination, which is the point of no return. It may take what is
    left of the move's time at most: then its claim on the guest ends, and with it what was announced. `prepare_again`:
    where an earlier attempt has prepared it."""
    source, destination = world.hypervisor(plan.source), world.hypervisor(plan.destination)
    seen = whereabouts.look(plan, world)
    if seen.place == Place.SOURCE and seen.still:
        raise CopyError(f"host {plan.source.name}: domain {plan.guest.domain} is {seen.still}")
    if seen.place != Place.DESTINATION:
        if prepare_again is not None and not world.cancelled() and seen.place == Place.SOURCE:
            prepare_again(world)
        _create_overlays(plan, world)
        _drop_page_cache(plan, world)
        _foretell(plan, world)
        with ExitStack() as watching:
            watching.enter_context(source.watch(plan.guest.domain, _teller(plan, world, "source", plan.source.name)))
            see = _teller(plan, world, "destination", plan.destination.name)
            watching.enter_context(destination.watch(plan.guest.domain, see))
            watching.enter_context(handoff.watching(plan, world))
            ways.widen(plan, world)
            source.copy(
                plan.guest.domain,
                plan.destination,
                replace(plan.policy, copy_timeout_s=min(plan.policy.copy_timeout_s, left_s())),
                _reporter(plan, world),
                world.cancelled,
                tuple(d.target for d in plan.disks),
            )
    try:
        return destination.statistics(plan.guest.domain)
    except HostError:
        return None  # the move goes on without figures


def _create_overlays(plan: Plan, world: World) -> None:
    """Skipped while a migration that an earlier attempt began is under way."""
    running = world.hypervisor(plan.source).domain(plan.guest.domain) if plan.disks else None
    if running is not None and not running.migrating:
        disks.create_overlays(plan, world)


def _drop_page_cache(plan: Plan, world: World) -> None:
    """Where policy says so. A guest that does not is copied as it is."""
    if not plan.policy.drop_page_cache:
        return
    try:
        with world.agent(plan.source, plan.guest.domain) as agent:
            told = f"the guest has let go {agent.drop_page_cache()} MiB that it kept of files"
    except (AgentError, HostError) as error:
        told = f"the guest keeps its page cache: {error.message}"
    world.tell(plan.move_id, events.Note(told))


def _foretell(plan: Plan, world: World) -> None:
    if plan.compression_because:
        world.tell(plan.move_id, events.CopyChosen(plan.policy.compression.value, plan.compression_because))
    if plan.forecast is not None:
        expected = plan.forecast
        told = events.CopyForecast(expected.bytes_sent, expected.seconds, expected.pause_ms, expected.because)
        world.tell(plan.move_id, told)


def _reporter(plan: Plan, world: World) -> Callable[[CopyProgress], None]:
    def report(progress: CopyProgress) -> None:
        done = progress.bytes_total - progress.bytes_remaining
        if progress.warning:
            world.tell(plan.move_id, events.CopyWarning(progress.warning))
        if not progress.bytes_total:
            return  # it was the warning that there was to tell
        percent = max(0, min(100, 100 * done // progress.bytes_total))
        seen = events.CopyProgress(
            percent=percent,
            bytes_sent=progress.bytes_sent,
            bytes_remaining=progress.bytes_remaining,
            bytes_total=progress.bytes_total,
            dirty_mib_s=round(progress.dirty_mib_s, 2),
            rate_mib_s=round(progress.rate_mib_s, 2),
            iteration=progress.iteration,
            throttle_percent=progress.throttle_percent,
        )
        world.tell(plan.move_id, seen)

    return report


def _teller(plan: Plan, world: World, side: events.Side, host: str) -> Callable[[str, str], None]:
    """Told by libvirt as often as its host likes: it would fill the event log, and a terminal."""
    number = itertools.count(1)

    def see(event: str, detail: str) -> None:
        count = next(number)
        if count <= MOST_CHANGES:
            world.tell(plan.move_id, events.DomainChanged(side, host, event, detail))
        elif count == MOST_CHANGES + 1:
            text = (
                f"host {host}: tells of more than {MOST_CHANGES} changes of the domain in one copy: no more are shown"
            )
            world.tell(plan.move_id, events.Note(text))

    return see


def _arrive(plan: Plan, world: World, handoff: Handoff, before: Before) -> Arrival:
    """That its agent has its new address is no proof that the network lets it through."""
    arrival = handoff.arrive(plan, world)
    reach.see_that_it_answers(plan, world, before, arrival)
    return arrival


def _settle(plan: Plan, world: World, handoff: Handoff, before: Before, arrival: Arrival) -> After:
    """That it was reached as it arrived is no proof that it still is."""

    def look(has: Collection[str]) -> None:
        reach.see_that_it_still_answers(plan, world, arrival, has)

    return handoff.settle(plan, world, before, arrival, look)


def _is_the_same(plan: Plan, world: World, before: Before) -> bool:
    """That libvirt reports success is no proof: the guest must answer, which else raises AgentError. One that has
    rebooted since it was asked for its connections is well, and has lost them."""
    with world.agent(plan.destination, plan.guest.domain) as agent:
        return agent.status().boot_id == (before.boot_id or plan.boot_id)


def _clean(plan: Plan, world: World, handoff: Handoff, after: After) -> None:
    """Remove what the move made, and what a broken libvirt left at the source: the guest was alive at the destination.
    An attempt that was begun long after that looks whether it is still there."""
    seen = whereabouts.look(plan, world)
    if seen.source != whereabouts.ABSENT and seen.destination in (whereabouts.ABSENT, whereabouts.BLIND):
        text = f"it may have gone back since ({whereabouts.told(seen, plan)}); nothing was removed"
        raise HostError(f"guest {plan.guest.name}: {text}", seen.trouble or "vmacro cleanup removes what was left")
    world.hypervisor(plan.source).discard(plan.guest.domain, seen.source == whereabouts.FENCED, plan.uuid)
    handoff.clean(plan, world, after)
    disks.clean(plan, world)
    ways.narrow(plan, world)
    if plan.autostart:  # libvirt leaves that behind
        world.hypervisor(plan.destination).set_autostart(plan.guest.domain)
    _release(plan, world, plan.destination)


def _release(plan: Plan, world: World, at: Host) -> None:
    with whereabouts.in_memory(at, plan, world), world.agent(at, plan.guest.domain) as agent:
        agent.release(plan.move_id)


def _unless_it_arrived(plan: Plan, world: World, phases: Phases, error: VmacroError, again: bool) -> Outcome | None:
    """Find out where the guest is, and only then undo. If that cannot be known, touch nothing. None: it has arrived, in
    spite of the error."""
    # Hooks that the inventory has only had since an earlier attempt: that one may have come further.
    hooks_are_new = again and phases.begun == [Phase.HOOKS_BEFORE]
    if Phase.COPY in phases.begun or hooks_are_new:
        seen = whereabouts.settled(plan, world)
        if seen.place == Place.UNKNOWN:
            said = f"GUEST UNCERTAIN: {error.message}; seen: {whereabouts.told(seen, plan)}"
            said += f"; {seen.trouble}" if seen.trouble else ""
            return Outcome(Ending.UNCERTAIN, said, whereabouts.advice(seen, plan), remains=True)
        if seen.place == Place.DESTINATION:
            world.tell(plan.move_id, events.Note(f"the guest runs at {plan.destination.name} all the same"))
            return None
    still = whereabouts.still_at(plan.source, plan, world) if Phase.SURVEY in phases.begun else ""
    said, hint, rest = error.message, error.hint, f"vmacro resume {plan.move_id} undoes the rest"
    if still:
        since = ", since it was shut off before it had left" if still in whereabouts.OFF else ""
        said, hint = f"it is {still} at {plan.source.name}{since}: {said}", whereabouts.how_to_start(still, plan)
        rest = f"{hint}; {rest}"
    try:
        phases.do(Phase.UNDO, lambda w: _undo(plan, w, phases.begun))
    except VmacroError as left:
        reason = f"{said}; and undoing what was prepared: {left.message}"
        return Outcome(Ending.ROLLED_BACK, reason, rest, remains=True, still=still)
    return Outcome(Ending.ROLLED_BACK, said, hint, still=still)


def _undo(plan: Plan, world: World, begun: list[Phase]) -> None:
    """Try all of it, whatever fails. Raises the first error."""
    troubles = Troubles()
    with troubles.of(VmacroError):
        ways.narrow(plan, world)
    with troubles.of(VmacroError):
        if Phase.PREPARE in begun:  # else another move may have the guest
            HANDOFFS[plan.handoff].undo_prepare(plan, world)
        else:
            dhcp.release(plan, world)  # it was reserved when it was planned
    with troubles.of(VmacroError):
        if Phase.DISKS in begun:
            disks.undo(plan, world)
    with troubles.of(VmacroError):
        if Phase.SURVEY in begun:  # else it was not claimed
            _release(plan, world, plan.source)
    troubles.raise_first()


def _with_verdicts(outcome: Outcome, may_lose: bool) -> Outcome:
    """Says what was lost, which makes it another ending unless that was allowed, and of what nobody knows. A guest that
    has rebooted has lost more than connections."""
    lost = [c for c in outcome.connections if c.verdict == Verdict.LOST]
    unknown = [c for c in outcome.connections if c.verdict == Verdict.UNKNOWN]
    beyond, rebooted = outcome.beyond, outcome.reason
    texts = [rebooted] if rebooted else []
    texts += [f"connections lost: {_named(lost)}"] if lost else []
    texts += [f"{beyond.lost} more were lost, of those only counted"] if beyond.lost else []
    texts += [f"it is not known what became of connections: {_named(unknown)}"] if unknown else []
    texts += [f"nor of {beyond.unknown} of those only counted"] if beyond.unknown else []
    ending = Ending.WITH_LOSSES if (lost or beyond.lost or rebooted) and not may_lose else outcome.ending
    return replace(outcome, ending=ending, reason="; ".join(texts))


def _named(found: list[ConnectionOutcome], most: int = 3) -> str:
    some = ", ".join(f"{c.client} ({c.why})" for c in found[:most])
    return f"{len(found)}: {some}" + (f" and {len(found) - most} more" if len(found) > most else "")
