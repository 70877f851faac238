"""Moves back and forth with 50 connections open all the while, and a random fault in every third move.

sudo .venv/bin/python -m benchmarks.soak --moves 100 [--seed 1] [--output FILE]

Ends with 1 as soon as a guest, a connection or order is lost: docs/reliability.md has the figures.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.breaking import FAULTS, IMPATIENT, Row, broken_move, leftovers, places
from tests.support import Vmacro, address_of, clients, traces_of_moves, verdicts, without_probers
from vmacro.lab import topology
from vmacro.lab.lab import Lab

TOPOLOGY = Path(__file__).with_name("soak.toml")
KINDS = ("chatter", "tcp-chatter", "idle-38", "tcp-idle-10")  # 50 connections
EVERY = 3


def main() -> int:
    """Move a guest many times in a lab of its own, every third time with a fault; 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moves", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("report/soak.ndjson"))
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    lab = Lab(topology.load(TOPOLOGY))
    lab.down()
    lab.up(TOPOLOGY, lambda text: print(text, flush=True))
    try:
        with tempfile.TemporaryDirectory() as folder, options.output.open("w") as out:
            return _soak(lab, Path(folder), options.moves, random.Random(options.seed), out.write)
    finally:
        print("left by the lab:", lab.down() or "nothing")


def _soak(lab: Lab, folder: Path, moves: int, chance: random.Random, write: object) -> int:
    plain = without_probers(Vmacro(folder, lab.inventory_file))
    vmacro = plain.altered("soak.toml", lambda t: t.replace("[policy]\n", IMPATIENT))
    before, began, seconds, struck = traces_of_moves(lab), time.monotonic(), [], 0
    with clients(lab, "client", address_of(lab, "web"), *KINDS) as process:
        for number in range(1, moves + 1):
            fault = chance.choice(FAULTS) if number % EVERY == 0 else None
            if fault is None:
                seconds.append(_undisturbed(lab, vmacro))
                what = f"moved in {seconds[-1]:.1f} s"
            else:
                struck += 1
                row = broken_move(lab, vmacro, fault)
                write(json.dumps(asdict(row)) + "\n")  # type: ignore[operator]
                what = f"{fault.title}: exit {row.code}, then {list(row.then)}"
                _whole(row)
            print(f"{time.monotonic() - began:7.0f} s  {number:4}  at {places(lab)[0]:10} {what}", flush=True)
        lost = {kind: why for kind, why in verdicts(process).items() if why}
    vmacro("carry")
    left = leftovers(lab, vmacro, before)
    print(
        f"{moves} moves, {struck} of them broken: guests lost 0, doubled 0; connections lost {len(lost)} of 50 {lost}; "
        f"leftovers {len(left)} {left}; an undisturbed move took {statistics.median(seconds):.1f} s (median)"
    )
    return 1 if lost or left else 0


def _undisturbed(lab: Lab, vmacro: Vmacro) -> float:
    (home,) = places(lab)
    to = next(s for s in lab.topology.sites if s != home)
    began = time.monotonic()
    done = vmacro("migrate", "web", "--to", to, "--json")
    if done.returncode != 0 or places(lab) != [to]:
        raise SystemExit(f"a move that nobody disturbed: exit {done.returncode}: {done.stdout[-2000:]}{done.stderr}")
    return time.monotonic() - began


def _whole(row: Row) -> None:
    """One guest, at one place, and nothing left to resume."""
    if row.runs_at not in ("bucharest", "berlin") or any(code not in (0, 4) for code in row.then[-1:]):
        raise SystemExit(f"lost or doubled: {row}")


if __name__ == "__main__":
    sys.exit(main())
