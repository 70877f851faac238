"""What a copy sends and takes, beside libvirt's own: `virsh migrate --live --p2p --tls`, in one run, in one lab.

    sudo .venv/bin/python -m benchmarks.copy --moves 10                      # an idle guest
    sudo .venv/bin/python -m benchmarks.copy --moves 10 --guests web busy    # and one that dirties 32 MiB at 4 MiB/s
    sudo .venv/bin/python -m benchmarks.copy --policy 'drop_page_cache = true'
    sudo .venv/bin/python -m benchmarks.copy --mbit 50 --jitter 20 --loss 1

Of each guest there are two: one moves by `vmacro migrate`, without a prober, the other by virsh at its host, with the
same bound on bandwidth; they take turns, so that what else the machine does meets both. Wire bytes are those that the
source host's uplink sent, libvirt's what the hypervisor counts; "forecast off" is by how much vmacro's forecast of
bytes, time and pause was wrong. Brings up a lab of its own (`bench`) and removes it. --json FILE keeps every move's
figures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import stretch
from vmacro.lab import topology
from vmacro.lab.lab import Lab
from vmacro.lab.topology import Topology

TOPOLOGY = Path(__file__).with_name("lab.toml")
WAYS = ("vmacro", "virsh")
CALM_S = 2.0  # after a move, until the next
TWIN = "twin"  # what the other's name ends with
VIRSH = ("virsh", "-q", "migrate", "--live", "--p2p", "--tls", "--persistent", "--undefinesource", "--auto-converge")
MIB = 1 << 20


@dataclass(frozen=True)
class Copied:
    """One move. `wall_s`: of the whole command; `copy_s` and `downtime_ms`: of the migration, as libvirt has it. `off`:
    the forecast's share by which it was wrong, '' where there was none."""

    guest: str
    way: str
    to: str
    wire_mib: float
    sent_mib: float
    wall_s: float
    copy_s: float
    downtime_ms: int
    compression: str = ""
    off: dict[str, float] | None = None


def main() -> int:
    """Move both guests in turns; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=10, help="of each")
    parser.add_argument("--guests", nargs="+", default=["web"], choices=["web", "busy"], help="busy: it dirties memory")
    parser.add_argument("--mbit", type=float, default=200, help="of each node's link; copies may take four fifths")
    parser.add_argument("--jitter", type=float, default=0, help="ms, each way")
    parser.add_argument("--loss", type=float, default=0, help="percent")
    parser.add_argument(
        "--policy", nargs="*", default=['compression = "auto"'], help="lines of [policy] for vmacro's moves"
    )
    parser.add_argument("--minutes", type=float, default=60, help="begin no further move after so many")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    lab, turns = Lab(shaped(options)), list(itertools.product(options.guests, WAYS))
    end, found = time.monotonic() + options.minutes * 60, list[Copied]()
    lab.down()
    try:
        lab.up(TOPOLOGY, lambda text: print(text, file=sys.stderr, flush=True))
        for guest in options.guests:
            stretch.stop_agent(lab, guest + TWIN)  # nobody renumbers it
        for number in range(options.moves):
            for guest, way in turns if number % 2 else turns[::-1]:
                if time.monotonic() < end:
                    found.append(moved(lab, way, guest, options.policy))
                    print(found[-1], file=sys.stderr, flush=True)
                if options.json:
                    options.json.write_text(json.dumps([asdict(m) for m in found], indent=1) + "\n")
    finally:
        for left in lab.down():
            print(f"left behind: {left}", file=sys.stderr)
    for guest in options.guests:
        print(f"{guest}\n\n{table([m for m in found if m.guest == guest])}\n")
    return 0


def shaped(options: argparse.Namespace) -> Topology:
    """The lab with this WAN, and each guest with a twin."""
    shape = topology.load(TOPOLOGY)
    change = {"bandwidth_mbit": options.mbit, "jitter_ms": options.jitter, "loss_percent": options.loss}
    guests = {name + end: shape.guests[name] for name in options.guests for end in ("", TWIN)}
    return shape.model_copy(update={"wan": shape.wan.model_copy(update=change), "guests": guests})


def moved(lab: Lab, way: str, guest: str, policy: list[str]) -> Copied:
    """To the other site, and what it took."""
    time.sleep(CALM_S)
    name, guest = guest, guest + (TWIN if way == "virsh" else "")
    here = stretch.place(lab, guest)
    to = next(site for site in lab.topology.sites if site != here)
    before, began = sent_bytes(lab, here), time.monotonic()
    summary = by_vmacro(lab, guest, to, policy) if way == "vmacro" else by_virsh(lab, guest, here, to)
    wall_s, wire = time.monotonic() - began, sent_bytes(lab, here) - before
    forecast = summary.get("forecast") or {}
    return Copied(
        name,
        way,
        to,
        round(wire / MIB, 1),
        round(summary["bytes_transferred"] / MIB, 1),
        round(wall_s, 2),
        summary["copy_ms"] / 1000,
        summary["guest_downtime_ms"],
        summary.get("compression", ""),
        forecast.get("off"),
    )


def by_vmacro(lab: Lab, guest: str, to: str, policy: list[str]) -> dict[str, Any]:
    """Without probers: nothing is measured before and after. Returns summary.json."""
    quiet, report = lab.folder / "quiet.toml", lab.folder / "copy-report"
    lines = [line for line in lab.inventory_file.read_text().splitlines() if not line.startswith("probe")]
    at = lines.index("[policy]") + 1
    quiet.write_text("\n".join([*lines[:at], *policy, *lines[at:]]) + "\n")
    words = ["migrate", guest, "--to", to, "--json", "--report", str(report), "-i", str(quiet)]
    subprocess.run([sys.executable, "-m", "vmacro.cli.app", *words], check=True, stdout=subprocess.DEVNULL)
    summary: dict[str, Any] = json.loads((report / "summary.json").read_text())
    return summary


def by_virsh(lab: Lab, guest: str, here: str, to: str) -> dict[str, Any]:
    """At the host where the guest is, as its administrator would."""
    from vmacro import inventory

    known = inventory.load(lab.inventory_file).inventory
    there = known.host(to)
    assert there is not None
    bound = ["--bandwidth", str(known.policy.bandwidth_mib_s), "--tls-destination", there.tls_name]
    ends = ["--domain", guest, "--desturi", there.peer_uri, "--migrateuri", f"tcp://{there.address}"]
    subprocess.run(lab.host(here).inside([*VIRSH, *bound, *ends]), check=True)
    counted = stretch.counted(lab, guest, to)  # which libvirt tells once
    figures = {"copy_ms": counted.elapsed_ms, "guest_downtime_ms": counted.downtime_ms}
    return figures | {"bytes_transferred": counted.bytes_transferred}


def sent_bytes(lab: Lab, site: str) -> int:
    """By its uplink, since it is up (/proc/net/dev): the interface of the default route."""
    inside = ["ip", "netns", "exec", lab.namespace(site)]
    route = subprocess.run([*inside, "ip", "-o", "-4", "route", "show", "default"], capture_output=True, check=True)
    words = route.stdout.decode().split()
    uplink = words[words.index("dev") + 1]
    text = subprocess.run([*inside, "cat", f"/sys/class/net/{uplink}/statistics/tx_bytes"], capture_output=True)
    return int(text.stdout)


def table(found: list[Copied]) -> str:
    """Medians by way, and what vmacro's are of virsh's, as Markdown."""
    head = "| | moves | wire MiB | libvirt's MiB | command s | copy s | downtime ms (longest) | forecast off |"
    lines = [head, "|" + " --- |" * 8]
    rows = {way: [m for m in found if m.way == way] for way in WAYS}
    lines += [_row(way, some) for way, some in rows.items() if some]
    if all(rows.values()):
        names = ("wire_mib", "sent_mib", "wall_s", "copy_s", "downtime_ms")
        ratios = [_median(rows["vmacro"], n) / _median(rows["virsh"], n) for n in names]
        lines.append("| **ratio** | | " + " | ".join(f"**{ratio:.2f}**" for ratio in ratios) + " | |")
    return "\n".join(lines)


def _row(way: str, some: list[Copied]) -> str:
    names = ("wire_mib", "sent_mib", "wall_s", "copy_s")
    longest = max(m.downtime_ms for m in some)
    pause = f"{_median(some, 'downtime_ms'):.0f} ({longest})"
    off = {name: [abs(m.off[name]) for m in some if m.off] for name in ("bytes", "time", "pause")}
    told = ", ".join(f"{name} {statistics.median(values):.0%}" for name, values in off.items() if values) or "-"
    cells = [way, str(len(some)), *(f"{_median(some, n):.1f}" for n in names), pause]
    return "| " + " | ".join([*cells, told]) + " |"


def _median(some: list[Copied], name: str) -> float:
    return float(statistics.median(getattr(m, name) for m in some))


if __name__ == "__main__":
    sys.exit(main())
