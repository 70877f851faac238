"""sites, check, migrate, connections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from vmacro import wiring
from vmacro.cli import interrupts, render, telling
from vmacro.errors import ConfigurationError
from vmacro.inventory import Settings
from vmacro.model.facts import Connection
from vmacro.model.moves import Ending, Finding
from vmacro.planning.checks import blockers
from vmacro.planning.doctor import merged
from vmacro.planning.handoffs import HANDOFFS, SEAMLESS
from vmacro.planning.request import Request
from vmacro.planning.seamless import amount
from vmacro.rtt import report as rtt_report
from vmacro.services import report as reports
from vmacro.services.moves import Checked, Control, Moves, Report
from vmacro.services.survey import HostState, connections_of, overview
from vmacro.wire.agent_verbs import MAX_CONNECTIONS


def _found(given: Path | None) -> Path:
    """Whoever named none is told whose guests are looked at, or moved: the one lab that is up may be anybody's."""
    found = wiring.find_inventory(given)
    if given is None and found != wiring.SYSTEM_INVENTORY:
        render.warn(f"vmacro: no inventory is named: taking that of the one lab that is up: {found}")
    return found


InventoryOption = Annotated[
    Path | None,
    typer.Option(
        "--inventory",
        "-i",
        envvar="VMACRO_INVENTORY",
        callback=_found,
        help="TOML inventory; default: the system's, or that of the one lab that is up, which is told",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on standard output, events as lines")]
GuestArgument = Annotated[str, typer.Argument(help="a guest of the inventory")]
ToOption = Annotated[str, typer.Option("--to", help="the site to move to, or one host of it: SITE/HOST")]
HandoffOption = Annotated[str, typer.Option(help=f"how connections get to the new address: {', '.join(HANDOFFS)}")]
ReportOption = Annotated[Path | None, typer.Option("--report", help="folder; default report/MOVE_ID")]
SAMPLE = 100  # connections that are shown without --all
LossOption = Annotated[bool, typer.Option("--allow-connection-loss", help="move even if connections are cut")]


def sites(inventory: InventoryOption = None, json: JsonOption = False) -> None:
    """Sites, their hosts, and the guests that run there. Exit code 1 if no host at all could be asked."""
    settings = wiring.load(inventory)
    with wiring.opened(settings) as world:
        states = overview(settings.inventory, world)
    rows = [_of_host(state) for state in states]
    columns = ("site", "host", "hypervisor", "free MiB", "certificate days", "guests", "trouble")
    if json:
        render.as_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        render.table(render.rows("", columns, rows))
    raise typer.Exit(0 if any(state.facts is not None for state in states) else 1)


def check(
    guest: Annotated[str, typer.Argument(metavar="GUEST|[SITE]", help="a guest; with --all, where guests are")] = "",
    to: ToOption = "",
    everybody: Annotated[bool, typer.Option("--all", help="all guests, or those of SITE; to all other sites")] = False,
    handoff: HandoffOption = SEAMLESS,
    allow_connection_loss: LossOption = False,
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """Everything that stands against a move, all at once. Changes nothing; exit code 3 if something blocks."""
    settings = wiring.load(inventory)
    if everybody:
        raise typer.Exit(_check_all(settings, guest, to, handoff, allow_connection_loss, json))
    if not guest or not to:
        raise ConfigurationError("check: which guest, and where to?", "vmacro check GUEST --to SITE; or check --all")
    request = wiring.request(settings, guest, to, handoff, **_loss(allow_connection_loss))
    with _to_look(settings) as moves:
        checked = moves.check(request)
    if json:
        render.as_json([asdict(f) for f in checked.findings])
    else:
        show_findings(checked.findings, f"nothing stands against moving {guest} to {checked.host}")
        render.say(f"to {checked.host}, chosen because: {checked.because}")
        if checked.legs:
            render.say(f"legs by {checked.legs}")
        if checked.copy:
            render.say(f"compression {checked.copy}")
        if checked.forecast:
            render.say(f"the copy: {checked.forecast}")
        if checked.datagrams:
            render.say(f"datagrams: {checked.datagrams}")
    raise typer.Exit(3 if checked.blocked else 0)


def _check_all(settings: Settings, at: str, to: str, handoff: str, may_lose: bool, json: bool) -> int:
    """Each guest, and what it met; what stands against several of them is told once. Returns the exit code."""
    if at:
        wiring.site_named(settings, at)
    requests = wiring.requests(settings, to, handoff, **_loss(may_lose))
    with _to_look(settings) as moves:
        checked = moves.check_all(requests, at)
    if json:
        render.as_json([{"guest": r.guest.name, "site": r.destination.name, **_plain(c)} for r, c in checked])
    elif not checked:
        render.say(f"no guest is {'at ' + at if at else 'elsewhere'}")
    else:
        rows = [(r.guest.name, f"{r.destination.name}/{c.host}", *_codes(c)) for r, c in checked]
        render.table(render.rows("", ("guest", "to", "blockers", "warnings"), rows))
        show_findings(merged(f for _, c in checked for f in c.findings), "nothing stands against any of these moves")
    return 3 if any(c.blocked for _, c in checked) else 0


def _plain(checked: Checked) -> dict[str, Any]:
    return {"blocked": checked.blocked, **asdict(checked)}


def _codes(checked: Checked) -> tuple[str, str]:
    """Of blockers and of warnings."""
    stops = dict.fromkeys(f.code for f in blockers(checked.findings))
    rest = dict.fromkeys(f.code for f in checked.findings if not blockers([f]))
    return ", ".join(stops), ", ".join(rest)


@contextmanager
def _to_look(settings: Settings) -> Iterator[Moves]:
    wiring.enter(settings)
    log = telling.event_log(settings)
    with wiring.drivers(settings) as worlds, wiring.moves(settings, worlds, log) as moves:
        yield moves


def connections(
    guest: GuestArgument,
    every: Annotated[bool, typer.Option("--all", help="every one; else the first 100, or 2048 as JSON")] = False,
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """The guest's connections: which follow it to a new address, and by which subflows they run."""
    settings = wiring.load(inventory)
    wanted = wiring.guest_named(settings, guest)
    wiring.see_that_nobody_moves(settings, guest)  # who asks the agent would cut off who moves it
    with wiring.opened(settings) as world:
        seen = connections_of(settings.inventory, wanted, world, every)
    if seen.agent is not None and seen.agent.claim is not None:
        claim = seen.agent.claim
        render.warn(f"guest {guest}: move {claim.move} of {claim.by or 'somebody'} is under way")
    if seen.unasked:
        render.warn(f"guest {guest}: its clients could not be asked whether they would follow: {seen.unasked}")
    if json:
        render.as_json([asdict(c) for c in seen.connections])
        return
    some = seen.connections if every else seen.connections[:SAMPLE]
    asked = not seen.unasked
    old = seen.agent.extra_addresses if seen.agent is not None else ()
    if old and any(c.mptcp and not c.willing and any(s.joined for s in c.subflows) for c in seen.connections):
        render.warn(f"old addresses take slots at its clients: {', '.join(old)}; those that nobody needs: vmacro carry")
    rows = [(c.key, c.client, "mptcp" if c.mptcp else "tcp", _follows(c, asked), _subflows(c)) for c in some]
    note = _by_class(seen.connections) if len(some) < len(seen.connections) else ""
    render.table(render.rows("", ("token", "client", "transport", "follows", "subflows"), rows, note))


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
    source; 5 moved, work remains or connections were lost; 6 uncertain, a person must look.
    """
    bounds: dict[str, float | None] = {
        "bandwidth_mib_s": bandwidth_mib_s,
        "max_downtime_ms": max_downtime_ms,
        "copy_timeout_s": copy_timeout_s,
        "remove_source_disks": remove_source_disks,
    }
    chosen = {k: v for k, v in bounds.items() if v is not None} | _loss(allow_connection_loss)
    settings = wiring.load(inventory)
    request = wiring.request(settings, guest, to, handoff, **chosen)
    raise typer.Exit(perform(settings, replace(request, take_over=take_over), report_dir, json))


def perform(settings: Settings, request: Request, report_dir: Path | None, json: bool) -> int:
    """The move and its report; returns the exit code."""
    with under_control(settings, json) as (moves, control):
        report = moves.migrate(request, control, lambda move_id: report_dir or wiring.REPORTS / move_id)
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
            wiring.moves(settings, worlds, log) as moves,
        ):
            yield moves, control


def _loss(allowed: bool) -> dict[str, Any]:
    """The policy's word stands, unless the operator allows more."""
    return {"allow_connection_loss": True} if allowed else {}


def _of_host(state: HostState) -> tuple[object, ...]:
    host, facts = state.host, state.facts
    if facts is None:
        return host.site, host.name, "", None, None, "", state.trouble
    version = f"{facts.hypervisor} {'.'.join(map(str, facts.hypervisor_version))}"
    left = facts.certificate_days_left
    days = None if left is None else round(left)
    return host.site, host.name, version, facts.free_memory_mib, days, ", ".join(state.guests), ""


def show_findings(findings: Sequence[Finding], if_none: str) -> None:
    """Print findings, each with its hint; `if_none` is said if there are none."""
    if not findings:
        render.say(if_none)
    for finding in findings:
        colour = "red" if finding in blockers([finding]) else "yellow"
        text = f" {finding.code}: {finding.subject}: {finding.message}"
        hint = f"\n  hint: {finding.hint}" if finding.hint else ""
        render.out.print(Text.assemble((finding.severity.value, colour), render.literal(text + hint)))


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


def _follows(connection: Connection, asked: bool) -> str:
    if not connection.mptcp:
        return "no: plain TCP"
    if connection.willing:
        return "yes"
    if not asked:
        return "not known"
    joined = any(s.joined for s in connection.subflows)
    return "not now: its client's slots are taken" if joined else "no: refuses ADD_ADDR"


def _by_class(found: Sequence[Connection]) -> str:
    mptcp, willing = sum(c.mptcp for c in found), sum(c.willing for c in found)
    joined = sum(any(s.joined for s in c.subflows) for c in found)
    least = "at least " if len(found) >= MAX_CONNECTIONS else ""
    kinds = f"{len(found) - mptcp} of plain TCP, {mptcp} of MPTCP, of which {willing} follow and {joined} have joined"
    return f"{least}{len(found)} connections: {kinds}; each: --all"


def _subflows(connection: Connection) -> str:
    return ", ".join(f"{s.local}:{s.local_port}{' backup' if s.backup else ''}" for s in connection.subflows)
