"""A measurement as NDJSON: one header, then one line per request and per marker. It may come from another machine, or
end in the middle: everything that is read is checked, and there is no more of it than can be shown.

{"type":"header","version":1,"target":"10.0.0.5:7000","transport":"mptcp","interval_ms":10.0,...}
{"type":"rtt","seq":0,"due_ns":...,"rtt_ns":...}      due_ns: CLOCK_MONOTONIC of the prober
{"type":"lost","seq":7,"due_ns":...}
{"type":"visit","seq":3,"due_ns":...,"rtt_ns":...,"mptcp":true}
{"type":"turned away","seq":4,"due_ns":...,"mptcp":false,"why":"timed out"}
{"type":"marker","name":"...","wall_ns":...}          CLOCK_REALTIME, whoever set it
{"type":"end","wall_ns":...}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from vmacro.rtt.samples import Marker, Recording, Sample, Visit

VERSION = 1
MAX_LINE = 1000  # characters; ours have at most some 200
MAX_SAMPLES = 1_000_000  # requests and visits: nearly three hours of a request every 10 ms
MAX_MARKERS = 100
_LIMIT = 1 << 62


class RecordingError(ValueError):
    """The file is not a recording; the message names file and line."""


def header(target: str, transport: str, interval_ms: float, token: int, mono_to_wall_ns: int) -> str:
    """The first line. `token` is the prober's MPTCP token, 0 for plain TCP; `mono_to_wall_ns` as in Recording."""
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
    """The line of one request, answered or lost."""
    if sample.rtt_ns is None:
        return _line({"type": "lost", "seq": sample.seq, "due_ns": sample.due_ns})
    return _line({"type": "rtt", "seq": sample.seq, "due_ns": sample.due_ns, "rtt_ns": sample.rtt_ns})


def visit_line(visit: Visit) -> str:
    """The line of one visit, served or not."""
    head = {"seq": visit.seq, "due_ns": visit.due_ns, "mptcp": visit.mptcp}
    if visit.rtt_ns is None:
        return _line({"type": "turned away", **head, "why": visit.why})
    return _line({"type": "visit", **head, "rtt_ns": visit.rtt_ns})


def marker_line(marker: Marker) -> str:
    """The line of a marker, which anybody may add while the prober writes."""
    return _line({"type": "marker", "name": marker.name, "wall_ns": marker.wall_ns})


def end_line(wall_ns: int) -> str:
    """The last line: without it the recording is incomplete."""
    return _line({"type": "end", "wall_ns": wall_ns})


def read(path: Path) -> Recording:
    """A recording; a last line that is cut off is ignored. Raises RecordingError, FileNotFoundError."""
    with path.open(errors="replace") as lines:
        return parse(_whole(lines, str(path)), str(path))


def _whole(lines: TextIO, name: str) -> Iterator[str]:
    while line := lines.readline(MAX_LINE + 1):
        if line.endswith("\n"):
            yield line
        elif len(line) > MAX_LINE:
            raise RecordingError(f"{name}: a line of over {MAX_LINE} characters; is it a recording?")


def parse(lines: Iterable[str], name: str) -> Recording:
    """A recording from its lines; `name` is for messages. What comes after MAX_SAMPLES requests is left out, and it
    counts as cut short. Raises RecordingError."""
    parts = _Parts()
    for number, line in enumerate(lines, 1):
        if parts.full:
            break
        try:
            parts.take(json.loads(line))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RecordingError(f"{name}:{number}: not a line of a recording: {str(error)[:200]!r}") from error
    if parts.head is None:
        raise RecordingError(f"{name}: no header of version {VERSION}; is it made by `vmacro rtt probe`?")
    if not parts.samples:
        raise RecordingError(f"{name}: no request in it")
    return parts.recording()


class _Parts:
    """What has been read of a recording so far."""

    def __init__(self) -> None:
        self.head: dict[str, Any] | None = None
        self.samples: list[Sample] = []
        self._visits: list[Visit] = []
        self._order: list[int] = []
        self._markers: list[Marker] = []
        self._complete = False

    @property
    def full(self) -> bool:
        return len(self.samples) + len(self._visits) >= MAX_SAMPLES

    def take(self, item: dict[str, Any]) -> None:
        """Raises ValueError, KeyError, TypeError."""
        kind = item["type"]
        if kind == "header":
            self.head = _checked(item)
        elif kind == "rtt":
            self.samples.append(Sample(_count(item, "seq"), _count(item, "due_ns"), _count(item, "rtt_ns", 1)))
            self._order.append(item["seq"])
        elif kind == "lost":
            self.samples.append(Sample(_count(item, "seq"), _count(item, "due_ns"), None))
        elif kind in ("visit", "turned away"):
            self._visits.append(_visit(item))
        elif kind == "marker":
            self._markers.append(Marker(_plain(item, "name", 100), _count(item, "wall_ns")))
            if len(self._markers) > MAX_MARKERS:
                raise ValueError(f"more than {MAX_MARKERS} markers")
        elif kind == "end":
            self._complete = True

    def recording(self) -> Recording:
        head = self.head
        assert head is not None
        return Recording(
            head["target"],
            head["transport"],
            head["interval_ms"],
            head["token"],
            head["mono_to_wall_ns"],
            tuple(sorted(self.samples, key=lambda s: s.seq)),
            tuple(self._order),
            tuple(self._markers),
            self._complete,
            tuple(sorted(self._visits, key=lambda v: v.seq)),
        )


def _visit(item: dict[str, Any]) -> Visit:
    if type(item["mptcp"]) is not bool:
        raise ValueError(f"mptcp = {str(item['mptcp'])[:40]!r}")
    served = item["type"] == "visit"
    took, why = (_count(item, "rtt_ns", 1), "") if served else (None, _plain(item, "why", 100))
    return Visit(_count(item, "seq"), _count(item, "due_ns"), took, item["mptcp"], why)


def _count(item: dict[str, Any], key: str, least: int = 0) -> int:
    value = item[key]
    if type(value) is not int or not least <= value < _LIMIT:
        raise ValueError(f"{key} = {str(value)[:40]!r}")
    return value


def _plain(item: dict[str, Any], key: str, most: int) -> str:
    value = item[key]
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise ValueError(f"{key} is not {most} printable characters or less")
    return value


def _checked(head: dict[str, Any]) -> dict[str, Any]:
    if head.get("version") != VERSION:
        raise ValueError(f"version {str(head.get('version'))[:40]!r}, not {VERSION}")
    for key in ("token", "mono_to_wall_ns"):
        _count(head, key)
    if type(head["interval_ms"]) not in (int, float) or not 0 < head["interval_ms"] < 1e9:
        raise ValueError(f"interval_ms = {str(head['interval_ms'])[:40]!r}")
    return {**head, "target": _plain(head, "target", 300), "transport": _plain(head, "transport", 20)}


def _line(item: dict[str, Any]) -> str:
    return json.dumps(item, separators=(",", ":")) + "\n"
