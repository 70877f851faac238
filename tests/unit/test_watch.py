"""Probers that do not end: on loopback, with real responders, by what Prometheus would read."""

import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import eventually
from vmacro.rtt import responder, watch, wire
from vmacro.rtt.prober import Target


@contextmanager
def watching(**ports: int) -> Iterator[dict[str, dict[str, float]]]:
    """Yields what answers with the metrics of each target, by their names."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    targets = tuple(watch.Watched(n, Target("127.0.0.1", p, mptcp=False), 2.0) for n, p in ports.items())
    stopped = threading.Event()
    thread = threading.Thread(target=watch.run, args=(watch.Plan("127.0.0.1", free, targets), stopped))
    thread.start()
    try:
        eventually(lambda: _listens(free), "the exporter")
        yield Scraped(free)
    finally:
        stopped.set()
        thread.join(30)
        assert not thread.is_alive()


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Scraped(dict[str, dict[str, float]]):
    """Asked for a target, it asks the exporter."""

    def __init__(self, port: int) -> None:
        self._port = port

    def __getitem__(self, target: str) -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = [s for family in families for s in family.samples if "le" not in s.labels]
        return {s.name.removeprefix("vmacro_rtt_"): s.value for s in samples if s.labels["target"] == target}


@pytest.fixture
def answering() -> Iterator[int]:
    listener = responder.listen("127.0.0.1", 0, mptcp=False)
    threading.Thread(target=responder.serve, args=(listener,), daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def test_round_trips_are_counted_by_target(answering: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    with watching(web=answering, gone=free) as seen:
        eventually(lambda: seen["web"].get("seconds_count", 0) > 100, "round trips")
        eventually(lambda: seen["gone"].get("refusals_total", 0) > 1, "a second try")
        web, gone = seen["web"], seen["gone"]
    assert (web["connected"], web["mptcp"], web["connections_total"], web["breaks_total"]) == (1, 0, 1, 0)
    assert 0 < web["seconds_sum"] / web["seconds_count"] < 1 and web["lost_total"] == 0
    assert gone["connected"] == 0 and gone["seconds_count"] == 0 and gone["silence_seconds"] > 0.5


def test_what_nobody_answers_is_silence_then_lost_and_a_break() -> None:
    """A responder that takes requests and says nothing, then closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener, watching(web=listener.getsockname()[1]) as seen:
        mute, _ = listener.accept()
        eventually(lambda: seen["web"]["silence_seconds"] > 0.3, "silence")
        assert seen["web"]["connected"] == 1 and seen["web"]["breaks_total"] == 0
        mute.close()
        eventually(lambda: seen["web"]["breaks_total"] == 1, "a break")
        assert seen["web"]["lost_total"] > 50
        again, _ = listener.accept()
        again.sendall(wire.take_whole(bytearray(again.recv(16))))
        eventually(lambda: seen["web"]["seconds_count"] == 1, "an answer on the next connection")
        again.close()


GOOD: dict[str, Any] = {
    "address": "127.0.0.1",
    "port": 9436,
    "targets": {"web": {"address": "web.example.net", "port": 7000, "mptcp": True, "interval_ms": 100}},
}


def test_a_file_says_whom_to_probe(tmp_path: Path) -> None:
    (tmp_path / "probes.json").write_text(json.dumps(GOOD))
    (web,) = watch.load(tmp_path / "probes.json").watched
    assert web == watch.Watched("web", Target("web.example.net", 7000, True), 100)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("port", 0, "targets.web.port = 0: must be 1 to 65535"),
        ("port", True, "targets.web.port = True"),
        ("address", "", "targets.web.address = '': must be a name or an address"),
        ("mptcp", "yes", "targets.web.mptcp = 'yes': must be true or false"),
        ("interval_ms", 0.5, "targets.web.interval_ms = 0.5"),
        ("interval_ms", None, "targets.web.interval_ms = None"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_key_and_value(tmp_path: Path, key: str, value: object, said: str) -> None:
    bad = json.loads(json.dumps(GOOD))
    bad["targets"]["web"][key] = value
    (tmp_path / "probes.json").write_text(json.dumps(bad))
    with pytest.raises(watch.WatchError, match=said):
        watch.load(tmp_path / "probes.json")
    assert watch.main(tmp_path / "probes.json") == 2


@pytest.mark.parametrize("text", ["{", "[]", '{"targets": 3}', '{"address": "a", "port": 1, "targets": {"w": 1}}'])
def test_no_such_file_at_all(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(watch.WatchError, match=r"x\.json"):
        watch.load(tmp_path / "x.json")
