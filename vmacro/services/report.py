"""What a move leaves behind for people: summary.json, events.ndjson, rtt.png, report.html."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vmacro import private
from vmacro.errors import JournalError
from vmacro.model.events import CopyProgress, DomainChanged, Event, PhaseBegan, PhaseEnded, PhaseFailed, Unreadable
from vmacro.model.facts import CopyStatistics
from vmacro.model.moves import Outcome, Phase, Plan, Verdict
from vmacro.planning.outcome import all_counted, told
from vmacro.ports import EventLog
from vmacro.rtt import recording as recordings
from vmacro.rtt import report
from vmacro.rtt.report import Felt, Span, Table
from vmacro.rtt.samples import Marker, Recording
from vmacro.services.event_json import as_plain
from vmacro.services.event_log import everything


def spans(events: Iterable[Event]) -> list[Span]:
    """The phases as they were, with the guest's pause cut out of the copy by libvirt's own events."""
    began: dict[Phase, int] = {}
    ended: dict[Phase, int] = {}
    done: set[Phase] = set()  # a later attempt at the move only reads in the journal what these found
    paused = resumed = 0
    for event in events:
        what = event.what
        if isinstance(what, PhaseBegan) and what.phase not in done:
            began[what.phase] = event.wall_ns
            ended.pop(what.phase, None)
        elif isinstance(what, PhaseEnded | PhaseFailed) and what.phase not in done:
            ended[what.phase] = event.wall_ns
            if isinstance(what, PhaseEnded):
                done.add(what.phase)
        elif isinstance(what, DomainChanged):
            if (what.side, what.event) == ("source", "suspended"):
                paused = event.wall_ns
            elif (what.side, what.event) == ("destination", "resumed"):
                resumed = event.wall_ns
    found = []
    for phase in (Phase.COPY, Phase.ARRIVE, Phase.SETTLE):
        if phase in began and phase in ended:
            end = paused if phase == Phase.COPY and began[phase] < paused else ended[phase]
            found.append(Span(phase.value, began[phase], end))
    if 0 < paused < resumed:
        found.insert(1, Span("guest paused", paused, resumed))
    return found


def slowed_percent(events: Iterable[Event]) -> int:
    """Of its processors' time the most that QEMU took from the guest so that its copy converged."""
    return max((e.what.throttle_percent for e in events if isinstance(e.what, CopyProgress)), default=0)


def summary(plan: Plan, outcome: Outcome, felt: Felt | None, slowed: int = 0) -> dict[str, Any]:
    """What summary.json has. `felt`: what the prober measured, if it did; `slowed`: slowed_percent()."""
    statistics, arrival = outcome.statistics, outcome.arrival
    figures: dict[str, Any] = {
        "move_id": plan.move_id,
        "ending": outcome.ending.value,
        "reason": outcome.reason,
        "exit_code": outcome.exit_code,
        "guest": plan.guest.name,
        "source": plan.source.name,
        "destination": plan.destination.name,
        "chosen_because": plan.chosen_because,
        "handoff": plan.handoff,
        "hypervisor": plan.hypervisor,
        "accelerator": plan.accelerator,
        "old_address": arrival.old if arrival else plan.address,
        "new_address": arrival.new if arrival else None,
        "seen_by": arrival.seen_by if arrival else None,
        "lease_ms": arrival.lease_ms if arrival else None,
        "guest_downtime_ms": outcome.downtime_ms,
        "bytes_transferred": statistics.bytes_transferred if statistics else None,
        "copy_ms": statistics.elapsed_ms if statistics else None,
        "compression": plan.policy.compression.value,
        "compression_because": plan.compression_because,
        "forecast": foretold(plan, statistics),
        "slowed_percent": slowed,
        "migration_wall_s": outcome.wall_s,
        "connections": [
            {
                "token": c.key,
                "client": c.client,
                "mptcp": c.mptcp,
                "verdict": c.verdict.value,
                "why": c.why,
                "kept": c.kept,
                "followed": c.verdict == Verdict.FOLLOWED,
                "carried": c.verdict == Verdict.CARRIED,
            }
            for c in outcome.connections
        ],
        "verdicts": all_counted(outcome),
        "only_counted": asdict(outcome.beyond),
        "datagrams": [
            {
                "address": f.address,
                "udp_before": f.before.udp,
                "icmp_before": f.before.icmp,
                "udp_after": f.after.udp,
                "icmp_after": f.after.icmp,
                "carried": f.carried,
            }
            for f in outcome.flows
        ],
        "carried_addresses": list(outcome.carried),
    }
    if felt is not None:
        figures |= {
            "outage_ms": felt.outage.ms,
            "outage_means": report.OUTAGE_MEANS,
            "recover_ms": felt.recover_ms,
            "rtt_before_ms": asdict(felt.before),
            "rtt_during_ms": asdict(felt.during),
            "rtt_after_ms": asdict(felt.after),
            "requests_sent": felt.totals.sent,
            "requests_lost": felt.totals.lost,
            "requests_reordered": felt.totals.reordered,
            "visitors": {part: asdict(visited) for part, visited in felt.visitors.items()},
        }
    return figures


def foretold(plan: Plan, came: CopyStatistics | None) -> dict[str, Any] | None:
    """What the copy was expected to take; with what came, by how much of that each was off, None where nothing came."""
    expected = plan.forecast
    if expected is None:
        return None
    pairs = (
        {}
        if came is None
        else {
            "bytes": (expected.bytes_sent, came.bytes_transferred),
            "time": (expected.seconds * 1000, came.elapsed_ms),
            "pause": (expected.pause_ms, came.downtime_ms),
        }
    )
    off = {name: round(told / really - 1, 3) if really else None for name, (told, really) in pairs.items()}
    return asdict(expected) | {"off": off or None}


def story(log: EventLog, move_id: str) -> list[Event]:
    """All that happened in a move, in all its attempts. If the log cannot be read, one event that says so: the report
    then has no phases, and the move is not affected."""
    try:
        return [event for _, event in everything(log, move_id)]
    except JournalError as error:
        return [Event(move_id, 0, Unreadable(error.message))]


def write(
    folder: Path, plan: Plan, outcome: Outcome, events: list[Event], recording: Recording | None
) -> tuple[dict[str, Any], str]:
    """All files into one folder, where the recording is `rtt.ndjson` already; returns the summary, and why not all of
    them could be written, '' where they were. The move has ended: that does not change how."""
    phases = spans(events)
    felt = report.felt(recording, phases) if recording is not None else None
    figures = summary(plan, outcome, felt, slowed_percent(events))
    try:
        _write_files(folder, figures, events, phases, recording, felt)
    except OSError as error:
        return figures, f"the report in {folder} is not complete: {error}"
    return figures, ""


def _write_files(
    folder: Path,
    figures: dict[str, Any],
    events: list[Event],
    phases: list[Span],
    recording: Recording | None,
    felt: Felt | None,
) -> None:
    private.folder(folder)
    private.write(folder / "summary.json", json.dumps(figures, indent=2) + "\n")
    private.write(folder / "events.ndjson", "".join(json.dumps(as_plain(e)) + "\n" for e in events))
    if recording is not None and felt is not None:
        with private.opened(folder / "rtt.ndjson", "a") as out:
            for span in phases:
                for name, at in ((f"{span.name} begins", span.start_ns), (f"{span.name} ends", span.end_ns)):
                    out.write(recordings.marker_line(Marker(name, at)))
        _draw(folder, recording, phases, figures, felt)


def _draw(folder: Path, recording: Recording, phases: list[Span], figures: dict[str, Any], felt: Felt) -> None:
    title = f"{figures['guest']}: {figures['source']} to {figures['destination']}, {figures['handoff']}"
    report.draw(recording, phases, title, private.touch(folder / "rtt.png"), "png")
    private.write(folder / "report.html", report.page(recording, phases, title, tables(figures, felt)))


def tables(figures: dict[str, Any], felt: Felt) -> list[Table]:
    """The figures as a person reads them, for terminal and page alike."""
    rows = [report.row_of(name, spread) for name, spread in _spreads(felt)]
    columns = ("", "requests", "min", "median", "p95", "p99", "max", "jitter")
    facts = ("token", "client", "verdict", "why")
    connections = tuple(tuple(c[fact] for fact in facts) for c in figures["connections"])
    flows = ("address", "udp_before", "icmp_before", "udp_after", "icmp_after", "carried")
    datagrams = tuple(tuple(f[fact] for fact in flows) for f in figures["datagrams"])
    named = tuple(column.replace("_", " ") for column in flows)
    sent = figures["bytes_transferred"]
    sent_mib = round(sent / (1 << 20), 1) if sent is not None else None
    felt_rows = (
        ("outage", f"{felt.outage.ms:.0f} ms"),
        ("guest's own downtime", known(figures["guest_downtime_ms"], "ms")),
        ("until round trips were steady again", known(felt.recover_ms, "ms")),
        ("requests sent, lost, out of order", f"{felt.totals.sent}, {felt.totals.lost}, {felt.totals.reordered}"),
    )
    move_rows = (
        ("to", f"{figures['destination']}: {figures['chosen_because']}"),
        ("address", _addresses(figures)),
        (
            "move, start to settled" if figures["new_address"] is not None else "move, start to end",
            f"{figures['migration_wall_s']} s",
        ),
        ("memory sent", f"{known(sent_mib, 'MiB')}; {_compressed(figures)}"),
        *_forecast_rows(figures["forecast"]),
        *_slowed_rows(figures["slowed_percent"], felt),
        ("hypervisor", f"{figures['hypervisor']}, {figures['accelerator']}"),
        ("ended", figures["ending"] + (f": {figures['reason']}" if figures["reason"] else "")),
    )
    return [
        Table("Round trips (ms)", columns, tuple(rows)),
        Table("What the client felt", ("", ""), felt_rows, f"Outage: {report.OUTAGE_MEANS}."),
        *report.visitors_table(felt),
        Table("Connections", facts, connections, _verdicts(figures)),
        *([Table("Flows of datagrams", named, datagrams)] if datagrams else []),
        Table("The move", ("", ""), move_rows),
    ]


def known(value: float | None, unit: str) -> str:
    """As people read it, also where it was not measured: some hypervisors do not tell all."""
    return f"{round(value, 1):.15g} {unit}" if value is not None else "not known"


def _addresses(figures: dict[str, Any]) -> str:
    old, new = figures["old_address"], figures["new_address"]
    return f"{old} to {new} (seen by {figures['seen_by']})" if new is not None else f"{old}; no new one was seen"


def _compressed(figures: dict[str, Any]) -> str:
    because = f" ({figures['compression_because']})" if figures["compression_because"] else ""
    return f"compression {figures['compression']}{because}"


def _forecast_rows(forecast: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What was expected, and how far off that was."""
    if forecast is None:
        return []
    mib, seconds, pause_ms = forecast["bytes_sent"] / (1 << 20), forecast["seconds"], forecast["pause_ms"]
    amounts = f"{mib:.1f} MiB in {seconds} s, pause {pause_ms} ms"
    off = {name: by for name, by in (forecast["off"] or {}).items() if by is not None}
    said = ", ".join(f"{name} {abs(by):.0%} too {'much' if by > 0 else 'little'}" for name, by in off.items() if by)
    return [("expected", amounts + (f": {said}" if said else ""))]


def _slowed_rows(percent: int, felt: Felt) -> list[tuple[str, str]]:
    """What clients pay for a copy that converges."""
    longest = f"; the longest round trip meanwhile: {felt.during.max} ms" if felt.during.max is not None else ""
    return [("guest slowed down", f"by up to {percent} %, so that its copy converged{longest}")] if percent else []


def _verdicts(figures: dict[str, Any]) -> str:
    """How many of each, and of how many that is all that is known."""
    number = sum(figures["only_counted"].values())
    return told(figures["verdicts"]) + (f"; {number} of these are only counted, and not listed" if number else "")


def _spreads(felt: Felt) -> list[tuple[str, Any]]:
    return [("before", felt.before), ("during", felt.during), ("after", felt.after)]
