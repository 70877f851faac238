"""A listener's queue of clients that are still connecting, where a crowd of them joins an address at once.

Where that queue is full (nginx has room for 511), Linux answers by SYN cookies. They do not hold what a join needs: the
kernel keeps that in 1,024 places, by a hash, for all listeners (net/mptcp/syncookies.c). A client whose place another
one has taken never joins, and does not try again; it sends its last packet for ever. Without cookies its first packet
is dropped, and TCP sends it again a second later: the queue lets in as many as there is room for, and then the next.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

LOG = logging.getLogger(__name__)
PROC = Path("/proc")
# Without cookies three quarters of tcp_max_syn_backlog are a second limit, of 96 in a small guest (tcp_conn_request).
WITHOUT_COOKIES = {"net/ipv4/tcp_syncookies": "0", "net/ipv4/tcp_max_syn_backlog": "65536"}
TURNED_AWAY = "TCPReqQFullDrop"


def turned_away(proc: Path = PROC) -> int:
    """How many SYNs have been dropped so far since a queue was full, by the kernel's counter. Raises OSError."""
    for names, values in _in_pairs((proc / "net/netstat").read_text().splitlines()):
        if TURNED_AWAY in names:
            return int(values[names.index(TURNED_AWAY)])
    return 0


def cookies(proc: Path = PROC) -> dict[str, str]:
    """How SYN cookies are set now, by sysctl. Raises OSError."""
    return {name: (proc / "sys" / name).read_text().strip() for name in WITHOUT_COOKIES}


def have_them_queue(proc: Path = PROC) -> None:
    """Do without SYN cookies. Raises OSError: then they may be half done without."""
    for name, value in WITHOUT_COOKIES.items():
        (proc / "sys" / name).write_text(value)


def put_back(before: Mapping[str, str], proc: Path = PROC) -> None:
    """What cookies() has said before; not what somebody has set since. Never raises."""
    for name, value in before.items():
        path = proc / "sys" / name
        try:
            if name in WITHOUT_COOKIES and path.read_text().strip() == WITHOUT_COOKIES[name]:
                path.write_text(value)
        except OSError as error:
            LOG.error("%s stays %s: %s", path, WITHOUT_COOKIES[name], error)


def _in_pairs(lines: list[str]) -> list[tuple[list[str], list[str]]]:
    """A line of names, and one of their values."""
    return [(names.split(), values.split()) for names, values in zip(lines[::2], lines[1::2])]
