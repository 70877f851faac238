"""Probers that measure one move: in another network namespace of this machine, or on another machine by SSH."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vmacro import private
from vmacro.drivers.ssh import Ssh, SshProgram
from vmacro.errors import VmacroError
from vmacro.model.nouns import ProbeTarget
from vmacro.rtt.recording import MAX_LINE, MAX_MARKERS, MAX_SAMPLES
from vmacro.wire.framing import LineReader

START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 15.0
SILENCE_S = 5.0
# What a machine gone wrong may fill of our disk, and have us read.
MAX_LINES = MAX_SAMPLES + MAX_MARKERS + 2
MAX_BYTES = 128 * MAX_LINES
PROGRAM = "/usr/local/bin/vmacro-rtt"  # as `vmacro provision probes` puts it


class NamespaceProber:
    """Runs `vmacro rtt probe` there; the recording is written as it goes."""

    def __init__(self, network_namespace: str) -> None:
        self._namespace = network_namespace
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, address: str, target: ProbeTarget, recording: Path) -> None:
        """Returns with the first round trip written. Raises VmacroError."""
        private.folder(recording.parent)
        log = private.touch(recording.with_suffix(".log"))
        private.touch(recording)
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
            said = log.read_text(errors="replace").strip()[-500:]
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
        self._program: SshProgram | None = None
        self._copying: _Copying | None = None

    def start(self, address: str, target: ProbeTarget, recording: Path) -> None:
        """Returns with the first round trip written. Raises VmacroError, UnreachableError, UntrustedError."""
        private.folder(recording.parent)
        private.touch(recording)
        subject, program = f"prober {self._name}", shlex.join([PROGRAM, "probe", *_words(address, target, "-")])
        self._program = self._opened.start(subject, self._user, self._address, program)
        self._copying = _Copying(self._program, recording)
        if not self._copying.measures(START_TIMEOUT_S):
            said = self._program.complaint()
            self.stop()
            text = f"{subject}: no round trip to {address}: {said or 'no answer'}"
            raise VmacroError(text, "vmacro provision probes")

    def stop(self) -> None:
        """Waits for what is outstanding, then ends it. Idempotent."""
        program, self._program = self._program, None
        if program is None:
            return
        program.end_input()
        copying, self._copying = self._copying, None
        if copying is not None:
            copying.join(STOP_TIMEOUT_S)
        program.close()
        if copying is not None:
            copying.join(STOP_TIMEOUT_S)


class _Copying(threading.Thread):
    """Writes what a prober says into a file, line by line, until it ends or has said more than a recording has: the
    recording itself says whether it is whole."""

    def __init__(self, program: SshProgram, recording: Path) -> None:
        super().__init__(name="recording", daemon=True)
        self._program, self._recording = program, recording
        self._reader = LineReader(MAX_LINE)
        self._ended_or_measures = threading.Event()
        self._lines = self._bytes = 0
        self._has_measured = False
        self.start()

    def measures(self, within_s: float) -> bool:
        """Whether it has, once it has or has ended."""
        self._ended_or_measures.wait(within_s)
        return self._has_measured

    def run(self) -> None:
        try:
            with self._recording.open("wb") as out:
                while self._lines < MAX_LINES and self._bytes < MAX_BYTES and (data := self._received()):
                    self._bytes += len(data)
                    out.write(b"".join(self._whole(data)))
                    out.flush()
        except OSError:
            pass  # what has come is kept, and lacks its last line
        finally:
            self._ended_or_measures.set()

    def _received(self) -> bytes:
        while True:
            try:
                return self._program.receive(SILENCE_S)
            except TimeoutError:
                continue  # it waits, too: close() ends this

    def _whole(self, data: bytes) -> Iterator[bytes]:
        for line in self._reader.feed(data):
            self._lines += 1
            if self._lines <= MAX_LINES:
                yield (line if line is not None else b"a line that was too long") + b"\n"
            if line is not None and b'"rtt"' in line:
                self._has_measured = True
                self._ended_or_measures.set()


def _words(address: str, target: ProbeTarget, record: str) -> list[str]:
    words = [address, "--port", str(target.port), "--interval-ms", str(target.interval_ms), "--record", record]
    words += ["--visit-every-ms", str(target.visit_every_ms)] if target.visit_every_ms else []
    return words if target.mptcp else [*words, "--tcp"]


def _measures(recording: Path, goes_on: Callable[[], bool]) -> bool:
    """Waits for the first round trip."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (recording.exists() and b'"rtt"' in _beginning(recording)):
        if not goes_on() or time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _beginning(recording: Path) -> bytes:
    with recording.open("rb") as file:
        return file.read(1 << 20)
