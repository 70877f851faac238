"""What idle connections cost a move: prepare, settle, and the agent's look, by how many there are.

    sudo .venv/bin/python -m benchmarks.connections --numbers 10 500 2000 10000      # moves there and back with each
    sudo .venv/bin/python -m benchmarks.connections --numbers 2000 --churn 20        # and so many new ones a second

Held by a client of the lab, MPTCP, to the guest's nginx. Brings up a lab of its own (`bench`) and removes it. Prints a
Markdown table. nginx must be told that it may have so many (worker_connections, worker_rlimit_nofile); a number that
the guest does not take is left out, and that is said.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.clients import visits
from tests.support import address_of, into
from vmacro import wiring
from vmacro.lab.lab import Lab
from vmacro.lab.topology import load
from vmacro.model.events import Event, PhaseBegan, PhaseEnded
from vmacro.model.facts import CountArgs
from vmacro.model.moves import Phase
from vmacro.services.event_json import from_plain

TOPOLOGY = Path(__file__).with_name("lab.toml")
GUEST, WEB, LOOKS = "web", 80, 5
MEMORY_MIB = 2304  # Linux has room for 4 MPTCP connections for each MiB, rounded up to a power of two (token.c)
AT_ONCE = 32
ANSWER_TIMEOUT_S = 60.0
LINGER_S = 180.0  # longer than a move takes here: who comes anew comes to the first address all the while


@dataclass(frozen=True)
class Measured:
    """One move with so many connections. `look_ms`: what one `count` takes the agent, a median of LOOKS; `busy_s`: how
    long the guest's processor worked, from the survey to the end; `copied_mib`: what the copy sent; `verdicts`: by the
    report."""

    number: int
    to: str
    look_ms: float
    prepare_ms: float
    settle_ms: float
    busy_s: float
    copied_mib: float
    verdicts: dict[str, int]


def main() -> int:
    """Move with each number, there and back; print the table."""
    if sys.argv[1:2] == ["hold"]:
        return hold(sys.argv[2], int(sys.argv[3]))
    if sys.argv[1:2] == ["churn"]:
        return churn(sys.argv[2], float(sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numbers", nargs="+", type=int, default=[10, 500, 2000, 10_000])
    parser.add_argument("--churn", type=float, default=0.0, metavar="PER_S", help="new connections a second beside")
    options = parser.parse_args()
    shape = load(TOPOLOGY)
    guest = shape.guests[GUEST].model_copy(update={"memory_mib": MEMORY_MIB})
    changed = {"guests": {GUEST: guest}} | ({"linger_s": LINGER_S} if options.churn else {})
    lab, found = Lab(shape.model_copy(update=changed)), []
    lab.down()
    try:
        lab.up(TOPOLOGY, lambda text: print(text, file=sys.stderr, flush=True))
        for number in options.numbers:
            with holding(lab, number) as held, tempfile.TemporaryDirectory() as folder:
                if not held:
                    print(f"{number}: the guest does not take so many", file=sys.stderr)
                    continue
                with coming(lab, options.churn):
                    for _ in range(2):
                        here = lab.guest(GUEST).site
                        to = next(site for site in lab.topology.sites if site != here)
                        found.append(measured(lab, number, to, Path(folder) / to))
                        print(found[-1], file=sys.stderr, flush=True)  # kept if one after it fails
    finally:
        for left in lab.down():
            print(f"left behind: {left}", file=sys.stderr)
    print(table(found))
    return 0


def measured(lab: Lab, number: int, to: str, report: Path) -> Measured:
    """Of one move to a site. Raises CalledProcessError where it does not end well; losses are figures."""
    with ThreadPoolExecutor(1) as threads:  # which enters the operator's network: this one must be outside to end it
        look_ms = threads.submit(looks, lab).result()
    quiet = report.with_suffix(".toml")  # without probers: nobody waits for their time before and after
    quiet.write_text("".join(x for x in lab.inventory_file.read_text().splitlines(True) if not x.startswith("probe")))
    words = ["migrate", GUEST, "--to", to, "--json", "--report", str(report), "-i", str(quiet)]
    words.append("--allow-connection-loss")
    before_s = busy_s(lab)
    subprocess.run([sys.executable, "-m", "vmacro.cli.app", *words], check=True, stdout=subprocess.DEVNULL)
    worked_s = busy_s(lab) - before_s
    events = [from_plain(json.loads(line)) for line in (report / "events.ndjson").read_text().splitlines()]
    summary = json.loads((report / "summary.json").read_text())
    copied_mib = summary["bytes_transferred"] / (1 << 20)
    prepare_ms, settle_ms = (took_ms(events, phase) for phase in (Phase.PREPARE, Phase.SETTLE))
    return Measured(number, to, look_ms, prepare_ms, settle_ms, worked_s, copied_mib, summary["verdicts"])


def looks(lab: Lab) -> float:
    """What `count` takes the agent, in ms."""
    settings, status, address = wiring.load(lab.inventory_file), lab.guest(GUEST), address_of(lab, GUEST)
    (host,) = (h for h in settings.inventory.hosts if h.site == status.site)
    with wiring.opened(settings) as world, world.agent(host, GUEST) as agent:
        return median(agent.count(CountArgs((address,))).took_ms for _ in range(LOOKS))


def busy_s(lab: Lab) -> float:
    """For how long the guest's processors have worked since it booted (proc(5), /proc/stat, hundredths of a second)."""
    command = [*into(lab, "operator", address_of(lab, GUEST)), "head -n 1 /proc/stat"]
    told = subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, told.split()[1:])
    return (user + nice + system + irq + softirq) / 100


def took_ms(events: list[Event], phase: Phase) -> float:
    """From a phase's begin to its end."""
    began, ended = (
        next(e.wall_ns for e in events if isinstance(e.what, kind) and e.what.phase == phase)
        for kind in (PhaseBegan, PhaseEnded)
    )
    return (ended - began) / 1e6


@contextmanager
def holding(lab: Lab, number: int) -> Iterator[bool]:
    """Whether so many connections are held meanwhile by the lab's client."""
    words = [sys.executable, "-m", "benchmarks.connections", "hold", address_of(lab, GUEST), str(number)]
    inside = ["ip", "netns", "exec", lab.namespace("client"), *words]
    holder = subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        yield holder.stdout.readline() == "ready\n"
    finally:
        holder.kill()
        holder.wait()


@contextmanager
def coming(lab: Lab, per_s: float) -> Iterator[None]:
    """So many new ones a second meanwhile from the lab's client; what became of them is printed. 0: none."""
    if not per_s:
        yield
        return
    words = [sys.executable, "-m", "benchmarks.connections", "churn", address_of(lab, GUEST), str(per_s)]
    inside = ["ip", "netns", "exec", lab.namespace("client"), *words]
    comer = subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield
    finally:
        print(f"new ones: {comer.communicate()[0].strip()}", file=sys.stderr, flush=True)


def churn(address: str, per_s: float) -> int:
    """In the client's namespace: connect so often, be answered, go, until standard input ends; say who was not."""
    ready, over, began_s = threading.Event(), threading.Event(), time.monotonic()

    def until_told() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=until_told, daemon=True).start()
    failed = visits(1 / per_s)(address, ready, over)
    print(f"{per_s:g} a second for {time.monotonic() - began_s:.0f} s: {failed or 'all were served'}", flush=True)
    return 0


def hold(address: str, number: int) -> int:
    """In the client's namespace: connect, some at once, be answered once on each, say so, and keep them until standard
    input ends."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (number + 100, number + 100))

    def opened(_: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP)
        sock.settimeout(ANSWER_TIMEOUT_S)
        sock.connect((address, WEB))
        sock.sendall(b"HEAD / HTTP/1.1\r\nHost: web\r\nConnection: keep-alive\r\n\r\n")
        if not sock.recv(4096):
            raise ConnectionError("the guest has closed it")
        return sock

    with ThreadPoolExecutor(AT_ONCE) as threads:
        held = list(threads.map(opened, range(number)))
    print("ready", flush=True)
    sys.stdin.read()
    return 0 if len(held) == number else 1


def table(found: list[Measured]) -> str:
    """By number and destination, as Markdown."""
    lines = [
        "| connections | to | prepare | settle | agent's look | for each | guest's processor | copied | verdicts |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for m in found:
        told = ", ".join(f"{n} {verdict}" for verdict, n in m.verdicts.items() if n)
        each = f"{1000 * m.look_ms / m.number:.0f} µs"
        figures = f"{m.prepare_ms:.0f} ms | {m.settle_ms:.0f} ms | {m.look_ms:.0f} ms | {each}"
        figures += f" | {m.busy_s:.1f} s | {m.copied_mib:.0f} MiB"
        lines.append(f"| {m.number} | {m.to} | {figures} | {told} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
