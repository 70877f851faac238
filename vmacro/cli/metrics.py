"""What a worker tells Prometheus: its own moves, and, as it leads, how much is left to do."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, start_http_server

from vmacro.crews import Working
from vmacro.errors import ConfigurationError, reason_of
from vmacro.model.batches import Became, Try

# In seconds: a guest's pause, and how long a whole move takes.
PAUSES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
TIMES = (5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


class Metrics:
    """Implements crew.Watches."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self.registry = CollectorRegistry()

        def made(kind: Any, name: str, text: str, *labels: str, **kwargs: Any) -> Any:
            return kind(f"vmacro_{name}", text, labels, registry=registry, **kwargs)

        self.under_way = made(Gauge, "moves_under_way", "moves of batches that this worker has")
        self.leads = made(Gauge, "worker_leads", "1 while this worker says what begins")
        self.waiting = made(Gauge, "moves_waiting", "moves of batches that wait, as far as this worker leads")
        self.endings = made(Counter, "moves", "tries at moves of batches that ended", "ending")
        self.pauses = made(Histogram, "guest_pause_seconds", "how long guests stood still", buckets=PAUSES)
        self.times = made(Histogram, "move_seconds", "how long moves took", buckets=TIMES)
        self.bytes = made(Counter, "sent_bytes", "what copies have sent")

    def began(self, _tried: Try) -> None:
        """See crew.Watches."""
        self.under_way.inc()

    def ended(self, _tried: Try, became: Became) -> None:
        """See crew.Watches."""
        self.under_way.dec()
        self.endings.labels(became.text).inc()
        if became.moved:
            if became.downtime_ms is not None:
                self.pauses.observe(became.downtime_ms / 1000)
            self.times.observe(became.wall_s)
            self.bytes.inc(became.mib * (1 << 20))


@contextmanager
def served(where: str, metrics: Metrics, working: Working) -> Iterator[None]:
    """At ADDRESS:PORT while this is open; nowhere if that is ''. Raises ConfigurationError."""
    metrics.leads.set_function(lambda: float(working.leader.leads))
    metrics.waiting.set_function(lambda: float(working.leader.waiting))
    if not where:
        yield
        return
    address, port = _address(where)
    try:
        server, thread = start_http_server(port, address, metrics.registry)
    except OSError as error:
        raise ConfigurationError(f"--metrics {where!r}: {reason_of(error)}", "a port that is free") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _address(where: str) -> tuple[str, int]:
    """ADDRESS:PORT. Raises ConfigurationError."""
    address, _, port = where.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(address)
        if not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ValueError
    except ValueError:
        raise ConfigurationError(f"--metrics {where!r}: is not ADDRESS:PORT", "such as 127.0.0.1:9437") from None
    return address, int(port)
