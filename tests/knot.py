"""A name server of our own: Debian's Knot, unpacked by `make test` and never installed, on an unprivileged port."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vmacro import private

ROOT = Path(__file__).parents[1] / ".venv/knot"
ZONE, KEY = "example.test.", "vmacro"
SECRET, OTHER_SECRET = (
    "c2VjcmV0IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZXMhISE=",
    "bm90IHRoZSBzZWNyZXQgb2YgdGhlIHRlc3RzLCBvaG8hISE=",
)
READY_WITHIN_S = 30.0
_CONF = """server:
    listen: {address}@{port}
    rundir: {folder}
log:
  - target: stderr
    any: info
database:
    storage: {folder}
key:
  - id: {key}
    algorithm: hmac-sha256
    secret: {secret}
  - id: reader
    algorithm: hmac-sha256
    secret: {secret}
acl:
  - id: updates
    key: {key}
    action: update
    update-owner: name
    update-owner-match: equal
    update-owner-name: [www, both, none, many]
zone:
  - domain: {zone}
    storage: {folder}
    file: zone
    zonefile-sync: -1
    journal-content: all
    acl: updates
"""
_SOA = "@ 3600 SOA ns hostmaster 1 3600 600 86400 60\n@ 3600 NS ns\nns 3600 A 192.0.2.53\n"


@dataclass(frozen=True)
class Knot:
    """A server that runs in `prefix` (say, `ip netns exec NAME`)."""

    folder: Path
    address: str
    port: int
    prefix: tuple[str, ...]
    _process: list[subprocess.Popen[bytes]]

    @property
    def pid(self) -> int:
        return self._process[-1].pid

    def start(self) -> None:
        """Again, with what it had been told."""
        with private.opened(self.folder / "log", "w") as log:
            command = [*self.prefix, str(ROOT / "usr/sbin/knotd"), "-c", str(self.folder / "conf")]
            environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, ROOT.glob("usr/lib/*-linux-gnu*")))}
            self._process.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd="/"))
        deadline = time.monotonic() + READY_WITHIN_S
        while f"[{ZONE}] loaded" not in self._said():
            assert self._process[-1].poll() is None and time.monotonic() < deadline, self._said()
            time.sleep(0.05)

    def stop(self) -> None:
        while self._process:
            process = self._process.pop()
            process.terminate()
            process.wait(READY_WITHIN_S)

    def _said(self) -> str:
        return (self.folder / "log").read_text()


@contextmanager
def running(
    folder: Path, records: str, address: str = "127.0.0.1", port: int = 0, prefix: tuple[str, ...] = ()
) -> Iterator[Knot]:
    """With these records, as lines of a zone file, beside what a zone must have. `port` 0: one that is free here."""
    port = port or _free_port(address)
    private.folder(folder)
    private.write(folder / "zone", f"$ORIGIN {ZONE}\n{_SOA}{records}")
    private.write(
        folder / "conf", _CONF.format(address=address, port=port, folder=folder, key=KEY, secret=SECRET, zone=ZONE)
    )
    found = Knot(folder, address, port, prefix, [])
    found.start()
    try:
        yield found
    finally:
        found.stop()


def key_file(path: Path, secret: str = SECRET, name: str = KEY) -> Path:
    """As `tsig-keygen` writes it."""
    private.write(path, f'key "{name}" {{\n\talgorithm hmac-sha256;\n\tsecret "{secret}";\n}};\n')
    return path


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as held:
        return int(held.getsockname()[1])


def installed() -> bool:
    return (ROOT / "ready").exists()
