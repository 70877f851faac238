"""vmacro: the commands, and what an error looks like."""

from __future__ import annotations

import io
import sys

import typer

from vmacro import __version__
from vmacro.cli import (
    carry,
    doctor,
    events,
    fleet,
    follow,
    history,
    images,
    init,
    lab,
    move,
    pki,
    provision,
    recover,
    render,
    rtt,
)
from vmacro.errors import VmacroError

app = typer.Typer(
    help="Move a running VM to another continent, and nobody's connection breaks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(move.sites)
app.command()(init.init)
app.command()(doctor.doctor)
app.command()(move.check)
app.command()(move.migrate)
app.command()(move.connections)
app.command()(carry.carried)
app.command()(carry.carry)
app.command()(history.history)
app.command()(history.show)
app.command()(events.events)
app.command()(recover.resume)
app.command()(recover.abort)
app.command()(recover.cleanup)
app.command()(fleet.evacuate)
app.command()(fleet.drain)
app.command()(fleet.restore)
app.command()(fleet.worker)
app.add_typer(fleet.batch, name="batch")
app.command()(follow.signals)
app.command()(follow.simulate)
app.command()(follow.follow)
app.add_typer(lab.app, name="lab")
app.add_typer(images.app, name="image")
app.add_typer(pki.app, name="pki")
app.add_typer(provision.app, name="provision")
app.command()(provision.inventory)
app.add_typer(rtt.app, name="rtt")


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True)) -> None:
    pass


def main() -> None:
    """Exit codes are the errors' own; see vmacro.errors."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no name of a guest ends a move on a Latin-1 terminal
    try:
        app()
    except VmacroError as error:
        if "--json" in sys.argv[1:]:
            render.as_json({"error": error.message, "hint": error.hint, "exit_code": error.exit_code})
        render.warn(f"vmacro: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
