"""TOML files of users, read at the edge: every error at once, each naming file, key and value."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import tomllib
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from vmacro.errors import ConfigurationError, VmacroError


class Strict(BaseModel):
    """Unknown keys are errors: a misspelt one must not be silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=BaseModel)
Checked = TypeVar("Checked")


def load(path: Path, model: type[Model]) -> Model:
    """Raises ConfigurationError."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not TOML: {error}") from error
    return parse(data, model, str(path))


def parse(data: object, model: type[Model], name: str) -> Model:
    """Raises ConfigurationError with a line for each thing that is wrong."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [_explain(name, e["loc"], e["msg"], e.get("input")) for e in error.errors()]
        raise ConfigurationError("\n".join(problems)) from error


def said(adapter: TypeAdapter[Checked], data: object, teller: str, kind: type[VmacroError], hint: str = "") -> Checked:
    """What another party said, if it has the shape of what it should say. Raises `kind`, naming the first oddity."""
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise kind(f"{teller} said something odd: {where}: {first['msg']}", hint) from error


def _explain(name: str, location: tuple[int | str, ...], message: str, value: object) -> str:
    key = ".".join(str(part) for part in location)
    text = message.removeprefix("Value error, ")
    # A whole table as "value seen" helps nobody; a validator over several keys names them itself.
    seen = "" if isinstance(value, (dict, list)) or not key else f" (value: {value!r})"
    return f"{name}: {key + ': ' if key else ''}{text}{seen}"
