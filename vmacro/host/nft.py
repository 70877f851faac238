"""Rule sets for nft(8), each applied whole: one transaction of the kernel's, all of it or nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vmacro.host.errors import RefusedError

RUN = Path("/run/vmacro")


def available() -> bool:
    """Whether this host has nft."""
    return shutil.which("nft") is not None


def stands(family: str, name: str) -> bool:
    """Whether there is a table of this name."""
    return sets(family, name) is not None


def sets(family: str, name: str) -> list[str] | None:
    """Names of a table's sets; None where there is no such table. Not what is in them, which may be a lot."""
    if not available():
        return None
    done = subprocess.run(
        ["nft", "--terse", "list", "table", family, name], capture_output=True, text=True, errors="replace"
    )
    return re.findall(r"^\tset (\S+) {$", done.stdout, re.MULTILINE) if done.returncode == 0 else None


def replaced(family: str, name: str, body: str) -> str:
    """The script that puts a table in the place of what there was of that name; '' as its body removes it."""
    begun = f"add table {family} {name}\ndelete table {family} {name}\n"
    return begun + (f"table {family} {name} {{\n{body}}}\n" if body else "")


def a_set(name: str, types: str, elements: Iterable[str]) -> str:
    """A named set; an empty one is declared, too, so that rules may name it."""
    found = sorted(elements)
    listed = f"    elements = {{ {', '.join(found)} }}\n" if found else ""
    return f"  set {name} {{\n    type {types}\n{listed}  }}\n"


def apply(script: str) -> None:
    """Raises RefusedError where there is no nft, OSError where the kernel takes no such rules."""
    if not available():
        text = "this host has no nft, and nothing is opened that is not filtered: install nftables"
        raise RefusedError("no-filter", text)
    try:
        done = subprocess.run(
            ["nft", "-f", "-"], input=script, capture_output=True, text=True, errors="replace", timeout=10
        )
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, "nft: no answer within 10 s") from None
    if done.returncode:
        raise OSError(errno.EIO, f"nft: {' '.join(done.stderr.split())[:400]}")


@contextmanager
def alone() -> Iterator[None]:
    """Nobody else reads the kernel's state and makes rules of it meanwhile."""
    RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(RUN / "rules.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
