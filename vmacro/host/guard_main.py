"""`vmacro-guard BRIDGE...`: the guard, for ever. systemd is told once it has looked (sd_notify(3))."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import select
import socket
from contextlib import ExitStack

from pyroute2.iproute.linux import IPRoute

from vmacro.host import guard
from vmacro.host.inotify import Watch

_RTMGRP_LINK, _RTMGRP_IPV6_IFADDR = 0x1, 0x100  # linux/rtnetlink.h
_NETLINK_NETFILTER, _NFTABLES = 12, 1 << 6  # linux/netlink.h; NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h
TOGETHER_S = 0.01  # what happens within this time is looked at once


def main() -> None:
    """Until it is ended, or fails: then it is started anew, and what it said last stays in force."""
    parser = argparse.ArgumentParser(prog="vmacro-guard", description=__doc__)
    parser.add_argument("bridges", nargs="+", metavar="BRIDGE", help="whose guests are held to their addresses")
    bridges = parser.parse_args().bridges
    with ExitStack() as stack:
        ip = stack.enter_context(IPRoute())
        links = stack.enter_context(_changes(socket.NETLINK_ROUTE, _RTMGRP_LINK | _RTMGRP_IPV6_IFADDR))
        rules = stack.enter_context(_changes(_NETLINK_NETFILTER, _NFTABLES))
        files = stack.enter_context(contextlib.closing(Watch(guard.folders())))
        watched = [links.fileno(), rules.fileno(), files.fileno()]
        guard.begin(bridges)
        guard.look(ip, bridges)
        _ready()
        while True:
            select.select(watched, [], [])
            while select.select(watched, [], [], TOGETHER_S)[0]:
                _drain(watched)
            guard.look(ip, bridges)


def _changes(protocol: int, groups: int) -> socket.socket:
    """Readable once the kernel has told these groups of a change: of links and IPv6 addresses, or of rules, which
    others may flush, ours with theirs."""
    found = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    found.bind((0, groups))
    return found


def _drain(descriptors: list[int]) -> None:
    """What it was does not matter: all is looked at anew."""
    for descriptor in descriptors:
        try:
            while os.read(descriptor, 1 << 16):
                pass
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS):  # ENOBUFS: some was lost, which does not matter either
                raise


def _ready() -> None:
    where = os.environ.get("NOTIFY_SOCKET", "")
    if where:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"READY=1", f"\0{where[1:]}" if where.startswith("@") else where)


if __name__ == "__main__":
    main()
