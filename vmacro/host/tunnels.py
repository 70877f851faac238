"""A tunnel's device: WireGuard where the kernel and the tools have it, else VXLAN.

WireGuard authenticates and encrypts. VXLAN does neither: it belongs inside a path that does, and
`check` says so each time. Nothing is cut to fit: a tunnel takes whole packets of the guests' bridge,
and the path outside fragments them where it must.
"""

from __future__ import annotations

import errno
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vmacro.host.legs import VXLAN, WIREGUARD, LegEnd

VXLAN_PORT = 14789
WIREGUARD_FIRST_PORT, WIREGUARD_PORTS = 51820, 100
NEXT_HOPS = {32: "169.254.118.1", 128: "fe80::76"}  # whoever is at the other end
_TRIAL = "vmac-trial"


@dataclass(frozen=True)
class Offer:
    """What the other end must know; empty for VXLAN. The private key never leaves the host."""

    public_key: str = ""
    port: int = 0


def kinds(ip: IPRoute) -> list[str]:
    """What this host can do, best first; by trying, since modules may load on demand."""
    found = [WIREGUARD] if shutil.which("wg") and _can_make(ip, WIREGUARD) else []
    return [*found, *([VXLAN] if _can_make(ip, VXLAN, vxlan_id=1, vxlan_port=VXLAN_PORT) else [])]


def make(ip: IPRoute, leg: LegEnd) -> Offer:
    """The device, up. Idempotent. Raises NetlinkError, OSError."""
    index = _existing(ip, leg)
    if index is None:
        if leg.kind == VXLAN:
            _make_vxlan(ip, leg)
        else:
            ip.link("add", ifname=leg.device, kind=WIREGUARD)
        index = ip.link_lookup(ifname=leg.device)[0]
        ip.link("set", index=index, ifalias=leg.alias(), mtu=mtu_of(ip, leg.bridge))
    offer = _wireguard_key(leg) if leg.kind == WIREGUARD else Offer()
    ip.link("set", index=index, state="up")
    # The way back of what comes out of the tunnel is another interface, by design (loose mode).
    sysctl(f"net/ipv4/conf/{leg.device}/rp_filter", "2")
    if leg.kind == VXLAN:
        for address in NEXT_HOPS.values():
            ip.neigh(
                "replace", dst=address, lladdr=leg.hardware_address(leg.far_side), ifindex=index, state="permanent"
            )
    return offer


def join(leg: LegEnd, far: Offer) -> None:
    """Tell WireGuard's end of its peer. Untested on the project's own machines, whose kernel has none."""
    if leg.kind == WIREGUARD:
        host = f"[{leg.peer}]" if ":" in leg.peer else leg.peer
        peer = ["peer", far.public_key, "endpoint", f"{host}:{far.port}", "allowed-ips", "0.0.0.0/0,::/0"]
        _wg("set", leg.device, *peer, "persistent-keepalive", "20")


def remove(ip: IPRoute, leg: LegEnd) -> None:
    for index in ip.link_lookup(ifname=leg.device):
        ip.link("del", index=index)


def mtu_of(ip: IPRoute, device: str) -> int:
    """Raises LookupError for a device that is not there."""
    indices = ip.link_lookup(ifname=device)
    if not indices:
        raise LookupError(f"no interface {device!r}")
    return int(ip.get_links(indices[0])[0].get("IFLA_MTU"))


def _make_vxlan(ip: IPRoute, leg: LegEnd) -> None:
    ip.link(
        "add",
        ifname=leg.device,
        kind=VXLAN,
        address=leg.hardware_address(leg.side),
        vxlan_id=leg.number,
        vxlan_group=leg.peer,
        vxlan_port=VXLAN_PORT,
        vxlan_learning=False,
    )


def _wireguard_key(leg: LegEnd) -> Offer:
    """A key of the leg's own, made here."""
    port = WIREGUARD_FIRST_PORT + leg.number % WIREGUARD_PORTS
    if _wg("show", leg.device, "public-key").strip() in ("", "(none)"):
        private = _wg("genkey")
        _wg("set", leg.device, "listen-port", str(port), "private-key", "/dev/stdin", stdin=private)
    return Offer(_wg("show", leg.device, "public-key").strip(), port)


def _existing(ip: IPRoute, leg: LegEnd) -> int | None:
    indices = ip.link_lookup(ifname=leg.device)
    if not indices:
        return None
    alias = ip.get_links(indices[0])[0].get("IFLA_IFALIAS")
    if alias != leg.alias():
        raise OSError(errno.EEXIST, f"{leg.device} belongs to another: {alias!r}")
    return int(indices[0])


def _can_make(ip: IPRoute, kind: str, **settings: object) -> bool:
    try:
        ip.link("add", ifname=_TRIAL, kind=kind, **settings)
    except NetlinkError as error:
        return bool(error.code == errno.EEXIST)
    for index in ip.link_lookup(ifname=_TRIAL):
        ip.link("del", index=index)
    return True


def _wg(*words: str, stdin: str = "") -> str:
    done = subprocess.run(["wg", *words], input=stdin, capture_output=True, text=True, timeout=10)
    if done.returncode:
        raise OSError(errno.EIO, f"wg {words[0]}: {done.stderr.strip()}")
    return done.stdout


def sysctl(key: str, value: str) -> None:
    Path("/proc/sys", key).write_text(value)
