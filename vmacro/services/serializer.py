"""How DBOS writes and reads values: as JSON, and never as pickles. Whatever imports DBOS imports this, too.

DBOS takes the decoder that a row names, and one of its own unpickles, unless refuse_pickles() has been called, as this
module does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dbos._serialization import DefaultSerializer

from vmacro.errors import JournalError
from vmacro.services.journal_json import SERIALIZATION, error_as_plain, error_from, loaded


class Json:
    """Values in the journal are JSON. DBOS would pickle them, and reading a journal must never run code."""

    def serialize(self, data: Any) -> str:
        """As DBOS asks; errors are written as their kind and text."""
        return json.dumps(data, default=_plain)

    def deserialize(self, serialized_data: str) -> Any:
        """Undo serialize(). Raises JournalError."""
        item = loaded(serialized_data, "a value of the journal")
        return error_from(item) if isinstance(item, Mapping) and "__error__" in item else item

    def name(self) -> str:
        """Stands beside each value in the database: it must never change."""
        return SERIALIZATION


def refuse_pickles() -> None:
    """DBOS takes the decoder that a row names, and one of those unpickles (dbos._serialization.deserialize_value):
    whoever writes a row would run what they like here. tests/unit/test_pickles.py asks DBOS itself."""

    def read(_self: object, _text: object) -> Any:
        raise JournalError("a value of the journal is a pickle; it was not read", "nothing of vmacro's writes any")

    def written(_self: object, data: Any) -> str:
        """That such a row has failed must be written, or it would be tried again for ever."""
        return Json().serialize(data)

    setattr(DefaultSerializer, "deserialize", read)  # noqa: B010 mypy lets nobody assign to methods
    setattr(DefaultSerializer, "serialize", written)  # noqa: B010


refuse_pickles()


def _plain(value: object) -> object:
    if isinstance(value, BaseException):
        return error_as_plain(value)
    raise TypeError(f"{type(value).__name__} does not belong in the journal")
