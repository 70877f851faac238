"""What may pass the legs of this host: each leg its own address, nothing else, both ways.

    home   out of the tunnel: from the address, or for it (turned back by the other end)      into it: for the address
    away   out of the tunnel: for the address      into it: from the address, or for it (turned back by this end)

WireGuard's allowed-ips cannot say this, since they look at the source of what comes alone, and what is turned back has
a client's. The host itself answers pings of the leg's guest, and hears its answers. A tunnel's port answers the leg's
other host alone. All of it is one table, made anew from what is written on the devices whenever that changes, so that
nothing has to be remembered; a device that it does not know passes nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from vmacro.host import joins, nft
from vmacro.host.legs import DEVICE_PREFIX, LegEnd
from vmacro.wire.host_verbs import AWAY, HOME

TABLE = "vmacro-legs"
_LEGS = f'"{DEVICE_PREFIX}*"'


def ruleset(ends: Iterable[LegEnd], ports: Mapping[str, int], all_ports: str) -> str:
    """The script for nft. `ports`: on which UDP port each end's device listens; `all_ports`: those that tunnels may
    have at all, as nft writes them. Without any end no table is left."""
    found = list(ends)
    body = "".join(_sets(found, ports, version) for version in (4, 6)) + _chains(all_ports) if found else ""
    return nft.replaced("inet", TABLE, body)


def _sets(ends: list[LegEnd], ports: Mapping[str, int], version: int) -> str:
    inside = [e for e in ends if ipaddress.ip_address(e.address).version == version]
    outside = [e for e in ends if ipaddress.ip_address(e.peer).version == version and e.device in ports]
    pairs = f"ifname . ipv{version}_addr"
    return (
        nft.a_set(f"legs{version}", pairs, {_pair(e) for e in inside})
        + nft.a_set(f"homes{version}", pairs, {_pair(e) for e in inside if e.side == HOME})
        + nft.a_set(f"aways{version}", pairs, {_pair(e) for e in inside if e.side == AWAY})
        + nft.a_set(
            f"peers{version}", f"inet_service . ipv{version}_addr", {f"{ports[e.device]} . {e.peer}" for e in outside}
        )
    )


def _pair(end: LegEnd) -> str:
    return f'"{end.device}" . {end.address}'


def _chains(all_ports: str) -> str:
    return f"""\
  chain out_of_tunnel {{
    iifname . ip daddr @legs4 return
    iifname . ip6 daddr @legs6 return
    iifname . ip saddr @homes4 return
    iifname . ip6 saddr @homes6 return
    drop
  }}
  chain into_tunnel {{
    {joins.rule("homes4", "ip daddr")}
    {joins.rule("homes6", "ip6 daddr")}
    oifname . ip daddr @legs4 return
    oifname . ip6 daddr @legs6 return
    oifname . ip saddr @aways4 return
    oifname . ip6 saddr @aways6 return
    drop
  }}
  chain forward {{
    type filter hook forward priority filter - 10; policy accept;
    iifname {_LEGS} jump out_of_tunnel
    oifname {_LEGS} jump into_tunnel
  }}
  chain input {{
    type filter hook input priority filter - 10; policy accept;
    iifname . ip saddr @homes4 icmp type {{ echo-request, echo-reply }} accept
    iifname . ip6 saddr @homes6 icmpv6 type {{ echo-request, echo-reply }} accept
    iifname {_LEGS} drop
    udp dport . ip saddr @peers4 accept
    udp dport . ip6 saddr @peers6 accept
    udp dport {all_ports} drop
  }}
  chain output {{
    type filter hook output priority filter - 10; policy accept;
    oifname . ip daddr @homes4 accept
    oifname . ip6 daddr @homes6 accept
    oifname {_LEGS} drop
  }}
"""
