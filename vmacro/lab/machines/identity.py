"""What a provider gives a machine of its own: a name, host keys, and who may log in."""

from __future__ import annotations

import uuid
from pathlib import Path

from vmacro.lab import keys


def write(tree: Path, name: str, address: str, lab: Path) -> None:
    """Into the machine's own files, below `tree`; its host key becomes known to whoever works in the lab, whose folder
    is `lab`."""
    put(tree / "etc/machine-id", uuid.uuid4().hex + "\n")
    put(tree / "etc/hostname", name + "\n")
    put(tree / "etc/hosts", "127.0.0.1 localhost\n")
    public = keys.ssh_key(tree / "etc/ssh/ssh_host_ed25519_key", name)
    known = lab / "ssh/known_hosts"
    line = f"{name},{address} {public.rsplit(' ', 1)[0]}\n"
    others = [k for k in _lines(known) if not k.startswith(f"{name},")]
    put(known, "".join([*others, line]))
    put(tree / "root/.ssh/authorized_keys", keys.ssh_key(lab / "ssh/id_ed25519", "vmacro lab") + "\n")
    (tree / "root/.ssh").chmod(0o700)
    (tree / "root").chmod(0o700)


def put(path: Path, text: str) -> None:
    """A file, in folders that are made where they are not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True) if path.exists() else []
