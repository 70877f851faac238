"""From which address a guest's answers to datagrams leave: from the one that was asked.

A server that listens on the wildcard has its kernel choose the source of each UDP answer, which is the guest's newest
address. So of each older one that its guest keeps (grants.py) this host notes who has asked what, and puts it into
answers as their source before anything else looks at them: conntrack knows them as what they are, and the routes lead
them back by the address's leg. Nothing is done to what comes for the guest, which still has the address and servers
bound to it. A guest can send nothing so that it may not send anyway: it is its own address, from its own card. TCP
answers from the address that was asked by itself, and so do ICMP's echoes.

What was asked is forgotten after FORGOTTEN_S without another datagram; of one client's socket that asks a guest at two
addresses, the last one counts. The table is changed in place, so that what is noted outlives the moves of others. Pure,
but for say().
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from pyroute2.iproute.linux import IPRoute

from vmacro.host import grants, nft

TABLE = "vmacro-answers"
SAID = nft.RUN / "answers.nft"  # the rules that are in force
FORGOTTEN_S = 180  # a flow is carried as long as conntrack knows it: 120 s (nf_conntrack_udp_timeout_stream)
MOST_ASKED = 1 << 16  # of one address; from a socket beyond that what is answered is not changed
_MOST_SOURCES = 16


@dataclass(frozen=True, order=True)
class Kept:
    """An address that came to a guest's card with a leg: `bridge` is where the card is."""

    bridge: str
    mac: str
    address: str

    @property
    def version(self) -> int:
        """4 or 6."""
        return ipaddress.ip_address(self.address).version

    @property
    def asked(self) -> str:
        """The set of who has asked it what: (client, its port, the guest's port)."""
        return f"asked_{ipaddress.ip_address(self.address).packed.hex()}"

    @property
    def sources(self) -> str:
        """The set of addresses from which the card has answered instead."""
        return f"sources{self.version}_{self.mac.replace(':', '')}"


def kept(ip: IPRoute) -> list[Kept]:
    """Those of this host, in order. Raises NetlinkError."""
    found = list(grants.everywhere(ip))
    names = {link["index"]: str(link.get("IFLA_IFNAME")) for link in (ip.get_links() if found else ())}
    return sorted(Kept(names[index], mac, address) for index, address, mac in found if index in names)


def say(ip: IPRoute) -> None:
    """Have the kernel do it, unless it does. Raises OSError, RefusedError, NetlinkError."""
    if not nft.available():
        return
    with nft.alone():
        found = kept(ip)
        standing = nft.sets("inet", TABLE)
        rules = ruleset(found)
        if (standing is not None) == bool(found) and (not found or rules == _said()):
            return
        nft.apply(ruleset(found, standing or ()))
        nft.RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
        SAID.write_text(rules)


def ruleset(found: Iterable[Kept], standing: Iterable[str] = ()) -> str:
    """The script for nft. `standing`: the sets that there are already; those that are needed stay, with what is noted
    in them. Without any address no table is left."""
    guests = [list(group) for _, group in groupby(sorted(found, key=_in_order), _guest)]
    if not guests:
        return nft.replaced("inet", TABLE, "")
    sets = {}
    for guest in guests:
        kind = f"ipv{guest[0].version}_addr"
        sets[guest[0].sources] = _set(guest[0].sources, kind, _MOST_SOURCES)
        sets |= {k.asked: _set(k.asked, f"{kind} . inet_service . inet_service", MOST_ASKED) for k in guest}
    gone = "".join(f"delete set inet {TABLE} {name}\n" for name in sorted(set(standing) - sets.keys()))
    return f"""\
add table inet {TABLE}
flush table inet {TABLE}
{gone}table inet {TABLE} {{
{"".join(sets.values())}  chain asked {{
    type filter hook postrouting priority srcnat + 10; policy accept;
{"".join(rule for guest in guests for rule in _asked(guest))}    ct state new continue
  }}
  chain answered {{
    type filter hook prerouting priority raw - 10; policy accept;
{"".join(_answered(k) for guest in guests for k in guest)}  }}
}}
"""


def _guest(each: Kept) -> tuple[str, str, int]:
    return each.bridge, each.mac, each.version


def _in_order(each: Kept) -> tuple[tuple[str, str, int], str]:
    """As text an IPv6 address stands between two of IPv4."""
    return _guest(each), each.address


def _set(name: str, kind: str, most: int) -> str:
    head = f"  set {name} {{\n    type {kind}\n    size {most}\n"
    return f"{head}    flags dynamic,timeout\n    timeout {FORGOTTEN_S}s\n  }}\n"


def _asked(guest: list[Kept]) -> Iterator[str]:
    """What goes to a guest by the bridge, once whoever wants to has translated its source. `ct`, in the chain, has the
    kernel track it, and put fragments together: only the first one has ports."""
    for each in guest:
        yield f"    {_to(each)} ip{_v6(each)} daddr @{each.sources} {_noted(each, 'delete')}\n"
    for each in guest:
        others = [other for other in guest if other != each]
        for change, of in (("update", each), *(("delete", other) for other in others)):
            yield f"    {_to(each)} ip{_v6(each)} daddr {each.address} {_noted(of, change)}\n"


def _noted(each: Kept, change: str) -> str:
    return f"meta l4proto udp {change} @{each.asked} {{ ip{_v6(each)} saddr . udp sport . udp dport }}"


def _answered(each: Kept) -> str:
    """Before connection tracking, which knows the answer by the address that was asked. A server that has a socket for
    each address needs no help."""
    ip = f"ip{_v6(each)}"
    client = f"{ip} daddr . udp dport . udp sport"
    one = f'    iifname "{each.bridge}" ether saddr {each.mac} {client} @{each.asked}'
    noted = f"update @{each.asked} {{ {client} }} update @{each.sources} {{ {ip} saddr }}"
    return (
        f"{one} {ip} saddr {each.address} delete @{each.asked} {{ {client} }} accept\n"
        f"{one} {noted} {ip} saddr set {each.address} accept\n"
    )


def _to(each: Kept) -> str:
    return f'oifname "{each.bridge}"'


def _v6(each: Kept) -> str:
    return "6" if each.version == 6 else ""


def _said() -> str:
    try:
        return SAID.read_text()
    except OSError:
        return ""
