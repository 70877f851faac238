"""The lock file: of everything that we install, here and on hosts, its version and the SHA-256 of each of its files.

As a program, `python3 vmacro/provisioning/lock.py NAME...`, it prints the entries of some packages, as `pip install
--require-hashes -r` reads them. It needs nothing that is not there before anything is installed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "requirements.lock"
_ENTRY = re.compile(
    r"^(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[^ \\]+).*\n(?:    --hash=sha256:[0-9a-f]{64}.*\n)+", re.M
)


def entries(text: str) -> dict[str, str]:
    """By a package's name: its lines. Raises ValueError for what is not an entry with hashes."""
    rest = _ENTRY.sub("", text)
    if rest.strip():
        raise ValueError(f"{rest.strip().splitlines()[0]!r} is no package with a version and hashes")
    return {found["name"]: found[0] for found in _ENTRY.finditer(text)}


def of(*names: str) -> str:
    """The lines of some packages. Raises OSError, ValueError, KeyError for one that is not in it."""
    found = entries(FILE.read_text())
    return "".join(found[name] for name in names)


def version(name: str) -> str:
    """The version of one package. Raises as of()."""
    return of(name).partition("==")[2].split(" ")[0]


if __name__ == "__main__":
    print(of(*sys.argv[1:]), end="")
