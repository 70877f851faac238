"""A PostgreSQL of our own: Debian's package, on a socket in a folder, for as long as a test session."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Server:
    """`binaries` are those of one of Debian's versions."""

    folder: Path
    binaries: Path

    @property
    def url(self) -> str:
        return f"postgresql://vmacro@/postgres?host={self.folder}"

    def start(self) -> None:
        """Nobody but us reaches it: it listens on no network."""
        if os.geteuid() == 0:  # the server refuses to be root
            shutil.chown(self.folder, "postgres", "postgres")
            for parent in self.folder.parents[:3]:
                parent.chmod(parent.stat().st_mode | 0o011)
        self._run("initdb", "-D", self._data, "-U", "vmacro", "-A", "trust", "--no-sync")
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off"
        self._run("pg_ctl", "-D", self._data, "-w", "-o", options, "-l", f"{self.folder}/log", "start")

    def restart(self) -> None:
        """As a crash would: sessions are cut."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "-l", f"{self.folder}/log", "restart")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")

    @property
    def _data(self) -> str:
        return f"{self.folder}/data"

    def _run(self, program: str, *words: str) -> None:
        user = pwd.getpwnam("postgres").pw_uid if os.geteuid() == 0 else None
        command = [str(self.binaries / program), *words]
        # Not captured: the server would hold the pipe.
        subprocess.run(command, check=True, cwd="/", user=user, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def installed() -> Path | None:
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
