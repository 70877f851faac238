"""What a user sees who errs: message and exit code, nothing contacted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_config import GOOD
from vmacro import inventory

TWO_HOSTS = ("--host", "a/a1=root@10.0.0.1", "--host", "b/b1=10.0.0.2")


def vmacro(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VMACRO_")}
    environment["VMACRO_STATE"] = str(cwd / "state")
    command = [sys.executable, "-m", "vmacro.cli.app", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "i.toml").write_text(GOOD)
    (tmp_path / "ca.toml").write_text(f'[orchestrator]\nca_dir = "{tmp_path}/ca"\npki_dir = "{tmp_path}/us"\n{GOOD}')
    (tmp_path / "bad.toml").write_text(GOOD.replace('site = "b"', 'site = "c"'))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["migrate", "nobody", "--to", "b", "-i", "i.toml"], "guest 'nobody': not in i.toml"),
        (["migrate", "web", "--to", "atlantis", "-i", "i.toml"], "site 'atlantis': not in i.toml"),
        (["migrate", "web", "--to", "b", "--handoff", "magic", "-i", "i.toml"], "handoff 'magic': unknown"),
        (["check", "web", "--to", "b", "-i", "bad.toml"], "bad.toml: hosts.b1.site: no site 'c'"),
        (["sites", "-i", "none.toml"], "none.toml: cannot be read"),
        (["rtt", "report", "none.ndjson"], "none.ndjson: no such file"),
        (["lab", "up", "--topology", "none.toml"], "none.toml: cannot be read"),
        (["pki", "init", "-i", "i.toml"], "i.toml: orchestrator.ca_dir: is not set"),
        (["pki", "show", "-i", "ca.toml"], "ca/cacert.pem: cannot be read"),
        (["provision", "hosts", "--limit", "a1,c1", "-i", "ca.toml"], "host 'c1': not in ca.toml"),
        (["init", "i.toml"], "i.toml: is there already"),
        (["init", "new.toml"], "nobody is there to be asked"),
        (["init", "new.toml", "--host", "a/a1=root@10.0.0.1"], "name hosts of two or more"),
        (["init", "new.toml", *TWO_HOSTS, "--subnet", "a=10.1.0.0/24"], "the guests' subnet at b is not known"),
        (
            ["init", "new.toml", *TWO_HOSTS, "--subnet", "a=10.1.0.0/16", "--subnet", "b=10.1.2.0/24"],
            "new.toml: sites.a.network.subnet = 10.1.0.0/16 overlaps",
        ),
        (["inventory", "-i", "ca.toml"], "ca/cacert.pem: cannot be read"),
    ],
)
def test_a_mistake_in_what_was_asked(folder: Path, words: list[str], said: str) -> None:
    done = vmacro(*words, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr


def test_before_the_first_move_history_is_empty(folder: Path) -> None:
    state = f'[orchestrator]\nstate_dir = "{folder}/state"\n'
    (folder / "new.toml").write_text(state + GOOD)
    done = vmacro("history", "--json", "-i", "new.toml", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    missing = vmacro("show", "web-1", "-i", "new.toml", cwd=folder)
    assert missing.returncode == 2 and "move 'web-1': not in the journal" in missing.stderr


def test_a_journal_that_cannot_be_reached_is_a_clear_error(folder: Path) -> None:
    """Nobody listens on port 9; the password stays secret."""
    where = '[orchestrator]\ndatabase_url = "postgresql+psycopg://u:hush@127.0.0.1:9/x"\n'
    (folder / "pg.toml").write_text(where + GOOD)
    done = vmacro("history", "-i", "pg.toml", cwd=folder)
    assert done.returncode == 2 and "journal postgresql" in done.stderr, done.stderr
    assert "hush" not in done.stderr + done.stdout and "Traceback" not in done.stderr


def test_no_inventory_and_no_lab(tmp_path: Path) -> None:
    if Path("/etc/vmacro/inventory.toml").exists():
        pytest.skip("this machine has an inventory of its own")
    done = vmacro("sites", cwd=tmp_path)
    assert done.returncode == 2 and "no lab is up" in done.stderr


def test_the_help_tells_the_story(tmp_path: Path) -> None:
    text = vmacro("--help", cwd=tmp_path).stdout
    for verb in ("sites", "check", "migrate", "connections", "history", "show", "lab", "image", "rtt"):
        assert verb in text


def test_a_first_inventory_is_a_good_one(folder: Path) -> None:
    words = ("init", "new.toml", *TWO_HOSTS, "--subnet", "a=10.1.0.0/24", "--subnet", "b=10.2.0.0/24")
    done = vmacro(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    settings = inventory.load(folder / "new.toml")
    host = settings.inventory.host("b1")
    assert host is not None and (host.ssh, host.peer_uri) == ("root@10.0.0.2", "qemu+tls://b1/system")
    assert [s.subnet for s in settings.inventory.sites] == ["10.1.0.0/24", "10.2.0.0/24"]
    made = vmacro("pki", "init", "-i", "new.toml", cwd=folder)
    assert made.returncode == 0 and (folder / "pki/clientcert.pem").exists(), made.stderr
    assert list(folder.glob("*.part")) == []
