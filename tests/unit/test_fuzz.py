"""A moment of tests/fuzz.py for each target; it runs for as long as one likes by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent.parent / "fuzz.py"


@pytest.mark.parametrize("target", ["agent", "reply", "host", "alias", "toml", "log", "probe"])
def test_no_input_breaks_it(target: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has wheels for x86_64 only")
    command = [sys.executable, str(FUZZ), target, "-runs=4000", "-seed=1", "-rss_limit_mb=1024", "-max_len=6000"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Done 4000 runs" in done.stderr, done.stderr[-3000:]
