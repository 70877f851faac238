"""vmacro: the commands, and what an error looks like."""

from __future__ import annotations

import atexit
import gc
import sys

import typer

from vmacro import __version__
from vmacro.cli import output
from vmacro.cli.commands import ENTRIES, Commands
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
    output.keep()
    try:
        app()
    except VmacroError as error:
        from vmacro.cli import failure, render  # what only tells its version or its help draws nothing

        if "--json" in sys.argv[1:]:
            render.as_json(failure.plain(error))
        render.warn(f"vmacro: {error}")
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if trouble := output.trouble():
            print(f"vmacro: standard output: {trouble}: not all of it was written", file=sys.stderr)
            entry = next((ENTRIES[word] for word in sys.argv[1:2] if word in ENTRIES), None)
            if not ended.code and not (entry and entry.moves):
                sys.exit(VmacroError.exit_code)
        raise


if __name__ == "__main__":
    main()
