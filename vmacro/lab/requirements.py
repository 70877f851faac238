"""What the lab needs of the machine, checked before anything is changed; reports everything that is missing at once."""

from __future__ import annotations

import os
import shutil
import socket
from ipaddress import IPv4Network
from pathlib import Path

from pyroute2 import IPRoute

from vmacro.errors import ConfigurationError, LabRefusedError
from vmacro.lab.topology import Topology
from vmacro.rtt.wire import IPPROTO_MPTCP

# program: the Debian package that has it
PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "apt-ftparchive": "apt-utils",
    "ip": "iproute2",
    "tc": "iproute2",
    "iptables": "iptables",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "cpio": "cpio",
    "unshare": "util-linux",
    "ssh": "openssh-client",
    "xz": "xz-utils",
}


def require_root(what: str) -> None:
    """Raises LabRefusedError unless this process is root's; `what` is the command that needs it."""
    if os.geteuid() != 0:
        raise LabRefusedError(f"{what} needs root (effective user id {os.geteuid()})", f"sudo vmacro {what}")


def require(topology: Topology) -> None:
    """Check the machine for this lab. Raises LabRefusedError with everything that is missing, and ConfigurationError if
    a subnet of the lab is in use."""
    missing = [f"{program}: not installed (apt install {p})" for program, p in PROGRAMS.items() if not _found(program)]
    if not Path("/dev/net/tun").exists():
        missing.append("/dev/net/tun: does not exist, and guests get their network by it (modprobe tun)")
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError as error:
        missing.append(f"MPTCP: this kernel has none ({error.strerror}); sysctl net.mptcp.enabled=1")
    if missing:
        raise LabRefusedError("this machine cannot run the lab:\n" + "\n".join(f"  {m}" for m in missing))
    _require_free_subnets(topology)


def _require_free_subnets(topology: Topology) -> None:
    """The lab's networks are in namespaces of their own, but the same subnet twice would confuse people."""
    wanted = {"wan.transit": topology.wan.transit}
    wanted |= {f"sites.{name}.subnet": site.subnet for name, site in topology.sites.items()}
    occupied = [
        f"{key} = {net} is occupied: this machine routes {route} by {device}"
        for key, net in wanted.items()
        for route, device in machine_routes()
        if net.overlaps(route)
    ]
    if occupied:
        raise ConfigurationError(f"lab {topology.name}: " + "; ".join(occupied), "choose others in the topology file")


def machine_routes() -> list[tuple[IPv4Network, str]]:
    """Routes in this machine's main table except the default route, each with its interface."""
    with IPRoute() as ip:
        found = []
        for route in ip.get_routes(family=socket.AF_INET, table=254):
            destination = route.get("RTA_DST")
            if destination is not None:
                index = route.get("RTA_OIF")
                device = ip.get_links(index)[0].get("IFLA_IFNAME") if index else "?"
                found.append((IPv4Network(f"{destination}/{route['dst_len']}"), str(device)))
        return found


def _found(program: str) -> bool:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None
