"""Another process's connection is paced by its socket: real processes, on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from vmacro.host import pace as module
from vmacro.host.pace import pace
from vmacro.wire.xen_verbs import Pace

# Connects there, and to an address beside it; then sends as fast as it goes for as long as it lives.
SENDER = """
import socket, sys
port = int(sys.argv[1])
other = socket.create_connection(("127.0.0.1", port))
sock = socket.create_connection(("127.0.0.2", port))
print("up", flush=True)
while True: sock.sendall(bytes(1 << 14))
"""
SLOW = 1 << 20


class Sink:
    """Takes what comes to 127.0.0.2, and counts it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("0.0.0.0", 0))
        self.port = self.listener.getsockname()[1]
        self.got = 0
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        first, _ = self.listener.accept()
        sock, _ = self.listener.accept()
        with first, sock:
            while data := sock.recv(1 << 16):
                self.got += len(data)

    def rate(self, seconds: float) -> float:
        before, from_s = self.got, time.monotonic()
        time.sleep(seconds)
        return (self.got - before) / (time.monotonic() - from_s)


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sink]:
    found = Sink()
    command = [sys.executable, "-c", SENDER, str(found.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as sender:
        try:
            assert sender.stdout is not None and sender.stdout.readline() == b"up\n"
            monkeypatch.setattr(module, "_daemons", lambda: iter([sender.pid]))
            yield found
        finally:
            sender.kill()
            found.listener.close()


def test_a_connection_is_paced_and_let_go_again(sink: Sink) -> None:
    assert sink.rate(0.3) > 8 * SLOW, "as fast as it goes"
    paced = pace(Pace("127.0.0.2", sink.port, SLOW))
    assert paced.connections == 1 and paced.sent > 0
    time.sleep(0.5)  # what is in its buffers
    assert sink.rate(1.0) < 3 * SLOW
    pace(Pace("127.0.0.2", sink.port, 0))
    time.sleep(0.5)
    assert sink.rate(0.3) > 8 * SLOW


def test_only_those_to_that_address_and_port(sink: Sink) -> None:
    assert pace(Pace("127.0.0.2", 1, SLOW)).connections == pace(Pace("127.0.0.3", sink.port, SLOW)).connections == 0
    assert sink.rate(0.3) > 8 * SLOW


def test_daemons_are_known_by_their_names() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        assert process.pid not in module._daemons()
        process.kill()


CALLED_SO = "printf libvirtd > /proc/self/comm; echo up; read x"


def test_a_program_of_anybodys_that_calls_itself_so_is_none() -> None:
    """They could have it looked through without end: one thread does all that a host side does."""
    user = 65534 if os.geteuid() == 0 else None
    command = ["sh", "-c", CALLED_SO]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", user=user) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        assert (module.PROC / str(process.pid) / "comm").read_text() == "libvirtd\n"
        assert process.pid not in module._daemons()
        process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="root's own")
def test_roots_is_one() -> None:
    with subprocess.Popen(["sh", "-c", CALLED_SO], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        assert process.pid in module._daemons()
        process.kill()


def test_one_that_has_just_ended_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    monkeypatch.setattr(module, "_daemons", lambda: iter([process.pid]))
    assert pace(Pace("127.0.0.2", 1, SLOW)).connections == 0
