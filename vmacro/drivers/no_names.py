"""Where no name server is named."""

from __future__ import annotations

from vmacro.errors import ConfigurationError
from vmacro.model.names import NameFacts


class NoNames:
    """Implements ports.Names where the inventory has no [dns]."""

    def look(self, name: str) -> NameFacts:
        raise self._unknown(name)

    def replace(self, seen: NameFacts, wanted: tuple[str, ...]) -> bool:
        raise self._unknown(seen.name)

    def _unknown(self, name: str) -> ConfigurationError:
        return ConfigurationError(f"name {name}: the inventory has no [dns]", "server and key_file")
