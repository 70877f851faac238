"""A busy guest on real parts: most of its clients come, are served and go while it moves.

What clients say of themselves, programs in C among them, is compared with what the report says of them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support import Vmacro, Way, address_of, clients, summary, traces_of_moves, verdicts, without_probers
from vmacro.lab.lab import Lab

pytestmark = pytest.mark.lab
ALL = ("idle-500", "tcp-idle", "visits", "keep-alive-20", "downloads", "upload", "datagrams")
LINGER_S = 20
PAUSE_S = 0.5  # between programs
WANTED = ("curl", "wget", "ab", "mptcpize")
TIRED = "three minutes, in which all else in its lab waits"
TWO = pytest.param(2, marks=pytest.mark.slow(TIRED))
TEN = pytest.param(10, marks=pytest.mark.slow("the same again, five times"))


@pytest.fixture
def busy(vmacro: Vmacro) -> Vmacro:
    """Old addresses linger: visitors do not know that the guest has moved."""
    quiet = without_probers(vmacro)
    return quiet.altered("busy.toml", lambda t: t.replace("linger_s = 0\n", f"linger_s = {LINGER_S}\n"))


@contextmanager
def programs(lab: Lab, address: str) -> Iterator[Counter[tuple[str, int]]]:
    """curl, wget and ab, by MPTCP and plain TCP in turns, all the while; how often each ended with which status."""
    missing = [name for name in WANTED if shutil.which(name) is None]
    assert not missing, f"{missing}: `make test` installs them"
    url, ended, over = f"http://{address}/", Counter[tuple[str, int]](), threading.Event()
    fetch = {
        "curl": ["curl", "-sf", "-m", "60", "-o", "/dev/null", url],
        "wget": ["wget", "-q", "-O", "/dev/null", url],
        "ab": ["ab", "-q", "-k", "-n", "20", "-c", "2", "-s", "60", url],
    }
    kinds = {**fetch, **{f"mptcp {name}": ["mptcpize", "run", *words] for name, words in fetch.items()}}

    def work() -> None:
        while not over.is_set():
            for kind, words in kinds.items():
                inside = ["ip", "netns", "exec", lab.namespace("client"), *words]
                ended[kind, subprocess.run(inside, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode] += 1
                over.wait(PAUSE_S)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield ended
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("moves", [TWO, TEN])
def test_nobody_fails_and_nobody_is_called_lost(lab: Lab, busy: Vmacro, way: Way, moves: int) -> None:
    before, home = traces_of_moves(lab), address_of(lab, "web")
    told, why = Counter[str](), Counter[str]()
    with clients(lab, "client", home, *ALL) as load, programs(lab, home) as ended:
        for number in range(moves):
            to = (way.there, way.here)[number % 2]
            done = busy("migrate", "web", "--to", to, "--json")
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr
            figures = summary(done)
            told.update(figures["verdicts"])
            why.update(c["why"] for c in figures["connections"] if c["verdict"] in ("lost", "unknown"))
        assert verdicts(load) == dict.fromkeys(ALL, "")
    assert {status for _, status in ended} == {0} and min(ended.values()) > moves, ended
    assert told["lost"] == told["unknown"] == 0 and told["ended"] > moves and told["followed"] > 100, (told, why)
    print(f"{moves} moves: {dict(told)}; programs: {dict(ended)}")

    closing = busy("carry", "--json")
    assert closing.returncode == 0, closing.stdout + closing.stderr
    assert json.loads(busy("carried", "--json").stdout) == []
    assert traces_of_moves(lab) == before
