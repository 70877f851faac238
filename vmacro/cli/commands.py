"""Which commands there are, and where: each is loaded as it is called, with the libraries that it alone needs.

All of them at once take well over a second. So what the list of commands says of each stands here; a test holds it to
what each says of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group


@dataclass(frozen=True)
class Entry:
    """A command: `where` is MODULE:NAME in vmacro.cli, of a function, or of the typer.Typer of a group. `help` is its
    first sentence, as far as a list of 80 columns has room for it; `moves`: its exit code says what became of guests,
    and nothing else."""

    where: str
    help: str
    moves: bool = False


ENTRIES: Mapping[str, Entry] = {
    "sites": Entry("check:sites", "Sites, their hosts, and the guests that run there."),
    "init": Entry("init:init", "Write a commented inventory; ask for what was not given."),
    "doctor": Entry("doctor:doctor", "Look at every host and guest, and say all that is missing,..."),
    "check": Entry("check:check", "Everything that stands against a move, all at once."),
    "migrate": Entry("move:migrate", "Move a running guest to another site, live, with its...", moves=True),
    "connections": Entry("check:connections", "The guest's connections: which follow it to a new address,..."),
    "carried": Entry("carried:carried", "Old addresses still in use, by which connections and flows..."),
    "carry": Entry("carry:carry", "Close tunnels as their last connections end; returns with..."),
    "history": Entry("history:history", "Moves so far, newest first, out of the journal."),
    "show": Entry("history:show", "One move: its plan, its phases, what each found, what..."),
    "events": Entry("events:events", "What happened in moves, as it was written down when it..."),
    "resume": Entry("recover:resume", "Go on with a move that was cut off, is incomplete, or left...", moves=True),
    "abort": Entry("recover:abort", "Undo a move that was cut off; past the point of no return,...", moves=True),
    "cleanup": Entry("cleanup:cleanup", "Remove what ended moves of this journal left at hosts and..."),
    "evacuate": Entry("fleet:evacuate", "Move all guests of a site elsewhere: a plan first, then...", moves=True),
    "drain": Entry("fleet:drain", "Move all guests of a host to other sites; as `vmacro...", moves=True),
    "restore": Entry("fleet:restore", "End the maintenance of a site or host, and bring back the...", moves=True),
    "worker": Entry("fleet:worker", "Carry out batches, with all other workers of the same..."),
    "signals": Entry("signals:signals", "What a policy's signals say now, and whether they can be..."),
    "simulate": Entry("signals:simulate", "What a policy would have done on recorded signals, beside..."),
    "follow": Entry("follow:follow", "Put guests where a policy wants them now, and say why of...", moves=True),
    "inventory": Entry("provision:inventory", "The inventory as Ansible reads it, for ansible-playbook -i..."),
    "batch": Entry("fleet:batch", "Batches: what evacuate, drain, restore and follow have begun.", moves=True),
    "lab": Entry("lab:app", "Two sites, a WAN and a client on this machine."),
    "image": Entry("images:app", "Images of hosts and guests, from the recipes in images/."),
    "pki": Entry("pki:app", "An authority of your own, for libvirt's and QEMU's TLS."),
    "provision": Entry("provision:app", "Bring machines to what the inventory says, by the playbooks."),
    "rtt": Entry("rtt:app", "Round trips on one connection, measured as its user feels..."),
}


class Commands(TyperGroup):
    """The group of all commands. Each is made by typer as it is asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = dict.fromkeys(ENTRIES, TyperCommand(""))  # whose names are listed, and suggested

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """None where there is none of this name."""
        if cmd_name not in ENTRIES:
            return None
        module, _, attribute = ENTRIES[cmd_name].where.partition(":")
        found, alone = getattr(import_module(f"vmacro.cli.{module}"), attribute), typer.Typer(rich_markup_mode=None)
        if isinstance(found, typer.Typer):
            alone.add_typer(found, name=cmd_name)
        else:
            alone.command(cmd_name)(found)
        return get_group(alone).commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list, of which no command is loaded."""
        listed = TyperGroup(commands=[TyperCommand(name, help=entry.help) for name, entry in ENTRIES.items()])
        listed.format_commands(ctx, formatter)
