"""What people see: text of hosts and guests is shown as it is, commands nothing, and says its subject once."""

import json
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests.unit.test_enumeration import stage
from vmacro.cli import render
from vmacro.cli.check import show_findings
from vmacro.cli.stream import stream
from vmacro.model.copies import CopyStatistics, Forecast
from vmacro.model.events import CopyProgress, DomainChanged, Event, Note, PhaseBegan, PhaseEnded, What
from vmacro.model.moves import Ending, Finding, Outcome, Phase, Severity
from vmacro.model.nouns import Compression
from vmacro.planning.handoffs import SEAMLESS
from vmacro.rtt.report import felt
from vmacro.rtt.samples import Recording, Sample
from vmacro.services import report
from vmacro.services.event_json import from_plain

HOSTILE = "[bold]:AB: :smile: [/nonsense] \x1b]0;owned\x07"
SHOWN = r"[bold]:AB: :smile: [/nonsense] \x1b]0;owned\x07"


@pytest.fixture(params=[True, False], ids=["terminal", "pipe"])
def screen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[StringIO]:
    drawn = StringIO()
    console = Console(file=drawn, highlight=False, soft_wrap=True, emoji=False, width=200, force_terminal=request.param)
    monkeypatch.setattr(render, "out", console)
    yield drawn


def test_live_lines_are_no_markup(screen: StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    with stream(json_lines=False) as show:
        for what in (PhaseBegan(Phase.COPY), Note(HOSTILE), PhaseEnded(Phase.COPY)):
            show(Event("m", 1, what))
    assert SHOWN in screen.getvalue() + capsys.readouterr().out


def test_tables_are_no_markup_and_have_no_emoji(screen: StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    render.table(render.rows(HOSTILE, ("a", "b"), [(HOSTILE, 1.5)], note=HOSTILE))
    assert (screen.getvalue() + capsys.readouterr().out).count(SHOWN) == 3


def test_a_mac_is_no_picture_wherever_it_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """On the consoles that people have."""
    mac = "52:54:00:AB:CD:B:5A:[b]"
    for console in (render.out, render.err):
        with console.capture() as caught:
            console.print(mac)
        assert caught.get() == f"{mac}\n"
    render.table(render.rows(mac, (mac,), [(mac,)], note=mac))
    shown = capsys.readouterr().out
    assert shown.count(mac) == 4, shown


def test_what_happened_besides_the_phases() -> None:
    told: list[What] = [
        PhaseBegan(Phase.COPY),
        Note("x"),
        DomainChanged("source", "a1", "suspended", ""),
        PhaseEnded(Phase.COPY),
    ]
    shown = render.meanwhile(Event("m", 1_500_000_000, what) for what in told)
    assert [row[1:] for row in shown.rows] == [("note", "x"), ("domain", "suspended at a1")]
    assert str(shown.rows[0][0]).endswith(":01.500")


def test_a_finding_says_its_subject_once_and_is_no_markup(screen: StringIO) -> None:
    said = Finding("no-agent", Severity.BLOCKER, "guest db", f"guest db: its agent is silent {HOSTILE}", HOSTILE)
    show_findings([said, Finding("x", Severity.WARNING, "guest db", "guest dbx: sleeps")], "none")
    shown = screen.getvalue()
    assert "no-agent: guest db: its agent is silent [bold]:AB:" in shown and "x: guest db: guest dbx: sleeps" in shown
    assert f"hint: {SHOWN}" in shown


def test_json_lines_keep_their_shape(capsys: pytest.CaptureFixture[str]) -> None:
    with stream(json_lines=True) as show:
        show(Event("m", 1, DomainChanged("source", "a1", "suspended", "migrated")))
    line = json.loads(capsys.readouterr().out)
    assert (line["kind"], line["data"]["side"], line["data"]["event"]) == ("domain", "source", "suspended")


def test_a_report_has_its_events_and_a_recording_that_was_read_before(tmp_path: Path) -> None:
    plan, second = stage(SEAMLESS).plan, 10**9
    events = [
        Event("m", 1 * second, PhaseBegan(Phase.COPY)),
        Event("m", 2 * second, DomainChanged("source", "a1", "suspended", "")),
        Event("m", 3 * second, DomainChanged("destination", "b1", "resumed", "")),
        Event("m", 4 * second, PhaseEnded(Phase.COPY)),
    ]
    samples = tuple(Sample(n, n * second // 10, 10**6) for n in range(60))
    recording = Recording("t", "mptcp", 100.0, 1, 0, samples, tuple(range(60)))
    figures, trouble = report.write(tmp_path, plan, Outcome(Ending.MOVED), events, recording)
    assert not trouble and figures["requests_sent"] == 60 and (tmp_path / "report.html").exists()
    assert [from_plain(json.loads(x)) for x in (tmp_path / "events.ndjson").read_text().splitlines()] == events
    marked = [json.loads(x)["name"] for x in (tmp_path / "rtt.ndjson").read_text().splitlines()]
    assert marked == ["copy begins", "copy ends", "guest paused begins", "guest paused ends"]


def test_what_a_hypervisor_does_not_tell_is_not_said_to_be_nothing(tmp_path: Path) -> None:
    """Xen's tells neither what was sent nor for how long the guest stood still."""
    second = 10**9
    recording = Recording("t", "mptcp", 100.0, 1, 0, (Sample(0, 0, 10**6),), (0,))
    events = [Event("m", 1 * second, PhaseBegan(Phase.COPY)), Event("m", 4 * second, PhaseEnded(Phase.COPY))]
    report.write(tmp_path, stage(SEAMLESS).plan, Outcome(Ending.MOVED), events, recording)
    page = (tmp_path / "report.html").read_text()
    assert "not known; compression" in page and "None ms" not in page and "0.0 MiB" not in page


def test_a_report_says_how_the_copy_was_sent_what_was_expected_and_what_clients_paid(tmp_path: Path) -> None:
    second, found = 10**9, stage(SEAMLESS).plan
    expected = Forecast(60 << 20, 12.0, 150, None, "as its last copy went")
    sent = replace(found.policy, compression=Compression.ZSTD)
    plan = replace(found, policy=sent, forecast=expected, compression_because="auto: the link takes 19 MiB/s")
    outcome = Outcome(Ending.MOVED, statistics=CopyStatistics(120, 10_000, 50 << 20, 4))
    events = [
        Event("m", 1 * second, PhaseBegan(Phase.COPY)),
        *(
            Event("m", 2 * second, CopyProgress(50, 1, 2, 3, 0.5, 1.0, n, percent))
            for n, percent in enumerate([0, 60, 20])
        ),
        Event("m", 4 * second, PhaseEnded(Phase.COPY)),
    ]
    samples = tuple(Sample(n, n * second // 10, 10**6) for n in range(60))
    recording = Recording("t", "mptcp", 100.0, 1, 0, samples, tuple(range(60)))
    figures, _ = report.write(tmp_path, plan, outcome, events, recording)
    assert figures["forecast"]["off"] == {"bytes": 0.2, "time": 0.2, "pause": 0.25}
    assert (figures["compression"], figures["slowed_percent"]) == ("zstd", 60)
    page = (tmp_path / "report.html").read_text()
    for said in (
        "50 MiB; compression zstd (auto: the link takes 19 MiB/s)",
        "60.0 MiB in 12.0 s, pause 150 ms: bytes 20% too much, time 20% too much, pause 25% too much",
        "by up to 60 %, so that its copy converged; the longest round trip meanwhile: 1.0 ms",
    ):
        assert said in page
    rolled = report.tables(report.summary(plan, Outcome(Ending.ROLLED_BACK), None), felt(recording, []))
    assert "None" not in str([row for table in rolled for row in table.rows if "ms" in str(row) or "seen" in str(row)])
    nothing = report.summary(replace(plan, forecast=None), Outcome(Ending.ROLLED_BACK), None)
    assert nothing["forecast"] is None and nothing["slowed_percent"] == 0
    assert report.summary(plan, Outcome(Ending.ROLLED_BACK), None)["forecast"]["off"] is None
