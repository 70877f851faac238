"""What a batch leaves behind for people: summary.json, events.ndjson, batch.png, report.html."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from vmacro import private
from vmacro.model.batch_events import TryBegan, TryEnded
from vmacro.model.batches import Became
from vmacro.model.events import Event
from vmacro.rtt import report
from vmacro.rtt.report import Table
from vmacro.services.batches import BatchProgress
from vmacro.services.event_json import as_plain
from vmacro.services.report import known

MOST_BARS = 60  # guests that a picture has room for, each with a bar
_COLOURS = {"moved": "#228833", "rolled back": "#ee6677", "refused": "#ee6677", "put off": "#bbbbbb"}

# Of the table of moves: what summary.json calls it, and a person.
_COLUMNS = {name: name for name in ("guest", "source", "destination", "state", "tries")} | {
    "outage_ms": "outage ms",
    "guest_downtime_ms": "downtime ms",
    "mib": "MiB",
    "wall_s": "s",
    "move_id": "move",
    "reason": "reason",
}


@dataclass(frozen=True)
class Bar:
    """One try, from its beginning to its end: seconds after the batch's first."""

    guest: str
    link: tuple[str, str]
    hosts: tuple[str, str]
    began_s: float
    ended_s: float
    ending: str


@dataclass(frozen=True)
class Peaks:
    """The most moves that were under way at once: with one host, on one link, in all."""

    host: int
    link: int
    in_all: int


def bars(events: Iterable[Event]) -> list[Bar]:
    """Of the tries that have ended, by their own events."""
    began: dict[tuple[str, int], int] = {}
    found: list[tuple[TryEnded, int, int]] = []
    for event in events:
        what = event.what
        if isinstance(what, TryBegan):
            # One that another worker went on with began when it first did.
            began.setdefault((what.guest, what.attempt), event.wall_ns)
        elif isinstance(what, TryEnded) and (what.guest, what.attempt) in began:
            found.append((what, began.pop((what.guest, what.attempt)), event.wall_ns))
    zero = min((start for _, start, _ in found), default=0)
    return [
        Bar(
            what.guest,
            _pair(what.source_site, what.destination_site),
            (what.source, what.destination),
            (start - zero) / 1e9,
            (end - zero) / 1e9,
            what.ending,
        )
        for what, start, end in found
    ]


def peaks(found: Iterable[Bar]) -> Peaks:
    """What no limit may be below."""
    changes: list[tuple[float, int, Bar]] = []
    for bar in found:
        changes += [(bar.began_s, 1, bar), (bar.ended_s, -1, bar)]
    hosts: Counter[str] = Counter()
    links: Counter[tuple[str, str]] = Counter()
    total = host = link = most = 0
    for _, by, bar in sorted(changes, key=lambda change: change[:2]):  # an end comes before a beginning at its moment
        total += by
        links[bar.link] += by
        for name in bar.hosts:
            hosts[name] += by
        host, link = max([host, *hosts.values()]), max(link, links[bar.link])
        most = max(most, total)
    return Peaks(host, link, most)


def summary(progress: BatchProgress, events: Iterable[Event]) -> dict[str, Any]:
    """What summary.json has."""
    batch, found = progress.batch, bars(events)
    ended = {n: b for n, b in progress.tally.last.items() if n not in progress.under_way and not b.put_off}
    moved = [b for b in ended.values() if b.moved]
    took_s = max((bar.ended_s for bar in found), default=0.0)
    most = peaks(found)
    return {
        "batch_id": batch.batch_id,
        "purpose": batch.purpose.value,
        "subject": batch.subject,
        "operator": batch.operator,
        "wanted": progress.wish.value,
        "guests": len(batch.moves) + len(batch.stays),
        "moved": progress.moved,
        "not_moved": progress.unmoved,
        "stayed": len(batch.stays),
        "took_s": round(took_s, 1),
        "expected_s": batch.expected_s,
        "mib": round(sum(b.mib for b in ended.values()), 1),
        "guest_downtime_ms": _spread(b.downtime_ms for b in moved),
        "outage_ms": _spread(b.outage_ms for b in moved),
        "most_at_once": {"host": most.host, "link": most.link, "in_all": most.in_all},
        "moves": [_of_move(progress, number) for number in range(len(batch.moves))],
        "stays": [{"guest": s.guest, "at": s.at, "code": s.code, "why": s.why, "hint": s.hint} for s in batch.stays],
    }


def _spread(measured: Iterable[float | None]) -> dict[str, float | None]:
    """Of those that were measured."""
    known_ms = [ms for ms in measured if ms is not None]
    return {"median": median(known_ms) if known_ms else None, "max": max(known_ms, default=None)}


def _of_move(progress: BatchProgress, number: int) -> dict[str, Any]:
    move, last = progress.batch.moves[number], progress.tally.last.get(number, Became(None, put_off=True))
    return {
        "guest": move.guest,
        "source": move.source,
        "destination": move.destination,
        "because": move.because,
        "state": progress.state(number),
        "tries": progress.tally.attempts.get(number, 0),
        "move_id": last.move_id,
        "guest_downtime_ms": last.downtime_ms if last.moved else None,
        "outage_ms": last.outage_ms if last.moved else None,
        "mib": last.mib if last.moved else None,
        "wall_s": last.wall_s if last.moved else None,
        "reason": last.reason,
        "hint": last.hint,
    }


def tables(figures: dict[str, Any], most: int | None = None) -> list[Table]:
    """The figures as a person reads them, for terminal and page alike; `most` guests that moved as they should, or
    all. Those that did not are always there."""
    downtime, outage, at_once = figures["guest_downtime_ms"], figures["outage_ms"], figures["most_at_once"]
    whole = (
        ("guests", figures["guests"]),
        ("moved", figures["moved"]),
        ("not moved", figures["not_moved"] + figures["stayed"]),
        ("took, expected", f"{figures['took_s']} s, {figures['expected_s']} s"),
        ("sent", f"{figures['mib']} MiB"),
        ("outage: median, longest", f"{known(outage['median'], 'ms')}, {known(outage['max'], 'ms')}"),
        ("guest's own downtime: median, longest", f"{known(downtime['median'], 'ms')}, {known(downtime['max'], 'ms')}"),
        ("most at once: a host, a link, in all", f"{at_once['host']}, {at_once['link']}, {at_once['in_all']}"),
    )
    good = [move for move in figures["moves"] if move["state"] == "moved"]
    rest = [move for move in figures["moves"] if move["state"] != "moved"]
    shown = [*rest, *good[:most]]
    left = len(rest) + len(good) - len(shown)
    rows = tuple(tuple(move[column] for column in _COLUMNS) for move in shown)
    stays = tuple((s["guest"], s["at"], s["code"], s["why"], s["hint"]) for s in figures["stays"])
    made = [Table("All of it", ("", ""), whole)]
    made += [Table("Moves", tuple(_COLUMNS.values()), rows, f"and {left} that moved" if left else "")] if rows else []
    return made + ([Table("Who stays", ("guest", "at", "finding", "why", "hint"), stays)] if stays else [])


def write(folder: Path, progress: BatchProgress, events: list[Event]) -> tuple[dict[str, Any], str]:
    """All files into one folder; returns the summary, and why not all of them could be written."""
    figures = summary(progress, events)
    title = f"{progress.batch.purpose.value} {progress.batch.subject}"
    try:
        private.folder(folder)
        private.write(folder / "summary.json", json.dumps(figures, indent=2) + "\n")
        private.write(folder / "events.ndjson", "".join(json.dumps(as_plain(e)) + "\n" for e in events))
        found = bars(events)
        svg = io.BytesIO()
        _draw(found, title, svg, "svg")
        _draw(found, title, private.touch(folder / "batch.png"), "png")
        private.write(folder / "report.html", report.page_of(svg.getvalue().decode(), title, tables(figures)))
    except OSError as error:
        return figures, f"the report in {folder} is not complete: {error}"
    return figures, ""


def _draw(found: list[Bar], title: str, target: Any, format: str) -> None:
    """Above, how many moves each link has under way; below, each guest's time, where there is room for all of them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    guests = [*dict.fromkeys(bar.guest for bar in sorted(found, key=lambda bar: bar.began_s))]
    with_bars = 0 < len(guests) <= MOST_BARS
    ratios = [1, max(1.0, len(guests) / 8)] if with_bars else [1]
    figure, axes = pyplot.subplots(
        len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios, figsize=(9, 3 + 2 * sum(ratios) / 2)
    )
    above = axes[0][0]
    for link in sorted({bar.link for bar in found}):
        times, counts = _steps([bar for bar in found if bar.link == link])
        above.step(times, counts, where="post", label=" - ".join(link))
    above.set_ylabel("moves under way")
    above.set_title(title.replace("$", r"\$"))
    if found:
        above.legend(loc="upper right", fontsize=8)
    if with_bars:
        below = axes[1][0]
        for bar in found:
            colour = _COLOURS.get(bar.ending, "#ccbb44")
            below.barh(guests.index(bar.guest), bar.ended_s - bar.began_s, left=bar.began_s, color=colour)
        below.set_yticks(range(len(guests)), [guest.replace("$", r"\$") for guest in guests], fontsize=7)
        below.invert_yaxis()
    axes[-1][0].set_xlabel("s")
    figure.tight_layout()
    figure.savefig(target, format=format)
    pyplot.close(figure)


def _steps(found: list[Bar]) -> tuple[list[float], list[int]]:
    changes = sorted([(bar.began_s, 1) for bar in found] + [(bar.ended_s, -1) for bar in found])
    times, counts, now = [0.0], [0], 0
    for at, by in changes:
        now += by
        times.append(at)
        counts.append(now)
    return times, counts


def _pair(one: str, other: str) -> tuple[str, str]:
    first, second = sorted((one, other))
    return first, second
