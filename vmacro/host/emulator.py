"""What this host's QEMU was built to do, which neither its version nor libvirt tells: by its QMP's own description
(query-qmp-schema), from one that is started for this alone, with a machine that has nothing."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ElementTree
from typing import Any

import libvirt

from vmacro.host.errors import RefusedError
from vmacro.wire.host_verbs import MOST_COMPRESSIONS

ASKS = b'{"execute":"qmp_capabilities"}{"execute":"query-qmp-schema"}{"execute":"quit"}'
# As libvirt probes it (virQEMUCapsInitQMP).
ARGUMENTS = ("-machine", "none,accel=kvm:tcg", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio")
USER = "nobody"
TIMEOUT_S = 5.0


class Emulator:
    """Asked once in a session: its answer takes a moment, which no later turn shall wait for."""

    def __init__(self, hypervisor_uri: str) -> None:
        self._uri = hypervisor_uri
        self._known: tuple[str, ...] | None = None

    def compressions(self) -> tuple[str, ...]:
        """Ways to send memory; () where it does not say."""
        if self._known is None:
            try:
                self._known = compressions(said_by(path(self._uri)))
            except RefusedError:
                self._known = ()
        return self._known


def path(uri: str) -> str:
    """Of the emulator that libvirt takes by itself (virConnectGetDomainCapabilities). Raises RefusedError."""
    try:
        connection = libvirt.openReadOnly(uri)
        try:
            told = connection.getDomainCapabilities(None, None, None, None)
        finally:
            connection.close()
    except libvirt.libvirtError as error:
        raise RefusedError("no-qemu", f"libvirt does not say which emulator it takes: {error}") from error
    return ElementTree.fromstring(told).findtext("path") or ""


def said_by(emulator: str) -> str:
    """A line of JSON for each answer. Raises RefusedError."""
    command = [emulator, *ARGUMENTS]
    try:
        done = subprocess.run(
            command, input=ASKS, capture_output=True, timeout=TIMEOUT_S, check=True, user=USER, cwd="/"
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise RefusedError("no-qemu", f"{emulator or 'no emulator'} does not say what it can: {error}") from error
    return done.stdout.decode(errors="replace")


def compressions(said: str) -> tuple[str, ...]:
    """Which values `multifd-compression` takes (migrate-set-parameters). Raises RefusedError."""
    try:
        answers: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines()]
        schema = next(a["return"] for a in answers if isinstance(a.get("return"), list))
        types = {entry["name"]: entry for entry in schema}
        parameters = types[types["migrate-set-parameters"]["arg-type"]]["members"]
        kinds = [member["type"] for member in parameters if member["name"] == "multifd-compression"]
        return tuple(str(value) for kind in kinds for value in types[kind]["values"])[:MOST_COMPRESSIONS]
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
        raise RefusedError("no-qemu", f"it says something odd of what it can: {error!r}") from error
