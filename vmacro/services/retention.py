"""What was written down of moves and playbooks is kept for a while, and then forgotten. What is still of use is not: a
move that is not finished, the last move of a guest, moves whose legs a kept one or a carriage has."""

from __future__ import annotations

import re
import shutil
import stat
from pathlib import Path

from vmacro.services import upkeep
from vmacro.services.archive import Archive
from vmacro.services.event_log import DatabaseEventLog
from vmacro.services.fleet_tables import FleetTables

REPORT = "summary.json"  # what a folder has that is a report of ours
_REPORT_FILES = (REPORT, "events.ndjson", "rtt.ndjson", "rtt.log", "rtt.png", "batch.png", "report.html")
_RUN = re.compile(r"\d{8}-\d{6}\Z")  # as `vmacro provision` names the folder of a run


def of_database(archive: Archive, log: DatabaseEventLog, tables: FleetTables, before_s: float) -> int:
    """Moves of the journal and batches that ended before then, and events of that age. Returns how many moves. Raises
    what the database raises."""
    log.forget(int(before_s * 1e9))
    return upkeep.forget(archive, int(before_s * 1000), tables.forget(before_s))


def of_playbooks(folder: Path, before_s: float) -> int:
    """Inventories, logs and artefacts of playbooks' runs, which lie in this folder. Returns how many. Raises
    OSError."""
    old = [run for run in _folders(folder, before_s) if _RUN.match(run.name)]
    for run in old:
        shutil.rmtree(run)
    return len(old)


def of_reports(folder: Path, before_s: float) -> int:
    """Reports of moves, which lie in this folder. What somebody else has put there stays. Returns how many. Raises
    OSError."""
    old = [report for report in _folders(folder, before_s) if (report / REPORT).is_file()]
    for report in old:
        for name in _REPORT_FILES:
            (report / name).unlink(missing_ok=True)
        if not any(report.iterdir()):
            report.rmdir()
    return len(old)


def _folders(parent: Path, before_s: float) -> list[Path]:
    """Those that were last changed before then."""
    if not parent.is_dir():
        return []
    seen = [(path, path.lstat()) for path in parent.iterdir()]
    return [path for path, found in seen if stat.S_ISDIR(found.st_mode) and found.st_mtime < before_s]
