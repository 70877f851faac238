"""sites, check, connections: what only looks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.text import Text

from vmacro import wiring
from vmacro.cli import render
from vmacro.cli.options import GuestArgument, HandoffOption, InventoryOption, JsonOption, LossOption, ToOption, loss
from vmacro.errors import ConfigurationError
from vmacro.inventory import Settings
from vmacro.model.facts import Connection
from vmacro.model.moves import Finding
from vmacro.planning.checks import blockers
from vmacro.planning.doctor import merged
from vmacro.planning.handoffs import SEAMLESS
from vmacro.planning.request import Request
from vmacro.services.checker import Checked, Checker
from vmacro.services.connections import connections_of
from vmacro.services.overview import HostState, overview
from vmacro.wire.agent_verbs import MAX_CONNECTIONS

SAMPLE = 100  # connections that are shown without --all


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
    guest: Annotated[str, typer.Argument(metavar="GUEST|SITE", help="a guest; with --all, where guests are")] = "",
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
    request = wiring.request(settings, guest, to, handoff, **loss(allow_connection_loss))
    with _to_look(settings) as checker:
        checked = checker.check(request)
    if json:
        render.as_json(_plain(request, checked))
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
    if at and settings.inventory.guest(at) is not None and settings.inventory.site(at) is None:
        raise ConfigurationError(f"check --all {at}: is a guest", f"vmacro check {at} --to SITE; or a site, or none")
    if at:
        wiring.site_named(settings, at)
    requests = wiring.requests(settings, to, handoff, **loss(may_lose))
    with _to_look(settings) as checker:
        checked = checker.check_all(requests, at)
    if json:
        render.as_json([_plain(request, found) for request, found in checked])
    elif not checked:
        render.say(f"no guest is {'at ' + at if at else 'elsewhere'}")
    else:
        rows = [(r.guest.name, f"{r.destination.name}/{c.host}", *_codes(c)) for r, c in checked]
        render.table(render.rows("", ("guest", "to", "blockers", "warnings"), rows))
        show_findings(merged(f for _, c in checked for f in c.findings), "nothing stands against any of these moves")
    return 3 if any(c.blocked for _, c in checked) else 0


def _plain(request: Request, checked: Checked) -> dict[str, Any]:
    """Of one guest as of many."""
    named = {"guest": request.guest.name, "site": request.destination.name}
    return {**named, "blocked": checked.blocked, **asdict(checked)}


def _codes(checked: Checked) -> tuple[str, str]:
    """Of blockers and of warnings."""
    stops = dict.fromkeys(f.code for f in blockers(checked.findings))
    rest = dict.fromkeys(f.code for f in checked.findings if not blockers([f]))
    return ", ".join(stops), ", ".join(rest)


@contextmanager
def _to_look(settings: Settings) -> Iterator[Checker]:
    wiring.enter(settings)
    with wiring.drivers(settings) as worlds, wiring.checker(settings, worlds) as checker:
        yield checker


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
