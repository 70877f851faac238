"""Do packets pass between hosts, as large as those that a copy sends? Where they are lost without a word, TCP sends the
same ones again until the copy is given up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from urllib.parse import urlsplit

from vmacro.errors import HostError
from vmacro.model.facts import Heard, Reach
from vmacro.model.nouns import Host
from vmacro.ports import World
from vmacro.wire.host_verbs import MOST_ASKED

LIBVIRT_TLS = 16514
ASK_EVERY_S = 0.1
SILENT_S, LOSING_S = 0.6, 1.5  # until nobody answers at all; until those who do answer no large packet
_SCHEMES = {"ssh": 22, "libssh": 22, "libssh2": 22}


def between(source: Host, others: Iterable[Host], world: World) -> tuple[Heard, ...]:
    """What comes back to a host from each of the others; nothing where its host side cannot be asked, which is told by
    a finding of its own, or is of an older vmacro."""
    by_port: dict[int, list[str]] = defaultdict(list)
    for host in others:
        by_port[_port(host)].append(host.address)
    wanted = [
        Reach(f"path-{source.name}-{port}"[:64], tuple(addresses[:MOST_ASKED]), port=port, whole=True)
        for port, addresses in by_port.items()
    ]
    began_s = world.clock.monotonic_s()
    try:
        while True:
            heard = tuple(h for asked in wanted for h in world.host_network(source).reach(asked))
            waited_s = world.clock.monotonic_s() - began_s
            open_ = [h for h in heard if h.answered < h.tried or not h.tried]
            if not open_ or waited_s > LOSING_S or (waited_s > SILENT_S and not any(h.answered for h in open_)):
                return heard
            world.clock.sleep(ASK_EVERY_S)
    except HostError:
        return ()


def _port(host: Host) -> int:
    """Where its libvirt listens to other hosts: TCP says there how large its packets are."""
    parts = urlsplit(host.peer_uri)
    try:
        return parts.port or _SCHEMES.get(parts.scheme.rpartition("+")[2], LIBVIRT_TLS)
    except ValueError:
        return LIBVIRT_TLS
