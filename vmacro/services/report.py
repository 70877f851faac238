"""What a move leaves behind for people: summary.json, events.ndjson, rtt.png, report.html."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vmacro.model.events import Event
from vmacro.model.moves import Outcome, Plan
from vmacro.rtt import recording as recordings
from vmacro.rtt import report
from vmacro.rtt.report import Felt, Span, Table
from vmacro.rtt.samples import Marker, Recording


def spans(events: Iterable[Event]) -> list[Span]:
    """The phases as they were, with the guest's pause cut out of the copy by libvirt's own events."""
    began: dict[str, int] = {}
    ended: dict[str, int] = {}
    paused = resumed = 0
    for event in events:
        phase = str(event.data.get("phase", ""))
        if event.kind == "phase.begin":
            began[phase] = event.wall_ns
        elif event.kind in ("phase.end", "phase.failed"):
            ended[phase] = event.wall_ns
        elif event.kind == "domain":
            side, name = event.data.get("side"), event.data.get("event")
            if (side, name) == ("source", "suspended"):
                paused = event.wall_ns
            elif (side, name) == ("destination", "resumed"):
                resumed = event.wall_ns
    found = []
    for phase in ("copy", "arrive", "settle"):
        if phase in began and phase in ended:
            end = paused if phase == "copy" and began[phase] < paused else ended[phase]
            found.append(Span(phase, began[phase], end))
    if 0 < paused < resumed:
        found.insert(1, Span("guest paused", paused, resumed))
    return found


def summary(plan: Plan, outcome: Outcome, felt: Felt | None) -> dict[str, Any]:
    statistics, arrival = outcome.statistics, outcome.arrival
    figures: dict[str, Any] = {
        "move_id": plan.move_id,
        "ending": outcome.ending.value,
        "reason": outcome.reason,
        "exit_code": outcome.exit_code,
        "guest": plan.guest.name,
        "source": plan.source.name,
        "destination": plan.destination.name,
        "handoff": plan.handoff,
        "hypervisor": plan.hypervisor,
        "accelerator": plan.accelerator,
        "old_address": arrival.old if arrival else plan.address,
        "new_address": arrival.new if arrival else None,
        "seen_by": arrival.seen_by if arrival else None,
        "lease_ms": arrival.lease_ms if arrival else None,
        "guest_downtime_ms": statistics.downtime_ms if statistics else None,
        "bytes_transferred": statistics.bytes_transferred if statistics else None,
        "copy_ms": statistics.elapsed_ms if statistics else None,
        "migration_wall_s": outcome.wall_s,
        "connections": [
            {
                "token": c.key,
                "client": c.client,
                "mptcp": c.mptcp,
                "kept": c.kept,
                "followed": c.followed,
                "carried": c.carried,
            }
            for c in outcome.connections
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
        }
    return figures


def write(folder: Path, plan: Plan, outcome: Outcome, events: list[Event], recorded: Path | None) -> dict[str, Any]:
    """All files into one folder; returns the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    phases = spans(events)
    recording = recordings.read(recorded) if recorded is not None else None
    felt = report.felt(recording, phases) if recording is not None else None
    figures = summary(plan, outcome, felt)
    (folder / "summary.json").write_text(json.dumps(figures, indent=2) + "\n")
    (folder / "events.ndjson").write_text("".join(json.dumps(asdict(e)) + "\n" for e in events))
    if recording is not None and felt is not None:
        with (folder / "rtt.ndjson").open("a") as out:
            for span in phases:
                for name, at in ((f"{span.name} begins", span.start_ns), (f"{span.name} ends", span.end_ns)):
                    out.write(recordings.marker_line(Marker(name, at)))
        _draw(folder, recording, phases, figures, felt)
    return figures


def _draw(folder: Path, recording: Recording, phases: list[Span], figures: dict[str, Any], felt: Felt) -> None:
    title = f"{figures['guest']}: {figures['source']} to {figures['destination']}, {figures['handoff']}"
    report.draw(recording, phases, title, folder / "rtt.png", "png")
    (folder / "report.html").write_text(report.page(recording, phases, title, tables(figures, felt)))


def tables(figures: dict[str, Any], felt: Felt) -> list[Table]:
    """The figures as a person reads them, for terminal and page alike."""
    rows = [(name, s.count, s.min, s.median, s.p95, s.p99, s.max, s.jitter) for name, s in _spreads(felt)]
    columns = ("", "requests", "min", "median", "p95", "p99", "max", "jitter")
    facts = ("token", "client", "kept", "followed", "carried")
    connections = tuple(tuple(c[fact] for fact in facts) for c in figures["connections"])
    felt_rows = (
        ("outage", f"{felt.outage.ms:.0f} ms"),
        ("guest's own downtime", f"{figures['guest_downtime_ms']} ms"),
        ("until round trips were steady again", f"{felt.recover_ms} ms"),
        ("requests sent, lost, out of order", f"{felt.totals.sent}, {felt.totals.lost}, {felt.totals.reordered}"),
    )
    move_rows = (
        ("address", f"{figures['old_address']} to {figures['new_address']} (seen by {figures['seen_by']})"),
        ("move, start to settled", f"{figures['migration_wall_s']} s"),
        ("memory sent", f"{(figures['bytes_transferred'] or 0) / (1 << 20):.1f} MiB"),
        ("hypervisor", f"{figures['hypervisor']}, {figures['accelerator']}"),
        ("ended", figures["ending"] + (f": {figures['reason']}" if figures["reason"] else "")),
    )
    return [
        Table("Round trips (ms)", columns, tuple(rows)),
        Table("What the client felt", ("", ""), felt_rows, f"Outage: {report.OUTAGE_MEANS}."),
        Table("Connections", facts, connections),
        Table("The move", ("", ""), move_rows),
    ]


def _spreads(felt: Felt) -> list[tuple[str, Any]]:
    return [("before", felt.before), ("during", felt.during), ("after", felt.after)]
