"""evacuate, drain, restore, worker and batch as their user has them, on the fake world with the real journal."""

from __future__ import annotations

import io
import json
import signal
import threading
import time
import urllib.request
from dataclasses import replace
from typing import Any

import pytest
import yaml
from rich.console import Console

from tests import role
from tests.unit.town import Town, Vmacro
from vmacro.cli import batch_view, fleet, render
from vmacro.cli.batch_view import View
from vmacro.cli.metrics import Metrics
from vmacro.model import batch_events, events
from vmacro.model.batches import Became, PlannedMove, Try
from vmacro.model.moves import Ending, Phase
from vmacro.provisioning import ansible_inventory

PORT = 19437
MOVE = PlannedMove("g1", "a", "x", "b", "y", 256.0, 2.0, 10.0)


@pytest.fixture(autouse=True)
def from_here(vmacro: Vmacro, town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMACRO_INVENTORY", str(town.file))


def last(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def at_home(town: Town) -> list[str]:
    return [g for g in town.guests if town.fake.running_at(g) == ["bucharest"]]


def test_a_plan_alone(vmacro: Vmacro, town: Town) -> None:
    done = vmacro("evacuate", "bucharest", "--dry-run")
    assert done.returncode == 0 and "4 moves, 1024 MiB" in done.stdout, done.stdout
    town.fake.guests["g2"].answers = False
    done = vmacro("evacuate", "bucharest", "--dry-run", "--deadline", "1s")
    assert done.returncode == 3 and "no-agent" in done.stdout and "some moves may not begin" in done.stderr
    plan = last(vmacro("evacuate", "bucharest", "--dry-run", "--json").stdout)
    assert [m["guest"] for m in plan["moves"]] == ["g1", "g3", "g4"] and plan["stays"][0]["guest"] == "g2"
    assert at_home(town) == [*town.guests] and not (town.file.parent / "state").exists()
    refused = vmacro("evacuate", "bucharest")
    assert refused.returncode == 2 and "--yes" in refused.stderr and at_home(town) == [*town.guests]


def test_from_empty_to_full_again(vmacro: Vmacro, town: Town) -> None:
    town.fake.guests["g2"].answers = False
    done = vmacro("evacuate", "bucharest", "--yes")
    assert done.returncode == 5 and "try.end    g1: moved" in done.stdout, done.stdout + done.stderr
    assert at_home(town) == ["g2"]
    listed = vmacro("batch", "list")
    assert "site bucharest: in maintenance" in listed.stdout
    (batch,) = last(vmacro("batch", "list", "--json").stdout)["batches"]
    assert (batch["moved"], batch["not moved"], batch["stay"], batch["wanted"]) == (3, 0, 1, "ended")
    shown = last(vmacro("batch", "show", batch["batch"], "--json").stdout)
    assert {m["state"] for m in shown["moves"]} == {"moved"} and shown["stays"][0]["code"] == "no-agent"
    assert "Who stays" in vmacro("batch", "show", batch["batch"]).stdout
    assert vmacro("batch", "watch", batch["batch"]).returncode == 5
    assert vmacro("check", "g1", "--to", "bucharest").returncode == 3
    town.fake.guests["g2"].answers = True
    restored = vmacro("restore", "bucharest", "--yes", "--json")
    assert restored.returncode == 0 and last(restored.stdout)["moved"] == 3, restored.stdout + restored.stderr
    assert at_home(town) == [*town.guests]


def test_a_batch_that_is_left_to_workers_waits_for_one(vmacro: Vmacro, town: Town) -> None:
    done = vmacro("drain", "bucharest", "--yes", "--detach")
    assert done.returncode == 0 and "left to workers" in done.stdout, done.stderr
    assert vmacro("batch", "pause").returncode == 0 and at_home(town) == [*town.guests]
    assert last(vmacro("batch", "list", "--json").stdout)["batches"][0]["wanted"] == "pause"
    done = vmacro("batch", "resume", "--json")
    assert done.returncode == 0 and last(done.stdout)["moved"] == 4, done.stdout + done.stderr
    assert vmacro("batch", "abort").returncode == 2, "none goes on"
    shown = vmacro("batch", "show", "--json")
    assert shown.returncode == 0 and last(shown.stdout)["moved"] == 4, "the last one"


def test_ctrl_c_pauses_and_a_second_one_undoes(vmacro: Vmacro, town: Town) -> None:
    """The first ends the watching; what is under way goes on until the second."""
    gate = town.gate("copy bucharest", "g1")

    def twice() -> None:
        gate.wait_until_reached()
        for _ in range(2):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(2)
        gate.open()

    threading.Thread(target=twice, daemon=True).start()
    done = vmacro("evacuate", "bucharest", "--yes")
    assert done.returncode == 5 and "paused" in done.stderr and "vmacro batch resume" in done.stderr
    assert "g1" in at_home(town)
    done = vmacro("batch", "resume", "--json")
    assert done.returncode == 0 and at_home(town) == [], done.stdout + done.stderr


def test_a_worker_serves_what_it_does_and_leaves_when_told(vmacro: Vmacro, town: Town) -> None:
    assert vmacro("evacuate", "bucharest", "--yes", "--detach").returncode == 0
    served: list[str] = []

    def read_and_end() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and 'vmacro_moves_total{ending="moved"} 4.0' not in "".join(served):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=5) as answer:
                    served[:] = [answer.read().decode()]
            except OSError:
                pass
            time.sleep(0.2)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    thread = threading.Thread(target=read_and_end)
    thread.start()
    done = vmacro("worker", "--metrics", f"127.0.0.1:{PORT}")
    thread.join()
    assert done.returncode == 0 and "works on batches" in done.stderr, done.stderr
    (text,) = served
    assert 'vmacro_moves_total{ending="moved"} 4.0' in text and "vmacro_worker_leads 1.0" in text
    assert 'vmacro_guest_pause_seconds_bucket{le="0.2"} 4.0' in text and at_home(town) == []


@pytest.mark.parametrize(
    "words, said",
    [
        (("evacuate", "atlantis"), "site 'atlantis'"),
        (("evacuate", "bucharest", "--to", "atlantis"), "--to 'atlantis'"),
        (("evacuate", "bucharest", "--deadline", "soon"), "--deadline 'soon'"),
        (("evacuate", "bucharest", "--deadline", "2001-01-01T00:00"), "has passed"),
        (("drain", "atlantis"), "host 'atlantis'"),
        (("restore", "bucharest"), "no batch has emptied it"),
        (("batch", "show", "another"), "there is none"),
        (("batch", "resume"), "none goes on"),
        (("worker", "--metrics", "nowhere"), "--metrics 'nowhere'"),
        (("batch", "show"), "none goes on"),
        (("worker", "--metrics", "nowhere"), "is not ADDRESS:PORT"),
        (("worker", "--metrics", "127.0.0.1:99999"), "is not ADDRESS:PORT"),
        (("worker", "--metrics", "127.0.0.1:0"), "is not ADDRESS:PORT"),
    ],
)
def test_mistakes(vmacro: Vmacro, words: tuple[str, ...], said: str) -> None:
    done = vmacro(*words)
    assert done.returncode == 2 and said in done.stderr, done.stdout + done.stderr


def test_deadlines() -> None:
    now = time.time()
    assert fleet._deadline_s("") == 0
    assert 5399 < fleet._deadline_s("90m") - now < 5402 and 7199 < fleet._deadline_s("2h") - now < 7202
    assert fleet._deadline_s("2099-01-01T00:00+00:00") == 4070908800


def test_the_view_tells_phase_percent_and_outage_so_far() -> None:
    view = View("batch-1", 2)

    def happens(move_id: str, at_s: float, what: events.What) -> None:
        event = events.Event(move_id, int(at_s * 1e9), what)
        if view.concerns(event):
            view.see(event)

    happens("g1-20261128-1-a", 0, events.PhaseBegan(Phase.COPY))
    assert view.moving == {}, "a move that nobody has begun for this batch"
    happens("batch-1", 1, batch_events.TryBegan("g1", "a", "b", "x", "y", 1, "worker-1"))
    happens("g1-20261128-1-a", 2, events.PhaseBegan(Phase.COPY))
    happens("g1-20261128-1-a", 3, events.CopyProgress(40, 1, 1, 2, 0.0, 1.0, 1))
    seen = view.moving["g1"]
    assert (seen.phase, seen.percent, seen.downtime_ms(4)) == ("copy", 40, None)
    happens("g1-20261128-1-a", 4, events.DomainChanged("source", "a", "suspended", "0"))
    assert seen.downtime_ms(int(4.25e9)) == 250
    happens("g1-20261128-1-a", 4.3, events.DomainChanged("destination", "b", "resumed", "0"))
    assert seen.downtime_ms(int(9e9)) == 300
    happens("batch-1", 5, batch_events.TryEnded("g1", "a", "b", "x", "y", 1, "worker-1", "moved", "g1-1", "", 300))
    assert view.moving == {} and view.done == {"g1": "moved"}


def test_a_terminal_has_a_table_of_what_moves_just_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """What hosts and guests said is no markup in it."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160, highlight=False, emoji=False, markup=False)
    monkeypatch.setattr(render, "out", console)
    view = View("batch-1", 2)
    began = batch_events.TryBegan("g1", "a[/b]", "b", "x", "y", 1, "worker-1")
    with batch_view.shown(view, json=False) as show:
        show([events.Event("batch-1", time.time_ns(), began)])
        show([events.Event("g1-20261128-1-a", time.time_ns(), events.PhaseBegan(Phase.COPY))])
        show([events.Event("g1-20261128-1-a", time.time_ns(), events.CopyProgress(40, 1, 1, 2, 0.0, 1.0, 1))])
        show([events.Event("g1-20261128-1-a", time.time_ns(), events.DomainChanged("source", "a", "suspended", "0"))])
        show([events.Event("another", time.time_ns(), events.Note("not of this batch"))])
        show([events.Event("batch-1", time.time_ns(), batch_events.BatchChanged("paused", "by ada"))])
    told = screen.getvalue()
    assert "0 of 2 moved, 1 under way; paused" in told and "not of this batch" not in told
    for cell in ("g1", "a[/b] → b", "copy", "40 %", " ms", "worker-1"):
        assert cell in told, told


def test_metrics_count_what_ended() -> None:
    metrics, tried = Metrics(), Try("b", 0, 1, 0.0, 0.0, MOVE)
    metrics.began(tried)
    metrics.ended(tried, Became(Ending.MOVED, downtime_ms=120, mib=256, wall_s=9.0))
    metrics.began(tried)
    metrics.ended(tried, replace(Became(None), reason="no"))

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("vmacro_moves_total", ending="moved") == value("vmacro_moves_total", ending="refused") == 1
    assert value("vmacro_sent_bytes_total") == 256 << 20 and value("vmacro_moves_under_way") == 0
    assert value("vmacro_guest_pause_seconds_count") == 1


def test_the_services_run_what_they_say() -> None:
    defaults = ansible_inventory.playbooks() / "roles/orchestrator/defaults/main.yml"
    known = yaml.safe_load(defaults.read_text())
    worker, carry = (role.of_role("orchestrator", f"{unit}.service.j2", known) for unit in known["orchestrator_units"])
    assert "worker --inventory /etc/vmacro/inventory.toml --metrics 127.0.0.1:9437\n" in worker
    assert "TimeoutStopSec=7200\n" in worker and "KillMode=mixed\n" in worker and "\nUser=root\n" in worker
    assert "carry --forever --inventory /etc/vmacro/inventory.toml\n" in carry
    nowhere = known | {"orchestrator_metrics_address": ""}
    assert "--metrics" not in role.of_role("orchestrator", "vmacro-worker.service.j2", nowhere)
