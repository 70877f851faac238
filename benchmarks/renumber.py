"""Outages of `renumber` moves, back and forth, felt by one connection that stays open all the while.

    sudo make bench                                                  # 10 moves of an idle guest
    sudo .venv/bin/python benchmarks/renumber.py --moves 20          # as many as you like
    sudo .venv/bin/python benchmarks/renumber.py --guest busy        # one that dirties its memory

Brings up a lab of its own (`bench`) and removes it. Prints a Markdown table and the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from vmacro.lab import topology
from vmacro.lab.lab import Lab
from vmacro.model.events import Event
from vmacro.rtt import recording as recordings
from vmacro.rtt.samples import Recording
from vmacro.rtt.statistics import between, outage, spread, totals
from vmacro.services.report import spans

TOPOLOGY = Path(__file__).with_name("lab.toml")
SETTLED_S = 2.0  # watched after each move


@dataclass(frozen=True)
class Row:
    to: str
    outage_ms: float
    downtime_ms: int
    arrive_ms: float
    rtt_after_ms: float
    sent_mib: float
    wall_s: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=10)
    parser.add_argument("--guest", default="web", choices=["web", "busy"])
    options = parser.parse_args()
    shape = topology.load(TOPOLOGY)
    alone = {options.guest: shape.guests[options.guest]}  # no other guest shares the processor
    lab = Lab(shape.model_copy(update={"guests": alone}))
    lab.down()
    try:
        lab.up(TOPOLOGY, lambda text: print(text, file=sys.stderr, flush=True))
        with tempfile.TemporaryDirectory() as folder:
            return run(lab, options.guest, options.moves, Path(folder))
    finally:
        for left in lab.down():
            print(f"left behind: {left}", file=sys.stderr)


def run(lab: Lab, guest: str, moves: int, folder: Path) -> int:
    quiet = folder / "inventory.toml"  # without probers: the one connection is ours
    quiet.write_text("".join(x for x in lab.inventory_file.read_text().splitlines(True) if not x.startswith("probe")))
    status = next(g for g in lab.status().guests if g.name == guest)
    assert status.agent is not None
    record, here = folder / "rtt.ndjson", status.site
    probe = [sys.executable, "-m", "vmacro.rtt.probe", status.agent.address, "--record", str(record)]
    prober = subprocess.Popen(["ip", "netns", "exec", lab.namespace("client"), *probe])
    done: list[tuple[str, Path]] = []
    try:
        while not (record.exists() and '"rtt"' in record.read_text()):
            if prober.poll() is not None:
                raise SystemExit("the prober got no connection")
            time.sleep(0.1)
        for number in range(moves):
            here = next(s for s in lab.topology.sites if s != here)
            report = folder / str(number)
            move = [
                "vmacro.cli.app",
                "migrate",
                guest,
                "--to",
                here,
                "--json",
                "--report",
                str(report),
                "-i",
                str(quiet),
            ]
            subprocess.run([sys.executable, "-m", *move], check=True, stdout=subprocess.DEVNULL)
            time.sleep(SETTLED_S + 1)
            done.append((here, report))
            print(f"move {number + 1} of {moves} done", file=sys.stderr, flush=True)
    finally:
        prober.terminate()
        prober.wait()
    recording = recordings.read(record)
    show(lab, guest, [row(recording, to, report) for to, report in done], recording)
    return 0 if totals(recording).lost == 0 else 1


def row(recording: Recording, to: str, report: Path) -> Row:
    """One move's figures: what the connection felt from the copy until a little after it settled."""
    events = [Event(**json.loads(line)) for line in (report / "events.ndjson").read_text().splitlines()]
    figures = json.loads((report / "summary.json").read_text())
    phases = spans(events)
    begin, end = phases[0].start_ns - recording.mono_to_wall_ns, phases[-1].end_ns - recording.mono_to_wall_ns
    felt = between(recording, begin, end + SETTLED_S * 1e9)
    part = Recording("", "", recording.interval_ms, 0, 0, tuple(felt), ())
    after = spread(between(recording, end + 0.5e9, end + SETTLED_S * 1e9))
    return Row(
        to,
        outage(part).ms,
        figures["guest_downtime_ms"],
        figures["lease_ms"],
        after.median or 0.0,
        figures["bytes_transferred"] / (1 << 20),
        figures["migration_wall_s"],
    )


def show(lab: Lab, guest: str, rows: list[Row], recording: Recording) -> None:
    print(f"\nguest `{guest}`, {len(rows)} moves, one {recording.transport} connection\n")
    print("| to | outage ms | downtime ms | lease ms | RTT after ms | sent MiB | wall s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for r in rows:
        print(
            f"| {r.to} | {r.outage_ms:.0f} | {r.downtime_ms} | {r.arrive_ms:.0f} | {r.rtt_after_ms:.1f} | "
            f"{r.sent_mib:.0f} | {r.wall_s:.1f} |"
        )
    outages, downtimes = [r.outage_ms for r in rows], [r.downtime_ms for r in rows]
    found = totals(recording)
    outage_ms, downtime_ms = statistics.median(outages), statistics.median(downtimes)
    print(
        f"\nmedian outage {outage_ms:.0f} ms (max {max(outages):.0f}), median downtime {downtime_ms:.0f} ms, "
        f"ratio {outage_ms / downtime_ms:.1f}; {found.sent} requests, {found.lost} lost, {found.reordered} out of order"
    )


if __name__ == "__main__":
    sys.exit(main())
