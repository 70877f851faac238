"""Probers that never end, one per target; what they measure is served to Prometheus.

The file says whom to probe:
{"address": "127.0.0.1", "port": 9436, "targets": {"web": {"address": "web.example.net", "port": 7000, "mptcp": true,
 "interval_ms": 100}}}
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, start_http_server

from vmacro.rtt.prober import ProbeError, Prober, Target
from vmacro.rtt.samples import Sample

RECONNECT_S = 1.0
GRACE_S = 1.0
# In seconds: from a LAN's round trip to an outage in which most clients give up.
BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)
_MEANT = {
    "address": "a name or an address",
    "port": "1 to 65535",
    "mptcp": "true or false",
    "interval_ms": "a number of 1 or more",
}
_FITS: dict[str, Callable[[Any], bool]] = {
    "address": lambda v: isinstance(v, str) and v != "",
    "port": lambda v: type(v) is int and 0 < v < 65536,
    "mptcp": lambda v: type(v) is bool,
    "interval_ms": lambda v: type(v) in (int, float) and v >= 1,
}


class WatchError(ValueError):
    """The file does not say properly what to probe; the message names file, key and value."""


@dataclass(frozen=True)
class Watched:
    """A target and its name, which labels its metrics."""

    name: str
    target: Target
    interval_ms: float


@dataclass(frozen=True)
class Plan:
    """Where the metrics are served, and what is probed."""

    address: str
    port: int
    watched: tuple[Watched, ...]


def load(path: Path) -> Plan:
    """Raises WatchError."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WatchError(f"{path}: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("targets"), dict):
        raise WatchError(f"{path}: targets: must be a table of names")
    address, port = (_value(path, "", data, key) for key in ("address", "port"))
    watched = []
    for name, given in data["targets"].items():
        where = f"targets.{name}."
        if not isinstance(given, dict):
            raise WatchError(f"{path}: targets.{name}: must be a table, is {given!r}")
        target = Target(*(_value(path, where, given, key) for key in ("address", "port", "mptcp")))
        watched.append(Watched(name, target, _value(path, where, given, "interval_ms")))
    return Plan(address, port, tuple(watched))


def _value(path: Path, where: str, table: dict[str, Any], key: str) -> Any:
    value = table.get(key)
    if not _FITS[key](value):
        raise WatchError(f"{path}: {where}{key} = {value!r}: must be {_MEANT[key]}")
    return value


class Metrics:
    """All metrics, labelled by the target's name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def made(kind: Any, name: str, text: str, **kwargs: Any) -> Any:
            return kind(f"vmacro_rtt_{name}", text, ["target"], registry=registry, **kwargs)

        self.seconds = made(Histogram, "seconds", "round trips, from when each request was due", buckets=BUCKETS)
        self.lost = made(Counter, "lost", "requests that were never answered")
        self.connections = made(Counter, "connections", "connections that were made")
        self.breaks = made(Counter, "breaks", "connections that broke")
        self.refusals = made(Counter, "refusals", "connections that could not be made")
        self.connected = made(Gauge, "connected", "1 while there is a connection")
        self.mptcp = made(Gauge, "mptcp", "1 while that connection speaks MPTCP")
        self.silence = made(Gauge, "silence_seconds", "for how long a request or a connection is waited for")


class Watch:
    """One target, probed for ever over one connection; if that breaks, over a new one."""

    def __init__(self, watched: Watched, metrics: Metrics) -> None:
        self._watched = watched
        name = watched.name
        self._seconds, self._lost = metrics.seconds.labels(name), metrics.lost.labels(name)
        self._connections, self._breaks = metrics.connections.labels(name), metrics.breaks.labels(name)
        self._refusals = metrics.refusals.labels(name)
        self._prober: Prober | None = None
        self._answered_s = time.monotonic()
        metrics.connected.labels(name).set_function(lambda: float(self._transport != ""))
        metrics.mptcp.labels(name).set_function(lambda: float(self._transport == "mptcp"))
        metrics.silence.labels(name).set_function(self._silent_s)

    @property
    def _transport(self) -> str:
        prober = self._prober
        return prober.transport if prober is not None else ""

    def _silent_s(self) -> float:
        prober = self._prober
        if prober is None or not prober.transport:
            return time.monotonic() - self._answered_s
        return prober.silent_s

    def run(self, stopped: threading.Event) -> None:
        """Probe until it is stopped."""
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 (a device, not a path of ours)
            while not stopped.is_set():
                prober = Prober(self._watched.target, self._watched.interval_ms, nowhere, self._see, self._connected)
                self._prober = prober
                try:
                    prober.run(lambda: not stopped.is_set(), GRACE_S)
                except ProbeError as error:
                    (self._breaks if prober.transport else self._refusals).inc()
                    print(f"{self._watched.name}: {error}", file=sys.stderr, flush=True)
                self._prober = None
                stopped.wait(RECONNECT_S)

    def _connected(self, transport: str) -> None:
        self._connections.inc()
        print(f"{self._watched.name}: connected to {self._watched.target} by {transport}", file=sys.stderr, flush=True)

    def _see(self, sample: Sample) -> None:
        if sample.rtt_ns is None:
            self._lost.inc()
            return
        self._answered_s = time.monotonic()
        self._seconds.observe(sample.rtt_ns / 1e9)


def run(plan: Plan, stopped: threading.Event) -> None:
    """Probe all targets and serve metrics until it is stopped. Raises OSError if the port of the metrics is taken."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    server, thread = start_http_server(plan.port, plan.address, registry)
    threads = [threading.Thread(target=Watch(w, metrics).run, args=(stopped,)) for w in plan.watched]
    for each in threads:
        each.start()
    try:
        for each in threads:
            each.join()
        stopped.wait()
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


def main(path: Path) -> int:
    """Run as a service, until SIGTERM or Ctrl-C. Returns the exit code."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        run(load(path), stopped)
    except (WatchError, OSError) as error:
        print(f"vmacro: {error}", file=sys.stderr)
        return 2
    return 0
