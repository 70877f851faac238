"""Nobody reads what is printed any more: exit codes are what they would have been, and nothing ends for it."""

import fcntl
import io
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import eventually
from tests.unit.test_config import GOOD
from tests.unit.town import Town, Vmacro
from vmacro.cli import output
from vmacro.model.events import Event, Note
from vmacro.services.event_log import DatabaseEventLog

VMACRO = [sys.executable, "-m", "vmacro.cli.app"]
Unread = Callable[[], None]


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> Unread:
    """Has standard output go to a pipe whose reader has left."""

    def leave() -> None:
        reader, writer = os.pipe()
        os.close(reader)
        monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w"))

    return leave


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Unread:
    """Has standard output go to a disk that is full."""
    return lambda: monkeypatch.setattr(sys, "stdout", Path("/dev/full").open("w"))


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_a_move_goes_on_and_its_exit_code_is_its_own(
    town: Town, vmacro: Vmacro, unread: Unread, json: tuple[str, ...]
) -> None:
    unread()
    done = vmacro("migrate", "g1", "--to", "berlin", "-i", str(town.file), *json)
    assert (done.returncode, done.stderr) == (0, "")
    unread()
    refused = vmacro("migrate", "g1", "--to", "berlin", "-i", str(town.file), *json)
    assert refused.returncode == 3 and "runs at berlin already" in refused.stderr


def test_a_pipe_that_does_not_wait_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has it, too, may have made it one, as Node.js does. It is full at once here."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w", closefd=False))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO()))
    heard = bytearray()

    def read() -> None:
        full = select.poll()
        full.register(writer, select.POLLOUT)
        eventually(lambda: not full.poll(0), "a full pipe")
        while chunk := os.read(reader, 1 << 16):
            heard.extend(chunk)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        output.keep()
        print("x" * 20_000)
        assert output.trouble() == ""
    finally:
        os.close(writer)
        thread.join()
        os.close(reader)
    assert bytes(heard) == b"x" * 20_000 + b"\n"


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_so_is_that_of_many_moves(town: Town, vmacro: Vmacro, unread: Unread, json: tuple[str, ...]) -> None:
    unread()
    done = vmacro("evacuate", "bucharest", "--yes", "-i", str(town.file), *json)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words", ["sites", "check g1 --to berlin", "check --all", "history", "events", "connections g1", "doctor --json"]
)
def test_what_only_prints_ends_without_a_word(town: Town, vmacro: Vmacro, unread: Unread, words: str) -> None:
    asked = *words.split(), "-i", str(town.file)
    read = vmacro(*asked)
    unread()
    done = vmacro(*asked)
    assert (done.returncode, done.stderr) == (read.returncode, read.stderr)


@pytest.mark.parametrize("words", [("--version",), ("--help",), ("migrate", "--help")])
def test_so_does_what_tells_of_itself(vmacro: Vmacro, unread: Unread, words: tuple[str, ...]) -> None:
    unread()
    assert vmacro(*words).returncode == 0


def test_what_could_not_be_written_is_told(town: Town, vmacro: Vmacro, full: Unread) -> None:
    """A move's exit code is its own all the same; else a 0 would say that a file has all that was asked for."""
    for words, code in (("migrate g1 --to berlin --json", 0), ("sites", 1)):
        full()
        done = vmacro(*words.split(), "-i", str(town.file))
        told = "vmacro: standard output: No space left on device: not all of it was written"
        assert (done.returncode, done.stderr.strip()) == (code, told)


def test_nothing_at_all_is_there_to_print_to(tmp_path: Path) -> None:
    done = subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *VMACRO, "--version"], cwd=tmp_path)
    assert done.returncode == 0


def test_who_follows_events_ends_with_who_reads_them(tmp_path: Path) -> None:
    """Without waiting for another event: there may be none for days."""
    (tmp_path / "new.toml").write_text(f'[orchestrator]\nstate_dir = "{tmp_path}/state"\n{GOOD}')
    command = [*VMACRO, "events", "--follow", "--json", "-i", "new.toml"]
    with (
        DatabaseEventLog(f"sqlite:///{tmp_path}/state/journal.sqlite", lambda text: pytest.fail(text)) as log,
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower,
    ):
        assert follower.stdout is not None and follower.stderr is not None
        log.append(Event("web-1", 5, Note("first")))
        assert "first" in follower.stdout.readline()
        follower.stdout.close()
        try:
            assert (follower.wait(60), follower.stderr.read()) == (0, "")
        finally:
            follower.send_signal(signal.SIGKILL)
