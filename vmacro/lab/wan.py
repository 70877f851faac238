"""Delay, loss and bandwidth between the nodes: `tc netem` where the kernel has it, else our forwarder."""

from __future__ import annotations

import itertools
import json
import os
import socket
import statistics
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vmacro.errors import LabError
from vmacro.lab import forwarder, namespaces, process
from vmacro.lab.topology import WAN, Topology

NETEM, FORWARDER = "netem", "forwarder"
BURST_BYTES = 65_536
BUFFER_S = 0.04  # of the link's rate: what a router's queue holds


@dataclass(frozen=True)
class Measured:
    """A round trip between two nodes, in ms; the error is measured less asked."""

    one: str
    other: str
    asked_ms: float
    median_ms: float
    spread_ms: float

    @property
    def error_ms(self) -> float:
        """How much longer it is than asked for."""
        return self.median_ms - self.asked_ms


def kernel_has_netem() -> bool:
    """By trying: a module may load on demand, or not exist."""
    name = f"vmacro-netem-{os.getpid()}"  # labs may come up side by side
    namespaces.create(name)
    try:
        with IPRoute(netns=name) as ip:
            ip.tc("add", "netem", index=1, handle="1:", delay=1000)
        return True
    except NetlinkError:
        return False
    finally:
        namespaces.remove_all([name])


def start(topology: Topology, folder: Path) -> str:
    """Make the WAN as far as asked. Idempotent. Returns what does the delay; raises LabError."""
    saved = folder / "wan.json"
    if saved.exists():
        state = json.loads(saved.read_text())
        if state["by"] == NETEM or process.Process(**state["process"]).alive:
            return str(state["by"])
    if kernel_has_netem():
        _shape_with_netem(topology)
        saved.write_text(json.dumps({"by": NETEM}))
        return NETEM
    _limit_rate(topology)
    running = _start_forwarder(topology, folder)
    saved.write_text(json.dumps({"by": FORWARDER, "process": asdict(running)}))
    return FORWARDER


def stop(folder: Path) -> None:
    """End the forwarder, if one runs. Idempotent."""
    saved = folder / "wan.json"
    if saved.exists():
        state = json.loads(saved.read_text())
        if "process" in state:
            process.Process(**state["process"]).end()
        saved.unlink()


def _pairs(topology: Topology) -> Iterator[tuple[str, str]]:
    return itertools.permutations(topology.nodes, 2)


def _start_forwarder(topology: Topology, folder: Path) -> process.Process:
    router, wan = topology.network_namespace(WAN), topology.wan
    links = []
    versions = (4, 6) if topology.dual_stack else (4,)
    bases = [["ip", "netns", "exec", router, namespaces.ip_tables(v), "-w", "-t", "mangle"] for v in versions]
    for base in bases:
        process.run([*base, "-F", "FORWARD"])
    for queue, (source, target) in enumerate(_pairs(topology)):
        one_way_ms = topology.round_trip_ms(source, target) / 2
        if one_way_ms or wan.jitter_ms or wan.loss_percent:
            links.append(forwarder.Link(queue, one_way_ms, wan.jitter_ms, wan.loss_percent))
            rule = ["-A", "FORWARD", "-i", source, "-o", target, "-j", "NFQUEUE", "--queue-num", str(queue)]
            for base in bases:
                process.run([*base, *rule])
    forwarder.write_config(links, folder / "forwarder.json")
    log = folder / "forwarder.log"
    log.unlink(missing_ok=True)
    running = process.spawn([sys.executable, "-m", "vmacro.lab.forwarder", router, folder / "forwarder.json"], log)
    deadline = time.monotonic() + 20
    while "forwarding" not in log.read_text():
        if not running.alive or time.monotonic() > deadline:
            raise LabError(f"the WAN forwarder did not start: {log.read_text()[-1000:]}")
        time.sleep(0.01)
    return running


def _limit_rate(topology: Topology) -> None:
    rate = round(topology.wan.bandwidth_mbit * 1e6 / 8)
    with IPRoute(netns=topology.network_namespace(WAN)) as ip:
        for node in topology.nodes:
            index = ip.link_lookup(ifname=node)[0]
            ip.tc("replace", "tbf", index=index, handle="1:", rate=rate, burst=BURST_BYTES, limit=_buffer_bytes(rate))


def _shape_with_netem(topology: Topology) -> None:
    """On the router's way to each node: a class for each source, with that pair's delay.

    Untested on the project's own machines, whose kernel has no netem.
    """
    wan, rate = topology.wan, f"{round(topology.wan.bandwidth_mbit * 1000)}kbit"
    tc = ["ip", "netns", "exec", topology.network_namespace(WAN), "tc"]
    for target in topology.nodes:
        process.run([*tc, "qdisc", "replace", "dev", target, "root", "handle", "1:", "htb"])
        root = [*tc, "class", "replace", "dev", target, "parent"]
        process.run([*root, "1:", "classid", "1:1", "htb", "rate", rate])
        for number, source in enumerate((n for n in topology.nodes if n != target), 16):
            leaf = f"1:{number:x}"
            process.run([*root, "1:1", "classid", leaf, "htb", "rate", rate])
            delay = ["delay", f"{topology.round_trip_ms(source, target) / 2}ms", f"{wan.jitter_ms}ms"]
            netem = ["netem", "limit", "60000", *delay, "loss", f"{wan.loss_percent}%"]
            process.run([*tc, "qdisc", "replace", "dev", target, "parent", leaf, *netem])
            for prefix in topology.prefixes(source):
                match = ["u32", "match", "ip", "src", str(prefix), "flowid", leaf]
                process.run([*tc, "filter", "add", "dev", target, "parent", "1:", "protocol", "ip", *match])
            for prefix6 in topology.prefixes6(source) if topology.dual_stack else ():
                match = ["u32", "match", "ip6", "src", str(prefix6), "flowid", leaf]
                process.run([*tc, "filter", "add", "dev", target, "parent", "1:", "protocol", "ipv6", *match])


def _buffer_bytes(rate: int) -> int:
    return max(BURST_BYTES * 2, round(rate * BUFFER_S))


def measure(topology: Topology, count: int = 20) -> list[Measured]:
    """Ping between the nodes of each configured round trip, from one's namespace to the other's uplink. A VM is pinged;
    its namespace has no address to ping from."""
    found = []
    for trip in topology.wan.round_trips:
        for pair in itertools.product(*map(topology.nodes_of, trip.between)):
            one, other = sorted(pair, key=topology.runs_xen)
            if topology.runs_xen(one):
                continue
            with namespaces.inside(topology.network_namespace(one)):
                times = _ping(str(topology.uplink(other).node.ip), count)
            if not times:
                raise LabError(f"{one} - {other}: none of {count} pings came back")
            spread = statistics.pstdev(times) if len(times) > 1 else 0.0
            found.append(Measured(one, other, trip.ms, statistics.median(times), spread))
    return found


def _ping(address: str, count: int) -> list[float]:
    """Round trips in ms. ICMP by a raw socket, so that no ping program is needed."""
    times = []
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(3)
        for sequence in range(count):
            body = struct.pack(">BBHHH", 8, 0, 0, 0x766D, sequence)
            checksum = 0xFFFF - sum(struct.unpack(">4H", body)) % 0xFFFF
            sent = time.perf_counter()
            sock.sendto(struct.pack(">BBHHH", 8, 0, checksum, 0x766D, sequence), (address, 0))
            try:
                while True:
                    reply = sock.recv(1500)[20:]
                    if reply[0] == 0 and struct.unpack_from(">HH", reply, 4) == (0x766D, sequence):
                        times.append((time.perf_counter() - sent) * 1000)
                        break
            except TimeoutError:
                continue
    return times
