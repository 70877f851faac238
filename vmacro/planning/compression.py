"""Whether a copy is compressed: as its link is, and as both hosts can. Pure.

zstd at level 1 leaves a third of the bytes of a guest's memory, and takes a processor (docs/copy.md has the figures):
where the link takes more than a processor compresses, the copy would be slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vmacro.model.copies import PastCopy
from vmacro.model.facts import HostView, Survey
from vmacro.model.nouns import Compression, Policy
from vmacro.planning.request import Request, source_view, target_view
from vmacro.wire.fields import Said

# A choice (decision 0029): below what a processor compresses by level 1 here, since guests need it, too.
FAST_MIB_S = 150.0


@dataclass(frozen=True)
class Choice:
    """`because`, for people."""

    method: Compression
    because: Annotated[str, Said(4000)]


def choose(policy: Policy, source: HostView, destination: HostView, copies: tuple[PastCopy, ...]) -> Choice:
    """`copies`: earlier ones over the same link."""
    if policy.compression == Compression.OFF:
        return Choice(Compression.OFF, "policy compression")
    lacking = lacks(source, destination)
    if lacking:
        return Choice(Compression.OFF, lacking)
    if policy.compression == Compression.ZSTD:
        return Choice(Compression.ZSTD, "policy compression")
    rate, whence = link_mib_s(policy, copies)
    if not rate:
        return Choice(Compression.ZSTD, "auto: nothing says how fast the link is, and it leads to another site")
    if rate < FAST_MIB_S:
        return Choice(Compression.ZSTD, f"auto: the link takes {rate:.0f} MiB/s ({whence})")
    text = f"auto: the link takes {rate:.0f} MiB/s ({whence}), as much as a processor compresses"
    return Choice(Compression.OFF, text)


def between(request: Request, survey: Survey) -> Choice | None:
    """choose() for a move that is asked for; None where one of its hosts is not known."""
    source, target = source_view(survey), target_view(request, survey)
    if source is None or target is None or source.facts is None or target.facts is None:
        return None
    return choose(request.policy, source, target, over_the_link(survey, source, target))


def over_the_link(survey: Survey, source: HostView, target: HostView) -> tuple[PastCopy, ...]:
    """The guest's earlier copies between these hosts, either way, newest first."""
    ends = {source.host, target.host}
    return tuple(copy for copy in survey.past.copies if {copy.source, copy.destination} == ends)


def lacks(source: HostView, destination: HostView) -> str:
    """Which of the hosts compresses no copies, and what it would need; '' where both do. libvirt's version says whether
    it can ask for that, and its QEMU itself whether it was built with zstd, where the host side has asked it."""
    for side, view in (("source", source), ("destination", destination)):
        built = view.links.compressions if view.links is not None else ()
        if view.facts is not None and not view.facts.capabilities.compressed_copy:
            libvirt = ".".join(map(str, view.facts.libvirt_version))
            kind = view.facts.hypervisor
            return f"the {side}'s {kind} with libvirt {libvirt} compresses no copies (QEMU 5.0 with libvirt 9.4 does)"
        if built and Compression.ZSTD.value not in built:
            return f"the {side}'s QEMU was built without zstd (it has {', '.join(built)})"
    return ""


def link_mib_s(policy: Policy, copies: tuple[PastCopy, ...]) -> tuple[float, str]:
    """What a copy may send, and whence that is known: the policy's cap, or less where earlier copies got less; 0.0
    where neither is known. Compressed ones tell of processors, not of the link."""
    plain = [copy.rate_mib_s for copy in copies if copy.compression == Compression.OFF]
    cap, seen = float(policy.bandwidth_mib_s), max(plain, default=0.0)
    if cap and not 0 < seen < cap:
        return cap, "policy bandwidth_mib_s"
    return seen, "as earlier copies went"
