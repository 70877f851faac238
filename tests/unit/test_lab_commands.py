"""What `vmacro lab` tells its user, without a lab."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.town import Vmacro
from vmacro.cli.lab import next_commands
from vmacro.lab import requirements, topology
from vmacro.lab.lab import Lab
from vmacro.lab.machines import access


@pytest.fixture
def up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nobody is root, and the default lab is up as far as files tell. The folder of all labs."""
    monkeypatch.setenv("VMACRO_STATE", str(tmp_path))
    monkeypatch.setattr(requirements, "require_root", lambda _what: None)
    (tmp_path / "lab/demo").mkdir(parents=True)
    (tmp_path / "lab/demo/topology.toml").write_text(topology.DEFAULT.read_text())
    return tmp_path


@pytest.mark.parametrize("bare", [False, True])
def test_what_comes_next_names_this_lab(bare: bool) -> None:
    """Without a name `lab down` would remove the default lab, and `sites` show whichever is found."""
    lab = Lab(topology.load(topology.DEFAULT).model_copy(update={"name": "ring"}))
    commands = next_commands(lab, bare)
    assert commands and all("ring" in command for command in commands), commands


def test_what_comes_next_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout's vmacro is in no PATH."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", [".venv/bin/vmacro", "lab", "up"])
    commands = next_commands(Lab(topology.load(topology.DEFAULT)), False)
    assert all(command.startswith(".venv/bin/vmacro ") for command in commands)


@pytest.mark.parametrize("words", [["nope"], ["--lab", "nope"]])
def test_a_lab_that_never_was_is_not_taken_down(vmacro: Vmacro, up: Path, words: list[str]) -> None:
    """A misspelt name leaves the real one up, which is told."""
    for command in ("down", "status"):
        done = vmacro("lab", command, *words)
        assert done.returncode == 1 and done.stdout == "", done.stdout
        assert "lab nope: is not up" in done.stderr and "labs that are: demo" in done.stderr


def test_a_nodes_command_has_options_of_its_own(vmacro: Vmacro, up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda _file, argv: ran.append(argv))
    monkeypatch.setattr(access, "by_ssh", lambda _shape, _address, _folder, command, _terminal: command)
    monkeypatch.setattr(Lab, "host", lambda _self, _name: SimpleNamespace(address="192.0.2.1"))
    done = vmacro("lab", "shell", "bucharest", "--lab", "demo", "ss", "-lntu")
    assert done.returncode == 0 and ran == [["ss -lntu"]], done.stderr


def test_a_nodes_command_keeps_its_words(vmacro: Vmacro, up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSH joins them, and the other shell would read them anew."""
    ran: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda _file, argv: ran.append(argv))
    monkeypatch.setattr(access, "by_ssh", lambda _shape, _address, _folder, command, _terminal: command)
    monkeypatch.setattr(Lab, "host", lambda _self, _name: SimpleNamespace(address="192.0.2.1"))
    for words in (["bash", "-c", "a; b"], ["a; b"]):
        vmacro("lab", "shell", "bucharest", "--lab", "demo", "--", *words)
    assert ran == [["bash -c 'a; b'"], ["a; b"]]


def test_a_guests_console_takes_no_command(vmacro: Vmacro, up: Path) -> None:
    for words in (["ip", "a"], []):  # of a test, standard input is no terminal
        done = vmacro("lab", "shell", "web", *words)
        assert done.returncode == 2 and "guest web: has a console, which takes no commands" in done.stderr
