"""provision hosts, guests, probes; and the inventory as Ansible reads it."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from vmacro import moving, wiring
from vmacro.cli import render
from vmacro.cli.options import InventoryOption, JsonOption
from vmacro.errors import ConfigurationError
from vmacro.inventory import Settings
from vmacro.provisioning import ansible_inventory, runner
from vmacro.provisioning.ansible_inventory import target_address
from vmacro.provisioning.runner import Options, Recap, Task
from vmacro.services.overview import leased_address

app = typer.Typer(help="Bring machines to what the inventory says, by the playbooks.", no_args_is_help=True)
# By playbook, the tags of its tasks.
TAGS = {
    "hosts": (
        *("packages", "system", "xen", "tls", "libvirt", "firewall"),
        *("host_side", "guard", "storage", "network"),
    ),
    "guests": ("packages", "agent", "servers"),
    "probes": ("responder", "prober"),
}
# What failed is told at the end, by the error.
QUIET = ("begins", "ok", "skipped", "failed", "unreachable")


def _tags_help(playbook: str) -> str:
    return f"only these, with commas: {', '.join(TAGS[playbook])}"


CheckOption = Annotated[bool, typer.Option("--check", help="say what would be done, and do nothing")]
DiffOption = Annotated[bool, typer.Option("--diff", help="keep differences of files in the log")]


@app.command()
def hosts(
    check: CheckOption = False,
    diff: DiffOption = False,
    tags: Annotated[str, typer.Option(help=_tags_help("hosts"))] = "",
    limit: Annotated[str, typer.Option(help="only these hosts, with commas")] = "",
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """Hypervisor hosts, from bare Debian 12 or 13 to ready to migrate. Idempotent."""
    settings = wiring.load(inventory)
    names = _named(limit, [h.name for h in settings.inventory.hosts], "host", settings)
    options = Options(check, diff, _tagged(tags, "hosts"), names)
    artifacts = ansible_inventory.parts()  # before we enter a network that may reach no index
    wiring.enter(settings)
    _provision(settings, "hosts", ansible_inventory.derived(settings, artifacts), options, json)


@app.command()
def guests(
    check: CheckOption = False,
    diff: DiffOption = False,
    tags: Annotated[str, typer.Option(help=_tags_help("guests"))] = "",
    limit: Annotated[str, typer.Option(help="only these guests, with commas")] = "",
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """Guests that run already: the agent takes their interface over, their servers speak MPTCP. Idempotent."""
    settings = wiring.load(inventory)
    names = _named(limit, list(settings.raw_inventory.guests), "guest", settings)
    options = Options(check, diff, _tagged(tags, "guests"), names)
    known = settings.raw_inventory.guests
    chosen = [name for name in names or known if known[name].ssh or names]
    if not chosen:
        raise ConfigurationError(f"{settings.path}: guests.*.ssh: no guest says how to reach it", 'say ssh = "USER@"')
    for name in (n for n in chosen if not known[n].ssh):
        raise ConfigurationError(f"{settings.path}: guests.{name}.ssh: is not set", 'say ssh = "USER@"')
    artifacts = ansible_inventory.parts()
    addresses = _addresses(settings, [name for name in chosen if known[name].ssh.endswith("@")])
    machines = ansible_inventory.derived(settings, artifacts, addresses)
    _provision(settings, "guests", machines, options, json)


@app.command()
def probes(
    check: CheckOption = False,
    diff: DiffOption = False,
    tags: Annotated[str, typer.Option(help=_tags_help("probes"))] = "",
    limit: Annotated[str, typer.Option(help="only these guests and probers, with commas")] = "",
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """What answers probes in guests, and what asks from where clients are and serves the figures. Idempotent."""
    settings = wiring.load(inventory)
    probed = {name: guest for name, guest in settings.raw_inventory.guests.items() if guest.probe is not None}
    probers = [name for name, prober in settings.raw_inventory.probers.items() if prober.ssh]
    names = _named(limit, [*probed, *probers], "guest or prober", settings)
    options = Options(check, diff, _tagged(tags, "probes"), names)
    if not probers and not any(guest.ssh for guest in probed.values()):
        text = f"{settings.path}: guests.*.probe: nobody is probed that SSH reaches, nor from a machine that it reaches"
        raise ConfigurationError(text, 'say [probers.X] ssh = "USER@ADDRESS", and guests.Y.probe = { from = "X" }')
    for name in (n for n, guest in probed.items() if not guest.ssh):
        render.warn(f"guest {name}: its responder is left to you: guests.{name}.ssh is not set")
    artifacts = ansible_inventory.parts()
    addresses = _addresses(settings, [name for name in _unsaid(settings) if name in probed])
    machines = ansible_inventory.derived(settings, artifacts, addresses)
    _provision(settings, "probes", machines, options, json)


@app.command()
def orchestrator(
    check: CheckOption = False,
    diff: DiffOption = False,
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """This machine: `vmacro worker` and `vmacro carry` as services, by systemd. Idempotent; root alone."""
    settings = wiring.load(inventory)
    command = shutil.which("vmacro", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if command is None:
        raise ConfigurationError("vmacro: there is no command of this name beside its Python", "make setup")
    _provision(
        settings,
        "orchestrator",
        ansible_inventory.of_this_machine(settings, command),
        Options(check, diff, (), ()),
        json,
    )


def inventory(inventory: InventoryOption = None) -> None:
    """The inventory as Ansible reads it, for ansible-playbook -i FILE playbooks/hosts.yml, guests.yml or probes.yml."""
    settings = wiring.load(inventory)
    artifacts = ansible_inventory.parts()
    addresses = _addresses(settings, _unsaid(settings))
    render.as_json(ansible_inventory.derived(settings, artifacts, addresses))


def _unsaid(settings: Settings) -> list[str]:
    """Guests of which SSH or a prober elsewhere needs an address that the inventory does not say."""
    elsewhere = {name for name, prober in settings.raw_inventory.probers.items() if prober.ssh}
    return [
        name
        for name, guest in settings.raw_inventory.guests.items()
        if guest.ssh.endswith("@")
        or (guest.probe is not None and guest.probe.from_ in elsewhere and not target_address(guest, ""))
    ]


def _provision(settings: Settings, playbook: str, machines: dict[str, Any], options: Options, json: bool) -> None:
    folder = settings.orchestrator.state_dir / moving.PLAYBOOK_RUNS / time.strftime("%Y%m%d-%H%M%S")
    with _shown(json) as show:
        recap = runner.run(machines, playbook, options, folder, show)
    moving.forget_old(settings)
    if json:
        render.as_json({"folder": str(folder), playbook: recap.counts})
    else:
        _show_recap(recap, options.check)


def _addresses(settings: Settings, names: Collection[str]) -> dict[str, str]:
    """Where guests are now: their hosts know, and it changes as they move. Raises ConfigurationError."""
    found: dict[str, str] = {}
    if not names:
        wiring.enter(settings)
        return found
    with wiring.opened(settings) as world:
        for name in names:
            found[name] = leased_address(settings.inventory, wiring.guest_named(settings, name), world)
            if not found[name]:
                text = f"guest {name}: no host knows an address of it: it runs nowhere, or has no lease"
                raise ConfigurationError(text, f'vmacro sites; or say guests.{name}.ssh = "USER@ADDRESS"')
    return found


def _named(limit: str, known: list[str], kind: str, settings: Settings) -> tuple[str, ...]:
    names = _list(limit)
    for name in names:
        if name not in known:
            raise ConfigurationError(f"{kind} {name!r}: not in {settings.path}", f"known: {', '.join(known) or 'none'}")
    return names


def _tagged(tags: str, playbook: str) -> tuple[str, ...]:
    """Ansible would run nothing for one that there is not, and say that all is well."""
    found = _list(tags)
    for tag in found:
        if tag not in TAGS[playbook]:
            raise ConfigurationError(f"--tags {tag!r}: no tag of {playbook}", f"known: {', '.join(TAGS[playbook])}")
    return found


def _list(text: str) -> tuple[str, ...]:
    return tuple(x for x in text.split(",") if x)


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
    """A line per host, with the task that it is at; lines of what was changed or failed stay."""

    def __init__(self) -> None:
        columns = (
            SpinnerColumn(),
            *(TextColumn(f"{{task.{what}}}", markup=False) for what in ("description", "fields[at]")),
        )
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
            render.say(_line(task))


def _show_recap(recap: Recap, check: bool) -> None:
    kinds = ("ok", "changed", "skipped", "failed")
    rows = [(host, *(counts.get(k, 0) for k in kinds)) for host, counts in sorted(recap.counts.items())]
    note = f"{'nothing was changed: --check; ' if check else ''}kept in {recap.folder}"
    render.table(render.rows("", ("host", "ok", "would change" if check else "changed", *kinds[2:]), rows, note))
