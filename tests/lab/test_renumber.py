"""The paper's handoff on real parts: who follows, follows; who cannot is lost, and the report says so of nobody else.
Programs in C say it themselves, by the status with which they end."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import (
    Vmacro,
    address_of,
    clients,
    eventually,
    site_of,
    summary,
    traces_of_moves,
    verdicts,
    without_probers,
)
from vmacro.lab import topology
from vmacro.lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.slow("a lab of its own, and two minutes of downloads")]
TOPOLOGY = Path(__file__).with_name("paper.toml")
PLAIN, MPTCP = 47001, 47002  # ports of the downloads at their client
SLOWLY = ("--limit-rate", "256k")  # 16 MiB in a minute: longer than a move
PATIENCE_S = 150


@pytest.fixture(scope="module")
def paper() -> Iterator[Lab]:
    """The lab of paper.toml: where guests are guarded, nothing leaves from an address that is another site's."""
    found = Lab(topology.load(TOPOLOGY))
    found.down()
    try:
        found.up(TOPOLOGY, lambda text: print(text, flush=True))
        yield found
    finally:
        left = found.down()
    assert left == []


@contextmanager
def download(lab: Lab, folder: Path, address: str, port: int, *by: str) -> Iterator[subprocess.Popen[bytes]]:
    """By curl, from this port; it has begun."""
    file = folder / f"from-{port}"
    words = ["curl", "-sf", "-m", str(PATIENCE_S), *SLOWLY, "--local-port", str(port), "-o", str(file)]
    command = ["ip", "netns", "exec", lab.namespace("client"), *by, *words, f"http://{address}/random.bin"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        eventually(lambda: file.exists() and file.stat().st_size > 0, f"the first bytes of {port}")
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_report_says_of_each_what_it_says_itself(paper: Lab, tmp_path: Path) -> None:
    vmacro = without_probers(Vmacro(tmp_path, paper.inventory_file))
    old, before = address_of(paper, "web"), traces_of_moves(paper)
    with (
        clients(paper, "client", old, "chatter") as follower,
        download(paper, tmp_path, old, PLAIN) as plain,
        download(paper, tmp_path, old, MPTCP, "mptcpize", "run") as mptcp,
    ):
        words = ("--handoff", "renumber", "--allow-connection-loss", "--json")
        done = vmacro("migrate", "web", "--to", "berlin", *words)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        assert site_of(paper, "web") == "berlin"
        ended = {PLAIN: plain.wait(2 * PATIENCE_S), MPTCP: mptcp.wait(2 * PATIENCE_S)}
        assert verdicts(follower) == {"chatter": ""}
    found = {c["client"].rpartition(":")[2]: c["verdict"] for c in summary(done)["connections"]}
    assert ended[PLAIN] != 0 and found.pop(str(PLAIN)) == "lost", (ended, found)
    assert ended[MPTCP] == 0 and found.pop(str(MPTCP)) == "followed", (ended, found)
    assert "lost" not in found.values() and "followed" in found.values(), found
    assert traces_of_moves(paper) == before
