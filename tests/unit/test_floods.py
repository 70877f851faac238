"""Parties that send without end: real sockets, pipes, processes and databases, for a bounded time.

Nobody is kept past the deadline, and what is kept in memory has a bound. Deadlines are seconds here, not minutes.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import paramiko
import pytest
from paramiko.buffered_pipe import BufferedPipe

from tests.support import eventually
from tests.unit.faults import Faults
from tests.unit.test_enumeration import stage
from tests.unit.test_ssh_program import Ends
from tests.unit.test_ssh_program import ends as ends  # a fixture
from vmacro.drivers import prober, ssh
from vmacro.drivers.agent import ChannelAgent
from vmacro.drivers.fake import Effect
from vmacro.drivers.host_side import Session
from vmacro.drivers.prober import SshProber
from vmacro.drivers.ssh import Ssh
from vmacro.errors import AgentError, HostError, VmacroError
from vmacro.model.events import DomainChanged, Event, Note
from vmacro.model.moves import Ending
from vmacro.model.nouns import ProbeTarget
from vmacro.planning.handoffs import SEAMLESS
from vmacro.rtt import recording as recordings
from vmacro.rtt.samples import Sample
from vmacro.services import event_log
from vmacro.services.event_log import DatabaseEventLog, everything, follow
from vmacro.wire import agent_verbs, host_verbs, messages
from vmacro.wire.messages import MAX_REPLY_BYTES, Nothing, Reply

DEADLINE_S = 1.0
LATE_S = 10.0  # on a machine that does other things beside; a flood that is believed lasts for ever
STATUS = replace(agent_verbs.STATUS, deadline_s=DEADLINE_S)
ARM = replace(host_verbs.ARM, deadline_s=DEADLINE_S)
TO_ANOTHER = messages.encode_reply(Reply("another", {"x": "y" * 100}))
FLOODS = {
    "newlines": b"\n" * 65536,
    "newlines one by one": b"\n",
    "nonsense": b"x\n" * 32768,
    "replies to another": TO_ANOTHER * 400,
    "a line without an end": b"x" * 65536,
    "deep JSON": (b"[" * 5000 + b"\n") * 12,
    "long numbers": (b'{"v":' + b"9" * 4000 + b"}\n") * 12,
}


@contextmanager
def soon() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < LATE_S


class SocketStream:
    """Implements ports.AgentStream, as drivers/libvirt/channel.py does."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, data: bytes, deadline_s: float) -> None:
        self._end.settimeout(max(0.01, deadline_s - time.monotonic()))
        self._end.sendall(data)

    def recv(self, deadline_s: float) -> bytes:
        left = deadline_s - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._end.settimeout(left)
        return self._end.recv(65536)


@contextmanager
def flooding(send: Callable[[bytes], object], flood: bytes) -> Iterator[None]:
    """From another thread, until this is left."""
    over = threading.Event()

    def run() -> None:
        with suppress(OSError, EOFError, paramiko.SSHException):
            while not over.is_set():
                send(flood)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_an_agent_that_floods_its_channel(flood: bytes) -> None:
    near, far = socket.socketpair()
    with near, far, flooding(far.sendall, flood):
        agent = ChannelAgent("web", SocketStream(near))
        with soon(), pytest.raises(AgentError, match=r"does not answer|said something odd"):
            agent._ask(STATUS, Nothing())
        kept: Any = agent
        assert len(kept._reader._partial) <= MAX_REPLY_BYTES and len(kept._lines) <= 65536


class Process:
    """Implements host_side.Program by a real one, and its pipes."""

    def __init__(self, code: str) -> None:
        piped = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=piped, stdout=piped, stderr=piped, bufsize=0
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, data: bytes, timeout_s: float) -> int:
        assert self._process.stdin is not None
        return self._process.stdin.write(data) or 0

    def receive(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise TimeoutError
        return os.read(self._process.stdout.fileno(), 65536)

    def complaint(self) -> str:
        return ""

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_a_host_side_that_floods_its_output(flood: bytes, tmp_path: Path) -> None:
    (tmp_path / "flood").write_bytes(flood)
    program = Process(f"import os\nflood = open('{tmp_path}/flood', 'rb').read()\nwhile True: os.write(1, flood)")
    session = Session("berlin", program)
    with soon(), pytest.raises(HostError):
        session.ask(ARM, host_verbs.Domain("web"))
    assert not program.alive, "its session is closed, and another is opened for the next question"


class Complaints(BufferedPipe):  # type: ignore[type-arg]
    """Standard error that comes faster than it is read: a sender in this process never is that fast. Whoever reads on
    and on fails, instead of never coming back."""

    most_reads = 1000

    def read_ready(self) -> bool:
        return True

    def read(self, nbytes: int, timeout: float | None = None) -> bytes:
        self.most_reads -= 1
        assert self.most_reads > 0, "it is read without end"
        return b"x" * nbytes


@pytest.fixture
def complaining(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> Ends:
    monkeypatch.setattr(ssh, "MAX_COMPLAINT_BYTES", 3 << 20)
    channel: Any = ends.program._channel
    channel.in_stderr_buffer = Complaints()
    return ends


def test_a_program_that_floods_its_standard_error(complaining: Ends) -> None:
    with soon(), pytest.raises(OSError, match="over 3145728 bytes to its standard error, and nothing else"):
        complaining.program.receive(LATE_S)


def test_a_program_that_complains_without_end_may_answer_all_the_same(complaining: Ends) -> None:
    """Whoever read all of that first would never read anything else."""
    for _ in range(10):
        complaining.there.sendall(b"reply\n")
        eventually(cast(Any, complaining.program)._channel.recv_ready, "the reply")
        assert complaining.program.receive(DEADLINE_S) == b"reply\n"


def test_its_complaint_is_told_while_it_goes_on(complaining: Ends) -> None:
    assert complaining.program.complaint() == "x" * 300


def test_its_complaints_keep_nobody_past_the_deadline(complaining: Ends) -> None:
    with pytest.raises(TimeoutError):
        complaining.program.receive(0.01)


@pytest.mark.parametrize("message", [paramiko.common.cMSG_CHANNEL_DATA, paramiko.common.cMSG_CHANNEL_EXTENDED_DATA])
def test_who_heeds_no_window_is_cut_off(ends: Ends, message: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that nobody reads takes no more memory than its bound: 64 KiB more at most."""
    monkeypatch.setattr(ssh, "MAX_UNREAD_BYTES", 1 << 20)

    def send(data: bytes) -> None:
        packet = paramiko.Message()
        packet.add_byte(message)
        packet.add_int(cast(Any, ends.there).remote_chanid)
        if message == paramiko.common.cMSG_CHANNEL_EXTENDED_DATA:
            packet.add_int(1)
        packet.add_string(data)
        ends.there.get_transport()._send_user_message(packet)  # type: ignore[attr-defined]

    channel: Any = ends.program._channel
    with flooding(send, b"x" * 30_000), soon():
        eventually(lambda: not ends.program.alive, "the end of its transport")
    assert max(len(channel.in_buffer), len(channel.in_stderr_buffer)) < (1 << 20) + 65536


def test_a_server_that_never_says_who_it_is(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines may come before its identification (RFC 4253 section 4.2): not for ever, and none reaches a terminal."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(ssh, "SSH_PORT", listener.getsockname()[1])

        def accept() -> None:
            with suppress(OSError):
                there, _ = listener.accept()
                while True:
                    there.sendall(b"\x1b[2Jhello\r\n" * 100)

        threading.Thread(target=accept, daemon=True).start()
        with soon(), pytest.raises(VmacroError) as told:
            Ssh(None, None).connect("host b1", "root", "127.0.0.1")
    assert str(told.value).replace("\n", "").isprintable()
    assert capfd.readouterr().err == ""


class _Opened:
    """Implements Ssh, as far as a prober asks."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends

    def start(self, *_words: str) -> ssh.SshProgram:
        return self._ends.program


def test_a_prober_that_records_without_end(ends: Ends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many lines are kept, and the rest is not even read."""
    monkeypatch.setattr(prober, "MAX_LINES", 1000)
    monkeypatch.setattr(prober, "STOP_TIMEOUT_S", DEADLINE_S)
    head = recordings.header("t", "tcp", 10, 0, 0).encode()
    line = recordings.sample_line(Sample(0, 5, 7)).encode()
    measuring = SshProber("here", "root@here", cast(Ssh, _Opened(ends)))
    with flooding(ends.there.sendall, line * 100), soon():
        ends.there.sendall(head)
        measuring.start("10.0.0.1", ProbeTarget("here"), tmp_path / "rtt.ndjson")
        measuring.stop()
    kept = (tmp_path / "rtt.ndjson").read_bytes()
    assert kept.count(b"\n") == 1000 and len(kept) < 100_000


@pytest.mark.parametrize(
    "flood", [b"x" * 65536, b"\n" * 65536, b"{}\n" * 9000], ids=["no line", "newlines", "nonsense"]
)
def test_a_prober_that_measures_nothing(
    ends: Ends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flood: bytes
) -> None:
    monkeypatch.setattr(prober, "MAX_LINES", 1000)
    for bound in ("START_TIMEOUT_S", "STOP_TIMEOUT_S"):
        monkeypatch.setattr(prober, bound, DEADLINE_S)
    measuring = SshProber("here", "root@here", cast(Ssh, _Opened(ends)))
    with flooding(ends.there.sendall, flood), soon(), pytest.raises(VmacroError, match=r"no round trip to 10\.0\.0\.1"):
        measuring.start("10.0.0.1", ProbeTarget("here"), tmp_path / "rtt.ndjson")
    assert (tmp_path / "rtt.ndjson").stat().st_size < 1 << 20


def test_a_recording_has_so_many_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what its bytes would bring there may be a hundred times as much in memory."""
    monkeypatch.setattr(recordings, "MAX_SAMPLES", 1000)
    file = tmp_path / "rtt.ndjson"
    with file.open("w") as out:
        out.write(recordings.header("t", "tcp", 10, 0, 0))
        out.writelines(f'{{"type":"lost","seq":{n},"due_ns":{n}}}\n' for n in range(100_000))
    read = recordings.read(file)
    assert len(read.samples) == 1000 and not read.complete


def test_a_recording_of_one_line_is_none(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"[" * (50 << 20))
    with soon(), pytest.raises(recordings.RecordingError, match="a line of over 1000 characters"):
        recordings.read(tmp_path / "x")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatabaseEventLog:
    monkeypatch.setattr(event_log, "MOST_READ", 10)
    monkeypatch.setattr(event_log, "MOST_TOLD", 100)
    monkeypatch.setattr(event_log, "READ_WITHIN_S", DEADLINE_S)
    made = DatabaseEventLog(f"sqlite:///{tmp_path}/journal.sqlite", pytest.fail)
    with DatabaseEventLog(f"sqlite:///{tmp_path}/journal.sqlite", pytest.fail) as writer:
        for number in range(25):
            writer.append(Event("m", number, Note(str(number))))
    return made


def rows(folder: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(folder / "journal-events.sqlite", timeout=30)) as database, database:
        database.execute(statement, values)


def test_all_that_was_told_comes_however_much_is_read_at_a_time(log: DatabaseEventLog) -> None:
    wanted = [str(number) for number in range(25)]
    assert len(log.read("m")) == 10
    assert [event.text for _, event in everything(log, "m")] == wanted
    assert [event.text for event in follow(log, "m", lambda: True, lambda: None)] == wanted


def test_who_writes_events_without_end_keeps_no_follower_past_the_end(log: DatabaseEventLog, tmp_path: Path) -> None:
    """A thousand more with each look; and what is kept of them meanwhile is what one look brings."""
    looks = [0]
    plain = log.read

    def read(*asked: Any) -> list[tuple[int, Event]]:
        looks[0] += 1
        values = json.dumps({"text": "more"})
        insert = "INSERT INTO vmacro_events (move_id, wall_ns, kind, text, data)"
        rows(tmp_path, f"{insert} SELECT 'm', 1, 'note', '', ? FROM vmacro_events LIMIT 1000", values)
        return plain(*asked)

    log.read = read  # type: ignore[assignment, method-assign]
    with soon():
        told = list(follow(log, "m", lambda: looks[0] > 3, lambda: pytest.fail("there was more to be read")))
        assert 100 < len(told) < 200
        assert len(everything(log, "m")) == 100


def test_an_event_log_that_is_no_table_is_given_up(log: DatabaseEventLog, tmp_path: Path) -> None:
    rows(tmp_path, "DROP TABLE vmacro_events")
    endless = "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) SELECT id"
    rows(
        tmp_path,
        f"CREATE VIEW vmacro_events AS {endless}, 'm' move_id, 1 wall_ns, '' kind, '' data FROM n WHERE id < 0",
    )
    with soon(), pytest.raises(VmacroError, match="event log: cannot be read"):
        log.read("m")


@pytest.mark.parametrize("id", ["NULL", "'x'", "-1", "0.5", "x'ff'"])
def test_an_event_log_without_numbers_is_told(log: DatabaseEventLog, tmp_path: Path, id: str) -> None:
    rows(tmp_path, "ALTER TABLE vmacro_events RENAME TO was")
    rows(tmp_path, f"CREATE VIEW vmacro_events AS SELECT {id} id, move_id, wall_ns, kind, data FROM was")
    with soon(), suppress(VmacroError):
        assert list(follow(log, "m", lambda: True, lambda: None)) == []


@pytest.mark.parametrize("column", ["move_id", "wall_ns", "kind", "text", "data"])
def test_a_value_of_any_size_takes_no_more_than_its_bound(log: DatabaseEventLog, tmp_path: Path, column: str) -> None:
    rows(tmp_path, f"UPDATE vmacro_events SET {column} = hex(zeroblob(20000000)) WHERE id = 3")
    with soon():
        told = everything(log)
    assert len(told) == 25 and all(len(event.text) < 500 and len(event.move_id) <= 201 for _, event in told)


def test_a_libvirt_that_tells_of_changes_without_end_fills_no_log() -> None:
    found = stage(SEAMLESS)

    def before(effect: Effect) -> None:
        if effect == "copy bucharest":
            for host in found.fake.hosts.values():
                for _, see in host.watchers:
                    for _ in range(10_000):
                        see("resumed", "9" * 20)

    found.fake.before = before
    outcome = found.attempt(Faults())
    assert outcome is not None and outcome.ending == Ending.MOVED
    told = [event for event in found.fake.events if isinstance(event.what, DomainChanged)]
    notes = [event.text for event in found.fake.events if "more than 100 changes" in event.text]
    assert len(told) <= 200 and len(notes) == 2
