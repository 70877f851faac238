"""rtt serve, probe, report."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live

from vmacro import private
from vmacro.cli import render
from vmacro.cli.places import PageOption, RecordOption, png_option
from vmacro.errors import ConfigurationError, VmacroError
from vmacro.rtt import probe as probes
from vmacro.rtt import recording as recordings
from vmacro.rtt import report as reports
from vmacro.rtt import responder, wire
from vmacro.rtt import watch as watching
from vmacro.rtt.prober import ProbeError, target_named
from vmacro.rtt.samples import Recording, Sample
from vmacro.rtt.visitors import LEAST_EVERY_MS

app = typer.Typer(help="Round trips on one connection, measured as its user feels them.", no_args_is_help=True)
PortOption = Annotated[int, typer.Option(min=1, max=65535)]


@app.command()
def serve(address: str = "0.0.0.0", port: PortOption = wire.DEFAULT_PORT) -> None:
    """Answer probers until interrupted."""
    try:
        listener = responder.listen(address, port)
    except OSError as error:
        raise VmacroError(f"cannot listen on {address} port {port}: {error.strerror}") from error
    render.say(f"answering at {address} port {port}; Ctrl-C ends it")
    with contextlib.suppress(KeyboardInterrupt):
        responder.serve(listener)


@app.command()
def watch(file: Annotated[Path, typer.Argument(help="JSON: whom to probe; see vmacro/rtt/watch.py")]) -> None:
    """Probe for ever, and serve what is measured to Prometheus; what `vmacro provision probes` runs as a service."""
    raise typer.Exit(watching.main(file))


@app.command()
def probe(
    address: Annotated[str, typer.Argument(help="where a responder answers: HOST, HOST:PORT or [ADDRESS]:PORT")],
    port: Annotated[int | None, typer.Option(min=1, max=65535, help=f"default: {wire.DEFAULT_PORT}")] = None,
    tcp: Annotated[bool, typer.Option("--tcp", help="plain TCP instead of MPTCP")] = False,
    interval_ms: Annotated[float, typer.Option(min=1)] = 10.0,
    visit_every_ms: Annotated[
        float, typer.Option(min=0, help="new connections, too, MPTCP and plain TCP in turns; 0: none, else 20 at least")
    ] = 0.0,
    duration_s: Annotated[float | None, typer.Option(min=0.1, help="default: until interrupted")] = None,
    record: RecordOption = Path("rtt.ndjson"),
) -> None:
    """Send requests on schedule over one connection, whatever is outstanding; then show what was measured."""
    try:
        target = target_named(address, port, not tcp)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    if 0 < visit_every_ms < LEAST_EVERY_MS:
        raise ConfigurationError(f"--visit-every-ms {visit_every_ms:g}: {LEAST_EVERY_MS:g} at least", "0: none come")
    if record.is_file() and record.stat().st_size:
        raise ConfigurationError(f"--record {record}: is there already; nothing was measured", "another, or remove it")
    render.say(f"probing {target}, every {interval_ms:g} ms, into {record}; Ctrl-C ends it")
    try:
        with _LiveView() as live:
            probes.run(target, interval_ms, record, duration_s, 5.0, live.see, visit_every_ms)
    except ProbeError as error:
        unknown = isinstance(error.__cause__, (socket.gaierror, UnicodeError))
        hint = "is the name right? no server knows it" if unknown else "is `vmacro rtt serve` running there?"
        raise VmacroError(str(error), hint) from error
    report(record)


class _LiveView:
    """The last round trips as bars, with figures; shows nothing where the output is no terminal."""

    WIDTH = 72
    BARS = " ▁▂▃▄▅▆▇█"

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=self.WIDTH)
        self._count = 0
        self._live = Live(console=render.out, refresh_per_second=8, transient=True)

    def __enter__(self) -> _LiveView:
        if render.out.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def see(self, sample: Sample) -> None:
        if sample.rtt_ns is None or not self._live.is_started:
            return
        self._last.append(sample.rtt_ns / 1e6)
        self._count += 1
        worst = max(self._last)
        bars = "".join(self.BARS[max(1, round(8 * ms / worst))] for ms in self._last)
        figures = f"{self._count} answered   now {self._last[-1]:.1f} ms   worst of these {worst:.1f} ms"
        self._live.update(f"{bars}\n{figures}")


@app.command()
def report(
    recording: Annotated[Path, typer.Argument(help="as `rtt probe` wrote it")],
    png: Annotated[Path | None, png_option("also draw it here")] = None,
    page: PageOption = None,
) -> None:
    """Chart and figures of a recording."""
    try:
        read = recordings.read(recording)
    except FileNotFoundError:
        raise ConfigurationError(f"{recording}: no such file") from None
    except recordings.RecordingError as error:
        raise ConfigurationError(str(error)) from error
    spans = _marked(read)
    felt = reports.felt(read, spans)
    print(reports.terminal_chart(read, spans, width=min(render.out.width, 110)))
    tables = _tables(read, felt)
    for table in tables:
        render.table(table)
    title = f"Round trips to {read.target} ({read.transport})"
    if png is not None:
        reports.draw(read, spans, title, private.touch(png), "png")
    if page is not None:
        private.write(page, reports.page(read, spans, title, tables))


def _marked(read: Recording) -> list[reports.Span]:
    """Phases out of the markers `NAME begins` and `NAME ends`."""
    starts = {m.name.removesuffix(" begins"): m.wall_ns for m in read.markers if m.name.endswith(" begins")}
    ends = {m.name.removesuffix(" ends"): m.wall_ns for m in read.markers if m.name.endswith(" ends")}
    return [reports.Span(name, at, ends[name]) for name, at in starts.items() if name in ends]


def _tables(read: Recording, felt: reports.Felt) -> list[reports.Table]:
    first = "before" if felt.after.count else "all"
    spreads = [(first, felt.before), ("during", felt.during), ("after", felt.after)]
    columns = ("", "requests", "min", "median", "p95", "p99", "max", "jitter")
    shown = [reports.row_of(name, spread) for name, spread in spreads if spread.count]
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime((read.start_ns + read.mono_to_wall_ns) / 1e9))
    counts = f"{felt.totals.sent}, {felt.totals.lost}, {felt.totals.reordered}"
    facts = [
        ("target", f"{read.target}, {read.transport}, since {began}"),
        ("requests sent, lost, out of order", counts),
        ("outage", f"{felt.outage.ms:.0f} ms"),
        ("recording", "whole" if read.complete else "cut short"),
    ]
    note = f"Outage: {reports.OUTAGE_MEANS}."
    return [
        render.rows("Round trips (ms)", columns, shown),
        render.rows("What was felt", ("", ""), facts, note),
        *reports.visitors_table(felt),
    ]
