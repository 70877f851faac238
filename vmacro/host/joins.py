"""Clients that join a leg's address all at once go into its tunnel one after another: at the leg's home end their first
packets wait in a queue of their own, and nothing else does.

Else the queue of the guest's server for who is connecting runs over (nginx's holds 511), and not only they have to try
again, but also who comes anew. They wait rather than being dropped: TCP sends again what was dropped at the same
moments, ever later (docs/decisions/0032-crowds.md).
"""

from __future__ import annotations

import logging
import subprocess

_log = logging.getLogger("vmacro-host")
# Of no operator's own queues: by VXLAN a packet keeps its class on its way out of the host.
_HANDLE = "766d"
CLASS = f"{_HANDLE}:2"
PER_S = 1000  # 100 ms away, 100 are connecting at a time
AT_ONCE = 32
WAITING = 10_000
_BYTES = 80  # a SYN with MP_JOIN: 72, by IPv6 92
_LONGEST = 120  # with all options; one that brings data along would take the place of twenty
_BURST = AT_ONCE * _BYTES
# HTB is what kernels have that have any; 32 Gbit/s are as good as no limit, and the most that tc's older field can say.
_SCRIPT = f"""\
qdisc add dev {{0}} root handle {_HANDLE}: htb default 1
class add dev {{0}} parent {_HANDLE}: classid {_HANDLE}:1 htb rate 32gbit burst 1m cburst 1m quantum 60000
qdisc add dev {{0}} parent {_HANDLE}:1 handle 11: pfifo limit 1000
class add dev {{0}} parent {_HANDLE}: classid {CLASS} htb rate {PER_S * _BYTES * 8}bit burst {_BURST} cburst {_BURST}
qdisc add dev {{0}} parent {CLASS} handle 12: pfifo limit {WAITING}
"""


def rule(pairs: str, address: str) -> str:
    """For nft: who joins goes by the slow class. `pairs`: the set of devices and addresses; `address`: whose, in nft's
    words."""
    syn = f"meta length <= {_LONGEST} tcp flags & (syn | ack) == syn"
    return f"oifname . {address} @{pairs} {syn} tcp option mptcp subtype 1 meta priority set {CLASS}"


def queue(device: str) -> None:
    """Make the queues of a new device. Where the kernel has none, it is said, and joins are as fast as they come."""
    try:
        done = subprocess.run(
            ["tc", "-batch", "-"],
            input=_SCRIPT.format(device),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.warning("%s: joins do not queue: %s", device, error)
        return
    if done.returncode:
        _log.warning("%s: joins do not queue: tc: %s", device, " ".join(done.stderr.split())[:400])
