"""A measurement as NDJSON: one header, then a line for each answered request and each marker. Another machine may have
written it, and been cut off: what is read is checked.

{"type":"header","version":1,"target":"10.0.0.5:7000","transport":"mptcp","interval_ms":10.0,...}
{"type":"rtt","seq":0,"due_ns":...,"rtt_ns":...}      due_ns: CLOCK_MONOTONIC of the prober
{"type":"lost","seq":7,"due_ns":...}
{"type":"marker","name":"...","wall_ns":...}          CLOCK_REALTIME, whoever set it
{"type":"end","wall_ns":...}
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vmacro.rtt.samples import Marker, Recording, Sample

VERSION = 1


class RecordingError(ValueError):
    """The file is no recording: names file and line."""


def header(target: str, transport: str, interval_ms: float, token: int, mono_to_wall_ns: int) -> str:
    return _line(
        {
            "type": "header",
            "version": VERSION,
            "target": target,
            "transport": transport,
            "interval_ms": interval_ms,
            "token": token,
            "mono_to_wall_ns": mono_to_wall_ns,
        }
    )


def sample_line(sample: Sample) -> str:
    if sample.rtt_ns is None:
        return _line({"type": "lost", "seq": sample.seq, "due_ns": sample.due_ns})
    return _line({"type": "rtt", "seq": sample.seq, "due_ns": sample.due_ns, "rtt_ns": sample.rtt_ns})


def marker_line(marker: Marker) -> str:
    return _line({"type": "marker", "name": marker.name, "wall_ns": marker.wall_ns})


def end_line(wall_ns: int) -> str:
    return _line({"type": "end", "wall_ns": wall_ns})


def read(path: Path) -> Recording:
    """A last line that is not whole is left out. Raises RecordingError, FileNotFoundError."""
    with path.open(errors="replace") as lines:
        return parse((line for line in lines if line.endswith("\n")), str(path))


def parse(lines: Iterable[str], name: str) -> Recording:
    head: dict[str, Any] | None = None
    samples: list[Sample] = []
    order: list[int] = []
    markers: list[Marker] = []
    complete = False
    for number, line in enumerate(lines, 1):
        try:
            item = json.loads(line)
            kind = item["type"]
            if kind == "header":
                head = _checked(item)
            elif kind == "rtt":
                samples.append(Sample(_count(item, "seq"), _count(item, "due_ns"), _count(item, "rtt_ns")))
                order.append(item["seq"])
            elif kind == "lost":
                samples.append(Sample(_count(item, "seq"), _count(item, "due_ns"), None))
            elif kind == "marker":
                markers.append(Marker(str(item["name"]), _count(item, "wall_ns")))
            elif kind == "end":
                complete = True
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RecordingError(f"{name}:{number}: not a line of a recording: {error!r}") from error
    if head is None or head.get("version") != VERSION:
        raise RecordingError(f"{name}: no header of version {VERSION}; is it made by `vmacro rtt probe`?")
    if not samples:
        raise RecordingError(f"{name}: no request in it")
    samples.sort(key=lambda s: s.seq)
    return Recording(
        head["target"],
        head["transport"],
        head["interval_ms"],
        head["token"],
        head["mono_to_wall_ns"],
        tuple(samples),
        tuple(order),
        tuple(markers),
        complete,
    )


def _count(item: dict[str, Any], key: str) -> int:
    value = item[key]
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{key} = {value!r}")
    return value


def _checked(head: dict[str, Any]) -> dict[str, Any]:
    for key in ("token", "mono_to_wall_ns"):
        _count(head, key)
    if type(head["interval_ms"]) not in (int, float) or not 0 < head["interval_ms"] < 1e9:
        raise ValueError(f"interval_ms = {head['interval_ms']!r}")
    return {**head, "target": str(head["target"])[:300], "transport": str(head["transport"])[:20]}


def _line(item: dict[str, Any]) -> str:
    return json.dumps(item, separators=(",", ":")) + "\n"
