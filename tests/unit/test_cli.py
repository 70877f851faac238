"""What a user sees who errs: message and exit code, nothing contacted."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from tests import knot
from tests.unit.test_config import GOOD
from tests.unit.town import PATIENCE_S, Town, Vmacro
from vmacro import api, inventory, wiring
from vmacro.drivers.fake import connection
from vmacro.errors import ConfigurationError
from vmacro.lab import paths
from vmacro.model.events import Event, Note
from vmacro.model.facts import Claim, Flows
from vmacro.model.moves import Ending
from vmacro.rtt import responder
from vmacro.services.event_log import DatabaseEventLog
from vmacro.wire.agent_verbs import MAX_CONNECTIONS

SUBNETS = ("--subnet", "a=10.1.0.0/24", "--subnet", "b=10.2.0.0/24")
TWO_HOSTS = ("--host", "a/a1=root@10.0.0.1", "--host", "b/b1=10.0.0.2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "i.toml").write_text(GOOD)
    (tmp_path / "ca.toml").write_text(f'[orchestrator]\nca_dir = "{tmp_path}/ca"\npki_dir = "{tmp_path}/us"\n{GOOD}')
    (tmp_path / "new.toml").write_text(f'[orchestrator]\nstate_dir = "{tmp_path}/state"\n{GOOD}')
    (tmp_path / "bad.toml").write_text(GOOD.replace('site = "b"', 'site = "c"'))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["migrate", "nobody", "--to", "b", "-i", "i.toml"], "guest 'nobody': not in i.toml"),
        (["migrate", "web", "--to", "b/a1", "-i", "i.toml"], "host 'a1': none of site b in i.toml"),
        (["migrate", "web", "--to", "atlantis", "-i", "i.toml"], "site 'atlantis': not in i.toml"),
        (["migrate", "web", "--to", "b", "--handoff", "magic", "-i", "i.toml"], "handoff 'magic': unknown"),
        (
            ["migrate", "web", "--to", "b", "--copy-timeout-s", "-1", "-i", "i.toml"],
            "policy: copy_timeout_s: must be more than 0",
        ),
        (["check", "web", "--to", "b", "-i", "bad.toml"], "bad.toml: hosts.b1.site: no site 'c'"),
        (["sites", "-i", "none.toml"], "`vmacro init FILE` writes a first one"),
        (["lab", "up", "-t", "none.toml"], "two-sites.toml, and change it"),
        (["signals", "none.toml"], "docs/follow.md begins with one to copy"),
        (["rtt", "watch", "i.toml"], "vmacro: i.toml: "),
        (["resume", "-i", "new.toml"], "there is nothing to go on with: no move is unfinished"),
        (["provision", "hosts", "--tags", "foo", "-i", "ca.toml"], "--tags 'foo': no tag of hosts"),
        (["provision", "guests", "--tags", "agent,foo", "-i", "ca.toml"], "--tags 'foo': no tag of guests"),
        (["provision", "probes", "--tags", "tls", "-i", "ca.toml"], "--tags 'tls': no tag of probes"),
        (["init", "first.toml", *TWO_HOSTS, "--host", "b/a1=10.0.0.3"], "--host: host 'a1' is named 2 times"),
        (["init", "first.toml", *TWO_HOSTS, "--guest", "web", "--guest", "web"], "guest 'web' is named 2 times"),
        (["init", "first.toml", *TWO_HOSTS, "--guest", "we b"], "--guest 'we b': 'we b': a name has"),
        (["init", "first.toml", "--host", 'a"/a1=10.0.0.1'], "a name has 1 to 63 letters"),
        (["init", "first.toml", *TWO_HOSTS, "--subnet", "c=10.1.0.0/24"], "no --host is at site 'c'"),
        (
            ["init", "first.toml", *TWO_HOSTS, "--subnet", "a=10.1.0.7/24", "--subnet", "b=10.2.0.0/24"],
            "--subnet a=10.1.0.7/24: is an address in a network: the network is 10.1.0.0/24",
        ),
        (["rtt", "probe", "127.0.0.1:1", "--visit-every-ms", "5"], "--visit-every-ms 5: 20 at least"),
        (["rtt", "probe", "web:80", "--port", "80"], "'web:80': has a port already"),
        (["events", "web-1", "-i", "new.toml"], "move 'web-1': neither in the log nor in the journal"),
        (["rtt", "report", "none.ndjson"], "none.ndjson: no such file"),
        (["lab", "up", "--topology", "none.toml"], "none.toml: cannot be read"),
        (["cleanup", "--release", "banana", "-i", "new.toml"], "--release 'banana': is no IP address"),
        (["check", "--all", "web", "-i", "i.toml"], "vmacro check web --to SITE"),
        (["drain", "a/b1", "-i", "new.toml"], "host 'a/b1': not in the inventory"),
        (["migrate", "web", "--to", "b", "-i", "i.toml", "--report", "i.toml"], "--report i.toml: i.toml is no folder"),
        (["migrate", "web", "--to", "b", "-i", "i.toml", "--report", "i.toml/x"], "i.toml is no folder"),
        (["resume", "-i", "new.toml", "--report", "i.toml"], "--report i.toml: i.toml is no folder"),
        (["lab", "demo", "--report", "i.toml"], "--report i.toml: i.toml is no folder"),
        (["simulate", "i.toml", "--png", "none/x.png"], "--png none/x.png: there is no folder none"),
        (["simulate", "i.toml", "--html", "none/x.html"], "--html none/x.html: there is no folder none"),
        (["simulate", "i.toml", "--html", "."], "--html .: is a folder"),
        (["rtt", "report", "none.ndjson", "--png", "none/x.png"], "--png none/x.png: there is no folder none"),
        (["rtt", "probe", "127.0.0.1:1", "--record", "none/r"], "--record none/r: there is no folder none"),
        (["init", "i.toml/first.toml", *TWO_HOSTS, *SUBNETS], "i.toml/first.toml: i.toml is no folder"),
        (["pki", "init", "-i", "i.toml"], "i.toml: orchestrator.ca_dir: is not set"),
        (["pki", "show", "-i", "ca.toml"], "ca/cacert.pem: cannot be read"),
        (["pki", "show", "-i", "ca.toml"], "`vmacro pki init` makes an authority"),
        (["provision", "hosts", "--limit", "a1,c1", "-i", "ca.toml"], "host 'c1': not in ca.toml"),
        (["init", "i.toml"], "i.toml: is there already"),
        (["init", "first.toml"], "nobody is there to be asked"),
        (["init", "first.toml", "--host", "a/a1=root@10.0.0.1"], "name hosts of two or more"),
        (["init", "first.toml", *TWO_HOSTS, "--subnet", "a=10.1.0.0/24"], "the guests' subnet at b is not known"),
        (
            ["init", "first.toml", *TWO_HOSTS, "--subnet", "a=10.1.0.0/16", "--subnet", "b=10.1.2.0/24"],
            "first.toml: hosts a1 and b1: the guests' subnet 10.1.0.0/16 of one overlaps 10.1.2.0/24",
        ),
        (
            ["init", "first.toml", *TWO_HOSTS, "--subnet", "a=10.1/16", "--subnet", "b=10.2.0.0/24"],
            "--subnet a=10.1/16: ",
        ),
        (["inventory", "-i", "ca.toml"], "ca/cacert.pem: cannot be read"),
    ],
)
def test_a_mistake_in_what_was_asked(vmacro: Vmacro, folder: Path, words: list[str], said: str) -> None:
    done = vmacro(*words)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr


def test_before_the_first_move_history_is_empty(vmacro: Vmacro, folder: Path) -> None:
    done = vmacro("history", "--json", "-i", "new.toml")
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    missing = vmacro("show", "web-1", "-i", "new.toml")
    assert missing.returncode == 2 and "move 'web-1': not in the journal" in missing.stderr


def test_a_journal_that_cannot_be_reached_is_a_clear_error(vmacro: Vmacro, folder: Path) -> None:
    """Nobody listens on port 9; the password stays secret."""
    where = '[orchestrator]\ndatabase_url = "postgresql+psycopg://u:hush@127.0.0.1:9/x"\n'
    (folder / "pg.toml").write_text(where + GOOD)
    done = vmacro("history", "-i", "pg.toml")
    assert done.returncode == 2 and "journal postgresql" in done.stderr, done.stderr
    assert "hush" not in done.stderr + done.stdout and "Traceback" not in done.stderr


def test_who_follows_is_interrupted_in_good_order(folder: Path) -> None:
    """What another process tells meanwhile is seen; Ctrl-C is no failure."""
    # Whoever runs the tests in the background has them ignore SIGINT, and children inherit that.
    heeding = ("env", "--default-signal=INT")
    command = [*heeding, sys.executable, "-m", "vmacro.cli.app", "events", "--follow", "--json", "-i", "new.toml"]
    with (
        DatabaseEventLog(f"sqlite:///{folder}/state/journal.sqlite", lambda text: pytest.fail(text)) as log,
        subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower,
    ):
        assert follower.stdout is not None and follower.stderr is not None
        for text in ("first", "second"):
            log.append(Event("web-1", 5, Note(text)))
            assert json.loads(follower.stdout.readline())["text"] == text
        follower.send_signal(signal.SIGINT)
        assert follower.wait(60) == 0 and follower.stderr.read() == ""


def test_no_inventory_and_no_lab(vmacro: Vmacro, tmp_path: Path) -> None:
    if Path("/etc/vmacro/inventory.toml").exists():
        pytest.skip("this machine has an inventory of its own")
    done = vmacro("sites")
    assert done.returncode == 2 and "no lab is up" in done.stderr


def test_with_several_labs_up_the_files_to_name_are_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wiring, "SYSTEM_INVENTORY", tmp_path / "none.toml")
    monkeypatch.setenv("VMACRO_STATE", str(tmp_path))
    for name in ("one", "two"):
        lab_that_is_up(name)
    (paths.lab_dir("two") / "seat").mkdir()
    with pytest.raises(ConfigurationError, match="several labs are up: one, two") as caught:
        wiring.find_inventory(None)
    for file in ("lab/one/inventory.toml", "lab/two/seat/etc/vmacro/inventory.toml"):
        assert str(tmp_path / file) in caught.value.hint
    assert "VMACRO_INVENTORY" in caught.value.hint


def lab_that_is_up(name: str) -> Path:
    """What there is to see of it; returns where its inventory is."""
    folder = paths.lab_dir(name)
    folder.mkdir(parents=True)
    (folder / "topology.toml").touch()
    return folder / "inventory.toml"


def test_whose_inventory_was_taken_is_told_where_none_was_named(
    vmacro: Vmacro, town: Town, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The one lab that is up may be somebody else's."""
    theirs = lab_that_is_up("theirs")
    theirs.symlink_to(town.file)
    told = f"no inventory is named: taking that of the one lab that is up: {theirs}"
    assert told not in vmacro("sites").stderr, "the environment names it"
    monkeypatch.delenv("VMACRO_INVENTORY")
    monkeypatch.setattr(wiring, "SYSTEM_INVENTORY", tmp_path / "none.toml")
    for words in (["sites"], ["migrate", "g1", "--to", "berlin"], ["history"]):
        done = vmacro(*words)
        assert done.returncode == 0 and told in done.stderr, done.stderr
        assert told not in done.stdout
    monkeypatch.setattr(wiring, "SYSTEM_INVENTORY", town.file)
    assert told not in vmacro("sites").stderr


def test_of_nothing_there_is_a_word_and_no_empty_table(vmacro: Vmacro, folder: Path) -> None:
    assert vmacro("history", "-i", "new.toml").stdout == "nothing\n"


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    made = Town(tmp_path, 2)
    monkeypatch.setattr(wiring, "drivers", made.drivers)
    monkeypatch.setenv("VMACRO_INVENTORY", str(made.file))
    return made


@pytest.mark.parametrize(("verb", "ending", "code"), [("migrate", Ending.INCOMPLETE, 5), ("abort", Ending.MOVED, 0)])
def test_a_move_as_a_user_sees_it_end(vmacro: Vmacro, town: Town, verb: str, ending: Ending, code: int) -> None:
    """Whatever the exit code, why; `abort` finds the one move that is unfinished."""
    guest = town.fake.guests["g1"]

    def fall_silent() -> None:
        guest.answers = False

    town.at("copy.done", "g1", fall_silent)
    done = vmacro("migrate", "g1", "--to", "berlin/berlin-1")
    if verb == "abort":
        guest.answers = True
        done = vmacro("abort")
    assert done.returncode == code, done.stdout + done.stderr
    assert f"{ending.value}; the guest runs at berlin-1" in done.stdout
    assert ("its agent does not answer" in done.stdout) == (ending == Ending.INCOMPLETE)
    assert json.loads(vmacro("history", "--json").stdout)[0]["ended"] == ending.value


# What happens to the guest meanwhile, by how the move ends then.
MEANWHILE = {Ending.MOVED: ("", ""), Ending.WITH_LOSSES: ("copy.done", "reboot")}
MEANWHILE |= {Ending.ROLLED_BACK: ("copy bucharest", "power_off")}


@pytest.mark.parametrize("ending", MEANWHILE)
@pytest.mark.parametrize("verb", ["resume", "abort"])
def test_whoever_goes_on_with_what_has_ended_is_told_what_show_tells(
    vmacro: Vmacro, town: Town, ending: Ending, verb: str
) -> None:
    """And with the same exit code, as often as one likes; nothing is done."""
    effect, deed = MEANWHILE[ending]
    if deed:
        town.at(effect, "g1", lambda: getattr(town.fake, deed)("g1"))
    done = vmacro("migrate", "g1", "--to", "berlin/berlin-1", "--json")
    move_id = json.loads(vmacro("history", "--json").stdout)[0]["move"]
    shown = json.loads(vmacro("show", move_id, "--json").stdout)["record"]["outcome"]
    assert shown["ending"] == ending.value
    told = {k: v for k, v in json.loads(done.stdout.splitlines()[-1]).items() if k in ("ending", "reason", "exit_code")}
    effects = list[str]()
    town.fake.before = effects.append
    for _ in range(2):
        again = vmacro(verb, move_id, "--json")
        assert again.returncode == done.returncode, again.stdout + again.stderr
        figures = json.loads(again.stdout.splitlines()[-1])
        assert {key: figures[key] for key in told} == told and figures["reason"] == shown["reason"]
    assert not [e for e in effects if e.startswith(("copy", "link.", "reserve", "discard", "agent.prepare"))], effects


def test_a_guest_that_is_shut_off_meanwhile_as_a_user_sees_it(vmacro: Vmacro, town: Town) -> None:
    """`resume` says the same as the move did: nothing is left to be done."""
    town.at("copy bucharest", "g1", lambda: town.fake.power_off("g1"))
    done = vmacro("migrate", "g1", "--to", "berlin/berlin-1")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "rolled back; the guest is shut off at bucharest: it is shut off at bucharest, since it was" in done.stdout
    assert "hint: virsh start g1 there" in done.stdout
    assert vmacro("resume").returncode == 2, "no move is unfinished"


def test_a_reboot_meanwhile_as_a_user_sees_it(vmacro: Vmacro, town: Town) -> None:
    town.at("copy.done", "g1", lambda: town.fake.reboot("g1"))
    done = vmacro("migrate", "g1", "--to", "berlin/berlin-1")
    again = vmacro("resume")
    for said in (done, again):
        assert said.returncode == 5, said.stdout + said.stderr
        assert (
            f"{Ending.WITH_LOSSES.value}; the guest runs at berlin-1: the guest rebooted during the move" in said.stdout
        )


def test_check_says_where_a_guest_would_go_and_why(vmacro: Vmacro, town: Town) -> None:
    done = vmacro("check", "g1", "--to", "berlin")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "to berlin-1, chosen because: the most memory available of the hosts that can take it" in done.stdout


def test_what_cannot_be_looked_at_is_no_leftover_and_no_success(vmacro: Vmacro, town: Town) -> None:
    assert vmacro("sites").returncode == 0 and vmacro("cleanup", "--dry-run").returncode == 0
    town.fake.hosts["bucharest"].reachable = False
    assert vmacro("sites").returncode == 0, "some were"
    done = vmacro("cleanup", "--dry-run", "--json")
    assert done.returncode == 1
    assert {row["did"] for row in json.loads(done.stdout)} == {"could not be looked at"}
    for host in town.fake.hosts.values():
        host.reachable = False
    assert vmacro("sites").returncode == 1


def test_programs_get_the_reason_too(vmacro: Vmacro, town: Town) -> None:
    done = vmacro("migrate", "g1", "--to", "bucharest", "--json")
    said = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == said["exit_code"] == 3 and "the move was not started" in said["error"], done.stdout
    assert json.loads(vmacro("migrate", "nobody", "--to", "berlin", "--json").stdout)["hint"].startswith("known guests")


def test_a_guest_that_is_there_already_gets_no_forecast(vmacro: Vmacro, town: Town) -> None:
    done = vmacro("check", "g1", "--to", "bucharest")
    assert done.returncode == 3 and "already-there" in done.stdout
    assert "compression" not in done.stdout and "the copy:" not in done.stdout


def test_old_addresses_that_take_clients_slots_are_told(vmacro: Vmacro, town: Town) -> None:
    guest = town.fake.guests["g1"]
    full = connection(0xB2, "10.50.1.97", willing=False)
    guest.kept = ["10.50.2.80"]
    guest.connections = [replace(full, subflows=(*full.subflows, replace(full.subflows[0], joined=True)))]
    assert "old addresses take slots at its clients: 10.50.2.80" in vmacro("connections", "g1").stderr


def test_a_recording_that_is_there_stays(vmacro: Vmacro, tmp_path: Path) -> None:
    (tmp_path / "rtt.ndjson").write_text("dear")
    done = vmacro("rtt", "probe", "127.0.0.1:1", "--duration-s", "1")
    assert done.returncode == 2 and "--record rtt.ndjson: is there already" in done.stderr
    assert (tmp_path / "rtt.ndjson").read_text() == "dear"


def test_a_refused_connection_leaves_no_recording(vmacro: Vmacro, tmp_path: Path) -> None:
    assert vmacro("rtt", "probe", "127.0.0.1:1", "--duration-s", "1").returncode == 1
    assert not (tmp_path / "rtt.ndjson").exists()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        threading.Thread(target=responder.serve, args=(listener,), daemon=True).start()
        done = vmacro("rtt", "probe", f"127.0.0.1:{listener.getsockname()[1]}", "--tcp", "--duration-s", "0.1")
    assert done.returncode == 0 and (tmp_path / "rtt.ndjson").read_text()


def test_a_responder_says_where_it_answers(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "vmacro.cli.app", "rtt", "serve", "--address", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        assert f"127.0.0.1 port {port}" in serving.stdout.readline()
        serving.terminate()


def test_connections_shows_some_and_with_all_each(vmacro: Vmacro, town: Town) -> None:
    guest = town.fake.guests["g1"]
    guest.connections = [connection(n, "10.50.1.97", willing=n % 2 == 0) for n in range(1, 151)]
    guest.connections.append(connection(0, "10.50.1.97", willing=False))
    some, every = (vmacro("connections", "g1", *more).stdout for more in ((), ("--all",)))
    # What plain TCP is called has its client, too.
    assert (some.count("10.9.0.14:"), every.count("10.9.0.14:")) == (100, 152)
    assert "151 connections: 1 of plain TCP, 150 of MPTCP, of which 75 follow and 0 have joined; each: --all" in some
    guest.connections = [connection(n, "10.50.1.97", willing=False) for n in range(1, MAX_CONNECTIONS + 5)]
    assert "at least 2048 connections" in vmacro("connections", "g1").stdout
    assert len(json.loads(vmacro("connections", "g1", "--all", "--json").stdout)) == MAX_CONNECTIONS + 4


def test_a_refused_move_names_each_finding_as_check_does(vmacro: Vmacro, town: Town) -> None:
    there = town.fake.hosts["berlin-1"]
    there.networks.clear()
    there.facts = replace(there.facts, certificate_days_left=3.0)
    found = json.loads(vmacro("check", "g1", "--to", "berlin/berlin-1", "--json").stdout)["findings"]
    assert {"network-missing", "certificate-expires"} <= {finding["code"] for finding in found}
    refused = vmacro("migrate", "g1", "--to", "berlin/berlin-1", "--json")
    assert refused.returncode == 3 and json.loads(refused.stdout.splitlines()[-1])["findings"] == found
    assert "blocker network-missing: host berlin-1: " in refused.stderr
    assert "warning certificate-expires: host berlin-1: " in refused.stderr


def test_connections_blames_no_guest_for_hosts_that_do_not_answer(vmacro: Vmacro, town: Town) -> None:
    town.fake.hosts["bucharest"].reachable = False
    one = vmacro("connections", "g1")
    assert one.returncode == 1 and "guest g1: runs on none of the hosts that answered (berlin-1" in one.stderr
    assert "host bucharest: no answer" in one.stderr and "nowhere" not in one.stderr
    for host in town.fake.hosts.values():
        host.reachable = False
    none = vmacro("connections", "g1", "--json")
    assert none.returncode == 1 and "(no host)" in none.stderr
    assert all(f"host {host}: no answer" in json.loads(none.stdout)["error"] for host in town.fake.hosts)


def test_connections_of_a_guest_that_is_paused(vmacro: Vmacro, town: Town) -> None:
    domains = town.fake.hosts["bucharest"].domains
    domains["g1"] = replace(domains["g1"], state="paused")
    done = vmacro("connections", "g1")
    assert done.returncode == 1 and "guest g1: is paused (1) on bucharest" in done.stderr


def test_connections_says_that_a_move_is_under_way(vmacro: Vmacro, town: Town, tmp_path: Path) -> None:
    """Of this journal nobody asks the agent beside it; of another one's the agent tells."""
    gate = town.gate("copy bucharest", "g1")
    with api.open(town.file, tmp_path / "report") as session:
        move = session.migrate("g1", "berlin")
        gate.wait_until_reached()
        ours = vmacro("connections", "g1")
        gate.open()
        assert move.result(PATIENCE_S).outcome.ending == Ending.MOVED
    assert ours.returncode == 3 and "guest g1" in ours.stderr and "since" in ours.stderr, ours.stderr
    town.fake.guests["g2"].claim = Claim("g2-of-theirs", "them@there", 60.0)
    theirs = vmacro("connections", "g2")
    assert theirs.returncode == 0, theirs.stderr
    assert "guest g2: move g2-of-theirs of them@there is under way" in theirs.stderr


def test_carried_says_that_the_guest_is_not_there_and_what_ends_that_row(vmacro: Vmacro, town: Town) -> None:
    town.fake.guests["g1"].connections.append(connection(0xB2, "10.50.1.97", willing=False))
    assert vmacro("migrate", "g1", "--to", "berlin").returncode == 0
    carried = json.loads(vmacro("carried", "--json").stdout)
    assert {(c["address"], c["trouble"]) for c in carried} == {("10.50.1.97", "")}
    town.fake.power_off("g1")
    troubles = [c["trouble"] for c in json.loads(vmacro("carried", "--json").stdout)]
    assert "the guest does not run at berlin-1; if it has moved on, `vmacro carry` ends this row" in troubles


def test_carried_says_for_how_long_an_address_lingers(vmacro: Vmacro, town: Town) -> None:
    town.file.write_text(town.file.read_text().replace("linger_s = 0", "linger_s = 500"))
    assert vmacro("migrate", "g1", "--to", "berlin").returncode == 0
    (carried,) = json.loads(vmacro("carried", "--json").stdout)
    assert (carried["address"], carried["client"], carried["trouble"]) == ("10.50.1.97", "", "")
    assert 400 < carried["lingers for s"] <= 500


NAMED = '[dns]\nserver = "10.9.0.53"\nkey_file = "{folder}/key"\n[hooks]\nafter = ["{folder}/hook"]\n'


@pytest.mark.parametrize("verb", ["check", "migrate"])
def test_a_key_and_hooks_are_looked_at_before_anything_is(
    vmacro: Vmacro, town: Town, tmp_path: Path, verb: str
) -> None:
    text = town.file.read_text().replace("[guests.g1]\n", '[guests.g1]\nnames = ["www.example.net"]\n')
    town.file.write_text(text + NAMED.format(folder=tmp_path))
    effects: list[str] = []
    town.fake.before = effects.append

    def refused(said: str) -> None:
        done = vmacro(verb, "g1", "--to", "berlin")
        assert done.returncode == 2 and said in done.stderr, done.stderr

    refused(f"{tmp_path}/key: dns.key_file: cannot be read: No such file")
    knot.key_file(tmp_path / "key").chmod(0o644)
    refused(f"{tmp_path}/key: dns.key_file: mode 0644, must be 0600")
    (tmp_path / "key").chmod(0o600)
    refused(f"hooks.after: {tmp_path}/hook: cannot be looked at: No such file")
    (tmp_path / "hook").touch(mode=0o600)
    refused(f"hooks.after: {tmp_path}/hook: mode 0600: is not executable")
    (tmp_path / "hook").chmod(0o777)
    refused(f"hooks.after: {tmp_path}/hook: mode 0777: others than its owner may write to it")
    assert effects == []
    (tmp_path / "hook").chmod(0o755)
    town.fake.zone.put("www.example.net", town.fake.guest.address)
    assert vmacro(verb, "g1", "--to", "berlin").returncode == 0 and effects != []


def test_datagrams_are_told_before_and_after_a_move(vmacro: Vmacro, town: Town) -> None:
    old, found = "10.50.1.97", town.fake.flows
    found[old] = Flows(old, udp=3, icmp=1)
    assert f"datagrams: 3 UDP and 1 ICMP flows of {old} are carried" in vmacro("check", "g1", "--to", "berlin").stdout
    done = vmacro("migrate", "g1", "--to", "berlin")
    told = f"datagrams of {old}: 3 UDP and 1 ICMP flows before the move; carried: 3 UDP and 1 ICMP flows now"
    assert done.returncode == 0 and told in done.stdout, done.stdout + done.stderr
    rows = json.loads(vmacro("carried", "--json").stdout)
    assert [(r["client"], r["transport"]) for r in rows] == [("3 flows", "udp"), ("1 flow", "icmp")]
    town.fake.hosts["bucharest"].reachable = False
    (row,) = json.loads(vmacro("carried", "--json").stdout)
    assert "bucharest" in row["trouble"]


def test_help_by_a_letter(vmacro: Vmacro) -> None:
    for words in (["rtt", "probe"], ["sites"]):
        assert vmacro(*words, "-h").stdout.startswith("Usage: "), words
    assert vmacro("lab", "shell", "bucharest", "--lab", "none", "df", "-h").returncode != 0, (
        "it is of the node's command"
    )


def test_the_help_tells_the_story(tmp_path: Path) -> None:
    """In a process of its own, as users start it."""
    command = [sys.executable, "-m", "vmacro.cli.app", "--help"]
    text = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    for verb in ("sites", "check", "migrate", "connections", "history", "show", "lab", "image", "rtt"):
        assert verb in text


def test_a_name_with_a_dot_is_one_table_of_a_first_inventory(vmacro: Vmacro, folder: Path) -> None:
    hosts = ("--host", "a.x/a1.x=10.0.0.1", "--host", "a.x/a2.x=10.0.0.3", "--host", "b.x/b1.x=10.0.0.2")
    subnets = ("--subnet", "a.x=10.1.0.0/24", "--subnet", "b.x=10.2.0.0/24")
    done = vmacro("init", "first.toml", *hosts, *subnets, "--guest", "web.x")
    assert done.returncode == 0, done.stderr
    read = inventory.load(folder / "first.toml").inventory
    assert [h.name for h in read.hosts] == ["a1.x", "a2.x", "b1.x"] and [g.name for g in read.guests] == ["web.x"]
    text = (folder / "first.toml").read_text()
    assert [f"2001:db8:{n}::/64" in text for n in (1, 2, 3, 4)] == [True] * 3 + [False]


def test_a_first_inventory_is_a_good_one(vmacro: Vmacro, folder: Path) -> None:
    words = ("init", "first.toml", *TWO_HOSTS, "--subnet", "a=10.1.0.0/24", "--subnet", "b=10.2.0.0/24")
    done = vmacro(*words)
    assert done.returncode == 0, done.stderr
    settings = inventory.load(folder / "first.toml")
    host = settings.inventory.host("b1")
    assert host is not None and (host.ssh, host.peer_uri) == ("root@10.0.0.2", "qemu+tls://b1/system")
    assert [h.subnet for h in settings.inventory.hosts] == ["10.1.0.0/24", "10.2.0.0/24"]
    made = vmacro("pki", "init", "-i", "first.toml")
    assert made.returncode == 0 and (folder / "pki/clientcert.pem").exists(), made.stderr
    assert list(folder.glob("*.part")) == []


def test_each_of_a_sites_hosts_gets_its_part_of_the_subnet(folder: Path, vmacro: Vmacro) -> None:
    more = ("--host", "b/b2=10.0.0.3", "--host", "b/b3=10.0.0.4")
    words = ("init", "first.toml", *TWO_HOSTS, *more, "--subnet", "a=10.1.0.0/24", "--subnet", "b=10.2.0.0/24")
    done = vmacro(*words)
    assert done.returncode == 0, done.stderr
    hosts = inventory.load(folder / "first.toml").inventory.hosts
    assert {h.name: h.subnet for h in hosts} == {
        "a1": "10.1.0.0/24",
        "b1": "10.2.0.0/26",
        "b2": "10.2.0.64/26",
        "b3": "10.2.0.128/26",
    }


def test_who_is_taken_out_of_the_inventory_is_on_the_list_for_libvirt_and_for_qemu(
    vmacro: Vmacro, folder: Path
) -> None:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", os.devnull, "-subj", "/CN=x"]
    subprocess.run(["openssl", "req", "-new", *key, "-out", "b1.csr"], check=True, capture_output=True)
    assert vmacro("pki", "init", "-i", "ca.toml").returncode == 0
    serials = {}
    for purpose in ("libvirt", "qemu"):
        issued = vmacro("pki", "issue", "b1", "--for", purpose, "--csr", "b1.csr", "-i", "ca.toml")
        serials[purpose] = x509.load_pem_x509_certificate(issued.stdout.encode()).serial_number
    one_less = (folder / "ca.toml").read_text().replace("[sites.b]", "").partition("[hosts.b1]")[0]
    (folder / "less.toml").write_text(one_less)
    for file, gone in (("ca.toml", False), ("less.toml", True)):
        for purpose, serial in serials.items():
            listed = vmacro("pki", "revoked", "--for", purpose, "-i", file)
            assert listed.returncode == 0, listed.stderr
            found = {entry.serial_number for entry in x509.load_pem_x509_crl(listed.stdout.encode())}
            assert found == ({serial} if gone else set())
    assert (folder / "us/cacrl.pem").read_text() == vmacro("pki", "revoked", "-i", "less.toml").stdout
    refused = vmacro("pki", "issue", "b1", "--csr", "b1.csr", "-i", "less.toml")
    assert refused.returncode == 2 and "host 'b1': not in less.toml" in refused.stderr
    renewed = vmacro("pki", "renew", "b1", "-i", "ca.toml")
    assert renewed.stdout == "b1: renewed for libvirt\nb1: renewed for qemu\n"
