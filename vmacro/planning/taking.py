"""Whether what a guest's domain takes of its host is free at the destination: ports, names of taps, numbers by vsock.
Pure. What it names there, and must be there, is needs.py's."""

from __future__ import annotations

from collections.abc import Iterator

from vmacro.model.definitions import CID, PORT, TAP, Definition, Need
from vmacro.model.facts import HostView, Survey
from vmacro.model.moves import Finding, Severity
from vmacro.planning.request import Request, source_view, target_view
from vmacro.wire.host_verbs import LONGEST_DEVICE
from vmacro.wire.taken_verbs import MOST_CIDS, MOST_PORTS, Port, Taking

_CIDS = range(3, (1 << 32) - 1)


def taps(definition: Definition | None) -> tuple[str, ...]:
    """Names of devices that there must not be where the domain comes to."""
    return tuple(need.name for need in _named(definition, TAP) if len(need.name) <= LONGEST_DEVICE)


def taking(definition: Definition | None) -> Taking | None:
    """What a host side is asked about; None for nothing. Of very many the first."""
    ports = tuple(dict.fromkeys(filter(None, map(_port, _named(definition, PORT)))))[:MOST_PORTS]
    cids = tuple(dict.fromkeys(filter(None, map(_cid, _named(definition, CID)))))[:MOST_CIDS]
    return Taking(ports, cids) if ports or cids else None


def findings(request: Request, survey: Survey) -> Iterator[Finding]:
    """What somebody there has, and what nobody has looked for."""
    source, target, wanted = source_view(survey), target_view(request, survey), survey.definition
    if source is None or target is None or wanted is None or target.site == source.site:
        return
    unknown, asked = [], taking(wanted) or Taking()
    for need in (*_named(wanted, PORT), *_named(wanted, CID), *_named(wanted, TAP)):
        known = _is_taken(need, target, asked)
        if known is None:
            unknown.append(need)
        elif known:
            yield _taken(need, f"host {target.host}")
    if unknown and not target.links_trouble:  # else another rule speaks
        listed = ", ".join(f"{_name(need)} ({_what(need)})" for need in unknown[:4])
        more = f" and {len(unknown) - 4} more" if len(unknown) > 4 else ""
        why = f": {target.taken_trouble.removeprefix(f'host {target.host}: ')}" if target.taken_trouble else ""
        text = f"nobody has looked whether somebody there has {listed}{more}{why}"
        hint = "its host side looks: hosts.*.ssh, vmacro provision hosts --tags host_side; or ss -ltnup there"
        yield Finding("taken-unknown", Severity.WARNING, f"host {target.host}", text, hint)


def _taken(need: Need, subject: str) -> Finding:
    """QEMU or libvirt would not start it there, and refuse the copy."""
    text = f"somebody there has {_name(need)} already, which the guest takes: {_what(need)}"
    fixes = {PORT: "another port (of graphics: autoport='yes')", TAP: "no <target dev='…'/>", CID: "<cid auto='yes'/>"}
    severity = Severity.BLOCKER if need.live else Severity.WARNING
    return Finding(
        "taken-there", severity, subject, text, f"in the domain {fixes[need.kind]}; or find who has it there"
    )


def _is_taken(need: Need, target: HostView, asked: Taking) -> bool | None:
    """None where nobody knows, as of those that a request had no room for."""
    if need.kind == TAP:
        return need.name in target.links.devices if target.links is not None else None
    port, cid = _port(need), _cid(need)
    if target.taken is None or (need.kind == PORT and port not in (None, *asked.ports)):
        return None
    if need.kind == CID and cid not in (None, *asked.cids):
        return None
    return port in target.taken.ports if need.kind == PORT else cid in target.taken.cids


def _port(need: Need) -> Port | None:
    protocol, _, rest = need.name.partition("/")
    number, _, address = rest.partition("/")
    return Port(protocol, int(number), address) if number.isdecimal() else None


def _cid(need: Need) -> int | None:
    return int(need.name) if need.name.isdecimal() and int(need.name) in _CIDS else None


def _named(definition: Definition | None, kind: str) -> tuple[Need, ...]:
    return definition.named(kind) if definition is not None else ()


def _name(need: Need) -> str:
    port = _port(need) if need.kind == PORT else None
    if port is not None:
        return f"{port.protocol.upper()} port {port.number}" + (f" of {port.address}" if port.address else "")
    return f"a device {need.name!r}" if need.kind == TAP else f"vsock's CID {need.name}"


def _what(need: Need) -> str:
    return need.what if need.live else f"{need.what}, at its next start"
