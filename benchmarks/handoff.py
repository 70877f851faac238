"""Four ways to move a guest between sites, in one run, in one lab, felt by one connection of a client.

    sudo .venv/bin/python -m benchmarks.handoff --moves 20        # about 20 minutes

seamless   make before break, hold, carry
renumber   the paper's: move first, renumber after
stretch    what people do today: one subnet at both sites, over VXLAN, and the address kept
plain      libvirt's migration and nothing else: the address stays behind

Each goes back and forth between the sites; with --load, other clients work all the while (tests/clients.py has their
kinds), and what went wrong for them is said below the table. Visitors know the guest's first address alone: old ones
linger then. Brings up a lab of its own (`bench`) and removes it. Prints a
Markdown table; --picture FILE draws it; --json FILE keeps every move's figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks import answers, stretch
from tests.clients import KINDS
from tests.support import clients, into, verdicts
from vmacro.lab import echo, topology
from vmacro.lab.echo import Echoes
from vmacro.lab.lab import Lab
from vmacro.model.events import Event
from vmacro.rtt import recording as recordings
from vmacro.rtt.samples import Recording
from vmacro.rtt.statistics import between, outage, quantile, spread
from vmacro.rtt.wire import DEFAULT_PORT
from vmacro.services.event_json import from_plain

TOPOLOGY = Path(__file__).with_name("lab.toml")
WAYS = ("seamless", "renumber", "stretch", "plain")
BEFORE_S, AFTER_S = 2.0, 3.5  # watched around a move of a guest without other clients
LOST_AFTER_S = 10.0
LINGER_S = 60


@dataclass(frozen=True)
class Moved:
    """One move. Times in ms; `outage_ms` None: the connection was lost. `ping_ms`: the longest silence of ICMP to
    the address that the guest had. `direct_ms`: from the guest's resume until an answer came from the address that it
    has at the destination, and none from another any more; None where that never came."""

    way: str
    to: str
    outage_ms: float | None
    ping_ms: float | None
    downtime_ms: int
    before_ms: float | None
    during_ms: float | None
    after_ms: float | None
    direct_ms: float | None
    retransmitted: int


def main() -> int:
    """Run all ways in a lab of their own; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=20, help="of each")
    parser.add_argument("--guest", default="web", choices=["web", "busy"], help="busy: it dirties its memory")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--plain", action="store_true", help="legs that are not encrypted, to compare with")
    parser.add_argument("--load", nargs="+", choices=sorted(KINDS), default=[], help="visits keep-alive-20 is a web's")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shape = topology.load(TOPOLOGY)
    sites = {n: site.model_copy(update={"plain_tunnel": options.plain}) for n, site in shape.sites.items()}
    guests = {options.guest: shape.guests[options.guest]}
    changed = {"sites": sites, "guests": guests} | ({"linger_s": LINGER_S} if options.load else {})
    lab = Lab(shape.model_copy(update=changed))
    went_wrong: dict[str, dict[str, str]] = {}
    lab.down()
    try:
        lab.up(TOPOLOGY, lambda text: print(text, file=sys.stderr, flush=True))
        found = []
        for way in [w for w in WAYS if w in options.ways]:
            if way in ("stretch", "plain"):
                stretch.prepare(lab, options.guest)
            with tempfile.TemporaryDirectory() as folder, loaded(lab, way, options, went_wrong):
                after_s = LOST_AFTER_S if way == "plain" or options.load else AFTER_S
                for moved in series(lab, way, options.guest, options.moves, Path(folder), after_s):
                    found.append(moved)
                    if options.json:
                        options.json.write_text(json.dumps([asdict(m) for m in found], indent=1) + "\n")
    finally:
        for left in lab.down():
            print(f"left behind: {left}", file=sys.stderr)
    print(table(found))
    for way, told in went_wrong.items():
        print(f"\n{way}: " + "; ".join(f"{kind}: {wrong or 'all served'}" for kind, wrong in told.items()))
    if options.picture:
        draw(found, options.picture)
    return 0


@contextmanager
def loaded(lab: Lab, way: str, options: argparse.Namespace, went_wrong: dict[str, dict[str, str]]) -> Iterator[None]:
    """Other clients of the guest meanwhile; what went wrong for each kind of them is told in `went_wrong`."""
    if not options.load:
        yield
        return
    address = stretch.address(lab, "stretched" if way == "stretch" else options.guest)
    if any("proxy" in kind for kind in options.load):
        subprocess.run(
            [*into(lab, "operator", address), "systemctl restart haproxy"], check=True, stdin=subprocess.DEVNULL
        )
    with clients(lab, "client", address, *options.load) as load:
        yield
        went_wrong[way] = verdicts(load)


def series(lab: Lab, way: str, guest: str, moves: int, folder: Path, after_s: float) -> Iterator[Moved]:
    """Back and forth; one connection all the while, or a new one after each that was lost. Watched for `after_s` after
    each move."""
    guest = "stretched" if way == "stretch" else guest
    address = stretch.address(lab, guest)
    if way == "plain":
        stretch.stop_agent(lab, guest)
    for number in range(moves):
        here = stretch.place(lab, guest)
        to = next(s for s in lab.topology.sites if s != here)
        record = folder / f"{way}-{number}.ndjson"
        if way != "plain":  # whose guest has no agent to tell it
            address = stretch.address(lab, guest)
        client = lab.namespace("client")
        with (
            probing(lab, address, record),
            echo.echoing(client, address) as echoes,
            answers.heard(client, DEFAULT_PORT) as heard,
        ):
            time.sleep(BEFORE_S)
            sent = retransmissions(lab)
            events, downtime_ms = move(lab, way, guest, to, folder / f"{way}-{number}")
            time.sleep(after_s)
            sent = retransmissions(lab) - sent
        resumed_ns = happened_ns(events, "destination", "resumed")
        alone_ns = answers.from_there_alone_ns(heard, lab.topology.sites[to].subnet, resumed_ns)
        found = figures(way, to, recordings.read(record), events, echoes, downtime_ms, sent, after_s)
        yield replace(found, direct_ms=None if alone_ns is None else round((alone_ns - resumed_ns) / 1e6))
        if way == "plain":
            stretch.go(lab, guest, here)
        print(f"{way}: move {number + 1} of {moves} done", file=sys.stderr, flush=True)


def move(lab: Lab, way: str, guest: str, to: str, report: Path) -> tuple[list[Event], int]:
    """Move the guest once; returns the events and the downtime in ms."""
    if way in ("stretch", "plain"):
        return stretch.go(lab, guest, to)
    quiet = report.with_suffix(".toml")  # without probers: the one connection is ours
    quiet.write_text("".join(x for x in lab.inventory_file.read_text().splitlines(True) if not x.startswith("probe")))
    words = ["migrate", guest, "--to", to, "--handoff", way, "--json", "--report", str(report), "-i", str(quiet)]
    if way == "renumber":  # which loses plain TCP: what that means for clients is said below the table
        words.append("--allow-connection-loss")
    subprocess.run([sys.executable, "-m", "vmacro.cli.app", *words], check=True, stdout=subprocess.DEVNULL)
    events = [from_plain(json.loads(line)) for line in (report / "events.ndjson").read_text().splitlines()]
    return events, json.loads((report / "summary.json").read_text())["guest_downtime_ms"]


def happened_ns(events: list[Event], side: str, event: str) -> int:
    """When libvirt at a host told of something, by the wall clock."""
    return next(e.wall_ns for e in events if e.kind == "domain" and (e.data["side"], e.data["event"]) == (side, event))


def figures(
    way: str,
    to: str,
    recording: Recording,
    events: list[Event],
    echoes: Echoes,
    downtime_ms: int,
    sent: int,
    after_s: float,
) -> Moved:
    """The figures of one move, from what was measured around it. `sent`: TCP segments that were sent again;
    when the direct path was in use, they do not say."""
    shift = recording.mono_to_wall_ns
    paused, resumed = (
        happened_ns(events, *what) - shift for what in (("source", "suspended"), ("destination", "resumed"))
    )
    samples = recording.samples
    felt = Recording("", "", recording.interval_ms, 0, 0, tuple(s for s in samples if s.due_ns > paused - 1e9), ())
    last = max((s.answered_ns or 0 for s in samples), default=0)
    alive = last > resumed + (after_s - 1) * 1e9
    copying = between(recording, samples[0].due_ns + BEFORE_S * 1e9, paused - 1e8)
    return Moved(
        way,
        to,
        outage(felt).ms if alive else None,
        None  # the others leave that address behind
        if way not in ("seamless", "stretch")
        else echoes.longest_silence_ms(paused + shift - 500_000_000, paused + shift + 650_000_000),
        downtime_ms,
        spread(between(recording, samples[0].due_ns, samples[0].due_ns + BEFORE_S * 1e9)).median,
        spread(copying).median,
        spread(between(recording, resumed + 2e9, resumed + after_s * 1e9)).median if alive else None,
        None,
        sent,
    )


@contextmanager
def probing(lab: Lab, address: str, record: Path) -> Iterator[None]:
    """Measure round trips from the lab's client, once it has an answer, while this is open."""
    command = [sys.executable, "-m", "vmacro.rtt.probe", address, "--record", str(record)]
    prober = subprocess.Popen(["ip", "netns", "exec", lab.namespace("client"), *command])
    try:
        while not (record.exists() and '"rtt"' in record.read_text()):
            if prober.poll() is not None:
                raise SystemExit("the prober got no connection")
            time.sleep(0.05)
        yield
    finally:
        prober.terminate()
        prober.wait()


def retransmissions(lab: Lab) -> int:
    """Segments that the client's kernel has sent again so far (RFC 4022, tcpRetransSegs)."""
    text = subprocess.run(
        ["ip", "netns", "exec", lab.namespace("client"), "cat", "/proc/net/snmp"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names, values = (line.split() for line in text.splitlines() if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")])


def table(found: list[Moved]) -> str:
    """Medians by way and destination, as Markdown."""
    lines = [
        "| | moves | outage median | p95 | ping's | downtime median | RTT before | copying | after | "
        "direct path after | retransmitted per move | lost |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for way in dict.fromkeys(m.way for m in found):
        for to in ("berlin", "bucharest"):
            some = [m for m in found if (m.way, m.to) == (way, to)]
            if some:
                lines.append(_row(f"{way} to {to}", some))
        lines.append(_row(f"**{way}**", [m for m in found if m.way == way]))
    return "\n".join(lines)


def _row(name: str, some: list[Moved]) -> str:
    outages = sorted(m.outage_ms for m in some if m.outage_ms is not None)
    cells = [
        name,
        str(len(some)),
        _ms(quantile(outages, 0.5) if outages else None),
        _ms(quantile(outages, 0.95) if outages else None),
        _median([m.ping_ms for m in some]),
        _ms(statistics.median(m.downtime_ms for m in some)),
        *(_median([getattr(m, f) for m in some]) for f in ("before_ms", "during_ms", "after_ms", "direct_ms")),
        f"{statistics.mean(m.retransmitted for m in some):.1f}",
        str(sum(m.outage_ms is None for m in some)),
    ]
    return "| " + " | ".join(cells) + " |"


def _median(values: list[float | None]) -> str:
    known = [v for v in values if v is not None]
    return _ms(statistics.median(known) if known else None)


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"


def draw(found: list[Moved], target: Path) -> None:
    """Each move's outage beside its downtime."""
    import matplotlib.pyplot as plot

    ways = [w for w in WAYS if any(m.way == w and m.outage_ms is not None for m in found)]
    figure, axes = plot.subplots(figsize=(8, 4))
    for at, way in enumerate(ways):
        some = [m for m in found if m.way == way and m.outage_ms is not None]
        spots = [at + (n / max(1, len(some) - 1) - 0.5) * 0.3 for n in range(len(some))]
        axes.scatter([s - 0.2 for s in spots], [m.downtime_ms for m in some], s=12, color="0.6")
        axes.scatter([s + 0.2 for s in spots], [m.outage_ms or 0 for m in some], s=12, color="C0")
    axes.scatter([], [], s=12, color="0.6", label="guest's own downtime")
    axes.scatter([], [], s=12, color="C0", label="outage that the client felt")
    axes.set_xticks(range(len(ways)), ways)
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.set_title("One connection, a request every 10 ms; each dot is one move")
    figure.tight_layout()
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
