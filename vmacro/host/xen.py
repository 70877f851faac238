"""A host of Xen: what libvirt's driver for it does not know, or cannot do. By xl, and by the helper of libxl that sends
or receives a domain's memory (libxl_save_callout.c): its own process, with the domain's number among its words."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vmacro.host import dom0
from vmacro.host.dispatch import Handler, handler
from vmacro.host.errors import RefusedError
from vmacro.host.pace import pace
from vmacro.wire import xen_verbs
from vmacro.wire.host_verbs import Domain
from vmacro.wire.messages import Args, Result
from vmacro.wire.xen_verbs import CRASHED, ENDED, NOTHING, SHUT, SUSPENDED, Aborted, Saving, XenFacts

PROC = Path("/proc")
XL = "/usr/sbin/xl"
XL_TIMEOUT_S = 8.0
HELPER = "libxl-save-helper"
ENDS_WITHIN_S = 4.0  # with xl's time well within what the verb may take
_LINE = re.compile(r"(?P<name>\S+)\s+(?P<number>\d+)\s+\d+\s+\d+\s+(?P<state>[-a-z]{6})\s+[\d.]+\s*\Z")


def handlers() -> tuple[Handler, ...]:
    """One for each verb of xen_verbs but AGENT, which is a session by itself (agents.py)."""
    return (
        handler(xen_verbs.XEN, _on_xen(lambda _args: facts(_xl("info")))),
        handler(xen_verbs.XEN_SAVING, _on_xen(lambda args: look(args.domain))),
        handler(xen_verbs.XEN_ABORT, _on_xen(_abort)),
        handler(xen_verbs.XEN_PACE, _on_xen(pace)),
    )


def _abort(args: Domain) -> Aborted:
    seen = look(args.domain)
    if seen.suspended:
        return Aborted(SUSPENDED)
    helpers = list(_helpers(seen.number)) if seen.number >= 0 else []
    return Aborted(ENDED if _end(helpers, seen.number) else NOTHING)


def facts(text: str) -> XenFacts:
    """From `xl info`. Raises RefusedError."""
    told = dict(line.partition(":")[::2] for line in text.splitlines())
    words = {name.strip(): value.split() for name, value in told.items()}
    if "virt_caps" not in words:
        raise RefusedError("xl", "`xl info` says nothing of virt_caps")
    return XenFacts(tuple(word[:40] for word in words["virt_caps"][:64]))


def look(domain: str) -> Saving:
    """As xl sees a domain; number -1 where it is not there. Raises RefusedError, OSError."""
    for line in _xl("list").splitlines()[1:]:
        found = _LINE.match(line)
        if found is not None and found["name"] == domain:
            number, state = int(found["number"]), found["state"]
            suspended = SHUT in state and CRASHED not in state
            return Saving(number, suspended, any(_helpers(number)))
    return Saving(-1, False, False)


def _on_xen(carry_out: Callable[[Args], Result]) -> Callable[[Args], Result]:
    def checked(args: Args) -> Result:
        dom0.require()
        return carry_out(args)

    return checked


def _xl(word: str) -> str:
    """What it says. Raises RefusedError."""
    try:
        done = subprocess.run(
            [XL, word], capture_output=True, text=True, errors="replace", timeout=XL_TIMEOUT_S, check=True
        )
    except subprocess.CalledProcessError as error:
        raise RefusedError("xl", f"xl {word}: {error.stderr.strip()[:200]}") from None
    except subprocess.TimeoutExpired:
        raise RefusedError("xl", f"xl {word}: no answer within {XL_TIMEOUT_S:g} s") from None
    return done.stdout


def _helpers(number: int) -> Iterator[int]:
    """Processes that send or receive the memory of this very domain: HELPER --save-domain STREAM BACK DOMID and more
    numbers, the first two of them descriptors; --restore-domain likewise (both seen with 4.17.5)."""
    for entry in PROC.iterdir():
        if entry.name.isdigit() and _is_helper(int(entry.name), number):
            yield int(entry.name)


def _is_helper(pid: int, number: int) -> bool:
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False  # it has ended
    named = Path(os.fsdecode(words[0])).name == HELPER
    return named and words[1:2] in ([b"--save-domain"], [b"--restore-domain"]) and words[4:5] == [str(number).encode()]


def _end(pids: Iterable[int], number: int) -> bool:
    """libxl takes the migration for failed then, at this end. They are waited for together: who asks waits, too. False:
    all had ended before, and their numbers may be others'."""
    until_s = time.monotonic() + ENDS_WITHIN_S
    told = [descriptor for pid in pids if (descriptor := _told_to_end(pid, number)) is not None]
    for descriptor in told:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        ended.poll(max(0.0, until_s - time.monotonic()) * 1000)
        os.close(descriptor)
    return bool(told)


def _told_to_end(pid: int, number: int) -> int | None:
    """A descriptor of the process; None where it had ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        if _is_helper(pid, number):  # looked at again, now that nobody else can become what is signalled
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            return descriptor
    except ProcessLookupError:
        pass  # it has ended meanwhile
    os.close(descriptor)
    return None
