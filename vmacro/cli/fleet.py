"""evacuate, drain, restore, worker, batch: many guests at once."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from sqlalchemy.exc import SQLAlchemyError

from vmacro import crews, moving, wiring
from vmacro.cli import batch_plan, batch_view, render, telling
from vmacro.cli import metrics as serving
from vmacro.cli.options import InventoryOption, JsonOption
from vmacro.crews import Working
from vmacro.errors import ConfigurationError, JournalError, TakenOverError, VmacroError, reason_of
from vmacro.inventory import Settings
from vmacro.model.batches import LATEST_S, Batch, Purpose, Wish
from vmacro.model.events import Event
from vmacro.services import batch_report
from vmacro.services.batches import Batches, BatchProgress
from vmacro.services.event_log import DatabaseEventLog, everything

batch = typer.Typer(help="Batches: what evacuate, drain, restore and follow have begun.", no_args_is_help=True)
POLL_S = 0.3
SHOWN = 40  # guests that moved well, in a report on a terminal
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

ToOption = Annotated[
    list[str] | None, typer.Option("--to", help="SITE or SITE/HOST, several times; default: all others")
]
DeadlineOption = Annotated[
    str, typer.Option("--deadline", help="nothing begins after it: 90m, 2h, or 2026-11-28T04:00 (local time)")
]
DryOption = Annotated[bool, typer.Option("--dry-run", help="the plan alone; exit code 3 if a guest would stay")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]
DetachOption = Annotated[bool, typer.Option("--detach", help="leave the work to `vmacro worker`, and return")]
BatchArgument = Annotated[str, typer.Argument(metavar="[BATCH]", help="default: the one that goes on")]
ShownArgument = Annotated[str, typer.Argument(metavar="[BATCH]", help="default: the one that goes on, else the last")]


def evacuate(
    site: Annotated[str, typer.Argument(help="the site that is to be empty")],
    to: ToOption = None,
    deadline: DeadlineOption = "",
    dry_run: DryOption = False,
    yes: YesOption = False,
    detach: DetachOption = False,
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """Move all guests of a site elsewhere: a plan first, then many moves at once. Exit code 0: the site is empty; 5: a
    guest stays, which is named.

    The site is in maintenance from then on, until `vmacro restore`. Ctrl-C pauses: nothing more begins.
    """
    settings = wiring.load(inventory)
    wiring.site_named(settings, site)
    until_s = _deadline_s(deadline)
    _perform(settings, lambda b: b.plan_evacuation(site, to or (), until_s), dry_run, yes, detach, json)


def drain(
    host: Annotated[str, typer.Argument(help="the host that is to be empty; also SITE/HOST")],
    to: ToOption = None,
    deadline: DeadlineOption = "",
    dry_run: DryOption = False,
    yes: YesOption = False,
    detach: DetachOption = False,
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """Move all guests of a host to other sites; as `vmacro evacuate`."""
    settings, until_s = wiring.load(inventory), _deadline_s(deadline)
    _perform(settings, lambda b: b.plan_drain(host, to or (), until_s), dry_run, yes, detach, json)


def restore(
    subject: Annotated[str, typer.Argument(metavar="SITE|HOST", help="what was emptied")],
    deadline: DeadlineOption = "",
    dry_run: DryOption = False,
    yes: YesOption = False,
    detach: DetachOption = False,
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """End the maintenance of a site or host, and bring back the guests that were moved from it."""
    settings, until_s = wiring.load(inventory), _deadline_s(deadline)
    _perform(settings, lambda b: b.plan_restore(subject, until_s), dry_run, yes, detach, json)


def worker(
    metrics: Annotated[str, typer.Option(help="serve Prometheus metrics at ADDRESS:PORT")] = "",
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """Carry out batches, with all other workers of the same journal, until SIGTERM or Ctrl-C: then nothing more begins,
    and what is under way goes on to its end. A second one undoes what can be undone."""
    settings, asked = wiring.load(inventory), Asked()
    wiring.enter(settings)
    with ExitStack() as stack:
        log, publish = stack.enter_context(telling.told(settings, json))
        measured = serving.Metrics()
        worlds = stack.enter_context(wiring.drivers(settings))
        stack.enter_context(asked.heeded())
        made = crews.working(settings, worlds, log, publish, render.warn, watches=(measured,))
        working = stack.enter_context(made)
        stack.enter_context(serving.served(metrics, measured, working))
        render.warn(f"{working.name}: works on batches")
        while not (asked.times or working.stopped.is_set()):
            time.sleep(POLL_S)
        leave(working, asked)
    if working.stopped.is_set():
        raise typer.Exit(TakenOverError.exit_code)


@batch.command("list")
def batch_list(inventory: InventoryOption = None, json: JsonOption = False) -> None:
    """Batches so far, the newest first, and what is in maintenance."""
    with _looking(wiring.load(inventory)) as (batches, _):
        found = [batches.progress(b.batch_id) for b, _ in batches.newest()]
        closed = [m.text for m in batches.maintenance()]
    columns = ("batch", "purpose", "of", "began", "wanted", "moved", "not moved", "stay", "operator")
    rows = [
        (
            p.batch.batch_id,
            p.batch.purpose.value,
            p.batch.subject,
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(p.batch.made_s)),
            p.wish.value,
            p.moved,
            p.unmoved,
            len(p.batch.stays),
            p.batch.operator,
        )
        for p in found
    ]
    if json:
        render.as_json({"batches": [dict(zip(columns, row, strict=True)) for row in rows], "maintenance": closed})
        return
    render.table(render.rows("", columns, rows, "; ".join(closed)))


@batch.command("show")
def batch_show(name: ShownArgument = "", inventory: InventoryOption = None, json: JsonOption = False) -> None:
    """What has become of each move of a batch; with --json everything that its report has."""
    with _looking(wiring.load(inventory)) as (batches, log):
        batch_id = name or batches.the_one_to_show()
        figures = batch_report.summary(batches.progress(batch_id), _story(log, batch_id))
    if json:
        render.as_json(figures)
        return
    for table in batch_report.tables(figures):
        render.table(table)


@batch.command("watch")
def batch_watch(name: BatchArgument = "", inventory: InventoryOption = None, json: JsonOption = False) -> None:
    """Look on while workers carry a batch out; Ctrl-C ends the looking alone."""
    with _looking(wiring.load(inventory)) as (batches, log):
        progress = batches.progress(name or batches.the_open_one())
        _watch(batches, log, progress.batch, json, lambda: False)
        raise typer.Exit(_code(batches.progress(progress.batch.batch_id)))


@batch.command("pause")
def batch_pause(name: BatchArgument = "", inventory: InventoryOption = None) -> None:
    """Nothing more of a batch begins; what is under way goes on to its end."""
    _wanted(inventory, name, Wish.PAUSE, "paused; vmacro batch resume goes on with it")


@batch.command("resume")
def batch_resume(
    name: BatchArgument = "",
    detach: DetachOption = False,
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """Go on with a batch that was paused, or whose workers have all died."""
    settings = wiring.load(inventory)
    carry_on(settings, name, detach, json)


@batch.command("abort")
def batch_abort(name: BatchArgument = "", inventory: InventoryOption = None) -> None:
    """Nothing more of a batch begins, ever; what is under way is undone where it can be, else finished."""
    _wanted(inventory, name, Wish.ABORT, "aborted; what its workers have under way ends in good order")


class Asked:
    """How often a signal has asked this process to end. The handler does nothing else: it may come at any moment."""

    def __init__(self) -> None:
        self.times = 0

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """While this is open."""

        def on_signal(_number: int, _frame: object) -> None:
            self.times += 1

        previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _perform(
    settings: Settings, plan: Callable[[Batches], Batch], dry_run: bool, yes: bool, detach: bool, json: bool
) -> None:
    with _looking(settings) as (batches, _):
        made = plan(batches)
        if json and dry_run:
            render.as_json(asdict(made))
        elif not json:
            batch_plan.show(made)
        if dry_run:
            raise typer.Exit(3 if made.stays or batch_plan.is_late(made) else 0)
        if not made.moves:
            render.warn("no guest can move now" if made.stays else "there is nothing to move")
            if made.stays and made.purpose != Purpose.RESTORE:  # which ends the maintenance all the same
                raise typer.Exit(3)
        if not yes and not (render.out.is_terminal and typer.confirm("Begin?")):
            raise ConfigurationError("nothing was begun", "--yes, where nobody can be asked")
        batches.begin(made)
    carry_on(settings, made.batch_id, detach, json, begun=True)


def carry_on(settings: Settings, name: str, detach: bool, json: bool, begun: bool = False) -> None:
    """Have a batch carried out, here as well unless `detach`; exits with its code. `begun`: just now, so that others
    may have ended it already."""
    if detach and begun:
        render.say(f"{name}: is left to workers: vmacro batch watch")
        return
    if detach:
        _wanted_of(settings, name, Wish.RUN, "is left to workers: vmacro batch watch")
        return
    wiring.enter(settings)
    asked = Asked()
    with ExitStack() as stack:
        log = stack.enter_context(telling.event_log(settings))
        worlds = stack.enter_context(wiring.drivers(settings))
        stack.enter_context(asked.heeded())
        working = stack.enter_context(crews.working(settings, worlds, log, log.append, render.warn))
        batches = stack.enter_context(crews.batches(settings, working.moves, log.append))
        batch_id = name or batches.the_open_one()
        progress = batches.progress(batch_id)
        if progress.wish != Wish.RUN and not (begun and progress.wish == Wish.ENDED):
            batches.want(batch_id, Wish.RUN)
        ended = _watch(batches, log, progress.batch, json, lambda: asked.times > 0)
        if not ended:
            paused = pause(batches, batch_id)
            render.warn("what is under way goes on to its end; once more Ctrl-C undoes it where it can be")
            leave(working, asked)
            if paused:
                hint = f"go on with it: vmacro batch resume {batch_id}; or give it up: vmacro batch abort {batch_id}"
                render.warn(hint)
        progress = batches.progress(batch_id)
        figures, trouble = batch_report.write(moving.REPORTS / batch_id, progress, _story(log, batch_id))
    _show_report(figures, trouble, json, batch_id)
    raise typer.Exit(_code(progress))


def pause(batches: Batches, batch_id: str) -> bool:
    """Whether it is paused. Somebody else may have ended or aborted it, and the journal may be out of reach: that keeps
    nobody from leaving."""
    try:
        batches.want(batch_id, Wish.PAUSE)
    except (VmacroError, SQLAlchemyError) as error:
        render.warn(f"batch {batch_id}: is not paused: {reason_of(error)}")
        return False
    render.warn(f"{batch_id}: paused")
    return True


def leave(working: Working, asked: Asked) -> None:
    """Begin nothing more. What is under way goes on to its end, unless somebody asks a second time."""
    working.crew.leave()
    cancelled = False
    while working.crew.under_way:
        if asked.times > 1 and not cancelled:
            cancelled = True
            working.crew.cancel()
        time.sleep(POLL_S)


def _watch(batches: Batches, log: DatabaseEventLog, made: Batch, json: bool, stopped: Callable[[], bool]) -> bool:
    """Show what happens until the batch ends; whether it has. A database that does not answer ends no watching: moves
    go on meanwhile."""
    view, after, told = batch_view.View(made.batch_id, len(made.moves)), 0, False
    with batch_view.shown(view, json) as show:
        while not stopped():
            try:
                ended = made.batch_id not in batches.wishes()
                after, events = batch_view.new_events(log, after)
            except (SQLAlchemyError, JournalError) as error:
                if not told:
                    render.warn(f"journal: {reason_of(error)}; looking again")
                told, ended, events = True, False, []
            show(events)
            if ended and not events:
                return True
            time.sleep(POLL_S)
    return False


@contextmanager
def _looking(settings: Settings) -> Iterator[tuple[Batches, DatabaseEventLog]]:
    wiring.enter(settings)
    with ExitStack() as stack:
        log = stack.enter_context(telling.event_log(settings))
        worlds = stack.enter_context(wiring.drivers(settings))
        moves = stack.enter_context(moving.moves(settings, worlds, log))
        yield stack.enter_context(crews.batches(settings, moves, log.append)), log


def _wanted(inventory: InventoryOption, name: str, wish: Wish, text: str) -> None:
    _wanted_of(wiring.load(inventory), name, wish, text)


def _wanted_of(settings: Settings, name: str, wish: Wish, text: str) -> None:
    with _looking(settings) as (batches, _):
        batch_id = name or batches.the_open_one()
        batches.want(batch_id, wish)
    render.say(f"{batch_id}: {text}")


def _story(log: DatabaseEventLog, batch_id: str) -> list[Event]:
    return [event for _, event in everything(log, batch_id)]


def _show_report(figures: dict[str, Any], trouble: str, json: bool, batch_id: str) -> None:
    if trouble:
        render.warn(trouble)
    if json:
        render.as_json(figures)
        return
    for table in batch_report.tables(figures, SHOWN):
        render.table(table)
    render.say(f"report: {moving.REPORTS / batch_id}/report.html")


def _code(progress: BatchProgress) -> int:
    return 0 if not progress.unmoved and not progress.batch.stays else 5


def _deadline_s(text: str) -> float:
    """In seconds since 1970; 0: none. Raises ConfigurationError."""
    if not text:
        return 0.0
    number, unit, now_s = text[:-1], _UNITS.get(text[-1]), time.time()
    try:
        if unit is not None and re.fullmatch(r"[0-9]{1,12}", number):
            found = now_s + int(number) * unit
        else:
            found = datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ConfigurationError(f"--deadline {text[:40]!r}: no time", "90m, 2h, or 2026-11-28T04:00") from None
    if not now_s < found < LATEST_S:
        when = "has passed" if found <= now_s else "is too far away"
        raise ConfigurationError(f"--deadline {text!r}: {when}", "a time to come, such as 2h")
    return found
