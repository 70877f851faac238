"""WireGuard's end of a leg: the kernel's where there is one, else wireguard-go, one process for each leg.

wireguard-go(8) makes a TUN device, which wg(8) then sets up like the kernel's. The process is found by its device: it
ends when that is removed, and the device goes with it. It runs as a unit of systemd named after the leg, so that it
outlives the SSH session, is confined, and is listed by `systemctl list-units 'vmac-*'`.

A leg has a key of its own at each end, made there. It goes to wg by a pipe and lies in the device alone: in no file, no
argument and no log.
"""

from __future__ import annotations

import errno
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vmacro.host import nft, units
from vmacro.host.errors import RefusedError
from vmacro.host.legs import LegEnd
from vmacro.wire.host_verbs import AWAY, KERNEL, USERSPACE, WIREGUARD, Offer

# Below the ports from which kernels send (ip_local_port_range, from 32768 on), and far from WireGuard's usual 51820,
# where an operator may have a network of their own.
FIRST_PORT, PORTS = 14790, 1024
KEEPALIVE_S = 20
LONGEST_END_S = 2.0
_SOCKETS = Path("/run/wireguard")
_TRIAL = "vmac-trial"
_PROGRAM = "wireguard-go"
_BOOTED = Path("/run/systemd/system")  # sd_booted(3)
_NICE = -10  # guests' packets wait for it, also while QEMU has the processors
_CONFINED = (
    "MemoryMax=256M",
    "TasksMax=64",
    "LimitCORE=0",  # keys are in its memory
    "CapabilityBoundingSet=CAP_NET_ADMIN",
    "NoNewPrivileges=yes",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "RuntimeDirectory=wireguard",
    "RuntimeDirectoryMode=0700",
    "RuntimeDirectoryPreserve=yes",
    "DevicePolicy=closed",
    "DeviceAllow=/dev/net/tun rw",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX",
    "SystemCallFilter=@system-service",
    "MemoryDenyWriteExecute=yes",
)


def implementation(ip: IPRoute) -> tuple[str, str]:
    """Who does WireGuard here, KERNEL, USERSPACE or '' for nobody; and why it is not the kernel, or nobody."""
    if shutil.which("wg") is None:
        return "", "wg is not installed"
    try:
        ip.link("add", ifname=_TRIAL, kind=WIREGUARD)
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            why = f"the kernel has none ({errno.errorcode.get(error.code, error.code)})"
            return _userspace(why)
    for index in ip.link_lookup(ifname=_TRIAL):
        ip.link("del", index=index)
    return KERNEL, ""


def make(ip: IPRoute, leg: LegEnd) -> None:
    """The device of a leg's end, down, with a key and a port. Raises RefusedError, NetlinkError, OSError."""
    who, why = implementation(ip)
    if who == KERNEL:
        ip.link("add", ifname=leg.device, kind=WIREGUARD)
    elif who == USERSPACE:
        _start(leg.device)
        # Segments that the kernel gives it as one, it sends as one, too (UDP_SEGMENT; udp(7)), which the kernel refuses
        # where any is larger than the way takes (EMSGSIZE): whole packets of the guests' are. It drops them all, again
        # and again. One by one they are sent in fragments.
        ip.link("set", index=ip.link_lookup(ifname=leg.device)[0], gso_max_segs=1)
    else:
        raise RefusedError("no-wireguard", f"this host has no WireGuard: {why}")
    with nft.alone():  # two that choose at once would choose the same port
        port = _free_port(leg)
        _wg("set", leg.device, "listen-port", str(port), "private-key", "/dev/stdin", stdin=_wg("genkey"))


def wait_for_end(device: str) -> None:
    """Of the process of a device that was removed: what it still does is to remove its socket, which would be the next
    one's."""
    socket_file, deadline = _SOCKETS / f"{device}.sock", time.monotonic() + LONGEST_END_S
    while socket_file.exists() and time.monotonic() < deadline:
        time.sleep(0.005)


def offer(leg: LegEnd) -> Offer:
    """What the other end must know of this one."""
    return Offer(_wg("show", leg.device, "public-key").strip(), int(_wg("show", leg.device, "listen-port")))


def join(leg: LegEnd, far: Offer) -> None:
    """Have the far end as the only peer: its key, at its host. Idempotent; a far end that was made anew takes the place
    of the one before.

    The away end, which is joined last, greets the other at once, and keeps in touch. Where both greet, and their
    messages cross, each answers and drops the other's answer, having given up its own: nothing passes until they try
    again, 5 s later (WireGuard's REKEY_TIMEOUT)."""
    host = f"[{leg.peer}]" if ":" in leg.peer else leg.peer
    others = [key for key in _wg("show", leg.device, "peers").split() if key != far.public_key]
    words = [word for key in others for word in ("peer", key, "remove")]
    keepalive = str(KEEPALIVE_S) if leg.side == AWAY else "off"
    words += ["peer", far.public_key, "endpoint", f"{host}:{far.port}", "persistent-keepalive", keepalive]
    # Whose packets pass is for leg_rules to say: what is turned back has any source.
    _wg("set", leg.device, *words, "allowed-ips", "::/0" if leg.prefix_length == 128 else "0.0.0.0/0")


def ports() -> dict[str, int]:
    """Where each WireGuard device of this host listens, also those of others."""
    if shutil.which("wg") is None:
        return {}
    return {device: int(port) for device, port in (x.split() for x in _wg("show", "all", "listen-port").splitlines())}


def _userspace(why: str) -> tuple[str, str]:
    if shutil.which(_PROGRAM) is None:
        return "", f"{why}, and {_PROGRAM} is not installed"
    if not Path("/dev/net/tun").exists():
        return "", f"{why}, and {_PROGRAM} needs /dev/net/tun, which is not there"
    return USERSPACE, why


def _start(device: str) -> None:
    """It is ready when this returns: the process that is started makes the device before it leaves a child behind."""
    command = [_PROGRAM, device]
    if _BOOTED.is_dir():
        # A name of its own each time: the last one of this leg's may still be on systemd's list.
        unit = f"--unit={device}-{secrets.token_hex(3)}"
        words = ["systemd-run", "--quiet", "--collect", unit, f"--description=vmacro: leg {device}"]
        options = ["--service-type=forking", *(f"--property={p}" for p in _CONFINED), *units.niceness(_NICE)]
        command = [*words, *options, "--", *command]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", timeout=10, **quiet)  # type: ignore[call-overload]
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, f"{_PROGRAM} {device}: has not started within 10 s") from None
    if done.returncode:
        raise OSError(errno.EIO, f"{_PROGRAM} {device}: {' '.join(done.stderr.split())[-300:]}")


def _free_port(leg: LegEnd) -> int:
    """The leg's own number among the ports, or the next that nobody has."""
    taken = set(ports().values())
    for step in range(PORTS):
        port = FIRST_PORT + (leg.number + step) % PORTS
        if port not in taken and _can_bind(port):
            return port
    raise RefusedError("no-port", f"all UDP ports from {FIRST_PORT} to {FIRST_PORT + PORTS - 1} are in use")


def _can_bind(port: int) -> bool:
    for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((anywhere, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
    return True


def _wg(*words: str, stdin: str = "") -> str:
    try:
        done = subprocess.run(["wg", *words], input=stdin, capture_output=True, text=True, errors="replace", timeout=10)
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, f"wg {words[0]}: no answer within 10 s") from None
    if done.returncode:
        raise OSError(errno.EIO, f"wg {words[0]}: {done.stderr.strip()}")
    return done.stdout
