"""provision hosts; and the inventory as Ansible reads it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from vmacro.cli import render, wiring
from vmacro.cli.move import InventoryOption, JsonOption
from vmacro.errors import ConfigurationError
from vmacro.provisioning import ansible_inventory, runner, wheels
from vmacro.provisioning.runner import Options, Recap, Task

app = typer.Typer(help="Bring machines to what the inventory says, by the playbooks.", no_args_is_help=True)
QUIET = ("begins", "ok", "skipped")


@app.command()
def hosts(
    check: Annotated[bool, typer.Option("--check", help="say what would be done, and do nothing")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="keep differences of files in the log")] = False,
    tags: Annotated[
        str, typer.Option(help="only these, with commas: packages, system, tls, libvirt, firewall, host_side, network")
    ] = "",
    limit: Annotated[str, typer.Option(help="only these hosts, with commas")] = "",
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """Hypervisor hosts, from bare Debian 12 or 13 to ready to migrate. Idempotent."""
    settings = wiring.load(inventory)
    limited = tuple(x for x in limit.split(",") if x)
    for name in limited:
        if settings.inventory.host(name) is None:
            known = ", ".join(h.name for h in settings.inventory.hosts)
            raise ConfigurationError(f"host {name!r}: not in {settings.path}", f"known hosts: {known}")
    options = Options(check, diff, tuple(x for x in tags.split(",") if x), limited)
    folder = settings.orchestrator.state_dir / "provision" / time.strftime("%Y%m%d-%H%M%S")
    wheels.built()  # before we enter a network that may reach no index
    wiring.enter(settings)
    with _shown(json) as show:
        recap = runner.run(settings, "hosts", options, folder, show)
    if json:
        render.as_json({"folder": str(folder), "hosts": recap.counts})
    else:
        _show_recap(recap, check)


def inventory(inventory: InventoryOption = None) -> None:
    """The inventory as Ansible reads it, for ansible-playbook -i FILE playbooks/hosts.yml."""
    render.as_json(ansible_inventory.derived(wiring.load(inventory), wheels.built()))


@contextmanager
def _shown(json: bool) -> Iterator[Callable[[Task], None]]:
    if json:
        yield lambda task: render.as_json(asdict(task)) if task.kind != "begins" else None
    elif render.out.is_terminal:
        with _HostLines() as lines:
            yield lines.show
    else:
        yield lambda task: print(_line(task), flush=True) if task.kind not in QUIET else None


def _line(task: Task) -> str:
    return f"{task.host}: {task.kind}: {task.name}{': ' + task.said if task.said else ''}"


class _HostLines:
    """A line a host, with the task that it is at; what was changed or failed stays."""

    def __init__(self) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.fields[at]}"))
        self._progress = Progress(*columns, TimeElapsedColumn(), console=render.out, transient=True)
        self._lines: dict[str, TaskID] = {}

    def __enter__(self) -> _HostLines:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, task: Task) -> None:
        if task.host not in self._lines:
            self._lines[task.host] = self._progress.add_task(task.host, total=None, at="")
        self._progress.update(self._lines[task.host], at=task.name)
        if task.kind not in QUIET:
            render.out.print(_line(task), markup=False)


def _show_recap(recap: Recap, check: bool) -> None:
    kinds = ("ok", "changed", "skipped", "failed")
    rows = [(host, *(counts.get(k, 0) for k in kinds)) for host, counts in sorted(recap.counts.items())]
    note = f"{'nothing was changed: --check; ' if check else ''}kept in {recap.folder}"
    render.table(render.rows("", ("host", "ok", "would change" if check else "changed", *kinds[2:]), rows, note))
