"""An evacuation of many guests to its end, on the fake world, with the real journal, queue, leader and crew:

    python -m benchmarks.evacuation [GUESTS] [--copy-s SECONDS] [--hosts N] [--postgres URL]

Prints as JSON: the orchestrator's own processor time for each move, its memory, how much of the time links were busy,
and the most moves that were under way at once. Copies keep a link busy for --copy-s each and cost no processor time.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from vmacro import crews, wiring
from vmacro.drivers.fake.wide import WideWorld, inventory_text
from vmacro.inventory import Settings
from vmacro.model.batches import Wish
from vmacro.services import batch_report
from vmacro.services.batches import Batches
from vmacro.services.event_log import DatabaseEventLog, everything

AWAY = ("berlin", "oslo")
LIMITS = "[fleet]\nmoves_per_host = 8\nmoves_per_link = {link}\nmoves_in_all = {all}\nmoves_per_worker = {all}"


def main() -> None:
    """See the module."""
    asked = argparse.ArgumentParser()
    asked.add_argument("guests", type=int, nargs="?", default=300)
    asked.add_argument("--copy-s", type=float, default=0.5)
    asked.add_argument("--hosts", type=int, default=4, help="of each of three sites")
    asked.add_argument("--per-link", type=int, default=8)
    asked.add_argument("--postgres", default="")
    said = asked.parse_args()
    sites = {site: tuple(f"{site}-{n}" for n in range(said.hosts)) for site in ("bucharest", *AWAY)}
    world = WideWorld(sites, tuple(f"g{n}" for n in range(said.guests)), said.copy_s)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "inventory.toml"
        limits = LIMITS.format(link=said.per_link, all=said.per_link * len(AWAY))
        text = inventory_text(world, folder + "/state", limits)
        if said.postgres:
            text = text.replace("[orchestrator]", f'[orchestrator]\ndatabase_url = "{said.postgres}"')
        file.write_text(text)
        wiring.drivers = world.drivers  # type: ignore[assignment]
        print(json.dumps(measured(wiring.load(file), world, Path(folder) / "report")))


def measured(settings: Settings, world: WideWorld, reports: Path) -> dict[str, object]:
    """One evacuation."""
    with ExitStack() as stack:
        log = stack.enter_context(wiring.event_log(settings, print))
        worlds = stack.enter_context(wiring.drivers(settings))
        working = stack.enter_context(crews.working(settings, worlds, log, log.append, print, reports))
        batches = stack.enter_context(crews.batches(settings, working.moves, log.append))
        began, cpu_s = time.monotonic(), time.process_time()
        batch = batches.plan_evacuation("bucharest")
        planned, planning_cpu_s = time.monotonic() - began, time.process_time() - cpu_s
        began, cpu_s = time.monotonic(), time.process_time()
        batches.begin(batch)
        _wait(batches, batch.batch_id)
        took, cpu_s = time.monotonic() - began, time.process_time() - cpu_s
        return {
            "guests": len(world.guests),
            "planning_s": round(planned, 1),
            "planning_cpu_ms_a_guest": round(1000 * planning_cpu_s / len(world.guests), 1),
            "took_s": round(took, 1),
            "cpu_ms_a_move": round(1000 * cpu_s / len(batch.moves), 1),
            "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            "threads": threading.active_count(),
            "links_busy": {" - ".join(pair): round(wire.use, 3) for pair, wire in world.wires.items()},
            **_ended(batches, log, batch.batch_id),
        }


def _wait(batches: Batches, batch_id: str) -> None:
    while batches.wishes().get(batch_id, Wish.ENDED) != Wish.ENDED:
        time.sleep(0.5)


def _ended(batches: Batches, log: DatabaseEventLog, batch_id: str) -> dict[str, object]:
    events = [event for _, event in everything(log, batch_id)]
    figures = batch_report.summary(batches.progress(batch_id), events)
    return {key: figures[key] for key in ("moved", "not_moved", "stayed", "most_at_once")}


if __name__ == "__main__":
    main()
