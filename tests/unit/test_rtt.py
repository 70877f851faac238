"""Wire, recording, prober and report: on loopback, with a real responder."""

import io
import itertools
import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile import HOSTILE, places, put
from vmacro.rtt import recording as recordings
from vmacro.rtt import report, responder, statistics, wire
from vmacro.rtt.prober import ProbeError, Prober, Target, target_named
from vmacro.rtt.samples import Marker, Sample, Visit
from vmacro.rtt.visitors import Visitors


@pytest.fixture
def port() -> Iterator[int]:
    listener = responder.listen("127.0.0.1", 0)
    threading.Thread(target=responder.serve, args=(listener,), daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def measure(target: Target, count: int, interval_ms: float = 2.0, visit_every_ms: float = 0) -> list[str]:
    out = io.StringIO()
    left = [count]

    def more() -> bool:
        left[0] = count - out.getvalue().count('"rtt"')
        return left[0] > 0

    Prober(target, interval_ms, out, visit_every_ms=visit_every_ms).run(more, grace_s=10)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("mptcp", [True, False])
def test_a_probe_over_one_connection(port: int, mptcp: bool) -> None:
    read = recordings.parse(measure(Target("127.0.0.1", port, mptcp), 50), "probe")
    assert read.complete and read.transport == ("mptcp" if mptcp else "tcp")
    assert bool(read.token) is mptcp
    totals = statistics.totals(read)
    assert totals.answered >= 50 and (totals.lost, totals.reordered) == (0, 0)
    dues = [s.due_ns for s in read.samples]
    assert {b - a for a, b in itertools.pairwise(dues)} == {2_000_000}, "requests are due on schedule"


@pytest.mark.parametrize("mptcp", [True, False])
def test_visitors_come_beside_the_one_connection(port: int, mptcp: bool) -> None:
    read = recordings.parse(measure(Target("127.0.0.1", port, mptcp), 150, visit_every_ms=20), "probe")
    assert len(read.visits) >= 10 and all(v.rtt_ns is not None for v in read.visits), read.visits
    assert [v.seq for v in read.visits] == list(range(len(read.visits)))
    assert {b.due_ns - a.due_ns for a, b in itertools.pairwise(read.visits)} == {20_000_000}
    assert {v.mptcp for v in read.visits} == ({True, False} if mptcp else {False})


def test_who_is_not_served_is_told_from_who_is() -> None:
    """The listener closes as soon as the one connection stands: whoever comes then is refused."""
    listener = responder.listen("127.0.0.1", 0)
    where, out = listener.getsockname(), io.StringIO()

    def answer_one() -> None:
        connection, _ = listener.accept()
        listener.close()
        while data := connection.recv(4096):
            connection.sendall(data)

    threading.Thread(target=answer_one, daemon=True).start()
    enough = lambda: out.getvalue().count('"turned away"') < 5  # noqa: E731
    Prober(Target(*where), 2.0, out, visit_every_ms=20).run(enough, grace_s=10)
    read = recordings.parse(out.getvalue().splitlines(), "probe")
    refused = [v for v in read.visits if v.rtt_ns is None]
    # Who was in its queue when it closed is reset.
    assert len(refused) >= 5 and {v.why for v in refused[1:]} == {"Connection refused"}
    visited = report.felt(read, []).visitors["before"]
    assert (visited.failed, visited.why) == (len(refused), refused[0].why)
    (table,) = report.visitors_table(report.felt(read, []))
    assert table.rows[0][:3] == ("before", len(read.visits), len(refused))


def test_who_gets_no_answer_waits_until_the_end() -> None:
    """They come on schedule though nobody before them has been served; each counts from when it was due."""
    silent = socket.create_server(("127.0.0.1", 0))
    came: list[Visit] = []
    begins = time.monotonic_ns()
    visitors = Visitors("127.0.0.1", silent.getsockname()[1], False, 20, came.append, begins)
    visitors.come(begins + 100_000_000)
    assert len(visitors.writing) == 6
    while visitors.writing:
        visitors.attend(select.select([], visitors.writing, [], 5)[1])
    assert len(visitors.reading) == 6 and not came
    visitors.close()
    assert [v.why for v in came] == ["not answered by the end"] * 6
    assert came[-1].due_ns - begins == 100_000_000
    silent.close()


def test_visitors_whose_name_takes_long_to_look_up_neither_pile_up_nor_keep_the_prober(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor do those that were due while this process was stopped."""
    asked, clock, came = [], [0], list[Visit]()

    def slow(*_args: object, **_more: object) -> list[object]:
        asked.append(clock[0])
        clock[0] += 10_000_000_000
        raise socket.gaierror("no answer")

    monkeypatch.setattr(time, "monotonic_ns", lambda: clock[0])
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    visitors = Visitors("www.example.net", 80, False, 20, came.append, 0)
    for _ in range(5):
        visitors.come(clock[0])
    assert len(asked) <= 10 and len(came) > 1000 and {v.why for v in came} == {"no answer", "timed out"}
    with socket.create_server(("127.0.0.1", 0), backlog=2000) as silent:
        monkeypatch.undo()
        crowd = Visitors("127.0.0.1", silent.getsockname()[1], False, 20, came.append, time.monotonic_ns())
        crowd._every_ns = 1
        crowd.come(crowd.due_ns + 600)
        assert len(crowd.writing) == 500 and came[-1].why == "too many at once"
        crowd.close()


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


@pytest.mark.parametrize(
    ("text", "port", "meant"),
    [
        ("web.example.net", None, ("web.example.net", 7000)),
        ("web.example.net", 99, ("web.example.net", 99)),
        ("10.0.0.7:8080", None, ("10.0.0.7", 8080)),
        ("fd00::7", None, ("fd00::7", 7000)),
        ("fd00::7", 8080, ("fd00::7", 8080)),
        ("[fd00::7]", 8080, ("fd00::7", 8080)),
        ("[fd00::7]:8080", None, ("fd00::7", 8080)),
    ],
)
def test_the_port_may_stand_in_the_address(text: str, port: int | None, meant: tuple[str, int]) -> None:
    assert target_named(text, port, mptcp=False) == Target(*meant, mptcp=False)


@pytest.mark.parametrize(
    ("text", "port", "said"),
    [
        ("web:8080", 8080, "has a port already"),
        ("[fd00::7]:8080", 99, "has a port already"),
        ("web:0", None, "1 to 65535"),
        ("web:99999", None, "1 to 65535"),
        ("web:x", None, "names no target"),
        ("web:", None, "names no target"),
        (":7000", None, "names no target"),
        ("", None, "names no target"),
        ("[fd00::7", None, "names no target"),
        ("[fd00::7]7000", None, "names no target"),
    ],
)
def test_what_names_no_target(text: str, port: int | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        target_named(text, port, mptcp=True)


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
    chart = report.terminal_chart(read, spans, 80)
    assert "round trip" in chart and "\x1b" not in chart


def test_a_recording_reads_back(port: int) -> None:
    lines = measure(Target("127.0.0.1", port), 10)
    assert json.loads(lines[0])["type"] == "header" and json.loads(lines[-1])["type"] == "end"


_times = st.integers(0, (1 << 62) - 1) | st.integers(0, 10**9)


@given(
    st.lists(st.tuples(_times, _times, st.none() | st.integers(1, (1 << 62) - 1)), min_size=1, max_size=12),
    st.floats(1e-300, 1e9, exclude_max=True),
    _times,
    st.lists(st.tuples(_times, _times), max_size=3),
    st.lists(st.tuples(_times, _times, st.none() | st.integers(1, (1 << 62) - 1), st.booleans()), max_size=5),
)
@settings(max_examples=60)
def test_whatever_was_recorded_is_shown(
    told: list[tuple[int, int, int | None]],
    interval_ms: float,
    offset: int,
    marks: list[tuple[int, int]],
    came: list[tuple[int, int, int | None, bool]],
) -> None:
    """Every recording that is within bounds, as a machine that lies would send it; phases are wherever they like."""
    lines = [recordings.header("t", "tcp", interval_ms, 0, offset)]
    lines += [recordings.sample_line(Sample(*one)) for one in told]
    read = recordings.parse([*lines, *(recordings.visit_line(Visit(*one)) for one in came)], "x")
    assert sum(v.count for v in report.felt(read, []).visitors.values()) == len(came)
    spans = [report.Span("copy", begins, ends) for begins, ends in marks]
    report.felt(read, spans)
    assert report.terminal_chart(read, spans, 80)


@pytest.mark.parametrize(
    "told",
    [
        [Sample(0, 5, 7)],
        [Sample(0, 5, None)],
        [Sample(0, 0, (1 << 62) - 1), Sample(0, 0, 1), Sample(1, (1 << 62) - 1, None)],
    ],
    ids=["one", "none answered", "extremes"],
)
def test_what_is_said_in_a_recording_is_neither_formula_nor_page(told: list[Sample], tmp_path: Path) -> None:
    """matplotlib takes `$` for TeX, and raises where it is none; a browser takes `<`."""
    said = r"$\frac{$ <script>&"
    lines = [recordings.header(said, "tcp", 10, 0, 0), *map(recordings.sample_line, told)]
    lines.append(recordings.visit_line(Visit(0, 5, None, False, said)))
    read = recordings.parse(lines, "x")
    spans = [report.Span(said, 1, 2)]
    table = report.Table(said, (said,), ((read.target,),), said)
    page = report.page(read, spans, f"to {read.target}", [table])
    assert "<script" not in page and "</svg>" in page and page.count("&lt;script&gt;&amp;") >= 5
    report.draw(read, spans, said, tmp_path / "x.png", "png")


@pytest.mark.parametrize("kind", ["header", "rtt", "lost", "visit", "turned away", "marker", "end"])
def test_no_line_of_a_recording_does_more_than_be_refused(kind: str) -> None:
    right: dict[str, dict[str, object]] = {
        "header": json.loads(recordings.header("t", "tcp", 10, 0, 0)),
        "rtt": json.loads(recordings.sample_line(Sample(0, 5, 7))),
        "lost": json.loads(recordings.sample_line(Sample(0, 5, None))),
        "visit": json.loads(recordings.visit_line(Visit(0, 5, 7))),
        "turned away": json.loads(recordings.visit_line(Visit(0, 5, None, False, "timed out"))),
        "marker": json.loads(recordings.marker_line(Marker("x", 1))),
        "end": json.loads(recordings.end_line(1)),
    }
    for place in places(right[kind]):
        for odd in HOSTILE:
            lines = [right["header"], right["rtt"], put(right[kind], place, odd)]
            try:
                read = recordings.parse(map(json.dumps, lines), "x")
            except recordings.RecordingError as error:
                assert str(error).isprintable() and len(str(error)) < 300, (place, odd)
            else:
                said = [read.target, read.transport, *(marker.name for marker in read.markers)]
                assert all(text.isprintable() for text in said), (place, odd)


def test_a_line_that_is_none_of_a_recording_is_told_with_its_place_and_why() -> None:
    lines = [recordings.header("10.0.0.5:7000", "mptcp", 10.0, 1, 0), '{"type": "rtt", "due_ns": 1}\n']
    with pytest.raises(recordings.RecordingError, match=r"mine:2: not a line of a recording: .*seq"):
        recordings.parse(lines, "mine")


def test_an_address_that_refuses_is_why_nobody_was_reached() -> None:
    with socket.socket() as silent:  # has a port, and does not listen
        silent.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            wire.connect("127.0.0.1", silent.getsockname()[1], False, 5.0)
