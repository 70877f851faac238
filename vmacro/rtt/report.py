"""A recording, and the phases of a move during it, for people: chart, figures, one page."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmacro.rtt import statistics
from vmacro.rtt.samples import Recording, Visit
from vmacro.rtt.statistics import Spread

OUTAGE_MEANS = "the longest time in which requests were outstanding and no response came, less one send interval"
MOST_VECTORS = 20_000  # points of a page's chart; more are drawn as one picture
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")


@dataclass(frozen=True)
class Span:
    """A phase in the chart; times in ns of the wall clock."""

    name: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class Visited:
    """Those who came anew in a part of the measurement: how many, how many of them got no answer, what the others
    waited, and the first reason of a failure."""

    count: int
    failed: int
    waited: Spread
    why: str = ""


@dataclass(frozen=True)
class Felt:
    """What the client felt. `recover_ms`: from the start of the outage until round trips were normal again, None if
    they never were."""

    totals: statistics.Totals
    outage: statistics.Outage
    before: Spread
    during: Spread
    after: Spread
    recover_ms: float | None
    visitors: Mapping[str, Visited] = field(default_factory=dict)


def felt(recording: Recording, spans: Sequence[Span]) -> Felt:
    """Figures before the first span begins, from there to the end of the last span, and after it; the visitors' by
    the same three names. Without spans, all of the recording is `before`."""
    offset = recording.mono_to_wall_ns
    infinity = float("inf")
    start = min((s.start_ns for s in spans), default=infinity) - offset
    end = max((s.end_ns for s in spans), default=infinity) - offset
    silence = statistics.outage(recording)
    before = statistics.spread(statistics.between(recording, -infinity, start))
    after = statistics.spread(statistics.between(recording, end, infinity))
    recover_ms = None
    if spans and after.median is not None:
        calm = statistics.recovered_ns(recording, silence.start_ns, after.median * 1.5 + 1.0)
        recover_ms = round((calm - silence.start_ns) / 1e6, 1) if calm is not None else None
    during = statistics.spread(statistics.between(recording, start, end))
    parts = {"before": (-infinity, start), "during": (start, end), "after": (end, infinity)}
    visitors = {name: _visited(statistics.due_between(recording.visits, *part)) for name, part in parts.items()}
    visitors = visitors if recording.visits else {}
    return Felt(statistics.totals(recording), silence, before, during, after, recover_ms, visitors)


def _visited(visits: Sequence[Visit]) -> Visited:
    failed = [v for v in visits if v.rtt_ns is None]
    return Visited(len(visits), len(failed), statistics.spread(visits), failed[0].why if failed else "")


def row_of(name: str, s: statistics.Spread) -> tuple[object, ...]:
    """Of a table of round trips."""
    return (name, s.count, *map(_ms, (s.min, s.median, s.p95, s.p99, s.max, s.jitter)))


def _ms(value: float | None) -> str | None:
    """All of a column with as many digits."""
    return f"{value:.2f}" if value is not None else None


def visitors_table(felt: Felt) -> list[Table]:
    """One table, or none where nobody came."""
    some = {name: v for name, v in felt.visitors.items() if v.count}
    rows = tuple(
        (name, v.count, v.failed, *map(_ms, (v.waited.median, v.waited.p95, v.waited.max)), v.why)
        for name, v in some.items()
    )
    columns = ("", "came", "not served", "median", "p95", "max", "why not")
    note = "A visit: a new connection, a request, its answer (ms, from when it was due). MPTCP and TCP take turns."
    return [Table("Visitors", columns, rows, note)] if rows else []


def draw(recording: Recording, spans: Sequence[Span], title: str, target: Path | io.BytesIO, format: str) -> None:
    """Draw round trips over time, with the phases marked. `format`: png or svg."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    zero = recording.start_ns
    points = [((s.due_ns - zero) / 1e9, s.rtt_ns / 1e6) for s in recording.samples if s.rtt_ns is not None]
    lost = [(s.due_ns - zero) / 1e9 for s in recording.samples if s.rtt_ns is None]
    figure, axes = pyplot.subplots(figsize=(11, 4.6), dpi=110)
    drawn = axes.plot([x for x, _ in points], [y for _, y in points], ".", markersize=2.5, color="#222222")
    drawn[0].set_rasterized(len(points) > MOST_VECTORS)
    if lost:
        axes.plot(lost, [1.0] * len(lost), "x", color="#cc3311", label=f"{len(lost)} never answered")
    _draw_visits(axes, recording)
    for number, span in enumerate(spans):
        left, right = (
            (span.start_ns - recording.mono_to_wall_ns - zero) / 1e9,
            (span.end_ns - recording.mono_to_wall_ns - zero) / 1e9,
        )
        label = f"{no_formula(span.name)} ({(right - left) * 1000:.0f} ms)"
        axes.axvspan(left, right, alpha=0.22, color=_COLOURS[number % len(_COLOURS)], label=label)
    axes.set_yscale("log")
    axes.set_xlabel("time since the first request (s)")
    axes.set_ylabel("round trip (ms)")
    axes.set_title(no_formula(title))
    axes.grid(visible=True, which="both", alpha=0.25)
    if spans or lost or recording.visits:
        axes.legend(loc="upper right", fontsize=8)
    figure.tight_layout()
    figure.savefig(target, format=format)
    pyplot.close(figure)


def _draw_visits(axes: Any, recording: Recording) -> None:
    """Rings, and crosses on the floor for those who were not served."""
    zero = recording.start_ns
    served = [((v.due_ns - zero) / 1e9, v.rtt_ns / 1e6) for v in recording.visits if v.rtt_ns is not None]
    away = [(v.due_ns - zero) / 1e9 for v in recording.visits if v.rtt_ns is None]
    if served:
        xs, ys = zip(*served)
        drawn = axes.plot(xs, ys, "o", markersize=4, fillstyle="none", label=f"{len(served)} visitors served")
        drawn[0].set_rasterized(len(served) > MOST_VECTORS)
    if away:
        axes.plot(away, [1.0] * len(away), "x", color="#ee7733", label=f"{len(away)} visitors not served")


def no_formula(text: str) -> str:
    """What matplotlib draws as it is: it would take what stands between two `$` for TeX, and raise where it is none."""
    return text.replace("$", r"\$")


def terminal_chart(recording: Recording, spans: Sequence[Span], width: int, height: int = 16) -> str:
    """The same as plain text, by plotext."""
    import plotext

    zero = recording.start_ns
    answered = [s for s in recording.samples if s.rtt_ns is not None]
    if not answered:
        return f"none of {len(recording.samples)} requests was answered\n"
    plotext.clear_figure()
    plotext.plotsize(width, height)
    plotext.theme("clear")
    plotext.yscale("log")
    plotext.scatter(
        [(s.due_ns - zero) / 1e9 for s in answered],
        [(s.rtt_ns or 0) / 1e6 for s in answered],
        marker="dot",
    )
    for span in spans:
        plotext.vline((span.start_ns - recording.mono_to_wall_ns - zero) / 1e9)
    plotext.xlabel("s")
    plotext.ylabel("round trip (ms)")
    # Even its theme without colours ends each line with a reset, which piped output would show.
    return str(plotext.uncolorize(plotext.build()))


def page(recording: Recording, spans: Sequence[Span], title: str, tables: Sequence[Table]) -> str:
    """One self-contained HTML page: chart as inline SVG, figures as tables."""
    chart = io.BytesIO()
    draw(recording, spans, title, chart, "svg")
    return page_of(chart.getvalue().decode(), title, tables)


def page_of(svg: str, title: str, tables: Sequence[Table]) -> str:
    """A self-contained page: a picture, and figures as tables."""
    body = "\n".join(_table(t) for t in tables)
    return _PAGE.format(title=html.escape(title), chart=svg[svg.index("<svg") :], body=body)


@dataclass(frozen=True)
class Table:
    """A table of a report, for pages and terminals alike."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    note: str = ""


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(c)}</th>" for c in table.columns)
    rows = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell(v))}</td>" for v in row) + "</tr>" for row in table.rows)
    note = f"<p class=note>{html.escape(table.note)}</p>" if table.note else ""
    return f"<h2>{html.escape(table.heading)}</h2>\n<table><tr>{head}</tr>\n{rows}</table>\n{note}"


def cell(value: object) -> str:
    """How a figure is shown, on a page and on a terminal alike."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 1080px; margin: 2em auto; padding: 0 1em; color: #222 }}
svg {{ width: 100%; height: auto }}
table {{ border-collapse: collapse; margin: .5em 0 }}
th, td {{ text-align: left; padding: .25em .8em; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums }}
h2 {{ font-size: 1.05em; margin: 1.4em 0 .2em }}
.note {{ color: #666; font-size: .9em; margin: .2em 0 }}
</style></head><body>
<h1>{title}</h1>
{chart}
{body}
</body></html>
"""
