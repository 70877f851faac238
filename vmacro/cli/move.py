"""migrate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vmacro import moving, private, wiring
from vmacro.cli import interrupts, render, telling
from vmacro.cli.options import (
    GuestArgument,
    HandoffOption,
    InventoryOption,
    JsonOption,
    LossOption,
    ToOption,
    loss,
)
from vmacro.cli.places import ReportOption
from vmacro.errors import ConfigurationError
from vmacro.inventory import Settings
from vmacro.model.moves import Ending
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request
from vmacro.planning.seamless import amount
from vmacro.rtt import report as rtt_report
from vmacro.services import report as reports
from vmacro.services.moves import Control, Moves, Report


def migrate(
    guest: GuestArgument,
    to: ToOption,
    handoff: HandoffOption = SEAMLESS,
    report_dir: ReportOption = None,
    bandwidth_mib_s: Annotated[int | None, typer.Option(help="bound of the copy; 0: none")] = None,
    max_downtime_ms: Annotated[int | None, typer.Option(help="what QEMU aims at")] = None,
    copy_timeout_s: Annotated[float | None, typer.Option(help="give up and roll back after this long")] = None,
    allow_connection_loss: LossOption = False,
    remove_source_disks: Annotated[
        bool | None, typer.Option(help="whether its own disks go from the source once it is well elsewhere")
    ] = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="from a move whose orchestrator is lost for good")
    ] = False,
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """Move a running guest to another site, live, with its connections.

    Exit codes: 0 moved; 2 configuration; 3 rejected, nothing changed; 4 rolled back, it runs at the
    source; 5 moved, work remains or connections were lost; 6 uncertain, a person must look.
    """
    bounds: dict[str, float | None] = {
        "bandwidth_mib_s": bandwidth_mib_s,
        "max_downtime_ms": max_downtime_ms,
        "copy_timeout_s": copy_timeout_s,
        "remove_source_disks": remove_source_disks,
    }
    chosen = {k: v for k, v in bounds.items() if v is not None} | loss(allow_connection_loss)
    settings = wiring.load(inventory)
    request = wiring.request(settings, guest, to, handoff, **chosen)
    raise typer.Exit(perform(settings, replace(request, take_over=take_over), report_dir, json))


def perform(settings: Settings, request: Request, report_dir: Path | None, json: bool) -> int:
    """The move and its report; returns the exit code. Raises ConfigurationError where no report can be written."""
    place = report_dir or moving.REPORTS
    if why := private.why_no_folder(place):
        raise ConfigurationError(f"report {place}: {why}; nothing was contacted", "--report, a folder of your own")
    with under_control(settings, json) as (moves, control):
        report = moves.migrate(request, control, lambda move_id: report_dir or moving.REPORTS / move_id)
    show_troubles(report)
    if json:
        render.as_json(report.figures)
    else:
        _show_report(report)
    return report.outcome.exit_code


@contextmanager
def under_control(settings: Settings, json: bool) -> Iterator[tuple[Moves, Control]]:
    """One move at a time, shown as it goes; Ctrl-C cancels it."""
    wiring.enter(settings)
    with telling.told(settings, json) as (log, publish):
        control = Control(publish)
        with (
            interrupts.heeded(control.publish, control.cancel),
            wiring.drivers(settings) as worlds,
            moving.moves(settings, worlds, log) as moves,
        ):
            yield moves, control


def _show_report(report: Report) -> None:
    figures, outcome = report.figures, report.outcome
    if report.recording is not None:
        recording, phases = report.recording, reports.spans(report.events)
        print(rtt_report.terminal_chart(recording, phases, width=min(render.out.width, 110)))
        for shown in reports.tables(figures, rtt_report.felt(recording, phases)):
            render.table(shown)
    elif not report.recording_trouble:
        render.say("no prober is configured for this guest, so nothing was measured")
    show_ending(report)
    if outcome.carried:
        addresses = ", ".join(outcome.carried)
        whom = "for clients that cannot follow, or have yet to hear of the new address"
        render.say(f"carried on {whom}: {addresses}. `vmacro carry` closes it in the end")
    for flows in outcome.flows:
        became = f"carried: {amount(flows.after)} now" if flows.after.any else "none now"
        render.say(f"datagrams of {flows.address}: {amount(flows.before)} before the move; {became}")
    if not report.folder_trouble:
        render.say(f"report: {report.folder}/report.html")


def show_troubles(report: Report) -> None:
    """What was not measured or not written down; that changes no move."""
    for text in filter(None, (report.recording_trouble, report.folder_trouble)):
        render.warn(text)


def show_ending(report: Report) -> None:
    """Where the guest runs now, and why, if it is not what was asked for."""
    plan, outcome = report.plan, report.outcome
    where = plan.source if outcome.ending == Ending.ROLLED_BACK else plan.destination
    state = f"is {outcome.still}" if outcome.still else "runs"
    place = "" if outcome.ending == Ending.UNCERTAIN else f"; the guest {state} at {where.name}"
    reason = f": {outcome.reason}" if outcome.reason else ""
    render.say(f"{plan.move_id}: {outcome.ending.value}{place}{reason}")
    if outcome.hint:
        render.say(f"  hint: {outcome.hint}")
