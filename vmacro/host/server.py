"""Fixed verbs, one JSON line each, on standard input and output; libvirt's events in the same loop.

One thread does everything, so that a turn at the guest's pause waits for nobody. It ends with its
input; what it made stays until it is told to remove it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import libvirt
from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from guest_agent import protocol
from vmacro import __version__
from vmacro.host import disk_verbs, fence, legs, names, neighbours, routing, tunnels
from vmacro.host.disks import DiskError
from vmacro.host.legs import INTERFACE, LegEnd, LegError
from vmacro.host.rescue import Overheard
from vmacro.host.tunnels import Offer

VERBS = frozenset({"facts", "open", "join", "arm", "turned", "turn", "point", "leaving", "close", *disk_verbs.VERBS})
_EVENTS = {
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: routing.TUNNEL,
    libvirt.VIR_DOMAIN_EVENT_RESUMED: routing.GUEST,
}
_TAPS = "./devices/interface/target"
Arguments = dict[str, protocol.Scalar]


class RefusedError(Exception):
    """What the other end is told; `code` is stable."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Server:
    """`hypervisor_uri` is this host's own libvirt."""

    def __init__(self, ip: IPRoute, hypervisor_uri: str) -> None:
        self._ip = ip
        self._uri = hypervisor_uri
        self._libvirt: Any = None
        self._armed: dict[str, list[LegEnd]] = {}
        self._overheard: dict[str, tuple[int, Overheard]] = {}  # with the number of its watch
        self._leaving: dict[str, list[str]] = {}  # taps, as they were when it was armed
        self._fences: set[str] = set()
        self._paused: set[str] = set()
        self._turned: list[dict[str, Any]] = []
        self._verbs: dict[str, Callable[[Arguments], dict[str, Any]]] = {
            "facts": self._facts,
            "open": self._open,
            "join": self._join,
            "arm": self._arm,
            "turned": self._tell_turned,
            "turn": self._turn_verb,
            "point": self._point,
            "leaving": self._what_became,
            "close": self._close,
            **disk_verbs.VERBS,
        }
        assert frozenset(self._verbs) == VERBS

    def answer(self, line: bytes) -> protocol.Reply:
        """Never raises for what was received, nor for what the kernel says to it."""
        request_id = "unknown"
        try:
            request = protocol.decode_request(line, VERBS)
            request_id = request.id
            return protocol.Reply(request.id, self._verbs[request.verb](request.args))
        except (protocol.ProtocolError, RefusedError) as error:
            return protocol.Reply(request_id, {}, error.code, str(error))
        except DiskError as error:
            return protocol.Reply(request_id, {}, "disk", str(error))
        except (LegError, LookupError) as error:
            return protocol.Reply(request_id, {}, "bad-args", str(error))
        except (NetlinkError, OSError) as error:
            return protocol.Reply(request_id, {}, "kernel", f"{type(error).__name__}: {error}")
        except libvirt.libvirtError as error:
            return protocol.Reply(request_id, {}, "libvirt", str(error))

    def _facts(self, args: Arguments) -> dict[str, Any]:
        """Of a bridge, and of the way to a peer; `probe` asks the bridge who uses an address."""
        bridge, peer, probe = _word(args, "bridge"), _address(args, "peer"), _address(args, "probe")
        if not INTERFACE.match(bridge):
            raise RefusedError("bad-args", f"bridge {bridge!r}: not an interface's name")
        found = routing.ends(self._ip)
        return {
            "version": __version__,
            "tunnels": tunnels.kinds(self._ip),
            "bridge_mac": self._mac_of(bridge),
            "bridge_mtu": tunnels.mtu_of(self._ip, bridge),
            "path_mtu": self._mtu_towards(peer) if peer else 0,
            "knows_itself": names.knows_itself(),
            "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1",
            "used_by": neighbours.user_of(probe, bridge) if probe else "",
            "legs": [asdict(e) | {"points_to": routing.pointed(self._ip, e)} for e in found],
        }

    def _open(self, args: Arguments) -> dict[str, Any]:
        return asdict(routing.make(self._ip, legs.from_words(args)))

    def _join(self, args: Arguments) -> dict[str, Any]:
        leg = self._leg(args)
        port = args.get("port", 0)
        if not isinstance(port, int) or not 0 <= port <= 65535:
            raise RefusedError("bad-args", f"port {port!r}")
        tunnels.join(leg, Offer(_word(args, "public_key"), port))
        return {}

    def _point(self, args: Arguments) -> dict[str, Any]:
        routing.point(self._ip, self._leg(args), _direction(args))
        return {}

    def _turn_verb(self, args: Arguments) -> dict[str, Any]:
        """All ends of a domain's legs here, as its event would have done; to the guest, its tap too."""
        domain, to = _word(args, "domain"), _direction(args)
        self._turn(domain, to)
        if to == routing.GUEST:
            for tap in self._taps(domain):
                fence.take_down(self._ip, tap)
            self._fences.discard(domain)
        return {}

    def _what_became(self, args: Arguments) -> dict[str, Any]:
        """Of a domain that was to leave: fenced since its pause; stayed, as its events say; or nobody listened."""
        domain = _word(args, "domain")
        taps = self._taps(domain)
        if taps and all(fence.stands(self._ip, tap) for tap in taps):
            return {"leaving": "fenced"}
        heard = domain in self._armed and domain not in self._paused and self._libvirt.isAlive()
        return {"leaving": "stayed" if heard else "unknown"}

    def _turn(self, domain: str, to: str) -> None:
        for end in routing.ends(self._ip):
            if end.domain == domain:
                routing.point(self._ip, end, to)

    def _close(self, args: Arguments) -> dict[str, Any]:
        """All legs of a move here, or its one of an address. What is gone already is fine."""
        move, address = _word(args, "move"), _word(args, "address")
        for end in routing.ends(self._ip):
            if end.move == move and address in ("", end.address):
                routing.remove(self._ip, end)
        return {}

    def _arm(self, args: Arguments) -> dict[str, Any]:
        """From now on this host's own libvirt events of a domain turn its legs, as they are now.

        Nothing is looked up when the event comes: what arrives between the pause and the turn must be rescued.
        """
        self._listen()
        domain = _word(args, "domain")
        self._paused.discard(domain)
        self._leaving[domain] = self._taps(domain)
        self._overhear(domain)
        self._armed[domain] = [e for e in routing.ends(self._ip) if e.domain == domain]
        return {"legs": len(self._armed[domain])}

    def _listen(self) -> None:
        """To this host's libvirt, again where it has ended since."""
        if self._libvirt is None or not self._libvirt.isAlive():
            self._armed.clear()  # what happened meanwhile went unheard
            self._libvirt = libvirt.open(self._uri)
            self._libvirt.setKeepAlive(5, 3)
            self._libvirt.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_event, None)

    def _taps(self, domain: str) -> list[str]:
        """None where the domain does not exist here. Raises libvirtError where libvirt cannot be asked."""
        self._listen()
        try:
            handle = self._libvirt.lookupByName(domain)
            return [t.get("dev", "") for t in ElementTree.fromstring(handle.XMLDesc()).iterfind(_TAPS)]
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return []
            raise

    def _overhear(self, domain: str) -> None:
        """Where the domain runs here, and so may leave: from now on, what goes to its tap."""
        taps = self._leaving[domain]
        if domain not in self._overheard and taps:
            overheard = Overheard(taps[0])
            watch = libvirt.virEventAddHandle(
                overheard.fileno(), libvirt.VIR_EVENT_HANDLE_READABLE, lambda *_: overheard.listen(), None
            )
            self._overheard[domain] = (watch, overheard)

    def _rescue(self, domain: str) -> int:
        """Send on what came too late, and overhear no more: the tap is about to go. Returns how many packets."""
        if domain not in self._overheard:
            return 0
        watch, overheard = self._overheard.pop(domain)
        libvirt.virEventRemoveHandle(watch)
        try:
            return overheard.send_on(self._armed[domain])
        finally:
            overheard.close()

    def _tell_turned(self, _args: Arguments) -> dict[str, Any]:
        """What events did since the last question: wall clock in ns, and how long it took."""
        told, self._turned = self._turned, []
        return {"turned": told}

    def _on_event(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        """Of an armed domain. One that has left, and that libvirt resumes here, gets nothing back by itself."""
        name, to = domain.name(), _EVENTS.get(event)
        if name not in self._armed or to is None:
            return
        self._paused |= {name} if to == routing.TUNNEL else set()
        left = (event, detail) == (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED)
        if to == routing.GUEST and name in self._fences:
            text = "libvirt resumed the guest here; it stays fenced until both hosts were asked"
            self._turned.append({"to": to, "wall_ns": time.time_ns(), "took_us": 0, "rescued": 0, "trouble": text})
            return
        began = time.monotonic_ns()
        trouble, rescued, took_us, at_ns = "", 0, 0, 0
        try:
            for end in self._armed[name]:
                routing.point(self._ip, end, to)
            took_us, at_ns = (time.monotonic_ns() - began) // 1000, time.time_ns()
            if to == routing.TUNNEL:
                rescued = self._rescue(name)
            for tap in self._leaving[name] if left else ():
                fence.put_up(self._ip, tap)
                self._fences.add(name)
        except (NetlinkError, OSError, LookupError) as error:
            trouble = f"{type(error).__name__}: {error}"
        self._turned.append({"to": to, "wall_ns": at_ns, "took_us": took_us, "rescued": rescued, "trouble": trouble})

    def _leg(self, args: Arguments) -> LegEnd:
        move, address = _word(args, "move"), _word(args, "address")
        for end in routing.ends(self._ip):
            if (end.move, end.address) == (move, address):
                return end
        raise RefusedError("no-leg", f"move {move!r} has no leg for {address!r} on this host")

    def _mac_of(self, name: str) -> str:
        for index in self._ip.link_lookup(ifname=name):
            return str(self._ip.get_links(index)[0].get("IFLA_ADDRESS"))
        return ""

    def _mtu_towards(self, peer: str) -> int:
        (route,) = self._ip.route("get", dst=peer)
        index = route.get("RTA_OIF")
        return int(self._ip.get_links(index)[0].get("IFLA_MTU"))


def serve(ip: IPRoute, hypervisor_uri: str) -> None:
    """Until end of input."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()
    server, buffer, open_ = Server(ip, hypervisor_uri), bytearray(), [True]

    def readable(_watch: int, fd: int, _events: int, _opaque: Any) -> None:
        chunk = os.read(fd, 65536)
        buffer.extend(chunk)
        if not chunk or (len(buffer) > 2 * protocol.MAX_REQUEST_BYTES and b"\n" not in buffer):
            open_[0] = False
            return
        while b"\n" in buffer:
            line, _, rest = bytes(buffer).partition(b"\n")
            buffer[:] = rest
            if line.strip():
                _write(protocol.encode_reply(server.answer(line)))

    wanted = libvirt.VIR_EVENT_HANDLE_READABLE | libvirt.VIR_EVENT_HANDLE_HANGUP | libvirt.VIR_EVENT_HANDLE_ERROR
    libvirt.virEventAddHandle(0, wanted, readable, None)
    while open_[0]:
        libvirt.virEventRunDefaultImpl()


def _write(data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
        while data:
            data = data[os.write(1, data) :]


def _direction(args: Arguments) -> str:
    to = _word(args, "to")
    if to not in (routing.GUEST, routing.TUNNEL):
        raise RefusedError("bad-args", f"to {to!r}: guest or tunnel")
    return to


def _address(args: Arguments, key: str) -> str:
    value = _word(args, key)
    try:
        return str(ipaddress.ip_address(value)) if value else ""
    except ValueError as error:
        raise RefusedError("bad-args", f"{key}: {error}") from None


def _word(args: Arguments, key: str) -> str:
    value = args.get(key, "")
    if not isinstance(value, str) or len(value) > 200:
        raise RefusedError("bad-args", f"{key} must be a short string")
    return value
