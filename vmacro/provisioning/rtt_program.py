"""The RTT tool as guests and probers get it: one file, with the libraries that it imports."""

from __future__ import annotations

import tempfile
from importlib import metadata
from pathlib import Path

import prometheus_client

import vmacro.rtt
from vmacro.provisioning import wheels, zipapp

RTT = Path(vmacro.rtt.__file__).parent
# Reports are made at the orchestrator.
UNUSED = ("report.py", "statistics.py", "twisted", "aiohttp", "django")


def built() -> Path:
    """The file, from the cache if nothing has changed."""
    ours = wheels.digest([*RTT.glob("*.py"), Path(__file__), Path(zipapp.__file__)])
    program = wheels.cache("rtt") / f"{ours}-{metadata.version('prometheus_client')}" / "vmacro-rtt"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=program.parent) as work:
            _build(Path(work)).replace(program)
    return program


def _build(work: Path) -> Path:
    zipapp.copy(RTT, work / "tree/vmacro/rtt", skip=UNUSED)
    (work / "tree/vmacro/__init__.py").write_text("")
    zipapp.copy(Path(prometheus_client.__file__).parent, work / "tree/prometheus_client", skip=UNUSED)
    return zipapp.pack(work / "tree", "vmacro.rtt.zipapp_main", work / "vmacro-rtt")
