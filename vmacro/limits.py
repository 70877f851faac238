"""The inventory's table for moves of many guests."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from vmacro.config import Strict
from vmacro.model.batches import Limits

DEFAULTS = Limits()


class Fleet(Strict):
    """How much of a batch (`vmacro evacuate`, `drain`, `restore`, `follow`) may be under way at once, of all batches
    and workers together."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    moves_per_host: int = Field(default=DEFAULTS.per_host, ge=1, le=1000)
    """Most moves at once that leave one host, or come to it."""
    moves_per_link: int = Field(default=DEFAULTS.per_link, ge=1, le=1000)
    """Most moves at once between two sites, both ways together."""
    moves_in_all: int = Field(default=DEFAULTS.in_all, ge=1, le=1000)
    """Most moves at once."""
    moves_per_worker: int = Field(default=8, ge=1, le=200)
    """Most moves at once in one process that works on batches."""
    tries: int = Field(default=DEFAULTS.tries, ge=1, le=10)
    """How often a move of a batch is tried at most, where it was refused, or rolled back."""
    retry_after_s: float = Field(default=DEFAULTS.retry_after_s, ge=0, le=86_400)
    """How long a guest is left alone before the next try."""

    @property
    def limits(self) -> Limits:
        """For whoever plans and begins moves."""
        return Limits(self.moves_per_host, self.moves_per_link, self.moves_in_all, self.tries, self.retry_after_s)
