"""How fast this host's libvirt sends to another one, and how much it has. libvirt's driver for Xen has no bandwidth for
a migration, and what it sends goes by its connection to the destination's libvirt: the kernel paces that one, by its
socket, which is asked of libvirt's process (pidfd_getfd(2)). Nothing else of the host is touched, and nothing stays.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from vmacro.wire.xen_verbs import Pace, Paced

PROC = Path("/proc")
DAEMONS = frozenset({"libvirtd", "virtxend"})
_PIDFD_GETFD = 438  # the same on all architectures
_SO_MAX_PACING_RATE, _UNPACED = 47, (1 << 32) - 1
_BYTES_ACKED = 120  # offset of tcpi_bytes_acked in struct tcp_info (linux/tcp.h)


def pace(args: Pace) -> Paced:
    """Also what was begun since, if it is asked again. Raises OSError."""
    rate, found, sent = min(args.bytes_s, _UNPACED) or _UNPACED, 0, 0
    for pid in _daemons():
        for connection in _connections(pid, args.address, args.port):
            with connection:
                connection.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, struct.pack("=I", rate))
                told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            found += 1
            sent += struct.unpack_from("=Q", told, _BYTES_ACKED)[0] if len(told) >= _BYTES_ACKED + 8 else 0
    return Paced(found, sent)


def _daemons() -> Iterator[int]:
    """Root's alone: anybody may call a program of theirs so, with as many descriptors as they like to look through."""
    for entry in PROC.iterdir():
        try:
            if entry.name.isdigit() and (entry / "comm").read_text().strip() in DAEMONS and _is_roots(entry):
                yield int(entry.name)
        except OSError:
            continue  # it has ended


def _is_roots(process: Path) -> bool:
    """By all its users: who owns the folder says less, since it is root's where a process lets nobody look at it."""
    lines = (process / "status").read_text().splitlines()
    return next((line.split()[1:] for line in lines if line.startswith("Uid:")), []) == ["0"] * 4


def _connections(pid: int, address: str, port: int) -> Iterator[socket.socket]:
    """Copies of its sockets that lead there."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return  # it has ended
    try:
        for entry in (PROC / str(pid) / "fd").iterdir():
            try:
                if not str(entry.readlink()).startswith("socket:"):
                    continue
            except OSError:
                continue  # it has closed it
            copy = _copied(process, int(entry.name))
            if copy is not None and _leads_to(copy, address, port):
                yield copy
            elif copy is not None:
                copy.close()
    finally:
        os.close(process)


def _copied(process: int, descriptor: int) -> socket.socket | None:
    """None for one that has been closed, or is no socket any more."""
    libc = ctypes.CDLL(None, use_errno=True)
    copy = libc.syscall(_PIDFD_GETFD, process, descriptor, 0)
    if copy < 0:
        return None
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return None


def _leads_to(sock: socket.socket, address: str, port: int) -> bool:
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        return False
    try:
        peer = sock.getpeername()
    except OSError:
        return False  # it listens, or has ended
    found = ipaddress.ip_address(peer[0].partition("%")[0])
    found = getattr(found, "ipv4_mapped", None) or found
    return (str(found), peer[1]) == (str(ipaddress.ip_address(address)), port)
