"""A program by SSH, against paramiko's own server at the other end of a socket pair."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko
import pytest
from paramiko.common import AUTH_SUCCESSFUL, OPEN_SUCCEEDED

from tests.support import eventually
from vmacro.drivers import ssh
from vmacro.drivers.ssh import Ssh, SshProgram
from vmacro.errors import UnreachableError

KEY = paramiko.ECDSAKey.generate()


class Server(paramiko.ServerInterface):
    """Lets anybody in, and remembers what they start."""

    def __init__(self) -> None:
        self.command = b""

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.command = command
        return True


@dataclass
class Ends:
    program: SshProgram
    there: paramiko.Channel
    server: Server


@pytest.fixture
def ends() -> Iterator[Ends]:
    near, far = socket.socketpair()
    transport, server = paramiko.Transport(far), Server()
    transport.add_server_key(KEY)
    transport.start_server(threading.Event(), server)
    client = paramiko.SSHClient()
    client.get_host_keys().add("host", KEY.get_name(), KEY)
    client.connect("host", username="root", pkey=KEY, sock=near, allow_agent=False, look_for_keys=False)
    program = SshProgram(client, "vmacro-host")
    there = transport.accept(10)
    assert there is not None
    there.settimeout(10)
    try:
        yield Ends(program, there, server)
    finally:
        program.close()
        transport.close()


def test_bytes_go_both_ways(ends: Ends) -> None:
    assert ends.server.command == b"vmacro-host" and ends.program.alive
    assert ends.program.send(b"request\n", 5.0) == 8 and ends.there.recv(100) == b"request\n"
    ends.there.sendall(b"reply\n")
    assert ends.program.receive(5.0) == b"reply\n"


def test_silence_is_a_timeout(ends: Ends) -> None:
    with pytest.raises(TimeoutError):
        ends.program.receive(0.01)
    assert ends.program.alive


def test_a_program_that_ended_has_ended(ends: Ends) -> None:
    ends.there.sendall_stderr(b"vmacro-host: needs root\n")
    ends.there.close()
    assert ends.program.receive(5.0) == b""
    eventually(lambda: not ends.program.alive, "the channel's close, which comes after its end of file")
    assert ends.program.complaint() == "vmacro-host: needs root\n"
    with pytest.raises(OSError):
        ends.program.send(b"request\n", 5.0)


def test_what_it_complains_of_at_length_does_not_stop_it(ends: Ends) -> None:
    """Unread, its standard error would use up the window that its output needs too."""
    deadline = time.monotonic() + 20
    for number in range(80):
        ends.there.sendall_stderr(b"x" * 65_536 + b"%03d" % number)
        ends.there.sendall(b"reply\n")
        assert ends.program.receive(deadline - time.monotonic()) == b"reply\n"
    assert ends.program.complaint().endswith("xxx079") and len(ends.program.complaint()) == 300


def test_closing_lets_go_of_who_waits(ends: Ends) -> None:
    closer = threading.Timer(0.05, ends.program.close)
    closer.start()
    assert ends.program.receive(20.0) == b""
    closer.join()
    assert not ends.program.alive
    ends.program.close()


def test_a_machine_that_is_slow_to_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a Xen host whose first domain gets little of its processor: only who expects that waits for its banner."""
    monkeypatch.setattr(ssh, "CONNECT_TIMEOUT_S", 0.3)
    key = tmp_path / "key"
    KEY.write_private_key_file(str(key))
    listening = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()
    monkeypatch.setattr(ssh, "SSH_PORT", listening.getsockname()[1])
    known = tmp_path / "known_hosts"
    known.write_text(f"127.0.0.1 {KEY.get_name()} {KEY.get_base64()}\n")

    def serve() -> None:
        while not over.is_set():
            sock, _ = listening.accept()
            over.wait(1.0)
            if not over.is_set():
                transport = paramiko.Transport(sock)
                transport.add_server_key(KEY)
                transport.start_server(threading.Event(), Server())

    threading.Thread(target=serve, daemon=True).start()
    try:
        shell = Ssh(key, known)
        with pytest.raises(UnreachableError, match="host b1: SSH to"):
            shell.start("host b1", "root", "127.0.0.1", "vmacro-host")
        program = shell.start("host b1", "root", "127.0.0.1", "vmacro-host", 30.0)
        assert program.alive
        program.close()
    finally:
        over.set()
        listening.close()
