"""What pydantic has against a file of a user's, in plain words; and the key that was perhaps meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from ipaddress import AddressValueError, NetmaskValueError, ip_network
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

Location = tuple[int | str, ...]
_MOST_KNOWN = 12  # keys of a table that are listed
# By the kind of pydantic's error: docs.pydantic.dev/latest/errors/validation_errors. `{}` are its context's.
_WORDS = {
    "missing": "is missing",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "finite_number": "must be a number, neither inf nor nan",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false, without quotes",
    "string_type": 'must be text, in quotes: "..."',
    "string_too_long": "must be no longer than {max_length} characters",
    "path_type": 'must be a path, in quotes: "..."',
    "tuple_type": "must be a list: [...]",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "too_short": "must have {min_length} or more",
    "too_long": "must have no more than {max_length}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
}


def spelled(pattern: str, meaning: str) -> Callable[[str], str]:
    """What lets a text through that fits the pattern as a whole, and raises ValueError with its meaning at others."""
    allowed = re.compile(pattern)

    def check(text: str) -> str:
        if not allowed.fullmatch(text):
            raise ValueError(meaning)
        return text

    return check


def explained(error: ErrorDetails, model: type[BaseModel]) -> str:
    """One thing that is wrong, without its key and value. `model`: of the whole file."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"there is no such key{_meant(str(error['loc'][-1]), keys_at(model, error['loc']))}"
    if kind == "value_error":
        return valued(context["error"], error["input"])
    bounds = {key: int(x) if isinstance(x, float) and x.is_integer() else x for key, x in context.items()}
    return _WORDS[kind].format(**bounds) if kind in _WORDS else error["msg"]


def place(error: ErrorDetails, data: Any) -> list[str]:
    """The keys that lead to it in the file, without what pydantic adds of its own: `[key]`, types of a choice."""
    found = []
    for part in error["loc"]:
        is_there = part in data if isinstance(data, dict) else part in range(len(data) if isinstance(data, list) else 0)
        if is_there:
            data = data[part]
        if is_there or (error["type"] == "missing" and part == error["loc"][-1]):
            found.append(str(part))
    return found


def keys_at(model: type[BaseModel], location: Location) -> list[str]:
    """Those that the table of a key may have."""
    models = [model]
    for part in location[:-1]:
        fields = [known[part] for known in map(_by_key, models) if part in known]
        if fields:  # else it is a name of the user's own, or a number in a list
            models = [found for field in fields for found in _models(field.annotation)]
    return [str(key) for found in models for key in _by_key(found)]


def near(name: str, known: Iterable[str]) -> str:
    """The known one that was perhaps meant, '' if there is none."""
    return next(iter(get_close_matches(name, known, n=1)), "")


def _meant(key: str, known: list[str]) -> str:
    if meant := near(key, known):
        return f"; perhaps {meant}"
    return f"; known: {', '.join(known)}" if len(known) <= _MOST_KNOWN else ""


def valued(error: ValueError, value: Any) -> str:
    """What a check of ours says, or the standard library of an address."""
    text = str(error)
    if isinstance(error, (AddressValueError, NetmaskValueError)):
        return f"is no address or network of its kind: {text.partition(' in ')[0]}"  # in its value
    if text.endswith("has host bits set"):
        return f"is an address in a network: the network is {ip_network(value, strict=False)}"
    return text


def _by_key(model: type[BaseModel]) -> dict[int | str, Any]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Those in a field's type: of the table itself, or of each of a list or of a table of names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
