"""signals, simulate: what a policy goes by, and what it would have done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from vmacro import policies, private, wiring
from vmacro.cli import render
from vmacro.cli.options import JsonOption
from vmacro.cli.places import PageOption, png_option
from vmacro.errors import ConfigurationError, PlanRejectedError
from vmacro.fleet.assemble import Told, whole_horizon
from vmacro.fleet.feeds import COMPUTED
from vmacro.fleet.nouns import Horizon
from vmacro.fleet.policy import FollowPolicy, Source
from vmacro.fleet.signals import Kind, Signal, judge, slot_means
from vmacro.fleet.simulation import Simulation, Simulator
from vmacro.services import fleet_report, known

PolicyArgument = Annotated[Path, typer.Argument(metavar="POLICY", help="a TOML file: docs/follow.md")]


def signals(
    policy: PolicyArgument,
    fetch: Annotated[bool, typer.Option("--fetch", help="fetch first what is older than it should be")] = False,
    json: JsonOption = False,
) -> None:
    """What a policy's signals say now, and whether they can be decided by. Exit code 3 if one cannot."""
    read, now = policies.load(policy), datetime.now(UTC)
    horizon = whole_horizon(read, now)
    looked = known.look(read, wiring.feeds(fetch), horizon, now)
    rows = [_signal_row(source, looked.known.signals[source.name], read, horizon, now) for source in read.sources]
    rows += [(name, "calendar", *_unknown(closed.trouble)) for name, closed in looked.known.calendars.items()]
    for (region, site), ms in looked.known.rtt_ms.items():
        says = (f"{ms:g} ms", "live", None, "") if isinstance(ms, float) else _unknown(ms)
        rows.append((f"round trips from {region} to {site}", "ms", *says))
    columns = ("signal", "is", "now", "state", "known ahead h", "why")
    if json:
        render.as_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        render.table(render.rows("", columns, rows))
    for name, trouble in looked.troubles:
        render.warn(f"{name}: not renewed: {trouble}")
    if any(row[3] not in ("live", "") for row in rows):
        raise typer.Exit(PlanRejectedError.exit_code)


def _signal_row(
    source: Source, told: Told, policy: FollowPolicy, horizon: Horizon, now: datetime
) -> tuple[object, ...]:
    if not isinstance(told, Signal):
        return (source.name, str(source.kind), *_unknown(told.message))
    judged = judge(told, horizon, now, policy.trust)
    (value, _), *_ = slot_means(told.readings, Horizon(now, 900, 1))
    ahead = len(judged.values) * horizon.slot_hours
    unit = f"{policy.currency} per kWh" if source.kind is Kind.PRICE else str(source.kind)
    return source.name, unit, None if value is None else round(value, 4), judged.state.value, ahead, judged.why


def _unknown(why: str) -> tuple[object, ...]:
    return None, "dead" if why else "live", None, why


def simulate(
    policy: PolicyArgument,
    days: Annotated[float, typer.Option(min=0.1, max=400, help="how long; of slots of an hour 41 at most")] = 30.0,
    begin: Annotated[
        str,
        typer.Option("--from", metavar="TIME", help="ISO 8601 with a zone; default: when recordings begin"),
    ] = "",
    seconds: Annotated[float, typer.Option(min=0, help="more for the solver, for the optimum in hindsight")] = 0.0,
    png: Annotated[Path | None, png_option("also draw guests over sites and time here")] = None,
    page: PageOption = None,
    json: JsonOption = False,
) -> None:
    """What a policy would have done on recorded signals, beside staying, simpler rules and the optimum. Asks no host,
    moves nothing, and fetches nothing."""
    read = policies.load(policy)
    start = _begin(begin) if begin else None
    found = _simulated(read, start, days, seconds)
    if any(finding.severity == "blocker" for finding in found.findings):
        _refuse(read, found)
    title = f"{policy.name}: {len(found.guests)} guests on {len(found.sites)} sites"
    if json:
        render.as_json(fleet_report.as_plain(found, read.currency))
    else:
        render.say(fleet_report.strips(found, min(render.out.width, 130)))
        for table in fleet_report.tables(found, read.currency):
            render.table(table)
    if png is not None:
        fleet_report.draw(found, title, private.touch(png), "png")
    if page is not None:
        private.write(page, fleet_report.page(found, title, read.currency))


def _simulated(policy: FollowPolicy, start: datetime | None, days: float, seconds: float) -> Simulation:
    feeds, any_time = wiring.feeds(fetch=False), Horizon(datetime(2000, 1, 1, tzinfo=UTC), 3600, 1)
    recorded = known.look(policy, feeds, any_time, None).known.signals
    for told in recorded.values():
        if not isinstance(told, Signal):
            raise ConfigurationError(f"{policy.path}: {told.message}", told.hint or "a simulation needs all recordings")
    start = start or _common_begin(policy, recorded)
    slot_s, slots = policy.timing.slot_s, policy.timing.slots
    ahead = Horizon(start.astimezone(policy.timing.zone), slot_s, round(days * 86_400 / slot_s) + slots)
    looked = known.look(policy, feeds, ahead, None)
    simulator = Simulator(policy, looked.known, start, days)
    if not render.err.is_terminal:
        render.warn(f"simulating {days:g} days of {len(policy.guests)} guests")
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeRemainingColumn(),
        console=render.err,
        transient=True,
        disable=not render.err.is_terminal,
    ) as bar:
        task = bar.add_task("simulating", total=None)
        return simulator.run(lambda n, of: bar.update(task, completed=n, total=of), time.monotonic, seconds)


def _common_begin(policy: FollowPolicy, told: Mapping[str, Told]) -> datetime:
    """When the last of its recordings begins, at a whole hour."""
    recorded = {s.name for s in policy.sources if s.format not in COMPUTED}
    firsts = [s.readings[0].begin for n, s in told.items() if n in recorded and isinstance(s, Signal) and s.readings]
    if not firsts:
        raise ConfigurationError(f"{policy.path}: nothing is recorded that says when to begin", "--from TIME")
    return max(firsts).replace(minute=0, second=0, microsecond=0)


def _begin(text: str) -> datetime:
    try:
        begin = datetime.fromisoformat(text)
    except ValueError:
        begin = None
    if begin is None or begin.tzinfo is None:
        raise ConfigurationError(f"--from {text!r}: is no time with a zone", "such as 2026-10-01T00:00+02:00")
    return begin


def _refuse(policy: FollowPolicy, found: Simulation) -> None:
    for finding in found.findings:
        render.warn(f"{finding.code}: {finding.subject}: {finding.message}")
        if finding.hint:
            render.warn(f"  hint: {finding.hint}")
    raise PlanRejectedError(f"{policy.path}: cannot be followed: nothing was decided")
