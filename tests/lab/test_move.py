"""The main job, on real parts."""

from __future__ import annotations

import itertools
import json
import signal
from pathlib import Path

import pytest

from tests.support import Vmacro, Way, other_site, probing, site_of, summary, virsh, without_probers
from vmacro.lab.lab import Lab
from vmacro.rtt import recording as recordings
from vmacro.rtt import statistics

pytestmark = pytest.mark.lab


def test_a_move_keeps_its_connection_and_takes_the_short_way(lab: Lab, vmacro: Vmacro, web_at_home: str) -> None:
    done = vmacro("migrate", "web", "--to", web_at_home, "--json", "--report", "out")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = summary(done)
    files = {p.name for p in (vmacro.folder / "out").iterdir()}
    assert {"summary.json", "rtt.ndjson", "events.ndjson", "rtt.png", "report.html"} <= files
    assert json.loads((vmacro.folder / "out/summary.json").read_text()) == figures

    events = [json.loads(line) for line in (vmacro.folder / "out/events.ndjson").read_text().splitlines()]
    (joined,) = [e["data"] for e in events if e["kind"] == "joined"]
    assert (joined["follow"], joined["unwilling"]) == (1, 0), "before it moves"

    (connection,) = figures["connections"]
    assert connection["mptcp"] and connection["kept"] and connection["followed"]
    assert (figures["requests_lost"], figures["requests_reordered"]) == (0, 0)
    assert figures["rtt_before_ms"]["median"] >= 50
    assert figures["rtt_after_ms"]["median"] < figures["rtt_before_ms"]["median"] / 2
    assert figures["outage_ms"] >= figures["guest_downtime_ms"] > 0
    assert figures["bytes_transferred"] > 10 << 20

    assert "web" in virsh(lab, "berlin", "list", "--name")
    assert "web" not in virsh(lab, "bucharest", "list", "--all", "--name")
    assert figures["new_address"].startswith("10.60.2.")

    history = json.loads(vmacro("history", "--json").stdout)
    assert history[0]["move"] == figures["move_id"] and history[0]["ended"] == "moved"
    shown = json.loads(vmacro("show", figures["move_id"], "--json").stdout)
    assert [s["name"] for s in shown["steps"]] == ["survey", "prepare", "copy", "arrive", "settle", "verify", "clean"]


FOUR = pytest.param(4, marks=pytest.mark.slow("there and back once more"))


@pytest.mark.parametrize("moves", [2, FOUR])
def test_one_connection_survives_moves_back_and_forth(lab: Lab, vmacro: Vmacro, way: Way, moves: int) -> None:
    status, quiet = lab.guest("web"), without_probers(vmacro)
    assert status.agent is not None
    with probing(lab, "client", status.agent.address, vmacro.folder) as record:
        tokens = set()
        for to in itertools.islice(itertools.cycle([way.there, way.here]), moves):
            done = quiet("migrate", "web", "--to", to, "--json")
            assert done.returncode == 0, done.stdout + done.stderr
            tokens.add(frozenset(c["token"] for c in summary(done)["connections"] if c["client"]))
        kept = frozenset.intersection(*tokens)
    assert len(kept) == 1, "the probe's own connection was there at every move"
    totals = statistics.totals(recordings.read(record))
    assert (totals.lost, totals.reordered) == (0, 0) and totals.sent > 250 * moves


def test_a_guest_that_dirties_memory_moves_in_good_health(lab: Lab, vmacro: Vmacro) -> None:
    before = lab.guest("busy")
    assert before.agent is not None
    done = vmacro("migrate", "busy", "--to", other_site(before.site), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    after = lab.guest("busy")
    assert after.agent is not None and after.agent.boot_id == before.agent.boot_id
    assert after.site == other_site(before.site)
    figures = summary(done)
    assert figures["requests_lost"] == 0 and all(c["kept"] for c in figures["connections"])


def test_interrupted_in_the_copy_the_guest_stays_home(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    process = vmacro.start("migrate", "web", "--to", way.there, "--json", "--bandwidth-mib-s", "2")
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event.get("kind") == "copy.progress" and event["data"]["bytes_sent"] > 0:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 4, out + err
    figures = json.loads(out.splitlines()[-1])
    assert figures["ending"] == "rolled back" and "interrupted" in figures["reason"]
    assert figures["requests_lost"] == 0
    assert "web" in virsh(lab, way.here, "list", "--name")
    assert "web" not in virsh(lab, way.there, "list", "--all", "--name")
    assert site_of(lab, "web") == way.here


def test_a_copy_over_its_time_rolls_back(lab: Lab, vmacro: Vmacro, way: Way) -> None:
    done = vmacro("migrate", "web", "--to", way.there, "--json", "--bandwidth-mib-s", "1", "--copy-timeout-s", "3")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "copy_timeout_s" in summary(done)["reason"]
    assert site_of(lab, "web") == way.here


def test_the_tables_are_readable(lab: Lab, vmacro: Vmacro, tmp_path: Path) -> None:
    assert "QEMU 10" in vmacro("sites").stdout
    status = lab.guest("web")
    assert status.agent is not None
    with probing(lab, "client", status.agent.address, tmp_path):
        found = json.loads(vmacro("connections", "web", "--json").stdout)
        assert [c["willing"] for c in found if c["token"]] == [True]
        assert "yes" in vmacro("connections", "web").stdout
