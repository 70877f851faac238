"""vmacro: the commands, and what an error looks like."""

from __future__ import annotations

import atexit
import gc
import io
import sys

import typer

from vmacro import __version__
from vmacro.cli.commands import Commands
from vmacro.errors import VmacroError

app = typer.Typer(
    cls=Commands,
    help="Move a running VM to another continent, and nobody's connection breaks.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True)) -> None:
    pass


def main() -> None:
    """Exit codes are the errors' own; see vmacro.errors."""
    atexit.register(gc.freeze)  # at the end all memory goes anyway; to look for garbage first takes a fifth of a second
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no name of a guest ends a move on a Latin-1 terminal
    try:
        app()
    except VmacroError as error:
        from vmacro.cli import render  # what only tells its version or its help draws nothing

        if "--json" in sys.argv[1:]:
            render.as_json({"error": error.message, "hint": error.hint, "exit_code": error.exit_code})
        render.warn(f"vmacro: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
