"""A site is emptied and filled again: guests move at once, one cannot and stays named, no connection is lost. And what
stands against it."""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import ExitStack

import pytest

from tests.lab.domains import hosts_as_they_are
from tests.support import Vmacro, address_of, clients, other_site, site_of, summary, verdicts, virsh, without_probers
from vmacro.lab.lab import Lab
from vmacro.lab.topology import OPERATOR

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
        print(
            {
                key: told[key]
                for key in ("took_s", "expected_s", "outage_ms", "guest_downtime_ms", "most_at_once", "mib")
            }
        )
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


def staying(lab: Lab, vmacro: Vmacro, site: str) -> dict[str, str]:
    """Who would stay if this site were emptied, and by which code; nothing is changed."""
    before = hosts_as_they_are(lab)
    done = vmacro("evacuate", site, "--dry-run", "--json")
    assert done.returncode == 3, done.stdout + done.stderr
    assert hosts_as_they_are(lab) == before
    return {stay["guest"]: stay["code"] for stay in json.loads(done.stdout)["stays"]}


@pytest.mark.slow("two plans; each is a unit test, too")
def test_who_can_go_nowhere_and_who_is_ourselves_stay(lab: Lab, vmacro: Vmacro) -> None:
    """The inventory has no other site; and what plans says to have the address of `web`, as if it ran there."""
    home = site_of(lab, "web")
    away, here = other_site(home), lab.namespace(OPERATOR)
    alone = vmacro.altered("alone.toml", lambda t: without_sections(t, f"sites.{away}", f"hosts.{away}"))
    assert staying(lab, alone, home)["web"] == "no-destination"
    own = ["ip", "-n", here, "address"]
    subprocess.run([*own, "add", f"{address_of(lab, 'web')}/32", "dev", "lo"], check=True)
    try:
        assert staying(lab, vmacro, home)["web"] == "guest-is-orchestrator"
    finally:
        subprocess.run([*own, "del", f"{address_of(lab, 'web')}/32", "dev", "lo"], check=True)


def without_sections(text: str, *names: str) -> str:
    """An inventory without these, and what is below them."""
    parts = re.split(r"^(?=\[)", text, flags=re.M)
    gone = tuple(f"[{name}{end}" for name in names for end in "].")
    return "".join(part for part in parts if not part.startswith(gone))


@pytest.mark.slow("two moves; as a unit test: test_batches")
def test_who_was_moved_by_hand_meanwhile_is_left_where_it_is(lab: Lab, vmacro: Vmacro) -> None:
    """The batch waits for a worker; somebody does not."""
    quiet = without_probers(vmacro).altered("once.toml", lambda t: f"{t}\n[fleet]\ntries = 1\n")
    home = site_of(lab, "web")
    away = other_site(home)
    begun = quiet("evacuate", home, "--yes", "--detach")
    assert begun.returncode == 0, begun.stdout + begun.stderr
    batch = json.loads(quiet("batch", "list", "--json").stdout)["batches"][0]["batch"]
    try:
        by_hand = quiet("migrate", "web", "--to", away)
        assert by_hand.returncode == 0, by_hand.stdout + by_hand.stderr
        before = virsh(lab, away, "dumpxml", "web")
        ended = quiet("batch", "resume", batch)
        assert ended.returncode == 5, ended.stdout + ended.stderr
        shown = quiet("batch", "show", batch, "--json").stdout
        assert f"it was moved there from {home} by somebody else" in shown, shown
        assert virsh(lab, away, "dumpxml", "web") == before
    finally:
        restored = quiet("restore", home, "--yes")
        assert restored.returncode in (0, 5), restored.stdout + restored.stderr


POLICY = """currency = "EUR"

[sites.{away}]
labels = ["eu"]
price = {{ source = "fixed", unit = "1/kWh", value = 0.1 }}

[sites.{home}]
price = {{ source = "fixed", unit = "1/kWh", value = 0.1 }}

[guests]
web = {{ watts = 100, residency = ["eu"] }}
"""


@pytest.mark.slow("two decisions; as a unit test: test_fleet")
def test_who_must_leave_by_a_policy_and_cannot_is_named(lab: Lab, vmacro: Vmacro) -> None:
    """It may be at the other site alone, and no link leads there."""
    home, before = site_of(lab, "web"), hosts_as_they_are(lab)
    policy = vmacro.folder / "policy.toml"
    policy.write_text(POLICY.format(home=home, away=other_site(home)))
    decided = vmacro("follow", str(policy), "--dry-run", "--json")
    assert decided.returncode == 0, decided.stdout + decided.stderr
    assert [(f["code"], f["subject"]) for f in summary(decided)["findings"]] == [("must-leave", "guest web")]
    followed = vmacro("follow", str(policy), "--once", "--json")
    assert followed.returncode == 0 and '"must-leave"' in followed.stdout, followed.stdout + followed.stderr
    assert hosts_as_they_are(lab) == before
