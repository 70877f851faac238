"""What became of the connections: judged from how they were before and after a move, and from what the guest's kernel
has told of their ends meanwhile. Pure.

A guest's agent may say anything, so that a verdict is no more than what it said; but none is better than that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from vmacro.model.facts import Beyond, Connection, Ended, Flows
from vmacro.model.moves import After, Before, ConnectionOutcome, FlowsOutcome, Outcome, Verdict
from vmacro.model.nouns import ProbeTarget
from vmacro.wire.agent_verbs import ABORTED, CLOSED, CUT, MAX_CONNECTIONS, RESET, TIMED_OUT, CountArgs
from vmacro.wire.counting import CARRIED, ELSEWHERE, FOLLOWED, JOINING, MUTE, NO_PATH, how_it_is

_HOW = {
    CLOSED: "it was closed in good order",
    ABORTED: "its client's application aborted it",
    RESET: "it was reset, and its client was not heard since the arrival",
    TIMED_OUT: "it timed out, and its client was not heard since the arrival",
    CUT: "its last path was withdrawn",
}
_RESET_IN_GOOD_ORDER = "its client, which had been heard until then, reset it"
_NO_PATH = "without a path: it uses {}, which no longer reaches the guest"
_ELSEWHERE = "it uses {}, which is not of the card that moved"
_RESTARTED = "it is gone, and nobody has seen how: the guest's agent was restarted, or its kernel does not tell"
_MISSED = "it is gone, and the guest's kernel had more to tell than its agent could hear"
_BETWEEN = "it went while the guest was asked for its connections"
_JOINING = "its client has begun to join the new address, and has not answered yet"
_OURS = "the move's own measuring"
_MUTE = "its client does not answer at the new address"
MOST_COUNTED = 1 << 53  # what a guest may say, and a row of the journal may have (fields.Number)
REBOOTED, SHUT_OFF = "the guest rebooted during the move", "the guest was shut off during the move"
_WORST = (Verdict.LOST, Verdict.UNKNOWN, Verdict.CARRIED, Verdict.FOLLOWED, Verdict.ENDED)


def measures(connection: Connection, probe: ProbeTarget | None) -> bool:
    """Whether it comes to the responder of round trips: the move's own prober and visitors are nobody's clients."""
    ports = {subflow.local_port for subflow in connection.subflows}
    return probe is not None and ports == {probe.port}


def judge(
    before: Before, after: After, present: tuple[str, ...], probe: ProbeTarget | None = None
) -> list[ConnectionOutcome]:
    """Each connection that was there before, and what became of it; and those younger ones that were lost. `present`:
    the guest's addresses at the new site; `probe`: where its round trips are measured."""
    now = {c.key: c for c in after.connections}
    ended = {e.key: e for e in after.endings.endings} if _is_unbroken(before, after) else {}
    found = [_judged(old, now.get(old.key), ended.get(old.key), before, after, present) for old in before.connections]
    ours = {old.key for old in before.connections if measures(old, probe)}
    found = [replace(o, why=f"{_OURS}: {o.why}") if o.why and o.key in ours else o for o in found]
    return [*found, *_younger(before, now.values(), ended.values(), after, present)]


def bounded(found: list[ConnectionOutcome], beyond: Beyond) -> tuple[list[ConnectionOutcome], Beyond]:
    """Of more than an outcome may hold, the worst; the others are counted among those beyond."""
    if len(found) <= MAX_CONNECTIONS:
        return found, beyond
    worst = sorted(found, key=_badness)
    rest = counted(worst[MAX_CONNECTIONS:])
    sums = {name: min(getattr(beyond, name) + number, MOST_COUNTED) for name, number in rest.items()}
    return worst[:MAX_CONNECTIONS], Beyond(**sums)


def all_lost(found: Iterable[ConnectionOutcome], why: str) -> list[ConnectionOutcome]:
    """None of them outlives what the guest had in memory."""
    return [o if o.verdict == Verdict.LOST else replace(o, verdict=Verdict.LOST, why=why) for o in found]


def unjudged(before: Before) -> list[ConnectionOutcome]:
    """All that were there before, of which the guest can tell no more."""
    return [ConnectionOutcome(c.key, c.client, c.mptcp, Verdict.UNKNOWN) for c in before.connections]


def compare_flows(before: Iterable[Flows], after: Iterable[Flows], carried: Iterable[str]) -> list[FlowsOutcome]:
    """What became of each address's datagrams."""
    had, has, still = {f.address: f for f in before}, {f.address: f for f in after}, set(carried)
    return [
        FlowsOutcome(had.get(address, Flows(address)), has.get(address, Flows(address)), address in still)
        for address in sorted(had.keys() | has.keys())
    ]


def counted(outcomes: Iterable[ConnectionOutcome]) -> dict[str, int]:
    """How many there are of each verdict, all verdicts named."""
    counts = Counter(outcome.verdict for outcome in outcomes)
    return {verdict.value: counts[verdict] for verdict in Verdict}


def all_counted(outcome: Outcome) -> dict[str, int]:
    """As counted(), with those that there were too many of to be told."""
    counts = counted(outcome.connections)
    return {name: number + getattr(outcome.beyond, name) for name, number in counts.items()}


def told(counts: dict[str, int]) -> str:
    """As people read it; '' where there were no connections."""
    return ", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number)


def untold(before: Before, after: After) -> set[str]:
    """Those that are gone, and of which the kernel will soon tell how."""
    if not _is_unbroken(before, after) or after.endings.missed:
        return set()
    return (
        {c.key for c in before.connections}
        - {c.key for c in after.connections}
        - {e.key for e in after.endings.endings}
    )


def _is_unbroken(before: Before, after: After) -> bool:
    return bool(before.watch) and before.watch == after.endings.watch


def _judged(
    old: Connection, new: Connection | None, end: Ended | None, before: Before, after: After, present: tuple[str, ...]
) -> ConnectionOutcome:
    verdict, why = _verdict_of_one_there(new, before, after, present) if new is not None else _verdict_of_one_gone(end)
    if new is None and end is None:
        unbroken = _is_unbroken(before, after)
        why = _MISSED if unbroken and after.endings.missed else _BETWEEN if unbroken else _RESTARTED
    return ConnectionOutcome(old.key, old.client, old.mptcp, verdict, why)


def _verdict_of_one_there(
    new: Connection, before: Before, after: After, present: tuple[str, ...]
) -> tuple[Verdict, str]:
    used = " and ".join(dict.fromkeys(s.local for s in new.subflows)) or "no address"
    how = how_it_is(new, CountArgs(present, after.carried, known=before.addresses))
    verdicts = {
        FOLLOWED: (Verdict.FOLLOWED, ""),
        MUTE: (Verdict.UNKNOWN, _MUTE),
        CARRIED: (Verdict.CARRIED, why_carried(new)),
        JOINING: (Verdict.UNKNOWN, _JOINING),
        ELSEWHERE: (Verdict.UNKNOWN, _ELSEWHERE.format(used)),
        NO_PATH: (Verdict.LOST, _NO_PATH.format(used)),
    }
    return verdicts[how]


def why_carried(connection: Connection) -> str:
    """Why a connection that uses none of the guest's present addresses does not."""
    if not connection.mptcp:
        return "plain TCP"
    if any(s.joined for s in connection.subflows):
        return "its client has no slot left for the new address (add_addr_accepted), and no other path meanwhile"
    return "its client did not join the new address"


def _verdict_of_one_gone(end: Ended | None) -> tuple[Verdict, str]:
    if end is None:
        return Verdict.UNKNOWN, ""
    if end.lost:
        return Verdict.LOST, _HOW[end.how]
    return Verdict.ENDED, _HOW[end.how] if end.how in (CLOSED, ABORTED) else _RESET_IN_GOOD_ORDER


def _younger(
    before: Before, now: Iterable[Connection], ended: Iterable[Ended], after: After, present: tuple[str, ...]
) -> Iterator[ConnectionOutcome]:
    """Those that came while the guest was copied, and were lost."""
    known = {old.key for old in before.connections}
    for end in ended:
        if end.lost and end.key not in known:
            yield ConnectionOutcome(end.key, end.client, end.key.startswith("0x"), Verdict.LOST, _HOW[end.how])
    for new in now:
        if new.key not in known and new.subflows and not new.uses(*present, *after.carried):
            verdict, why = _verdict_of_one_there(new, before, after, present)
            yield ConnectionOutcome(new.key, new.client, new.mptcp, verdict, why)


def _badness(outcome: ConnectionOutcome) -> int:
    return _WORST.index(outcome.verdict)
