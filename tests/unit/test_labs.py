"""Which worker of pytest-xdist takes which tests: two have the labs, a third one those without guests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOOKS = """
import pytest
from tests import labs

def pytest_configure(config):
    labs.stand_back_if_spare(config)

def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: labs.ORDER.index(labs.lab_of(item.nodeid)))

def pytest_xdist_make_scheduler(config, log):
    return labs.Scheduling(config, log)
"""
NOTED = """
import os, pathlib, pytest, time

@pytest.mark.parametrize("number", range({number}))
def test_where(number, worker_id):
    with pathlib.Path("{seen}").open("a") as out:
        print(worker_id, "{lab}", os.nice(0), file=out)
    late = time.monotonic() + 60
    while "{lab}" == "lab" and "contract" not in pathlib.Path("{seen}").read_text() and time.monotonic() < late:
        time.sleep(0.02)  # a guest takes its time: until the spare worker has done the rest
"""


def test_of_three_workers_the_last_one_stands_back_and_takes_no_guests(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    (tmp_path / "conftest.py").write_text(HOOKS)
    files = {"lab/test_move.py": 3, "lab/test_people.py": 3, "unit/test_sums.py": 12, "contract/test_muting.py": 1}
    for name, number in files.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(NOTED.format(number=number, seen=seen, lab=file.parent.name))
    command = [sys.executable, "-m", "pytest", "-q", "-n", "3", "-p", "no:cacheprovider", "--rootdir", ".", "."]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for inherited in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):
        environment.pop(inherited, None)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "19 passed" in done.stdout, done.stdout + done.stderr

    where, niceness = defaultdict(set), defaultdict(set)
    for worker, lab, nice in (line.split() for line in seen.read_text().splitlines()):
        where[lab].add(worker)
        niceness[worker].add(int(nice))
    ours = os.nice(0)
    assert where["lab"] == {"gw0", "gw1"} and "gw2" in where["unit"]
    assert where["contract"] == {"gw2"}
    assert niceness["gw2"] == {min(19, ours + 5)} and niceness["gw0"] == niceness["gw1"] == {ours}
