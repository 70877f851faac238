"""What the host side may be asked about what is in use on its host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vmacro.wire.fields import Address, Choice, Items, Number
from vmacro.wire.messages import Verb

TCP, UDP = "tcp", "udp"
PROTOCOLS = (TCP, UDP)
MOST_PORTS, MOST_CIDS = 32, 4  # a request is bounded
_DEADLINE_S = 15.0


@dataclass(frozen=True)
class Port:
    """Where somebody would listen; `address`: one of the host's, '' for all of them."""

    protocol: Annotated[str, Choice(PROTOCOLS)]
    number: Annotated[int, Number(1, 65535)]
    address: Annotated[str, Address(optional=True)] = ""


Cid = Annotated[int, Number(3, (1 << 32) - 2)]  # include/uapi/linux/vm_sockets.h has those below, and the last


@dataclass(frozen=True)
class Taking:
    """What somebody would take of the host: `ports` to listen at, `cids` as its guests' addresses by vsock."""

    ports: Annotated[tuple[Port, ...], Items(MOST_PORTS)] = ()
    cids: Annotated[tuple[Cid, ...], Items(MOST_CIDS)] = ()


@dataclass(frozen=True)
class Taken:
    """Of what was asked about, what is in use already."""

    ports: Annotated[tuple[Port, ...], Items(MOST_PORTS)] = ()
    cids: Annotated[tuple[Cid, ...], Items(MOST_CIDS)] = ()


TAKEN = Verb("taken", Taking, Taken, _DEADLINE_S)
