"""The host side's verbs, one JSON line each, on standard input and output; libvirt's events in the same loop.

One thread does everything, so that a turn at the guest's pause waits for nobody. It ends with its
input; what it made stays until it is told to remove it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import libvirt
from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vmacro import __version__
from vmacro.host import admission, disk_verbs, flows, guard, names, neighbours, nft, routing, tunnels, ways, xen
from vmacro.host import taken as in_use
from vmacro.host import wireguard as wireguards
from vmacro.host.agents import write
from vmacro.host.dispatch import BY_KERNEL, Dispatcher, Handler, Refusals, handler
from vmacro.host.domains import LibvirtDomains
from vmacro.host.emulator import Emulator
from vmacro.host.errors import RefusedError
from vmacro.host.legs import LegEnd
from vmacro.host.network import KernelNetwork
from vmacro.host.reach import Reaching
from vmacro.host.switchover import Switchover
from vmacro.host.xen_domains import XenDomains
from vmacro.wire import host_verbs, taken_verbs, way_verbs
from vmacro.wire.framing import LineReader
from vmacro.wire.host_verbs import (
    Close,
    Departure,
    Domain,
    Facts,
    FlowsOf,
    HeardOf,
    Join,
    LinkFacts,
    Offer,
    Open,
    Point,
    Reach,
    Tracked,
    TurnAll,
    Turned,
)
from vmacro.wire.messages import MAX_REQUEST_BYTES, Nothing
from vmacro.wire.names import way_token
from vmacro.wire.way_verbs import Narrow, Widen

REFUSALS: Refusals = {**BY_KERNEL, NetlinkError: "kernel", libvirt.libvirtError: "libvirt"}


class Server:
    """Carries out the verbs, by the kernel and this host's own libvirt; `reach` sends packets (reach.Reaching),
    `compressions` asks QEMU (emulator.Emulator)."""

    def __init__(
        self,
        ip: IPRoute,
        switchover: Switchover,
        reach: Callable[[Reach], HeardOf],
        compressions: Callable[[], tuple[str, ...]],
    ) -> None:
        self._ip, self._switchover, self._reach, self._compressions = ip, switchover, reach, compressions

    def handlers(self) -> tuple[Handler, ...]:
        """One for each verb that is not about disks."""
        return (
            handler(host_verbs.FACTS, self._facts),
            handler(host_verbs.OPEN, self._open),
            handler(host_verbs.JOIN, self._join),
            handler(host_verbs.ARM, self._arm),
            handler(host_verbs.TURNED, self._turned),
            handler(host_verbs.TURN, self._turn),
            handler(host_verbs.POINT, self._point),
            handler(host_verbs.LEAVING, self._leaving),
            handler(host_verbs.CLOSE, self._close),
            handler(host_verbs.FLOWS, self._flows),
            handler(host_verbs.REACH, self._reach),
            handler(way_verbs.WIDEN, self._widen),
            handler(way_verbs.NARROW, self._narrow),
        )

    def _facts(self, args: Facts) -> LinkFacts:
        wireguard, why = wireguards.implementation(self._ip)
        return LinkFacts(
            version=__version__,
            tunnels=tuple(tunnels.kinds(self._ip, wireguard)),
            bridge_mac=self._mac_of(args.bridge),
            bridge_mtu=tunnels.mtu_of(self._ip, args.bridge),
            path_mtu=self._mtu_towards(args.peer) if args.peer else 0,
            resolves_own_name=names.resolves_own_name(),
            forwarding=Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1",
            used_by=neighbours.user_of(args.probe, args.bridge) if args.probe else "",
            wireguard=wireguard,
            wireguard_why=why,
            filters=nft.available(),
            guarded=guard.holds(args.bridge),
            legs=tuple(self._legs()),
            mac_users=tuple(self._mac_users(args.bridge, args.mac))[: host_verbs.MOST_USERS] if args.mac else (),
            devices=tuple(name for name in args.devices if self._ip.link_lookup(ifname=name)),
            wide=ways.wide(self._ip),
            compressions=self._compressions(),
        )

    def _mac_users(self, bridge: str, mac: str) -> Iterator[host_verbs.MacUser]:
        """Domains, and what the bridge knows besides: of a domain's own tap that is no other."""
        domains = self._switchover.with_card(mac)
        yield from domains
        for device in neighbours.ports_of(self._ip, bridge, mac):
            if device not in {user.device for user in domains}:
                yield host_verbs.MacUser("", device, active=True)

    def _legs(self) -> Iterator[host_verbs.FoundLegEnd]:
        for end in tunnels.ends(self._ip):
            with contextlib.suppress(RefusedError):  # its device has gone since: so has the leg
                yield host_verbs.FoundLegEnd(**asdict(end), points_to=routing.pointed(self._ip, end))

    def _open(self, args: Open) -> Offer:
        end = LegEnd(**asdict(args.end))
        running = [user.domain for user in self._switchover.with_card(end.mac) if user.active]
        admission.check(end, args.subnet, admission.seen(self._ip, end, running))
        return routing.make(self._ip, end)

    def _join(self, args: Join) -> Nothing:
        tunnels.join(self._end(args.move, args.address), args.far)
        return Nothing()

    def _arm(self, args: Domain) -> Nothing:
        self._switchover.arm(args.domain)
        return Nothing()

    def _turned(self, args: Domain) -> Turned:
        return self._switchover.turned(args.domain)

    def _turn(self, args: TurnAll) -> Nothing:
        self._switchover.turn(args.domain, args.to)
        return Nothing()

    def _point(self, args: Point) -> Nothing:
        routing.point(self._ip, self._end(args.move, args.address), args.to)
        return Nothing()

    def _leaving(self, args: Domain) -> Departure:
        return Departure(self._switchover.departure(args.domain))

    def _close(self, args: Close) -> Nothing:
        """What is gone already is fine."""
        for end in tunnels.ends(self._ip):
            if end.move == args.move and args.address in ("", end.address):
                routing.remove(self._ip, end)
        routing.sweep(self._ip)
        return Nothing()

    def _flows(self, args: FlowsOf) -> Tracked:
        if not flows.tracked():
            return Tracked(False)
        here = [admission.interface(message) for message in self._ip.get_addr()]
        own = frozenset(str(a) for own in here for a in (own.ip, own.network.broadcast_address))
        return Tracked(True, tuple(flows.of(address, own) for address in args.addresses))

    def _widen(self, args: Widen) -> Nothing:
        ways.widen(self._ip, args.address, way_token(args.move))
        return Nothing()

    def _narrow(self, args: Narrow) -> Nothing:
        ways.narrow(self._ip, way_token(args.move))
        return Nothing()

    def _end(self, move: str, address: str) -> LegEnd:
        for end in tunnels.ends(self._ip):
            if (end.move, end.address) == (move, address):
                return end
        raise RefusedError("no-leg", f"move {move!r} has no leg for {address!r} on this host")

    def _mac_of(self, name: str) -> str:
        for index in self._ip.link_lookup(ifname=name):
            return str(self._ip.get_links(index)[0].get("IFLA_ADDRESS") or "")
        return ""

    def _mtu_towards(self, peer: str) -> int:
        """What the way takes, by all that this kernel knows: its device, and its route (RTAX_MTU)."""
        (route,) = self._ip.route("get", dst=peer)
        device = int(self._ip.get_links(route.get("RTA_OIF"))[0].get("IFLA_MTU"))
        metrics = route.get("RTA_METRICS")
        return min(device, metrics.get("RTAX_MTU") or device) if metrics is not None else device


def dispatcher(ip: IPRoute, hypervisor_uri: str) -> Dispatcher:
    """All verbs, by this kernel and that libvirt."""
    on_xen = hypervisor_uri.startswith("xen")
    domains = XenDomains(hypervisor_uri) if on_xen else LibvirtDomains(hypervisor_uri)
    compressions = tuple if on_xen else Emulator(hypervisor_uri).compressions
    switchover = Switchover(KernelNetwork(ip), domains)
    domains.happened = switchover.happened
    return Dispatcher(
        [
            *Server(ip, switchover, Reaching().ask, compressions).handlers(),
            handler(taken_verbs.TAKEN, in_use.taken),
            *disk_verbs.of_libvirt(hypervisor_uri).handlers(),
            *xen.handlers(),
        ],
        REFUSALS,
    )


def serve(ip: IPRoute, hypervisor_uri: str, first: bytes = b"") -> None:
    """Until end of input, of which `first` was read already."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()
    answers, reader, open_ = dispatcher(ip, hypervisor_uri), LineReader(MAX_REQUEST_BYTES), [True]

    def heard(chunk: bytes) -> None:
        for line in reader.feed(chunk):
            with contextlib.suppress(BrokenPipeError):
                write(answers.answer(line), 1)

    def readable(_watch: int, fd: int, _events: int, _opaque: Any) -> None:
        chunk = os.read(fd, 65536)
        open_[0] = bool(chunk)
        heard(chunk)

    wanted = libvirt.VIR_EVENT_HANDLE_READABLE | libvirt.VIR_EVENT_HANDLE_HANGUP | libvirt.VIR_EVENT_HANDLE_ERROR
    libvirt.virEventAddHandle(0, wanted, readable, None)
    heard(first)
    while open_[0]:
        libvirt.virEventRunDefaultImpl()
