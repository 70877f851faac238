"""Whether a guest that has arrived is reached, by who has answered for its addresses. Pure.

ARP and neighbour discovery are a proof either way: a card that does not answer there has no network. An echo, or
anything that TCP says, proves that packets pass; its absence proves nothing, as guests may drop what nobody has asked
for, unless the guest answers by another of its addresses, asked from the same place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from vmacro.model.facts import Heard


def is_over(heard: Iterable[Heard], mac: str) -> bool:
    """Whether a bridge has nothing more to tell: the card has answered for each address, and packets have come back
    from all that any were sent to, or from none."""
    found = list(heard)
    return all(mac in h.macs for h in found) and len({h.answered > 0 for h in found if h.tried}) < 2


def all_answered(heard: Iterable[Heard]) -> bool:
    """Whether packets have come back from each address."""
    return all(found.answered for found in heard)


def unreached(heard: Sequence[Heard], mac: str, bridge: str, but: Collection[str] = ()) -> list[str]:
    """What is certain of those that are not reached at the destination's bridge, in words; [] where all are, `but` for
    those that somebody knows better."""
    texts, answering = [], {_version(found): found.address for found in heard if found.answered}
    for found in (h for h in heard if h.address not in but):
        version = _version(found)
        how = "ARP" if version == 4 else "neighbour discovery"
        if found.macs and mac not in found.macs:
            texts.append(
                f"{', '.join(found.macs)} at {bridge} answers for {found.address}, and its card does not ({how})"
            )
        elif not found.macs:
            texts.append(f"nobody at {bridge} answers for {found.address} ({how})")
        elif found.tried and not found.answered and version in answering:
            texts.append(f"no packet comes back from {found.address}, though it answers at {answering[version]}")
    return texts


def unknown(heard: Iterable[Heard], host: str, port: int) -> str:
    """Which addresses nothing has come back from, in words; '' for none."""
    silent = [found.address for found in heard if not found.answered]
    asked = "pings" + (f", nor at TCP port {port}" if port else "")
    return f"whether {' and '.join(silent)} can be reached from {host}: no answer to {asked}" if silent else ""


def _version(found: Heard) -> int:
    return 6 if ":" in found.address else 4
