"""A simulation for people: tables, a picture of guests over sites and time, one page."""

from __future__ import annotations

import io
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np

from vmacro.fleet.simulation import OPTIMUM, PLANNED, STAY, Simulation, Way
from vmacro.rtt.report import Table, no_formula, page_of

_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BOUND = "nothing is below"


def tables(found: Simulation, currency: str) -> list[Table]:
    """What each way cost, who was held and why, what stands out."""
    day = round(86_400 / found.horizon.slot_s)
    stay = found.way(STAY).cost.weighed
    columns = (
        "",
        currency,
        "CO2 kg",
        "RTT ms",
        "weighed",
        "against stay",
        "moves",
        "in vain",
        "back in a day",
        "pauses s",
    )
    rows: list[tuple[object, ...]] = [_row(way, stay, day) for way in found.ways]
    rows.append((BOUND, None, None, None, round(found.bound, 2), _against(found.bound, stay), None, None, None, None))
    hours = found.left_out * found.horizon.slot_hours
    note = (
        "Weighed: money, carbon, round trips and pauses as the policy weighs them. In vain: a move that saved less "
        "than it cost, as it turned out. The optimum knew all of the signals from the beginning; nothing can be below "
        "the last line."
    )
    note += f" {hours:g} h are left out of all figures: something was never recorded." if hours else ""
    shown = [Table("What it would have cost", columns, tuple(rows), note)]
    if found.held:
        held = tuple((h.subject, h.slots * found.horizon.slot_hours, h.why) for h in found.held)
        shown.append(Table("Held where they were", ("", "hours", "because"), held))
    if found.findings:
        warned = tuple((f.code, f.subject, f.message) for f in found.findings)
        shown.append(Table("Findings", ("code", "", ""), warned))
    return shown


def _row(way: Way, stay: float, day: int) -> tuple[object, ...]:
    cost = way.cost
    rtt = round(cost.rtt_ms, 1) if cost.rtt_ms is not None else None
    figures = (
        round(cost.money, 2),
        round(cost.carbon_kg, 1),
        rtt,
        round(cost.weighed, 2),
        _against(cost.weighed, stay),
    )
    return (way.name, *figures, len(way.moves), way.in_vain, way.returns(day), round(cost.pause_s, 1))


def _against(cost: float, stay: float) -> str | None:
    if stay <= 0:
        return None
    share = round(cost / stay - 1, 3)
    return f"{share:+.1%}" if share else "0.0%"


def as_plain(found: Simulation, currency: str) -> dict[str, object]:
    """The same for programs."""
    day = round(86_400 / found.horizon.slot_s)
    return {
        "start": found.horizon.start.isoformat(),
        "slot_s": found.horizon.slot_s,
        "slots": found.horizon.slots,
        "currency": currency,
        "left_out_slots": found.left_out,
        "bound": found.bound,
        "ways": [
            {
                "name": way.name,
                **vars(way.cost),
                "in_vain": way.in_vain,
                "returns_within_a_day": way.returns(day),
                "moves": [
                    {
                        "guest": found.guests[move.guest],
                        "from": found.sites[move.source],
                        "to": found.sites[move.target],
                        "at": found.horizon.at(move.slot).isoformat(),
                        "pays": move.pays,
                    }
                    for move in way.moves
                ],
            }
            for way in found.ways
        ],
        "held": [{"subject": h.subject, "slots": h.slots, "why": h.why} for h in found.held],
        "findings": [{"code": f.code, "subject": f.subject, "message": f.message} for f in found.findings],
    }


def strips(found: Simulation, width: int) -> str:
    """Guests over time as letters, of which each is the site where the guest was for most of that time."""
    way = found.way(PLANNED)
    room = max(len(name) for name in found.guests)
    columns = min(max(10, width - room - 2), found.horizon.slots)
    cuts = np.linspace(0, found.horizon.slots, columns + 1).round().astype(int)
    lines = []
    for name, sites in zip(found.guests, way.sites, strict=True):
        parts = [np.bincount(sites[a:b]).argmax() for a, b in pairwise(cuts.tolist())]
        lines.append(f"{name:{room}}  {''.join(_letter(int(part)) for part in parts)}")
    key = ", ".join(f"{_letter(n)} {site}" for n, site in enumerate(found.sites))
    ends = f"{found.horizon.start:%d %b %H:%M} to {found.horizon.at(found.horizon.slots):%d %b %H:%M %Z}"
    return "\n".join((*lines, f"{key}; {ends}")) + "\n"


def _letter(site: int) -> str:
    return _LETTERS[site] if site < len(_LETTERS) else "?"


def draw(found: Simulation, title: str, target: Path | io.BytesIO, format: str) -> None:
    """Guests over sites and time, as vmacro and as the optimum has them. `format`: png or svg."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.colors import ListedColormap
    from matplotlib.dates import DateFormatter, date2num
    from matplotlib.patches import Patch

    shown = [found.way(PLANNED), found.way(OPTIMUM)]
    height = 1.6 + 0.22 * len(found.guests) * len(shown)
    figure, parts = pyplot.subplots(len(shown), 1, figsize=(11, min(height, 30)), dpi=110, sharex=True, squeeze=False)
    colours = [_COLOURS[n % len(_COLOURS)] for n in range(len(found.sites))]
    ends: list[datetime] = [found.horizon.at(0), found.horizon.at(found.horizon.slots)]
    left, right = (float(date2num(at)) for at in ends)  # type: ignore[no-untyped-call]
    for way, axes in zip(shown, parts[:, 0], strict=True):
        extent = (left, right, len(found.guests) - 0.5, -0.5)
        colouring = {"cmap": ListedColormap(colours), "vmin": 0, "vmax": max(1, len(colours) - 1)}
        axes.imshow(way.sites, aspect="auto", extent=extent, interpolation="nearest", **colouring)
        axes.set_yticks(range(len(found.guests)), [no_formula(name) for name in found.guests], fontsize=8)
        for line in range(1, len(found.guests)):
            axes.axhline(line - 0.5, color="white", linewidth=1.5)
        axes.set_title(f"{way.name}: {len(way.moves)} moves", fontsize=9, loc="left")
        axes.xaxis_date(tz=found.horizon.start.tzinfo)
        days = DateFormatter("%d %b", tz=found.horizon.start.tzinfo)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_formatter(days)
    patches = [Patch(color=c, label=no_formula(site)) for c, site in zip(colours, found.sites, strict=True)]
    parts[0, 0].legend(handles=patches, loc="lower right", bbox_to_anchor=(1, 1), ncols=6, fontsize=8, frameon=False)
    figure.suptitle(no_formula(title), fontsize=10)
    figure.tight_layout()
    figure.savefig(target, format=format)
    pyplot.close(figure)


def page(found: Simulation, title: str, currency: str) -> str:
    """One HTML page with all of it."""
    chart = io.BytesIO()
    draw(found, title, chart, "svg")
    return page_of(chart.getvalue().decode(), title, tables(found, currency))
