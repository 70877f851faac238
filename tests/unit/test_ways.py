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
from vmacro.wire.names import way_token
from vmacro.wire.way_verbs import MOST_WIDE, WideWay

ONE, ANOTHER = way_token("web-1"), way_token("busy-2")
LINK = 253  # RT_SCOPE_LINK
PEER, PEER6 = "10.9.0.10", "fd09::10"


class Kernel:
    """Its routes by target and metric; all else goes by `default`. `type` is of what the kernel finds for an
    address."""

    def __init__(self, kind: int = 1, gateway: str | None = "10.9.0.1") -> None:
        self.kind, self.gateway = kind, gateway
        self.routes: dict[tuple[str, int], dict[str, Any]] = {}
        self.besides: dict[str, Any] = {}  # that its way there has

    def route(self, verb: str, dst: str, priority: int = 0, **way: Any) -> list[dict[str, Any]]:
        if verb == "get":
            way = {"type": self.kind, "RTA_OIF": 2, "RTA_GATEWAY": self.gateway, "RTA_PREFSRC": "10.9.0.6"}
            return [{**way, **self.besides}]
        if verb == "add":
            if (dst, priority) in self.routes:
                raise NetlinkError(errno.EEXIST, "there is one")
            self.routes[dst, priority] = way
        else:
            known = self.routes.get((dst, priority))
            if known is None or (known["proto"], self.scope(known)) != (way["proto"], way["scope"]):
                raise NetlinkError(errno.ESRCH, "no such route")
            del self.routes[dst, priority]
        return []

    def get_routes(self, family: int, table: int) -> list[dict[str, Any]]:
        wanted = {d: w for d, w in self.routes.items() if (":" not in d[0]) == (family == AF_INET)}
        split = [(*dst.partition("/")[::2], p, way) for (dst, p), way in wanted.items() if way["table"] == table]
        return [
            {
                "proto": w["proto"],
                "RTA_DST": dst,
                "dst_len": int(size),
                "scope": self.scope(w),
                "RTA_PRIORITY": p or None,
            }
            for dst, size, p, w in split
        ]

    def scope(self, way: dict[str, Any]) -> int:
        return LINK if way.get("scope") == "link" else 0


def widen(kernel: Kernel, peer: str = PEER, token: int = ONE) -> None:
    ways.widen(cast(IPRoute, kernel), peer, token)


def narrow(kernel: Kernel, token: int = ONE) -> None:
    ways.narrow(cast(IPRoute, kernel), token)


def test_it_leads_where_the_address_is_reached_anyway_and_is_taken_back() -> None:
    kernel = Kernel()
    for peer in (PEER, PEER, PEER6):
        widen(kernel, peer)
    assert [*kernel.routes] == [(f"{PEER}/32", ONE), (f"{PEER6}/128", ONE)]
    assert ways.wide(cast(IPRoute, kernel)) == (WideWay(PEER, ONE), WideWay(PEER6, ONE))
    way = kernel.routes[f"{PEER}/32", ONE]
    assert (way["oif"], way["gateway"], way["prefsrc"], way["proto"]) == (2, "10.9.0.1", "10.9.0.6", ways.PROTOCOL)
    assert way["metrics"] == {"initcwnd": ways.SEGMENTS} and "scope" not in way
    for _ in range(2):
        narrow(kernel)
        assert kernel.routes == {}


def test_one_move_that_ends_takes_no_other_moves_way() -> None:
    """It took all that any session had widened, as soon as any session ended."""
    kernel = Kernel()
    for token in (ONE, ANOTHER):
        widen(kernel, token=token)
    narrow(kernel, ANOTHER)
    assert [*kernel.routes] == [(f"{PEER}/32", ONE)]
    narrow(kernel, ANOTHER)
    narrow(kernel)
    assert kernel.routes == {}


def test_tokens_are_metrics_that_nobody_else_gives() -> None:
    assert ONE != ANOTHER and {token >> 31 for token in (ONE, ANOTHER)} == {1}


def test_a_host_on_the_same_link_has_no_gateway() -> None:
    kernel = Kernel(gateway=None)
    widen(kernel)
    way = kernel.routes[f"{PEER}/32", ONE]
    assert way["scope"] == "link" and "gateway" not in way
    narrow(kernel)
    assert kernel.routes == {}


def test_an_operators_own_route_stays_as_it_is() -> None:
    kernel = Kernel()
    mine = {"oif": 9, "table": 254, "proto": 4}
    kernel.routes[f"{PEER}/32", 0] = mine
    widen(kernel)
    assert min(kernel.routes) == (f"{PEER}/32", 0), "the lowest metric goes first"
    narrow(kernel)
    assert kernel.routes == {(f"{PEER}/32", 0): mine}


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
    assert kernel.routes[f"{PEER}/32", ONE]["metrics"] == wanted


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
    with pytest.raises(RefusedError, match="64 moves"):
        for number in range(MOST_WIDE + 1):
            widen(kernel, f"192.0.2.{number}")
    assert len(kernel.routes) == MOST_WIDE
