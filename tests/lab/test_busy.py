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

from tests.clients import BY_PROXY
from tests.support import Vmacro, Way, address_of, clients, into, summary, traces_of_moves, verdicts, without_probers
from vmacro.lab.lab import Lab

pytestmark = pytest.mark.lab
ALL = ("idle-500", "tcp-idle", "visits", "keep-alive-20", "downloads", "large", "upload", "datagrams")
LINGER_S = 180  # longer than a move takes here: its visitors come to the first address all the while
PAUSE_S = 0.5  # between programs
WANTED = ("curl", "wget", "ab", "iperf3", "mptcpize", "ssh")
IPERF = 5201
SERVERS = f"""systemctl restart haproxy
systemctl stop -q iperf
systemd-run -q --collect -u iperf mptcpize run iperf3 -s -p {IPERF}"""
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
    """curl, wget, ab and iperf3, some by HAProxy, by MPTCP and plain TCP in turns, all the while; how often each ended
    with which status."""
    missing = [name for name in WANTED if shutil.which(name) is None]
    assert not missing, f"{missing}: `make test` installs them"
    url, proxy = f"http://{address}/", f"http://{address}:{BY_PROXY}/"
    ended, over = Counter[tuple[str, int]](), threading.Event()
    fetch = {
        "curl": ["curl", "-sf", "-m", "60", "-o", "/dev/null", url],
        "wget": ["wget", "-q", "-O", "/dev/null", url],
        "ab": ["ab", "-q", "-k", "-n", "20", "-c", "2", "-s", "60", url],
        "curl by HAProxy": ["curl", "-sf", "-m", "60", "-o", "/dev/null", proxy],
        "ab by HAProxy": ["ab", "-q", "-k", "-n", "20", "-c", "2", "-s", "60", proxy],
        "iperf3": ["iperf3", "-c", address, "-p", str(IPERF), "-b", "2M", "-t", "5"],
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


@contextmanager
def idle_ssh(lab: Lab, address: str) -> Iterator[subprocess.Popen[str]]:
    """A session in which nobody types."""
    command = [*into(lab, "client", address), "cat"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        print("hello", file=process.stdin, flush=True)
        assert process.stdout.readline() == "hello\n"
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("moves", [TWO, TEN])
def test_nobody_fails_and_nobody_is_called_lost(lab: Lab, busy: Vmacro, way: Way, moves: int) -> None:
    before, home = traces_of_moves(lab), address_of(lab, "web")
    told, why = Counter[str](), Counter[str]()
    subprocess.run([*into(lab, "operator", home), SERVERS], check=True, stdin=subprocess.DEVNULL)
    with clients(lab, "client", home, *ALL) as load, programs(lab, home) as ended, idle_ssh(lab, home) as session:
        for number in range(moves):
            to = (way.there, way.here)[number % 2]
            done = busy("migrate", "web", "--to", to, "--json")
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr
            figures = summary(done)
            told.update(figures["verdicts"])
            why.update(c["why"] for c in figures["connections"] if c["verdict"] in ("lost", "unknown"))
        assert verdicts(load) == dict.fromkeys(ALL, "")
        assert session.communicate("still there\n", timeout=60)[0] == "still there\n" and session.returncode == 0
    subprocess.run([*into(lab, "operator", address_of(lab, "web")), "systemctl stop haproxy iperf"], check=True)
    assert {status for _, status in ended} == {0} and sum(ended.values()) > 10 * moves, ended
    assert told["lost"] == told["unknown"] == 0 and told["ended"] > moves and told["followed"] > 100, (told, why)
    print(f"{moves} moves: {dict(told)}; programs: {dict(ended)}")

    closing = busy("carry", "--json")
    assert closing.returncode == 0, closing.stdout + closing.stderr
    assert json.loads(busy("carried", "--json").stdout) == []
    assert traces_of_moves(lab) == before
