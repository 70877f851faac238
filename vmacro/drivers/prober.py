"""A prober in another network namespace of this machine, as the lab's client has one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from vmacro.errors import VmacroError
from vmacro.model.nouns import ProbeTarget

START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 15.0


class NamespaceProber:
    """Runs `vmacro rtt probe` there; the recording is written as it goes."""

    def __init__(self, network_namespace: str) -> None:
        self._namespace = network_namespace
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, address: str, target: ProbeTarget, recording: Path) -> None:
        """Returns with the first round trip written. Raises VmacroError."""
        recording.parent.mkdir(parents=True, exist_ok=True)
        transport = [] if target.mptcp else ["--tcp"]
        log = recording.with_suffix(".log")
        command = [
            *("ip", "netns", "exec", self._namespace, sys.executable, "-m", "vmacro.rtt.probe"),
            *(address, "--port", str(target.port), "--interval-ms", str(target.interval_ms)),
            *("--record", str(recording), *transport),
        ]
        with log.open("wb") as errors:
            # A session of its own: Ctrl-C is for us to answer, and the prober measures on.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (recording.exists() and b'"rtt"' in recording.read_bytes()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                said = log.read_text().strip()[-500:]
                raise VmacroError(f"prober in {self._namespace}: no round trip to {address}: {said or 'no answer'}")
            time.sleep(0.02)

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
