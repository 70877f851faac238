"""A moment of tests/fuzz.py for each target, ten minutes in `make test-all`; by itself it runs as long as one likes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
SOURCES = "".join((TESTS / name).read_text() for name in ("fuzz.py", "fuzz_files.py", "fuzz_xen.py"))
TARGETS = re.findall(r"^def ([a-z][a-z_]*)\(data: bytes\) -> None:", SOURCES, re.MULTILINE)
WHOLE_MOVES = {"move": 100, "row": 100}  # which take some ms each
TEN_MINUTES = pytest.param(600, id="ten minutes", marks=[pytest.mark.slow("10 min"), pytest.mark.timeout(1800)])


Fuzzer = Callable[[str, list[str], Path], int]


@pytest.fixture(scope="module")
def fuzzer() -> Iterator[Fuzzer]:
    """Each target in a process of its own, which begins with all modules instrumented."""
    pytest.importorskip("atheris", reason="atheris has wheels for x86_64 only")
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, TESTS / "fuzz.py", "--serve"], stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        asks, answers = server.stdin, server.stdout

        def fuzz(target: str, flags: list[str], folder: Path) -> int:
            print(json.dumps([target, flags, str(folder)]), file=asks, flush=True)
            return int(answers.readline())

        yield fuzz


@pytest.mark.parametrize("seconds", [pytest.param(0, id="a moment"), TEN_MINUTES])
@pytest.mark.parametrize("target", TARGETS)
def test_no_input_breaks_it(target: str, seconds: int, tmp_path: Path, fuzzer: Fuzzer) -> None:
    bounds = [f"-max_total_time={seconds}"] if seconds else [f"-runs={WHOLE_MOVES.get(target, 4000)}", "-seed=1"]
    code = fuzzer(target, [*bounds, "-rss_limit_mb=1024", "-max_len=6000"], tmp_path)
    said = (tmp_path / "log").read_text(errors="replace")
    assert code == 0 and re.search(r"Done \d+ runs", said), said[-3000:]
