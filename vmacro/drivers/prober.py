"""Probers that measure one move: in another network namespace of this machine, or on another machine by SSH."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import paramiko

from vmacro.drivers.ssh import CONNECT_TIMEOUT_S, Ssh
from vmacro.errors import UnreachableError, VmacroError
from vmacro.model.nouns import ProbeTarget

START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 15.0
MAX_RECORDING_BYTES = 1 << 30  # days of a request every 10 ms; what a machine gone wrong may fill of our disk
PROGRAM = "/usr/local/bin/vmacro-rtt"  # as `vmacro provision probes` puts it


class NamespaceProber:
    """Runs `vmacro rtt probe` there; the recording is written as it goes."""

    def __init__(self, network_namespace: str) -> None:
        self._namespace = network_namespace
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, address: str, target: ProbeTarget, recording: Path) -> None:
        """Returns with the first round trip written. Raises VmacroError."""
        recording.parent.mkdir(parents=True, exist_ok=True)
        log = recording.with_suffix(".log")
        inside = ["ip", "netns", "exec", self._namespace]
        command = [*inside, sys.executable, "-m", "vmacro.rtt.probe", *_words(address, target, str(recording))]
        with log.open("wb") as errors:
            # A session of its own: Ctrl-C is for us to answer, and the prober measures on.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
            )
        process = self._process
        if not _measures(recording, lambda: process.poll() is None):
            self.stop()
            said = log.read_text().strip()[-500:]
            raise VmacroError(f"prober in {self._namespace}: no round trip to {address}: {said or 'no answer'}")

    def stop(self) -> None:
        """Waits for what is outstanding, then ends it. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class SshProber:
    """Runs `vmacro-rtt probe` on a machine of the inventory; what it records arrives as it goes, and ends with our
    session. Its clock is to be as right as ours, for phases to be drawn where they were.
    """

    def __init__(self, name: str, ssh: str, opened: Ssh) -> None:
        self._name, self._opened = name, opened
        self._user, _, self._address = ssh.rpartition("@")
        self._client: paramiko.SSHClient | None = None
        self._channel: paramiko.Channel | None = None
        self._copying: threading.Thread | None = None

    def start(self, address: str, target: ProbeTarget, recording: Path) -> None:
        """Returns with the first round trip written. Raises VmacroError, UnreachableError, UntrustedError."""
        recording.parent.mkdir(parents=True, exist_ok=True)
        subject = f"prober {self._name}"
        self._client = self._opened.connect(subject, self._user, self._address)
        try:
            transport = self._client.get_transport()
            assert transport is not None
            transport.set_keepalive(5)
            self._channel = transport.open_session(timeout=CONNECT_TIMEOUT_S)
            self._channel.exec_command(shlex.join([PROGRAM, "probe", *_words(address, target, "-")]))
        except (OSError, paramiko.SSHException) as error:
            self.stop()
            raise UnreachableError(f"{subject}: SSH to {self._address}: {error}") from error
        self._copying = threading.Thread(target=_copy, args=(self._channel, recording), daemon=True)
        self._copying.start()
        if not _measures(recording, self._copying.is_alive):
            said = _complaint(self._channel)
            self.stop()
            text = f"{subject}: no round trip to {address}: {said[-500:] or 'no answer'}"
            raise VmacroError(text, "vmacro provision probes")

    def stop(self) -> None:
        """Waits for what is outstanding, then ends it. Idempotent."""
        channel, self._channel = self._channel, None
        if channel is not None:
            try:
                channel.shutdown_write()
            except OSError:
                pass  # it has ended already
        if self._copying is not None:
            self._copying.join(STOP_TIMEOUT_S)
        if self._client is not None:
            self._client.close()
        self._copying = self._client = None


def _complaint(channel: paramiko.Channel) -> str:
    channel.settimeout(1.0)
    try:
        return channel.recv_stderr(4096).decode(errors="replace").strip()
    except TimeoutError:
        return ""  # it runs, and says nothing


def _copy(channel: paramiko.Channel, recording: Path) -> None:
    """Until the other end has nothing more, or is gone: the recording says which."""
    with recording.open("wb") as out:
        try:
            while out.tell() < MAX_RECORDING_BYTES and (chunk := channel.recv(65536)):
                out.write(chunk)
                out.flush()
        except OSError:
            pass  # what has come is kept, and lacks its last line


def _words(address: str, target: ProbeTarget, record: str) -> list[str]:
    words = [address, "--port", str(target.port), "--interval-ms", str(target.interval_ms), "--record", record]
    return words if target.mptcp else [*words, "--tcp"]


def _measures(recording: Path, goes_on: Callable[[], bool]) -> bool:
    """Waits for the first round trip."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (recording.exists() and b'"rtt"' in recording.read_bytes()):
        if not goes_on() or time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
