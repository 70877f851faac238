"""The paper's handoff on real parts: who follows, follows; who cannot is lost, and the report says so of nobody else.
Programs in C say it themselves, by the status with which they end."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import (
    Vmacro,
    Way,
    address_of,
    clients,
    eventually,
    on_host,
    site_of,
    summary,
    traces_of_moves,
    verdicts,
    without_probers,
)
from vmacro.lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.slow("a move and two minutes of downloads; in memory: test_verdicts")]
PLAIN, MPTCP = 47001, 47002  # ports of the downloads at their client
SLOWLY = ("--limit-rate", "256k")  # 16 MiB in a minute: longer than a move
PATIENCE_S = 150


@contextmanager
def unguarded(lab: Lab, way: Way) -> Iterator[None]:
    """What `renumber` needs: for a moment a guest sends from the address that it had at the other site. What a guard
    said last stays in force when it ends."""
    for host in (way.here, way.there):
        on_host(lab, host, "systemctl", "stop", "vmacro-guard")
        on_host(lab, host, "nft", "delete", "table", "bridge", "vmacro-guests")
    try:
        yield
    finally:
        for host in (way.here, way.there):
            on_host(lab, host, "systemctl", "start", "vmacro-guard")


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


def test_the_report_says_of_each_what_it_says_itself(lab: Lab, vmacro: Vmacro, way: Way, tmp_path: Path) -> None:
    free = without_probers(vmacro).altered(
        "free.toml", lambda t: re.sub("^subnet = .*", r"\g<0>\nguard = false", t, flags=re.M)
    )
    old, before = address_of(lab, "web"), traces_of_moves(lab)
    with (
        unguarded(lab, way),
        clients(lab, "client", old, "chatter") as follower,
        download(lab, tmp_path, old, PLAIN) as plain,
        download(lab, tmp_path, old, MPTCP, "mptcpize", "run") as mptcp,
    ):
        words = ("--handoff", "renumber", "--allow-connection-loss", "--json")
        done = free("migrate", "web", "--to", way.there, *words)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        assert site_of(lab, "web") == way.there
        ended = {PLAIN: plain.wait(2 * PATIENCE_S), MPTCP: mptcp.wait(2 * PATIENCE_S)}
        assert verdicts(follower) == {"chatter": ""}
    found = {c["client"].rpartition(":")[2]: c["verdict"] for c in summary(done)["connections"]}
    assert ended[PLAIN] != 0 and found.pop(str(PLAIN)) == "lost", (ended, found)
    assert ended[MPTCP] == 0 and found.pop(str(MPTCP)) == "followed", (ended, found)
    assert "lost" not in found.values() and "followed" in found.values(), found
    assert traces_of_moves(lab) == before
