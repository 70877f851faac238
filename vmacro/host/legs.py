"""A leg: one address of a guest, tunnelled between its home, the host whose site routes that address,
and the host where the guest is away. This is one end of it, as written on its device. Pure.

    client -> home -> tunnel -> away -> guest           and back the same way: nobody spoofs anything
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

HOME, AWAY = "home", "away"
VXLAN, WIREGUARD = "vxlan", "wireguard"
MARK = "vmacro1"
DEVICE_PREFIX = "vmac-"
_WORD = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}\Z")  # no slash, no leading dot: it goes into paths
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\Z")


class LegError(ValueError):
    """Words that do not describe a leg."""


@dataclass(frozen=True)
class LegEnd:
    """`side` is which end this host is; `move`, `domain`, `mac` name whose leg it is; `bridge` is where
    guests attach here; `peer` is the other host's address, outside of the tunnel."""

    side: str
    kind: str
    move: str
    domain: str
    address: str
    mac: str
    bridge: str
    peer: str

    def __post_init__(self) -> None:
        if self.side not in (HOME, AWAY) or self.kind not in (VXLAN, WIREGUARD):
            raise LegError(f"side {self.side!r}, kind {self.kind!r}: not known")
        if not INTERFACE.match(self.bridge):
            raise LegError(f"bridge {self.bridge!r}: not an interface's name")
        for name in ("move", "domain"):
            if not _WORD.match(getattr(self, name)):
                raise LegError(f"{name} {getattr(self, name)!r}: not a plain word of 1 to 64 characters")
        if not _MAC.match(self.mac):
            raise LegError(f"mac {self.mac!r}: not six bytes in lower case")
        for name in ("address", "peer"):
            try:
                canonical = str(ipaddress.ip_address(getattr(self, name)))
            except ValueError as error:
                raise LegError(f"{name}: {error}") from None
            if canonical != getattr(self, name):
                raise LegError(f"{name} {getattr(self, name)!r}: write it as {canonical}")

    @property
    def number(self) -> int:
        """24 bits that both ends derive alike: the VXLAN network identifier, and part of table numbers."""
        digest = hashlib.sha256(f"{self.move}/{self.address}".encode()).digest()
        return int.from_bytes(digest[:3], "big") or 1

    @property
    def device(self) -> str:
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
        return ipaddress.ip_address(self.address).max_prefixlen

    def hardware_address(self, side: str) -> str:
        """Of the tunnel's end, where tunnels have one."""
        tail = ":".join(f"{b:02x}" for b in self.number.to_bytes(3, "big"))
        return f"02:76:{'01' if side == HOME else '02'}:{tail}"

    @property
    def far_side(self) -> str:
        return AWAY if self.side == HOME else HOME

    def alias(self) -> str:
        """What the device carries (IFLA_IFALIAS), so that nobody need remember."""
        return " ".join([MARK, *(str(v) for v in asdict(self).values())])


def from_alias(text: str) -> LegEnd | None:
    """None where a device is not ours."""
    mark, *words = text.split(" ")
    if mark != MARK or len(words) != len(fields(LegEnd)):
        return None
    try:
        return LegEnd(*words)
    except LegError:
        return None


def from_words(words: dict[str, Any]) -> LegEnd:
    """Raises LegError, also for a word that is missing or one too many."""
    known = [f.name for f in fields(LegEnd)]
    if sorted(words) != sorted(known):
        raise LegError(f"expected {', '.join(known)}; got {', '.join(sorted(words))}")
    return LegEnd(**{k: str(v) for k, v in words.items()})
