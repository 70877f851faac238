"""A leg: one address of a guest, tunnelled between its home, the host whose site routes that address,
and the host where the guest is away. This is one end of it, as written on its device. Pure.

    client -> home -> tunnel -> away -> guest           and back the same way: nobody spoofs anything
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
from dataclasses import asdict, dataclass

from vmacro.wire import fields, host_verbs
from vmacro.wire.host_verbs import AWAY, HOME

MARK = "vmacro1"
DEVICE_PREFIX = "vmac-"


@dataclass(frozen=True)
class LegEnd(host_verbs.End):
    """The end that this host has or is to have, and what derives from it. Raises FieldError for odd words."""

    def __post_init__(self) -> None:
        fields.decode(host_verbs.End, asdict(self))

    @property
    def number(self) -> int:
        """24 bits that both ends derive in the same way: the VXLAN network identifier, and part of table numbers."""
        digest = hashlib.sha256(f"{self.move}/{self.address}".encode()).digest()
        return int.from_bytes(digest[:3], "big") or 1

    @property
    def device(self) -> str:
        """The name of the tunnel device."""
        return f"{DEVICE_PREFIX}{self.number:06x}"

    @property
    def inward(self) -> int:
        """The routing table for what comes out of the tunnel."""
        return 0x76000000 | self.number

    @property
    def outward(self) -> int:
        """The routing table for what the guest sends from this address."""
        return 0x77000000 | self.number

    @property
    def prefix_length(self) -> int:
        """Of a route to the address alone: 32 or 128."""
        return ipaddress.ip_address(self.address).max_prefixlen

    def hardware_address(self, side: str) -> str:
        """The MAC of the tunnel's end on one side, for tunnels that have MACs."""
        tail = ":".join(f"{b:02x}" for b in self.number.to_bytes(3, "big"))
        return f"02:76:{'01' if side == HOME else '02'}:{tail}"

    @property
    def far_side(self) -> str:
        """The side of the other end."""
        return AWAY if self.side == HOME else HOME

    def alias(self) -> str:
        """What is written on the device (IFLA_IFALIAS), so that no program has to remember it."""
        return " ".join([MARK, *(str(v) for v in asdict(self).values())])


def from_alias(text: str) -> LegEnd | None:
    """The leg's end that a device is of; None if it is not ours."""
    mark, *words = text.split(" ")
    if mark != MARK or len(words) != len(dataclasses.fields(LegEnd)):
        return None
    try:
        return LegEnd(*words)
    except fields.FieldError:
        return None
