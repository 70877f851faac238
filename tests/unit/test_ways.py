"""The route by which connections to another host begin wide, as the kernel is asked for it. No root needed."""

from __future__ import annotations

import errno
from socket import AF_INET
from typing import Any, cast

import pytest
from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vmacro.host import ways
from vmacro.host.errors import RefusedError

LINK = 253  # RT_SCOPE_LINK
PEER, PEER6 = "10.9.0.10", "fd09::10"


class Kernel:
    """Its routes by target; all else goes by `default`. `type` is of what the kernel finds for an address."""

    def __init__(self, kind: int = 1, gateway: str | None = "10.9.0.1") -> None:
        self.kind, self.gateway = kind, gateway
        self.routes: dict[str, dict[str, Any]] = {}
        self.besides: dict[str, Any] = {}  # that its way there has

    def route(self, verb: str, dst: str, **way: Any) -> list[dict[str, Any]]:
        if verb == "get":
            way = {"type": self.kind, "RTA_OIF": 2, "RTA_GATEWAY": self.gateway, "RTA_PREFSRC": "10.9.0.6"}
            return [{**way, **self.besides}]
        if verb == "add":
            if dst in self.routes:
                raise NetlinkError(errno.EEXIST, "there is one")
            self.routes[dst] = way
        else:
            known = self.routes.get(dst)
            if known is None or (known["proto"], self.scope(known)) != (way["proto"], way["scope"]):
                raise NetlinkError(errno.ESRCH, "no such route")
            del self.routes[dst]
        return []

    def get_routes(self, family: int, table: int) -> list[dict[str, Any]]:
        wanted = {d: w for d, w in self.routes.items() if (":" not in d) == (family == AF_INET)}
        split = [(*dst.partition("/")[::2], way) for dst, way in wanted.items() if way["table"] == table]
        return [
            {"proto": way["proto"], "RTA_DST": dst, "dst_len": int(size), "scope": self.scope(way)}
            for dst, size, way in split
        ]

    def scope(self, way: dict[str, Any]) -> int:
        return LINK if way.get("scope") == "link" else 0


def widen(kernel: Kernel, peer: str = PEER) -> None:
    ways.widen(cast(IPRoute, kernel), peer)


def test_it_leads_where_the_address_is_reached_anyway_and_is_taken_back() -> None:
    kernel = Kernel()
    for peer in (PEER, PEER, PEER6):
        widen(kernel, peer)
    assert [*kernel.routes] == [f"{PEER}/32", f"{PEER6}/128"]
    way = kernel.routes[f"{PEER}/32"]
    assert (way["oif"], way["gateway"], way["prefsrc"], way["proto"]) == (2, "10.9.0.1", "10.9.0.6", ways.PROTOCOL)
    assert way["metrics"] == {"initcwnd": ways.SEGMENTS} and "scope" not in way
    for _ in range(2):
        ways.narrow(cast(IPRoute, kernel))
        assert kernel.routes == {}


def test_a_host_on_the_same_link_has_no_gateway() -> None:
    kernel = Kernel(gateway=None)
    widen(kernel)
    way = kernel.routes[f"{PEER}/32"]
    assert way["scope"] == "link" and "gateway" not in way
    ways.narrow(cast(IPRoute, kernel))
    assert kernel.routes == {}


def test_an_operators_own_route_stays_as_it_is() -> None:
    kernel = Kernel()
    mine = {"oif": 9, "table": 254, "proto": 4}
    kernel.routes[f"{PEER}/32"] = mine
    widen(kernel)
    ways.narrow(cast(IPRoute, kernel))
    assert kernel.routes == {f"{PEER}/32": mine}


@pytest.mark.parametrize("kind", [2, 3, 6, 7], ids=["local", "broadcast", "blackhole", "unreachable"])
def test_there_is_no_way_to_what_is_no_other_host(kind: int) -> None:
    kernel = Kernel(kind)
    with pytest.raises(RefusedError, match=PEER):
        widen(kernel)
    assert kernel.routes == {}


def test_what_the_way_takes_is_as_it_was() -> None:
    """As Linux 6.1 tells of `ip route add … mtu lock 1350 advmss 1310`; a path that takes no more swallows the rest."""
    kernel = Kernel()
    kernel.besides = {"RTA_METRICS": {"attrs": [("RTAX_LOCK", 4), ("RTAX_MTU", 1350), ("RTAX_ADVMSS", 1310)]}}
    widen(kernel)
    wanted = {"lock": 4, "mtu": 1350, "advmss": 1310, "initcwnd": ways.SEGMENTS}
    assert kernel.routes[f"{PEER}/32"]["metrics"] == wanted


@pytest.mark.parametrize(
    "besides",
    [{"RTA_GATEWAY": None, "RTA_VIA": {"family": 10, "addr": "fe80::1"}}, {"RTA_ENCAP": {"attrs": []}}],
    ids=["gateway of IPv6", "encapsulated"],
)
def test_a_way_that_cannot_be_copied_stays(besides: dict[str, Any]) -> None:
    """Without its gateway it would lead nowhere: this host would not reach the other one at all."""
    kernel = Kernel()
    kernel.besides = besides
    with pytest.raises(RefusedError, match="stays as it is"):
        widen(kernel)
    assert kernel.routes == {}


def test_nobody_fills_a_table_by_asking() -> None:
    kernel = Kernel()
    with pytest.raises(RefusedError, match="64 other hosts"):
        for number in range(ways.MOST + 1):
            widen(kernel, f"192.0.2.{number}")
    assert len(kernel.routes) == ways.MOST
