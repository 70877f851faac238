"""signals, simulate, follow: a policy that says where guests should be."""

from __future__ import annotations

from typing import Annotated

import typer

from vmacro import wiring
from vmacro.cli import fleet, render
from vmacro.cli.following import Follower
from vmacro.cli.options import InventoryOption, JsonOption
from vmacro.cli.signals import PolicyArgument
from vmacro.errors import ConfigurationError, PlanRejectedError, UnreachableError


def follow(
    policy: PolicyArgument,
    daemon: Annotated[bool, typer.Option("--daemon", help="again and again, until SIGTERM or Ctrl-C")] = False,
    once: Annotated[bool, typer.Option("--once", help="decide once, and move: the default")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="decide, and move nothing")] = False,
    seconds: Annotated[float, typer.Option(min=0, max=3600, help="more for the solver")] = 0.0,
    inventory: InventoryOption = None,
    json: JsonOption = False,
) -> None:
    """Put guests where a policy wants them now, and say why of each. What is not known holds them where they are. Exit
    code 1: no host could be asked; 3: the policy cannot be followed; 5: a guest that was to move did not."""
    if daemon and (once or dry_run):
        raise ConfigurationError("follow: --daemon with --once or --dry-run", "one of them")
    settings = wiring.load(inventory)
    follower = Follower(settings, policy, seconds, json)
    if daemon:
        raise typer.Exit(follower.run())
    decided = follower.decide()
    follower.show(decided)
    if decided.is_wrong:
        raise typer.Exit(PlanRejectedError.exit_code)
    if decided.standing.is_blind:
        render.warn("vmacro: no host could be asked: nothing was decided")
        raise typer.Exit(UnreachableError.exit_code)
    if not dry_run and decided.moves:
        fleet.carry_on(settings, follower.begin(decided), False, json, begun=True)
