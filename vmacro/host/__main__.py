"""`vmacro-host`: the host side, on standard input and output. It is what an SSH key may be bound to."""

from __future__ import annotations

import argparse
import os
import sys

from pyroute2.iproute.linux import IPRoute

from vmacro.host import xen
from vmacro.host.server import serve


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="vmacro-host", description=__doc__)
    own = "xen:///system" if xen.is_here() else "qemu:///system"
    parser.add_argument("--libvirt", default=own, help="this host's own libvirt (default: by its hypervisor)")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("vmacro-host: needs root, for routes and tunnels", file=sys.stderr)
        return 3
    # It does little, and what it does at a guest's pause cannot wait for a busy hypervisor.
    os.setpriority(os.PRIO_PROCESS, 0, -15)
    with IPRoute() as ip:
        serve(ip, options.libvirt)
    return 0


if __name__ == "__main__":
    sys.exit(main())
