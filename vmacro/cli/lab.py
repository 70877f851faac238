"""lab up, status, shell, down, demo."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vmacro import inventory as inventories
from vmacro import wiring
from vmacro.cli import move, render
from vmacro.cli.places import ReportOption
from vmacro.errors import ConfigurationError, LabError
from vmacro.lab import accelerator, paths, requirements, seat, topology
from vmacro.lab import lab as labs
from vmacro.lab.lab import Lab
from vmacro.lab.machines import access
from vmacro.lab.topology import OPERATOR, WAN

app = typer.Typer(help="Two sites, a WAN and a client on this machine.", no_args_is_help=True)
TopologyOption = Annotated[Path, typer.Option("--topology", "-t", help="TOML; the default is the paper's two sites")]
NameArgument = Annotated[str, typer.Argument(help="the lab's name, or --lab")]
LabOption = Annotated[str, typer.Option("--lab", help="the lab's name")]
HypervisorOption = Annotated[
    topology.Kind | None, typer.Option("--hypervisor", help="of its hosts; the default is what the topology says")
]


@app.command()
def up(
    shape: TopologyOption = topology.DEFAULT,
    bare: Annotated[
        bool, typer.Option("--bare", help="hosts that are yours to provision; guests with a later `up`")
    ] = False,
    hypervisor: HypervisorOption = None,
) -> None:
    """Bring the lab up; what runs already, stays."""
    loaded = topology.load(shape, hypervisor)
    requirements.require_root("lab up")
    began = time.monotonic()
    raised = Lab(loaded)
    raise_it = raised.up_bare if bare else raised.up
    raise_it(shape, lambda text: render.say(f"{time.monotonic() - began:6.1f} s  {text}"))
    render.say(f"lab {loaded.name} is up. Next: {'; '.join(next_commands(raised, bare))}")


def next_commands(lab: Lab, bare: bool) -> list[str]:
    """What to type once it is up. Each names this lab: other labs may be up, and the default name may be another's."""
    name, vmacro = lab.topology.name, _as_called()
    if bare:
        return [f"{vmacro} lab shell operator --lab {name}, and there vmacro init"]
    return [f"{vmacro} lab status {name}", f"{vmacro} sites -i {lab.inventory_file}", f"{vmacro} lab down {name}"]


def _as_called() -> str:
    """What to type for `vmacro` here: a checkout's is in no PATH."""
    return "vmacro" if shutil.which("vmacro") else sys.argv[0]


@app.command()
def status(
    name: NameArgument = "demo", lab: LabOption = "", json: Annotated[bool, typer.Option("--json")] = False
) -> None:
    """What runs, what does the delay, and the round trips as measured now."""
    requirements.require_root("lab status")
    found = Lab.running(lab or name).status()
    if json:
        render.as_json(asdict(found))
        return
    under = {accelerator.KVM: "KVM", accelerator.XEN: "Xen, under TCG"}.get(found.accelerator, "TCG")
    render.say(f"delay by {found.delay_by}; guests run under {under}")
    trips = [(f"{m.one} - {m.other}", m.asked_ms, m.median_ms, m.error_ms, m.spread_ms) for m in found.measured]
    columns = ("round trip", "asked ms", "measured ms", "error ms", "spread ms")
    render.table(render.rows("WAN", columns, [(a, b, *(round(x, 2) for x in rest)) for a, b, *rest in trips]))
    render.table(render.rows("Hosts", ("host", "runs"), list(found.hosts.items())))
    guests = [(g.name, g.host, g.agent.address if g.agent else None, g.trouble) for g in found.guests]
    render.table(render.rows("Guests", ("guest", "at", "address", "trouble"), guests))


@app.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]}
)  # others are the command's
def shell(
    node: Annotated[str, typer.Argument(help="a host, a client, a guest, `wan` or `operator`")],
    command: Annotated[
        list[str] | None,
        typer.Argument(
            help="instead of a shell; a host's shell reads a single word; after `--` where it has --lab or --help"
        ),
    ] = None,
    name: LabOption = "demo",
) -> None:
    """A shell on a node: by SSH on hosts, in the namespace of others; a guest's console (Ctrl-] leaves)."""
    requirements.require_root("lab shell")
    lab = Lab.running(name)
    if node in lab.topology.guests:
        if command or not os.isatty(0):
            hint = f"on a terminal, {_as_called()} lab shell {node} --lab {name}; Ctrl-] leaves"
            raise ConfigurationError(f"guest {node}: has a console, which takes no commands", hint)
        place = next((g.host for g in lab.status().guests if g.name == node), "")
        if not place:
            raise LabError(f"guest {node}: runs nowhere")
        node, command = place, ["virsh", "console", "--force", node]
    if node in lab.topology.machines:
        address, terminal = lab.host(node).address, os.isatty(0)
        words = command or []
        # SSH gives the other shell one line; one word is a line that somebody has written for it.
        line = [shlex.join(words)] if len(words) > 1 else words
        argv = access.by_ssh(lab.topology, address, lab.folder, line, terminal)
    elif node == OPERATOR and lab.bare:
        argv = seat.command(lab.folder, lab.namespace(node), command or [os.environ.get("SHELL", "/bin/sh")])
    elif node in (*lab.topology.clients, WAN, OPERATOR):
        argv = ["ip", "netns", "exec", lab.namespace(node), *(command or [os.environ.get("SHELL", "/bin/sh")])]
    else:
        known = ", ".join([*lab.topology.nodes, WAN, *lab.topology.guests])
        raise ConfigurationError(f"node {node!r}: not in lab {name}", f"known: {known}")
    os.execvp(argv[0], argv)


@app.command()
def down(name: NameArgument = "demo", lab: LabOption = "") -> None:
    """Remove the lab, and prove that nothing is left. Exit code 1 if there is no such lab."""
    requirements.require_root("lab down")
    name = lab or name
    found = labs.leftovers(name)
    left = Lab.running(name).down() if name in paths.names() else found
    if not found:
        Lab.running(name)  # says which there are
    if left:
        raise LabError(f"lab {name}: left behind: " + "; ".join(left))
    render.say(f"lab {name} is down: no process, mount, namespace, tap or file is left of it")


@app.command()
def demo(
    shape: TopologyOption = topology.DEFAULT,
    report_dir: ReportOption = None,
    hypervisor: HypervisorOption = None,
) -> None:
    """The main job, whole: the lab up, the first guest moved from its home to the other site, the report."""
    up(shape, hypervisor=hypervisor)
    lab = Lab.running(topology.load(shape).name)
    name, guest = next(iter(lab.topology.guests.items()))
    target = next(s for s in lab.topology.sites if s != guest.site)
    status(lab.topology.name)
    if lab.guest(name).site != guest.site:
        render.say(f"{name} is not at its home: moving it back to {guest.site} first")
        _move(lab, name, guest.site, None)
    raise typer.Exit(_move(lab, name, target, report_dir))


def _move(lab: Lab, guest: str, target: str, report_dir: Path | None) -> int:
    settings = inventories.load(lab.inventory_file)
    return move.perform(settings, wiring.request(settings, guest, target), report_dir, json=False)
