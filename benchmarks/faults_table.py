"""The table of docs/reliability.md, from the rows that lab tests and soak have written.

sudo VMACRO_FAULTS_TABLE=/tmp/rows.ndjson .venv/bin/pytest -m lab tests/lab/test_faults.py
.venv/bin/python -m benchmarks.faults_table /tmp/rows.ndjson report/soak.ndjson
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any


def main() -> None:
    """Counts of each fault at each moment, over all files."""
    rows: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for name in sys.argv[1:]:
        for line in Path(name).read_text().splitlines():
            row = json.loads(line)
            rows[row["fault"], row["moment"]].append(row)
    columns = (
        "what broke",
        "at",
        "times",
        "exit",
        "guest then at",
        "`resume`",
        "lost or doubled",
        "connections",
        "left",
    )
    print(f"| {' | '.join(columns)} |")
    print(f"|{' --- |' * len(columns)}")
    for (fault, moment), found in rows.items():
        codes = _counted("killed" if r["code"] == -9 else r["code"] for r in found)
        then = _counted(" ".join(map(str, r["then"])) or "-" for r in found)
        at = _counted(r["at"] for r in found)
        wrong = sum("+" in r["runs_at"] or not r["runs_at"] for r in found)
        lost, left = sum(len(r["lost"]) for r in found), sum(len(r["left"]) for r in found)
        alive = "all" if not lost else f"{lost} lost"
        print(f"| {fault} | {moment} | {len(found)} | {codes} | {at} | {then} | {wrong} | {alive} | {left} |")


def _counted(seen: Any) -> str:
    counts: defaultdict[str, int] = defaultdict(int)
    for value in seen:
        counts[str(value)] += 1
    return ", ".join(f"{v}" if len(counts) == 1 else f"{v} ({n})" for v, n in counts.items())


if __name__ == "__main__":
    main()
