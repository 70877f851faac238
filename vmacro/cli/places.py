"""Options that name where something is to be written. A place that cannot be is refused before anything is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from vmacro import private
from vmacro.errors import ConfigurationError


def _folder(option: typer.CallbackParam, given: Path | None) -> Path | None:
    return _see(option, given, private.why_no_folder)


def _file(option: typer.CallbackParam, given: Path | None) -> Path | None:
    return _see(option, given, private.why_no_file)


def _see(option: typer.CallbackParam, given: Path | None, why_not: Callable[[Path], str]) -> Path | None:
    """Before anything is done: a move without its report, or an hour's work without its picture, helps nobody."""
    if given is not None and (why := why_not(given)):
        raise ConfigurationError(f"{option.opts[0]} {given}: {why}", "a place that can be written to")
    return given


ReportOption = Annotated[
    Path | None, typer.Option("--report", callback=_folder, help="folder for the report; default report/MOVE_ID")
]
PageOption = Annotated[Path | None, typer.Option("--html", callback=_file, help="also as one HTML page")]
RecordOption = Annotated[Path, typer.Option("--record", callback=_file, help="the recording, a new file")]


def png_option(help: str) -> Any:
    """For a picture."""
    return typer.Option("--png", callback=_file, help=help)
