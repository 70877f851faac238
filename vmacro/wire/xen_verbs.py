"""What the host side of a host of Xen may be asked besides: what libvirt's driver cannot do, or does not know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from vmacro.wire.agent_way import AGENT
from vmacro.wire.fields import Choice, Items, Number, Text, Unicast
from vmacro.wire.host_verbs import Domain
from vmacro.wire.messages import Nothing, Verb

# Letters by which xl tells of a domain (xl.c: list_domains).
SHUT, CRASHED = "s", "c"
ENDED, NOTHING, SUSPENDED = "ended", "nothing", "suspended"
_Size = Annotated[int, Number(0, 1 << 62)]
_WITHIN_S = 15.0


@dataclass(frozen=True)
class XenFacts:
    """`virtualisation`: xl's words for what this Xen can do (virt_caps of `xl info`)."""

    virtualisation: Annotated[tuple[Annotated[str, Text(40)], ...], Items(64)]


@dataclass(frozen=True)
class Saving:
    """Of a domain as Xen itself sees it; libvirt says `running` all through a migration. `number`: its domid, -1 where
    it is none. `suspended`: it has stopped to be moved, and waits. `saving`: its memory is being sent, or received."""

    number: Annotated[int, Number(-1, 1 << 16)]
    suspended: bool
    saving: bool


@dataclass(frozen=True)
class Aborted:
    """What became of what sends a domain's memory here, or receives it. `suspended`: left alone, since the guest is
    suspended already: the rest is sent in a moment."""

    outcome: Annotated[str, Choice((ENDED, NOTHING, SUSPENDED))]


@dataclass(frozen=True)
class Pace:
    """Most that libvirt may send to another host's in a second, by each connection; 0: as fast as it goes."""

    address: Annotated[str, Unicast()]
    port: Annotated[int, Number(1, 65535)]
    bytes_s: _Size


@dataclass(frozen=True)
class Paced:
    """Of how many connections that is true now, and how many bytes their peers have acknowledged."""

    connections: Annotated[int, Number(0, 10_000)]
    sent: _Size


XEN = Verb("xen", Nothing, XenFacts, _WITHIN_S)
XEN_SAVING = Verb("xen-saving", Domain, Saving, _WITHIN_S)
XEN_PACE = Verb("xen-pace", Pace, Paced, _WITHIN_S)
XEN_ABORT = Verb("xen-abort", Domain, Aborted, _WITHIN_S)
VERBS: dict[str, Verb[Any, Any]] = {verb.name: verb for verb in (AGENT, XEN, XEN_SAVING, XEN_ABORT, XEN_PACE)}
