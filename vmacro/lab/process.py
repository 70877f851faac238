"""Runs other programs: argv lists, never a shell; a failure names the command."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmacro.errors import LabError


def run(argv: Sequence[str | Path], *, input: str | None = None, timeout_s: float = 600) -> str:
    """Standard output of a command that must succeed. Raises LabError."""
    command = [str(a) for a in argv]
    try:
        done = subprocess.run(
            command,
            input=input,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=True,
            env=_environment(),
        )
    except FileNotFoundError:
        raise LabError(f"{command[0]}: no such program", "run `make setup`, which installs it") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(command)}: still running after {timeout_s:g} s") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or "").strip()[-2000:]
        raise LabError(f"{' '.join(command)}: exit status {error.returncode}: {said}") from None
    return done.stdout


@dataclass(frozen=True)
class Process:
    """A process that may outlive us, identified by pid and start time, since a pid may be used again."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return _start_time(self.pid) == self.started

    def end(self, timeout_s: float = 5.0) -> None:
        """Send SIGTERM, and SIGKILL if that does not end it in time. Returns once it is gone."""
        for number, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 10.0)):
            if not self.alive:
                return
            try:
                descriptor = os.pidfd_open(self.pid)
            except ProcessLookupError:
                return
            try:
                if self.alive:
                    signal.pidfd_send_signal(descriptor, number)
                _wait_for_exit(descriptor, patience_s)
            finally:
                os.close(descriptor)


class Deadline:
    """A point in time after which nobody waits any more."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    @property
    def over(self) -> bool:
        """Whether it has passed."""
        return time.monotonic() >= self._at

    def nap(self, seconds: float) -> None:
        """Sleep, but not beyond the deadline."""
        time.sleep(max(0.0, min(seconds, self._at - time.monotonic())))


def spawn(argv: Sequence[str | Path], log: Path) -> Process:
    """Start a program that outlives us, in a session of its own, with its output in `log`."""
    with log.open("ab") as out:
        child = subprocess.Popen(
            [str(a) for a in argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env=_environment(),
        )
    return identify(child.pid)


def end(pid: int) -> None:
    """End a process by Process.end(); one that has ended by itself meanwhile is fine."""
    started = _start_time(pid)
    if started is not None:
        Process(pid, started).end()


def identify(pid: int) -> Process:
    """The process with this pid. Raises LabError if there is none."""
    started = _start_time(pid)
    if started is None:
        raise LabError(f"process {pid} ended at once")
    return Process(pid, started)


def _start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat, in clock ticks since boot; None if there is no such process, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _wait_for_exit(descriptor: int, timeout_s: float) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(round(timeout_s * 1000))


def _environment() -> dict[str, str]:
    # No message is parsed, but people compare them with documentation.
    return {**os.environ, "LC_ALL": "C.UTF-8"}
