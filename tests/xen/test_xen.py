"""Moves on real Xen, in `make test-xen` only: its hosts are emulated, and a move takes minutes."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.support import Vmacro, Way, on_host, probing, site_of, summary, without_probers
from vmacro.lab.lab import Lab
from vmacro.rtt import recording as recordings
from vmacro.rtt import statistics

pytestmark = [pytest.mark.lab, pytest.mark.xen, pytest.mark.timeout(3600)]


def domains(lab: Lab, host: str) -> list[str]:
    """By xl, not by libvirt, through which we drive it."""
    return [line.split()[0] for line in on_host(lab, host, "xl", "list").splitlines()[2:]]


def runs_once(lab: Lab, at: str) -> bool:
    return {host: domains(lab, host) for host in lab.topology.hosts} == {
        host: ["web"] if host == at else [] for host in lab.topology.hosts
    }


def moved(vmacro: Vmacro, to: str, *words: str) -> dict[str, Any]:
    done = vmacro("migrate", "web", "--to", to, "--json", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return summary(done)


def test_its_hosts_are_xen(lab: Lab, vmacro: Vmacro) -> None:
    for host in lab.topology.hosts:
        assert "control_d" in on_host(lab, host, "cat", "/proc/xen/capabilities")
    done = vmacro("doctor")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("handoff", ["renumber", "seamless"])
def test_one_connection_survives_there_and_back(lab: Lab, vmacro: Vmacro, way: Way, handoff: str) -> None:
    before, quiet = lab.guest("web").agent, without_probers(vmacro)
    assert before is not None
    with probing(lab, "client", before.address, vmacro.folder) as record:
        tokens = []
        for to in (way.there, way.here):
            figures = moved(quiet, to, "--handoff", handoff)
            assert runs_once(lab, to)
            tokens.append({c["token"] for c in figures["connections"] if c["client"]})
    assert set.intersection(*tokens), "the probe's own connection was there at both moves"
    totals = statistics.totals(recordings.read(record))
    assert (totals.lost, totals.reordered) == (0, 0) and totals.sent > 100
    after = lab.guest("web").agent
    assert after is not None and after.boot_id == before.boot_id


def test_interrupted_in_the_copy_the_guest_stays_home(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    process = vmacro.start("migrate", "web", "--to", way.there, "--json")
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event.get("kind") == "phase.begin" and event["data"]["phase"] == "copy":
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 4, out + err
    assert site_of(lab, "web") == way.here and runs_once(lab, way.here)
