"""The tests' own PostgreSQL leaves nothing, however who has it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import postgres
from tests.support import eventually

HOLDER = """
import time
from tests import postgres
with postgres.running(postgres.installed()) as server:
    before = server.pid
    server.restart()
    print(server.folder, before, server.pid, flush=True)
    time.sleep(600)
"""


def test_it_ends_with_who_has_it_also_where_that_is_killed() -> None:
    if postgres.installed() is None:
        pytest.skip("no PostgreSQL")
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        folder, before, pid = holder.stdout.readline().split()
        assert before != pid and Path(f"/proc/{pid}").exists() and Path(folder).is_dir()
        holder.kill()
    eventually(lambda: not Path(f"/proc/{pid}").exists() and not Path(folder).exists(), "the end of the server")
