"""A PostgreSQL of our own: Debian's package, on a socket in a folder, for as long as a test session."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

READY_WITHIN_S = 60.0

# A line is a restart, as after a crash; after `stop` there is no server until the next line. Where its input ends,
# however its holder has ended, all ends, also the folder. QUIT is PostgreSQL's immediate shutdown.
_KEEPER = """
folder=$1; shift
while :; do
    "$@" >>"$folder/log" 2>&1 &
    read -r how; ended=$?
    kill -QUIT $!; wait $!
    if [ "$ended$how" = 0stop ]; then read -r _; ended=$?; fi
    if [ "$ended" != 0 ]; then rm -rf "$folder"; exit; fi
done
"""


@dataclass(frozen=True)
class Server:
    """`binaries` are those of one of Debian's versions; `keeper` is the process that has the server, and is told by its
    input."""

    folder: Path
    binaries: Path
    keeper: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"postgresql://vmacro@/postgres?host={self.folder}"

    @property
    def pid(self) -> int:
        """Of the server; 0 while there is none that can be asked."""
        asked = subprocess.run([self.binaries / "pg_isready", "-q", "-h", self.folder], check=False)
        lines = (self.folder / "data/postmaster.pid").read_text().split() if asked.returncode == 0 else ["0"]
        return int(lines[0])

    def restart(self) -> None:
        """As a crash would: sessions are cut."""
        before = self.pid
        self._say("")
        self.wait_until_ready(before)

    def be_away(self, seconds: float) -> None:
        """As where its machine is rebooted."""
        self._say("stop")
        time.sleep(seconds)
        self._say("")
        self.wait_until_ready()

    def _say(self, line: str) -> None:
        assert self.keeper.stdin is not None
        self.keeper.stdin.write(f"{line}\n".encode())
        self.keeper.stdin.flush()

    def wait_until_ready(self, before: int = 0) -> None:
        """`before` was an earlier server's."""
        deadline = time.monotonic() + READY_WITHIN_S
        while self.pid in (0, before):
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)


@contextmanager
def running(binaries: Path) -> Iterator[Server]:
    """Nobody but us reaches it: it listens on no network. It ends with this process, also where that is killed."""
    # Not below pytest's own folder, where its user may not go.
    folder = Path(tempfile.mkdtemp(prefix="vmacro-postgres-"))
    user = pwd.getpwnam("postgres").pw_uid if os.geteuid() == 0 else None  # the server refuses to be root
    if user is not None:
        shutil.chown(folder, "postgres", "postgres")
    data = str(folder / "data")
    initdb = [str(binaries / "initdb"), "-D", data, "-U", "vmacro", "-A", "trust", "--no-sync"]
    subprocess.run(initdb, check=True, cwd="/", user=user, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    options = ["-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"]
    command = ["sh", "-c", _KEEPER, "keeper", str(folder), str(binaries / "postgres"), "-D", data, *options]
    # In a session of its own: what ends the tests' process group does not end the keeper before its work is done.
    with subprocess.Popen(command, cwd="/", user=user, stdin=subprocess.PIPE, start_new_session=True) as keeper:
        server = Server(folder, binaries, keeper)
        server.wait_until_ready()
        yield server


def installed() -> Path | None:
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
