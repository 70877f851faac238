"""Wire, recording, prober and report: on loopback, with a real responder."""

import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmacro.rtt import recording as recordings
from vmacro.rtt import report, responder, statistics, wire
from vmacro.rtt.prober import ProbeError, Prober, Target
from vmacro.rtt.samples import Marker, Sample


@pytest.fixture
def port() -> Iterator[int]:
    listener = responder.listen("127.0.0.1", 0)
    threading.Thread(target=responder.serve, args=(listener,), daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def measure(target: Target, count: int, interval_ms: float = 2.0) -> list[str]:
    out = io.StringIO()
    left = [count]

    def more() -> bool:
        left[0] = count - out.getvalue().count('"rtt"')
        return left[0] > 0

    Prober(target, interval_ms, out).run(more, grace_s=10)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("mptcp", [True, False])
def test_a_probe_over_one_connection(port: int, mptcp: bool) -> None:
    read = recordings.parse(measure(Target("127.0.0.1", port, mptcp), 50), "probe")
    assert read.complete and read.transport == ("mptcp" if mptcp else "tcp")
    assert bool(read.token) is mptcp
    totals = statistics.totals(read)
    assert totals.answered >= 50 and (totals.lost, totals.reordered) == (0, 0)
    dues = [s.due_ns for s in read.samples]
    assert {b - a for a, b in zip(dues, dues[1:])} == {2_000_000}, "requests are due on schedule"


def test_a_stalled_responder_is_measured_in_full() -> None:
    """The prober goes on sending while nobody answers; each round trip counts from when it was due."""
    listener = socket.create_server(("127.0.0.1", 0))

    def stall() -> None:
        connection, _ = listener.accept()
        time.sleep(0.5)
        buffer = bytearray()
        while data := connection.recv(65536):
            buffer += data
            connection.sendall(wire.take_whole(buffer))

    threading.Thread(target=stall, daemon=True).start()
    target = Target("127.0.0.1", listener.getsockname()[1], mptcp=False)
    read = recordings.parse(measure(target, 120, interval_ms=5), "probe")
    listener.close()
    assert statistics.outage(read).ms > 400
    slow = [s for s in read.samples if s.rtt_ns is not None and s.rtt_ns > 100e6]
    assert len(slow) > 50, "every request of the stall was sent, not only the first"


def test_a_responder_that_goes_away_leaves_what_was_measured() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def answer_once() -> None:
        connection, _ = listener.accept()
        connection.sendall(connection.recv(16))
        connection.close()

    threading.Thread(target=answer_once, daemon=True).start()
    out = io.StringIO()
    with pytest.raises(ProbeError, match="broke"):
        Prober(Target("127.0.0.1", listener.getsockname()[1], False), 5, out).run(lambda: True, grace_s=1)
    read = recordings.parse(out.getvalue().splitlines(), "probe")
    assert len(read.arrival_order) == 1 and read.complete


def test_nobody_there_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    with pytest.raises(ProbeError, match=f"no connection to 127.0.0.1:{free}"):
        Prober(Target("127.0.0.1", free, False), 5, io.StringIO()).run(lambda: True, grace_s=1)


def test_the_responder_drops_who_speaks_another_language(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert client.recv(100) == b""


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20), st.integers(0, 15))
def test_records_survive_any_split(sequences: list[int], tail: int) -> None:
    stream = b"".join(map(wire.encode, sequences)) + wire.encode(0)[:tail]
    buffer = bytearray(stream)
    assert wire.decode(buffer) == sequences and len(buffer) == tail


@given(st.binary(max_size=200))
def test_other_bytes_are_refused_or_wait(data: bytes) -> None:
    try:
        wire.take_whole(bytearray(data))
    except wire.WireError:
        pass


def test_a_broken_recording_names_file_and_line() -> None:
    head = recordings.header("t", "tcp", 10, 0, 0)
    with pytest.raises(recordings.RecordingError, match=r"x\.ndjson:2: not a line"):
        recordings.parse([head, "{nonsense"], "x.ndjson")
    with pytest.raises(recordings.RecordingError, match="no header"):
        recordings.parse([], "x.ndjson")


@pytest.mark.parametrize(
    "line",
    [
        '{"type":"rtt","seq":"1","due_ns":1,"rtt_ns":1}',
        '{"type":"rtt","seq":1,"due_ns":1,"rtt_ns":-5}',
        '{"type":"rtt","seq":1,"due_ns":true,"rtt_ns":1}',
        '{"type":"lost","seq":1,"due_ns":1e99}',
        '{"type":"marker","name":"x"}',
        "[]",
        '{"type":"header","version":1,"target":"t","transport":"tcp","interval_ms":0,"token":0,"mono_to_wall_ns":0}',
    ],
)
def test_what_another_machine_recorded_is_checked(line: str) -> None:
    head = recordings.header("t", "tcp", 10, 0, 0)
    with pytest.raises(recordings.RecordingError, match="x:2: not a line"):
        recordings.parse([head, line], "x")


def test_a_recording_that_was_cut_off(tmp_path: Path) -> None:
    whole = recordings.header("t", "tcp", 10, 0, 0) + recordings.sample_line(Sample(0, 5, 7))
    (tmp_path / "x").write_text(whole + recordings.sample_line(Sample(1, 15, 7))[:-9])
    read = recordings.read(tmp_path / "x")
    assert read.samples == (Sample(0, 5, 7),) and not read.complete
    (tmp_path / "y").write_text(recordings.header("t", "tcp", 10, 0, 0))
    with pytest.raises(recordings.RecordingError, match="no request in it"):
        recordings.read(tmp_path / "y")


def test_the_report_is_one_file_that_needs_no_other(tmp_path: Path, port: int) -> None:
    lines = [*measure(Target("127.0.0.1", port), 60), recordings.marker_line(Marker("copy begins", time.time_ns()))]
    read = recordings.parse(lines, "probe")
    spans = [report.Span("copy <b>", read.start_ns + read.mono_to_wall_ns, time.time_ns())]
    table = report.Table("T", ("a", "b"), (("<script>", 1.5),))
    text = report.page(read, spans, "a & b", [table])
    assert "<svg" in text and "a &amp; b" in text and "<script>" not in text
    assert not [w for w in ("src=", 'href="http', "@import") if w in text]
    report.draw(read, spans, "t", tmp_path / "x.png", "png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert "round trip" in report.terminal_chart(read, spans, 80)


def test_a_recording_reads_back(port: int) -> None:
    lines = measure(Target("127.0.0.1", port), 10)
    assert json.loads(lines[0])["type"] == "header" and json.loads(lines[-1])["type"] == "end"
