"""sites, check, migrate, connections."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from vmacro.cli import render, wiring
from vmacro.errors import ClaimedError, ConfigurationError, VmacroError
from vmacro.inventory import Settings
from vmacro.model.events import Event
from vmacro.model.facts import Connection
from vmacro.model.moves import EXIT_CODES, Ending, Finding
from vmacro.model.nouns import Policy
from vmacro.planning.checks import blockers
from vmacro.planning.handoffs import HANDOFFS, SEAMLESS
from vmacro.planning.request import Request
from vmacro.rtt import recording as recordings
from vmacro.rtt import report as rtt_report
from vmacro.services import claims, measured, report
from vmacro.services.survey import survey

InventoryOption = Annotated[
    Path | None,
    typer.Option(
        "--inventory", "-i", envvar="VMACRO_INVENTORY", help="TOML inventory; default: the system's or the lab's"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on standard output, events as lines")]
GuestArgument = Annotated[str, typer.Argument(help="a guest of the inventory")]
ToOption = Annotated[str, typer.Option("--to", help="the site to move to")]
HandoffOption = Annotated[str, typer.Option(help=f"how connections get to the new address: {', '.join(HANDOFFS)}")]
ReportOption = Annotated[Path | None, typer.Option("--report", help="folder; default report/MOVE_ID")]
LossOption = Annotated[bool, typer.Option("--allow-connection-loss", help="move even if connections are cut")]


def sites(inventory: InventoryOption = None, json: JsonOption = False) -> None:
    """Sites, their hosts, and the guests that run there."""
    settings = wiring.load(inventory)
    rows: list[tuple[object, ...]] = []
    with wiring.opened(settings) as world:
        for host in settings.inventory.hosts:
            hypervisor = world.hypervisor(host)
            try:
                facts = hypervisor.facts()
                version = f"{facts.hypervisor} {'.'.join(map(str, facts.hypervisor_version))}"
                found = [(g.name, hypervisor.domain(g.domain)) for g in settings.inventory.guests]
                running = ", ".join(name for name, domain in found if domain is not None and domain.running)
                left = facts.certificate_days_left
                days = None if left is None else round(left)
                rows.append((host.site, host.name, version, facts.free_memory_mib, days, running, ""))
            except VmacroError as error:
                rows.append((host.site, host.name, "", None, None, "", error.message))
    columns = ("site", "host", "hypervisor", "free MiB", "certificate days", "guests", "trouble")
    if json:
        render.as_json([dict(zip(columns, row)) for row in rows])
    else:
        render.table(render.rows("", columns, rows))


def check(
    guest: GuestArgument,
    to: ToOption,
    handoff: HandoffOption = SEAMLESS,
    allow_connection_loss: LossOption = False,
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """Everything that stands against a move, all at once. Changes nothing; exit code 3 if something blocks."""
    settings, request = _request(inventory, guest, to, handoff, {"allow_connection_loss": allow_connection_loss})
    with wiring.opened(settings) as world:
        _, findings = measured.checked(settings.inventory, request, world, ask_clients=True)
    if json:
        render.as_json([asdict(f) for f in findings])
    else:
        show_findings(findings, f"nothing stands against moving {guest} to {to}")
    raise typer.Exit(3 if blockers(findings) else 0)


def connections(guest: GuestArgument, inventory: InventoryOption = None, json: JsonOption = False) -> None:
    """The guest's connections: which follow it to a new address, and by which subflows they run."""
    settings = wiring.load(inventory)
    wanted = wiring.guest_named(settings, guest)
    with wiring.opened(settings) as world:
        seen = survey(settings.inventory, wanted, world, ask_clients=True, ask_host_sides=False)
    if seen.agent is None:
        raise VmacroError(
            seen.agent_trouble or f"guest {guest}: runs nowhere, or has no agent channel", seen.agent_hint
        )
    if json:
        render.as_json([asdict(c) for c in seen.connections])
        return
    rows = [(c.key, c.client, "mptcp" if c.mptcp else "tcp", _follows(c), _subflows(c)) for c in seen.connections]
    render.table(render.rows("", ("token", "client", "transport", "follows", "subflows"), rows))


def migrate(
    guest: GuestArgument,
    to: ToOption,
    handoff: HandoffOption = SEAMLESS,
    report_dir: Annotated[
        Path | None, typer.Option("--report", help="folder for the report; default report/MOVE_ID")
    ] = None,
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
    source; 5 moved, work remains; 6 uncertain, a person must look.
    """
    bounds: dict[str, float | None] = {
        "bandwidth_mib_s": bandwidth_mib_s,
        "max_downtime_ms": max_downtime_ms,
        "copy_timeout_s": copy_timeout_s,
        "remove_source_disks": remove_source_disks,
    }
    chosen = {k: v for k, v in bounds.items() if v is not None} | {"allow_connection_loss": allow_connection_loss}
    settings, request = _request(inventory, guest, to, handoff, chosen)
    raise typer.Exit(perform(settings, replace(request, take_over=take_over), report_dir, json))


def perform(settings: Settings, request: Request, report_dir: Path | None, json: bool) -> int:
    """The move and its report; returns the exit code."""
    events: list[Event] = []

    def folder(move_id: str) -> Path:
        return report_dir or Path("report") / move_id

    with render.stream(json) as show:

        def publish(event: Event) -> None:
            events.append(event)
            show(event)

        with (
            wiring.claimed(settings, request.guest.name),
            wiring.interruptible(publish) as cancelled,
            wiring.opened(settings, publish, cancelled) as world,
            wiring.runner(settings, world) as run,
        ):
            _nothing_unfinished(settings, request.guest.name)
            done = measured.move(
                settings.inventory,
                request,
                world,
                run,
                lambda: wiring.new_move_id(request.guest),
                wiring.prober(settings, request.guest),
                folder,
            )
    target, recording = folder(done.plan.move_id), _readable(done.recording)
    figures = report.write(target, done.plan, done.outcome, events, recording)
    if json:
        render.as_json(figures)
    else:
        _show_report(figures, events, recording, target)
    return EXIT_CODES[done.outcome.ending]


def _readable(recording: Path | None) -> Path | None:
    """A prober elsewhere may have been cut off, or say anything: the move is what it is all the same."""
    try:
        if recording is not None:
            recordings.read(recording)
    except (recordings.RecordingError, OSError) as error:
        render.err.print(f"what was measured cannot be read: {error}", markup=False)
        return None
    return recording


def _nothing_unfinished(settings: Settings, guest: str) -> None:
    """A move that never ended, or left it uncertain where the guest is, comes first. Raises ClaimedError."""
    with wiring.archive(settings) as archive:
        for record in archive.unfinished(guest):
            move_id, by = record.plan.move_id, record.plan.operator or "somebody"
            began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.began_ms / 1000))
            if record.outcome is None or record.outcome.ending == Ending.UNCERTAIN:
                how = "has not ended, and nobody works on it" if record.outcome is None else "left it uncertain"
                text = f"guest {guest}: move {move_id}, begun by {by} at {began}, {how}; nothing was changed"
                raise ClaimedError(text, f"vmacro resume {move_id}, or vmacro abort {move_id}")


def _request(path: Path | None, guest: str, to: str, handoff: str, bounds: dict[str, Any]) -> tuple[Settings, Request]:
    settings = wiring.load(path)
    wanted, site = wiring.guest_named(settings, guest), wiring.site_named(settings, to)
    if handoff not in HANDOFFS:
        raise ConfigurationError(f"handoff {handoff!r}: unknown", f"known: {', '.join(HANDOFFS)}")
    kept = settings.inventory.policy
    bounds["allow_connection_loss"] = bounds["allow_connection_loss"] or kept.allow_connection_loss
    policy: Policy = replace(kept, **bounds)
    return settings, Request(wanted, site, handoff, policy, claims.operator())


def show_findings(findings: list[Finding], if_none: str) -> None:
    if not findings:
        render.out.print(if_none)
    for finding in findings:
        colour = "red" if finding in blockers([finding]) else "yellow"
        text = f"[{colour}]{finding.severity.value}[/{colour}] {finding.code}: {finding.subject}: {finding.message}"
        render.out.print(text + (f"\n  hint: {finding.hint}" if finding.hint else ""))


def _show_report(figures: dict[str, Any], events: list[Event], recorded: Path | None, folder: Path) -> None:
    if recorded is not None:
        recording, phases = recordings.read(recorded), report.spans(events)
        print(rtt_report.terminal_chart(recording, phases, width=min(render.out.width, 110)))
        for shown in report.tables(figures, rtt_report.felt(recording, phases)):
            render.table(shown)
    else:
        render.out.print(f"{figures['ending']}; no prober is configured for this guest, so nothing was measured")
    if figures["carried_addresses"]:
        addresses = ", ".join(figures["carried_addresses"])
        render.out.print(f"carried on for clients that cannot follow: {addresses}. `vmacro carry` closes it in the end")
    render.out.print(f"report: {folder}/report.html")


def _follows(connection: Connection) -> str:
    if not connection.mptcp:
        return "no: plain TCP"
    return "yes" if connection.willing else "no: refuses ADD_ADDR"


def _subflows(connection: Connection) -> str:
    return ", ".join(f"{s.local}:{s.local_port}{' backup' if s.backup else ''}" for s in connection.subflows)
