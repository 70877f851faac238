"""Reads TOML files of users, and checks what other parties say. All errors in a file are reported at once, each with
file, key and value."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

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


def load(path: Path, model: type[Model]) -> Model:
    """Read a TOML file. Raises ConfigurationError with a line for each thing that is wrong."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        data = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:  # of UTF-8, of TOML, of a number in it
        raise ConfigurationError(f"{path}: not TOML: {error}") from error
    return parse(data, model, str(path))


def parse(data: object, model: type[Model], name: str) -> Model:
    """Check what was read already. Raises ConfigurationError with a line for each thing that is wrong."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [_explain(name, e["loc"], e["msg"], e["type"], e.get("input")) for e in error.errors()]
        raise ConfigurationError("\n".join(problems)) from error


def _explain(name: str, location: tuple[int | str, ...], message: str, kind: str, value: object) -> str:
    key = printable(".".join(str(part) for part in location), 200)
    text = message.removeprefix("Value error, ")
    # A whole table as "value seen" helps nobody; a validator over several keys names them itself. Nobody knows what
    # the value of an unknown key is: it may be a password, and its key misspelt.
    silent = isinstance(value, (dict, list)) or not key or kind == "extra_forbidden"
    if silent or any(_SECRET.search(str(part)) for part in location):
        return f"{name}: {key + ': ' if key else ''}{text}"
    return f"{name}: {key}: {text} (value: {shown(repr(value))})"


def shown(text: str) -> str:
    """A value as it may be shown: what there may be of a login or a password in it is left out."""
    return _OPTION.sub(r"\1***", _LOGIN.sub(r"\1***", text))
