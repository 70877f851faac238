"""The prober as a program: `python -m vmacro.rtt.probe ADDRESS --record FILE`. It ends on SIGINT or SIGTERM. If it
records to standard output, as over SSH, it also ends when its standard input does.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO, cast

from vmacro.rtt.prober import ProbeError, Prober, Target, target_named
from vmacro.rtt.samples import Sample

STANDARD_OUTPUT = Path("-")


def run(
    target: Target,
    interval_ms: float,
    record: Path,
    duration_s: float | None,
    grace_s: float,
    observe: Callable[[Sample], None] = lambda _sample: None,
    visit_every_ms: float = 0,
) -> None:
    """Probe until duration_s is over or a signal comes. A file that is made here, and got nothing to hold, goes again.
    Raises ProbeError."""
    stopped = threading.Event()
    remote = record == STANDARD_OUTPUT
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    end = time.monotonic() + duration_s if duration_s is not None else float("inf")
    if remote:
        threading.Thread(target=_stop_at_the_end_of_input, args=(stopped,), daemon=True).start()
    with contextlib.nullcontext(sys.stdout) if remote else _recorded(record) as out:
        begin = (lambda _transport: None) if remote else (lambda _transport: _empty(out))
        prober = Prober(target, interval_ms, out, observe, begin, visit_every_ms)
        prober.run(lambda: not stopped.is_set() and time.monotonic() < end, grace_s)


@contextlib.contextmanager
def _recorded(record: Path) -> Iterator[TextIO]:
    is_ours = not record.exists()
    with _private(record) as out:
        try:
            yield out
        finally:
            out.flush()
            if is_ours and record.is_file() and not os.fstat(out.fileno()).st_size:
                record.unlink()


def _private(record: Path) -> TextIO:
    """It names clients: its owner's alone, if it is made here. What it has stays until there is something to record."""
    return cast(TextIO, open(record, "w", opener=lambda name, flags: os.open(name, flags & ~os.O_TRUNC, 0o600)))


def _empty(out: TextIO) -> None:
    if stat.S_ISREG(os.fstat(out.fileno()).st_mode):
        os.ftruncate(out.fileno(), 0)


def _stop_at_the_end_of_input(stopped: threading.Event) -> None:
    sys.stdin.buffer.read()
    stopped.set()


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if the connection could not be made, or broke."""
    parser = argparse.ArgumentParser(prog="vmacro-probe", description=__doc__)
    parser.add_argument("address", help="HOST, HOST:PORT or [ADDRESS]:PORT")
    parser.add_argument("--port", type=int)
    parser.add_argument("--tcp", action="store_true", help="plain TCP instead of MPTCP")
    parser.add_argument("--interval-ms", type=float, default=10.0)
    parser.add_argument("--visit-every-ms", type=float, default=0.0, help="new connections, too; 0: none come")
    parser.add_argument("--duration-s", type=float)
    parser.add_argument("--grace-s", type=float, default=5.0)
    parser.add_argument("--record", type=Path, required=True, help="a file, or - for standard output")
    o = parser.parse_args(words)
    try:
        target = target_named(o.address, o.port, not o.tcp)
    except ValueError as error:
        parser.error(str(error))
    try:
        run(target, o.interval_ms, o.record, o.duration_s, o.grace_s, visit_every_ms=o.visit_every_ms)
    except ProbeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
