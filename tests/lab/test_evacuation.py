"""A site is emptied and filled again: guests move at once, one cannot and stays named, no connection is lost."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.support import Vmacro, address_of, clients, other_site, site_of, summary, verdicts, without_probers
from vmacro.lab.lab import Lab

pytestmark = pytest.mark.lab
MOVERS, STAYS = ("busy", "web"), "mute"


def test_a_site_is_evacuated_and_restored(lab: Lab, vmacro: Vmacro) -> None:
    quiet = without_probers(vmacro)
    home = site_of(lab, STAYS)
    away = other_site(home)
    for guest in MOVERS:
        if site_of(lab, guest) != home:
            assert quiet("migrate", guest, "--to", home).returncode in (0, 5)
    with ExitStack() as connected:
        held = {g: connected.enter_context(clients(lab, "client", address_of(lab, g), "chatter")) for g in MOVERS}
        dry = quiet("evacuate", home, "--dry-run")
        assert dry.returncode == 3 and STAYS in dry.stdout and "no-agent" in dry.stdout, dry.stdout + dry.stderr
        assert {site_of(lab, guest) for guest in MOVERS} == {home}, "a plan changes nothing"

        done = quiet("evacuate", home, "--yes", "--deadline", "10m", "--json")
        told = summary(done)
        print({key: told[key] for key in ("took_s", "expected_s", "outage_ms", "most_at_once", "mib")})
        assert done.returncode == 5, done.stdout + done.stderr
        assert told["moved"] == len(MOVERS) and [s["guest"] for s in told["stays"]] == [STAYS]
        assert {g: site_of(lab, g) for g in (*MOVERS, STAYS)} == {**dict.fromkeys(MOVERS, away), STAYS: home}
        assert told["most_at_once"]["in_all"] == 2, "they were under way at once"
        folder = quiet.folder / "report" / told["batch_id"]
        assert {"summary.json", "report.html", "batch.png"} <= {path.name for path in folder.iterdir()}

        back = quiet("check", "web", "--to", home)
        assert back.returncode == 3 and "in-maintenance" in back.stdout, back.stdout + back.stderr

        restored = quiet("restore", home, "--yes", "--json")
        assert restored.returncode == 0, restored.stdout + restored.stderr
        assert {g: site_of(lab, g) for g in (*MOVERS, STAYS)} == dict.fromkeys((*MOVERS, STAYS), home)
        wrong = {guest: verdicts(process) for guest, process in held.items()}
    assert wrong == {guest: {"chatter": ""} for guest in MOVERS}
    assert "maintenance" not in quiet("batch", "list").stdout
