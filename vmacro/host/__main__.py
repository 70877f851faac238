"""`vmacro-host`: the host side, on standard input and output. It is what an SSH key may be bound to."""

from __future__ import annotations

import argparse
import os
import sys

from vmacro.host import agents, dom0, units
from vmacro.wire.messages import MAX_REQUEST_BYTES


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="vmacro-host", description=__doc__)
    own = "xen:///system" if dom0.is_here() else "qemu:///system"
    parser.add_argument("--libvirt", default=own, help="this host's own libvirt (default: by its hypervisor)")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("vmacro-host: needs root, for routes and tunnels", file=sys.stderr)
        return 3
    # It does little, and what it does at a guest's pause cannot wait for a busy hypervisor.
    units.renice(-15)
    first = first_line(0)
    if agents.is_asked_for(first):
        agents.serve(first)
    elif first:
        _serve(first, options.libvirt)
    return 0


def first_line(given: int) -> bytes:
    """As far as its end and no further, since the rest is for whoever goes on; less where the input ends, or the line
    is longer than any may be."""
    line = b""
    while not line.endswith(b"\n") and len(line) <= MAX_REQUEST_BYTES:
        byte = os.read(given, 1)
        if not byte:
            break
        line += byte
    return line


def _serve(first: bytes, hypervisor_uri: str) -> None:
    """Imported only here: netlink and libvirt take most of a start, and a way to an agent needs neither."""
    from pyroute2.iproute.linux import IPRoute

    from vmacro.host.server import serve

    with IPRoute() as ip:
        serve(ip, hypervisor_uri, first)


if __name__ == "__main__":
    sys.exit(main())
