"""Try all of several acts, whatever fails, and raise the first error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vmacro.errors import VmacroError


class Troubles:
    """Errors of acts that are all tried, in the order in which they came."""

    def __init__(self) -> None:
        self._errors: list[VmacroError] = []

    @contextmanager
    def of(self, *kinds: type[VmacroError]) -> Iterator[None]:
        """Keep an error of these kinds, which ends this act and no other. Raises what is of no such kind."""
        try:
            yield
        except kinds as error:
            self._errors.append(error)

    @property
    def first(self) -> str:
        """The message of the first error that was kept, or ''."""
        return self._errors[0].message if self._errors else ""

    def raise_first(self) -> None:
        """Raise the first error that was kept, if there is one."""
        if self._errors:
            raise self._errors[0]
