"""The first domain of a host of Xen, which controls it: whether this is one, and what xenstore calls the others. It
imports little, since each talk with an agent begins here."""

from __future__ import annotations

import errno
from pathlib import Path

from vmacro.host.errors import RefusedError
from vmacro.wire.xenstore import Xenstore, XenstoreError

CAPABILITIES = Path("/proc/xen/capabilities")
DOMAINS = "/local/domain"


def is_here() -> bool:
    """Whether this is a host of Xen: its first domain."""
    try:
        return "control_d" in CAPABILITIES.read_text()
    except OSError:
        return False


def require() -> None:
    """Raises RefusedError where this is no host of Xen."""
    if not is_here():
        raise RefusedError("no-xen", "this is no host of Xen")


def number_of(store: Xenstore, domain: str) -> int:
    """Of a domain that runs here (domid), by the name that libxl gives it (libxl__domain_make), and that no guest may
    write. Raises RefusedError where there is none, OSError."""
    for number in store.directory(DOMAINS):
        try:
            if number.isdecimal() and store.read(f"{DOMAINS}/{number}/name") == domain.encode():
                return int(number)
        except XenstoreError as error:
            if error.errno != errno.ENOENT:
                raise
            continue  # it has gone since, or has no name yet
    raise RefusedError("no-domain", f"no domain {domain!r} runs here")
