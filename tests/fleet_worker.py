"""A worker in a process of its own, with a world in memory of its own: python -m tests.fleet_worker INVENTORY GUESTS
COPY_S [HANGS]. It works until its input ends; the copy of guest HANGS never ends.

What one such worker does to its world, no other sees: they share the journal alone, as orchestrators do.
"""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from vmacro import crews, wiring
from vmacro.drivers.fake.state import Effect
from vmacro.drivers.fake.wide import WideWorld

SITES = {"bucharest": ("buc-1", "buc-2"), "berlin": ("ber-1", "ber-2"), "oslo": ("osl-1", "osl-2")}


def world(guests: int, copy_s: float = 0.0) -> WideWorld:
    """All at bucharest."""
    return WideWorld(SITES, tuple(f"g{n}" for n in range(guests)), copy_s)


def main(inventory: str, guests: str, copy_s: str, hangs: str = "") -> None:
    """See the module."""
    mine = world(int(guests), float(copy_s))
    waits = mine.before

    def before(effect: Effect) -> None:
        if effect.startswith("copy ") and effect.guest == hangs:
            threading.Event().wait()
        waits(effect)

    mine.before = before
    wiring.drivers = mine.drivers  # type: ignore[assignment]
    settings = wiring.load(Path(inventory))
    with ExitStack() as stack:
        log = stack.enter_context(wiring.event_log(settings, print))
        worlds = stack.enter_context(wiring.drivers(settings))
        reports = Path(inventory).parent / "reports"
        working = stack.enter_context(crews.working(settings, worlds, log, log.append, print, reports))
        print(working.name, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
