"""Memory that the guest can do without: what its kernel keeps of files, and has read again when somebody asks."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

from vmacro.wire.agent_verbs import Dropped

_FREE = re.compile(r"^MemFree: +(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Memory:
    """The kernel's files, below `proc`."""

    proc: Path = Path("/proc")

    async def drop_page_cache(self) -> Dropped:
        """By vm.drop_caches (Documentation/admin-guide/sysctl/vm.rst): pages that are as the disk has them are free
        then, and nothing is lost; those to be written stay. In a thread: of many pages it takes a second, while others
        ask the agent. Raises OSError."""
        before = self._free_kib()
        await asyncio.get_running_loop().run_in_executor(None, self._drop)
        return Dropped(max(0, self._free_kib() - before) >> 10)

    def _drop(self) -> None:
        (self.proc / "sys/vm/drop_caches").write_text("1\n")

    def _free_kib(self) -> int:
        found = _FREE.search((self.proc / "meminfo").read_text())
        return int(found.group(1)) if found else 0


ITS_OWN = Memory()
