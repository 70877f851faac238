"""A moment of tests/fuzz.py for each target, ten minutes in `make test-all`; by itself it runs as long as one likes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
SOURCES = "".join((TESTS / name).read_text() for name in ("fuzz.py", "fuzz_files.py", "fuzz_fleet.py", "fuzz_xen.py"))
TARGETS = re.findall(r"^def ([a-z][a-z_]*)\(data: bytes\) -> None:", SOURCES, re.MULTILINE)
WHOLE_MOVES = {"move": 100, "row": 100, "batch": 200, "calendar": 200, "policy": 400}  # which take some ms each
BOUNDS = ("-rss_limit_mb=1024", "-max_len=6000")
LONG_S = 600
AT_ONCE = 2 * (os.cpu_count() or 1)  # of the long ones: else they alone take longer than all other tests together


Fuzzer = Callable[[str, list[str], Path], int]


@contextmanager
def serving() -> Iterator[Fuzzer]:
    """Each target in a process of its own, which begins with all modules instrumented."""
    pytest.importorskip("atheris", reason="atheris has wheels for x86_64 only")
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, TESTS / "fuzz.py", "--serve"], stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        asks, answers = server.stdin, server.stdout

        def fuzz(target: str, flags: list[str], folder: Path) -> int:
            print(json.dumps([target, [*flags, *BOUNDS], str(folder)]), file=asks, flush=True)
            return int(answers.readline())

        yield fuzz


@pytest.fixture(scope="module")
def fuzzer() -> Iterator[Fuzzer]:
    with serving() as fuzz:
        yield fuzz


@pytest.mark.parametrize("target", TARGETS)
def test_no_input_breaks_it(target: str, tmp_path: Path, fuzzer: Fuzzer) -> None:
    code = fuzzer(target, [f"-runs={WHOLE_MOVES.get(target, 4000)}", "-seed=1"], tmp_path)
    assert _went_well(code, tmp_path), _log(tmp_path)[-3000:]


@pytest.mark.slow("ten minutes of each target")
@pytest.mark.timeout((LONG_S + 60) * (len(TARGETS) // AT_ONCE + 2))
def test_ten_minutes_of_each(tmp_path: Path) -> None:
    def run(target: str) -> str:
        (tmp_path / target).mkdir()
        with serving() as fuzz:
            code = fuzz(target, [f"-max_total_time={LONG_S}"], tmp_path / target)
        print(f"{target}: {code}; {_log(tmp_path / target)[-200:]}", flush=True)
        return "" if _went_well(code, tmp_path / target) else f"{target}: {_log(tmp_path / target)[-3000:]}"

    with ThreadPoolExecutor(AT_ONCE) as pool:
        broken = [said for said in pool.map(run, TARGETS) if said]
    assert not broken, "\n".join(broken)


def _went_well(code: int, folder: Path) -> bool:
    return code == 0 and re.search(r"Done \d+ runs", _log(folder)) is not None


def _log(folder: Path) -> str:
    return (folder / "log").read_text(errors="replace")
