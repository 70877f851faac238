"""Where a leg's packets go, as routes, rules and neighbours that the kernel is asked for. No root needed."""

from __future__ import annotations

import errno
import socket
from dataclasses import replace
from typing import Any

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from vmacro.host import routing, tunnels
from vmacro.host.errors import RefusedError
from vmacro.host.legs import LegEnd
from vmacro.host.routing import MAIN
from vmacro.wire.host_verbs import GUEST, TUNNEL

BRIDGE, DEVICE = 3, 7
HOME = LegEnd("home", "vxlan", "web-1", "web", "10.1.0.7", "52:54:00:00:00:01", "front0", "10.9.0.6")
AWAY = replace(HOME, side="away")


class Kernel:
    """Remembers what it was asked to do, and what of that stands: routes by table and target, proxies by address."""

    def __init__(self) -> None:
        self.routes: dict[tuple[int, str], dict[str, Any]] = {}
        self.proxies: set[str] = set()
        self.alias = ""

    def route(self, verb: str, dst: str, table: int, **way: Any) -> None:
        if verb == "replace":
            self.routes[table, dst] = way
        elif self.routes.get((table, dst), {}).get("oif") != way["oif"]:
            raise NetlinkError(errno.ESRCH, "no such route")
        else:
            del self.routes[table, dst]

    def neigh(self, verb: str, dst: str, **_settings: Any) -> None:
        if verb == "replace":
            self.proxies.add(dst)
        elif dst not in self.proxies:
            raise NetlinkError(errno.ENOENT, "no such neighbour")
        else:
            self.proxies.remove(dst)

    def get_routes(self, family: int, table: int) -> list[dict[str, Any]]:
        """As netlink has them: a target without its length, an interface by its index."""
        found = [(dst.partition("/")[0], way) for (t, dst), way in self.routes.items() if t == table]
        return [{"RTA_DST": dst, "RTA_OIF": way["oif"]} for dst, way in found]

    def get_links(self) -> list[dict[str, Any]]:
        links = {"eth0": "uplink", HOME.device: HOME.alias(), "vmac-other": "of another", "vmac-bare": None}
        links["spoofed"] = AWAY.alias()
        return [{"IFLA_IFNAME": name, "IFLA_IFALIAS": alias} for name, alias in links.items()]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    indices = {"front0": BRIDGE, HOME.device: DEVICE}

    def index(name: str) -> int:
        if name not in indices:
            raise OSError(errno.ENODEV, "no such device")
        return indices[name]

    monkeypatch.setattr(socket, "if_nametoindex", index)
    return Kernel()


def test_at_home_an_address_whose_guest_is_elsewhere_is_routed_and_answered_for(kernel: Kernel) -> None:
    for _ in range(2):
        routing.point(kernel, HOME, TUNNEL)
        assert kernel.routes[MAIN, "10.1.0.7/32"]["oif"] == DEVICE
        assert kernel.proxies == {"10.1.0.7"}, "neighbours on its own subnet ask for it"
        assert routing.pointed(kernel, HOME) == TUNNEL
    for _ in range(2):
        routing.point(kernel, HOME, GUEST)
        assert (MAIN, "10.1.0.7/32") not in kernel.routes and not kernel.proxies
        assert kernel.routes[HOME.inward, "10.1.0.7/32"]["oif"] == BRIDGE
        assert routing.pointed(kernel, HOME) == GUEST


def test_away_only_what_comes_out_of_the_tunnel_is_turned(kernel: Kernel) -> None:
    for to, device in ((GUEST, BRIDGE), (TUNNEL, DEVICE), (TUNNEL, DEVICE), (GUEST, BRIDGE)):
        routing.point(kernel, AWAY, to)
        assert kernel.routes[AWAY.inward, "10.1.0.7/32"]["oif"] == device
        assert routing.pointed(kernel, AWAY) == to
    assert not kernel.proxies and not any(table == MAIN for table, _ in kernel.routes)


def test_a_route_of_a_later_leg_is_not_an_earlier_ones_to_remove(kernel: Kernel) -> None:
    kernel.routes[MAIN, "10.1.0.7/32"] = {"oif": 9}
    assert routing.pointed(kernel, HOME) == GUEST
    routing.point(kernel, HOME, GUEST)
    assert kernel.routes[MAIN, "10.1.0.7/32"] == {"oif": 9}


def test_ends_are_known_by_device_and_alias_both(kernel: Kernel) -> None:
    assert tunnels.ends(kernel) == [HOME]


def test_a_bridge_that_has_gone_is_a_refusal(kernel: Kernel) -> None:
    with pytest.raises(RefusedError, match="no interface 'br7'") as caught:
        routing.point(kernel, replace(HOME, bridge="br7"), TUNNEL)
    assert caught.value.code == "no-interface"


def test_what_the_kernel_refuses_is_not_hidden(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_settings: object) -> None:
        raise NetlinkError(errno.EPERM, "not permitted")

    monkeypatch.setattr(kernel, "neigh", refuse)
    with pytest.raises(NetlinkError):
        routing.point(kernel, HOME, GUEST)
