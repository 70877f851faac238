"""How good and how fast placement is: on fleets of our own, and on the ROADEF/EURO 2012 instances of Google.

python -m benchmarks.placement fleet 1000 10 [--seconds 0]
python -m benchmarks.placement roadef FOLDER a1_1 a1_2 [--seconds 300]

A fleet goes through vmacro.fleet.placement as it is. The instances do not map to it: they have one moment and no
horizon; room beyond a safety level that may be used at a price; balance between resources; spread over locations, and
services that need others nearby; and a process keeps some of the room that it had, for ever. They are solved by the
local search of benchmarks/reassignment.py, which shares with placement only that each move is a whole one. Their
`--seconds` are a processor's, of which the search uses one: so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

from benchmarks.reassignment import Instance, Search
from tests import fleets
from vmacro.fleet.placement import place


def main() -> None:
    """Print one line for each fleet or instance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    fleet = kinds.add_parser("fleet")
    fleet.add_argument("guests", type=int)
    fleet.add_argument("sites", type=int)
    fleet.add_argument("--hosts", type=int, default=4, help="of each site")
    fleet.add_argument("--fullness", type=float, default=0.5)
    roadef = kinds.add_parser("roadef")
    roadef.add_argument("folder", type=Path)
    roadef.add_argument("names", nargs="+")
    for each in (fleet, roadef):
        each.add_argument("--seconds", type=float, default=0.0)
    options = parser.parse_args()
    if options.kind == "fleet":
        _fleet(options)
    else:
        for name in options.names:
            _instance(options.folder, name, options.seconds or 300.0)


def _fleet(options: argparse.Namespace) -> None:
    made = fleets.fleet(options.guests, options.sites, options.hosts, fullness=options.fullness)
    began, used = time.monotonic(), time.process_time()
    found = place(made, options.seconds, time.monotonic)
    gap = (found.cost - found.bound) / found.cost
    print(
        f"{options.guests} guests, {options.sites} sites: cost {found.cost:.2f}, staying {found.staying:.2f}, bound "
        f"{found.bound:.2f} ({gap:.2%} above it), {sum(d.moves for d in found.decisions)} moves, "
        f"{time.monotonic() - began:.1f} s ({time.process_time() - used:.1f} s of a processor), {_memory_mib():.0f} MiB"
    )


def _instance(folder: Path, name: str, seconds: float) -> None:
    instance = Instance.read(folder, name)
    search = Search(instance)
    first, began, used = search.cost, time.monotonic(), time.process_time()
    search.run(lambda: time.process_time() - used < seconds)
    cost, bound = search.checked_cost(), instance.bound
    above = f"{(cost - bound) / bound:.2%} above it" if bound else "no share of it"
    print(
        f"{name}: first {first}, cost {cost} ({1 - cost / first:.1%} off), bound {bound} ({above}), "
        f"{time.monotonic() - began:.0f} s ({time.process_time() - used:.0f} s of a processor)",
        flush=True,
    )


def _memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
