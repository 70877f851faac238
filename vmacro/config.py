"""Reads TOML files of users, and checks what other parties say. All errors in a file are reported at once, each with
file, key and value."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from vmacro import wording
from vmacro.errors import ConfigurationError
from vmacro.wire.text import printable

_LOGIN = re.compile(r"(?<=:)(//)?.*(?=@)")  # SCHEME://USER:PASSWORD@, or USER:PASSWORD@
_OPTION = re.compile(r"(?i)((?:pass|pwd|secret|token)\w*=)[^&;]*")  # ?password=PASSWORD
_SECRET = re.compile(r"(?i)pass|pwd|secret|token|credential|_url\Z|\Aansible\Z")  # in a key


class Strict(BaseModel):
    """Unknown keys are errors: a misspelt one must not be silently ignored. So are `inf` and `nan`, which TOML has."""

    # What goes wrong in here may be quoted anywhere, a traceback for one: pydantic's own texts have no values in them.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


Model = TypeVar("Model", bound=BaseModel)


def load(path: Path, model: type[Model], if_missing: str = "") -> Model:
    """Read a TOML file. Raises ConfigurationError with a line for each thing that is wrong. `if_missing`: the hint
    where there is no such file."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        hint = if_missing if isinstance(error, FileNotFoundError) else ""
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}", hint) from error
    try:
        data = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:  # of UTF-8, of TOML, of a number in it
        raise ConfigurationError(f"{path}: not TOML: {error}") from error
    return parse(data, model, str(path))


def parse(data: object, model: type[Model], name: str) -> Model:
    """Check what was read already. Raises ConfigurationError with a line for each thing that is wrong."""
    try:
        text = json.dumps(data, default=str)  # TOML has dates, too
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{name}: cannot be used: {error}") from error
    try:
        # What is strict of JSON takes lists for tuples and texts for addresses, but neither "yes" for true nor 5 for
        # an address.
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:  # its own text has the values, passwords among them
        raise ConfigurationError("\n".join(_explain(name, e, model, data) for e in error.errors())) from None


def _explain(name: str, error: ErrorDetails, model: type[BaseModel], data: object) -> str:
    location, value = wording.place(error, data), error["input"]
    key = printable(".".join(location), 200)
    text = wording.explained(error, model)
    # A whole table as "value seen" helps nobody; a validator over several keys names them itself. Nobody knows what
    # the value of an unknown key is: it may be a password, and its key misspelt.
    silent = isinstance(value, (dict, list)) or not key or error["type"] == "extra_forbidden"
    if silent or any(_SECRET.search(part) for part in location):
        return f"{name}: {key + ': ' if key else ''}{text}"
    return f"{name}: {key}: {text} (value: {shown(repr(value))})"


def shown(text: str) -> str:
    """A value as it may be shown: what there may be of a login or a password in it is left out."""
    return _OPTION.sub(r"\1***", _LOGIN.sub(r"\1***", text))
