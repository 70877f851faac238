"""The house rules are tests: linters, types, layers, and rooms that stay small."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["lint-imports"],
        ["ansible-lint", "--offline", "--profile", "production", "--strict", "playbooks"],
    ],
    ids=" ".join,
)
def test_linter(command: list[str]) -> None:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_stay_small() -> None:
    sources = [p for top in ("vmacro", "guest_agent", "benchmarks") for p in (ROOT / top).rglob("*.py")]
    assert not {str(p): n for p in sources if (n := len(p.read_text().splitlines())) > 400}
