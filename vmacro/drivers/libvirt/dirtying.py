"""How fast a domain changes its memory: QEMU hashes some of its pages twice, and compares (calc-dirty-rate, by default
in its mode page-sampling, which slows nothing down).

It looks at 512 pages of a GiB (dirtyrate.c), and libvirt has no word for more. So one page more or less that has
changed is 2 MiB, whatever the guest's size: in one second an idle guest was said to change 0 to 6 MiB/s. In a longer
time that is divided, and pages that are changed again and again count once, as they do in a pass of a copy.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any

import libvirt

from vmacro.wire import fields
from vmacro.wire.fields import Number

PERIOD_S = 1
_LATE_S, _LOOK_S = 1.5, 0.1
_UNABLE = (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_OPERATION_UNSUPPORTED, libvirt.VIR_ERR_OPERATION_INVALID)


@dataclass(frozen=True)
class _Rate:
    """VIR_DOMAIN_STATS_DIRTYRATE, as far as it is read."""

    calc_status: int = libvirt.VIR_DOMAIN_DIRTYRATE_UNSTARTED
    megabytes_per_second: Annotated[int, Number(0, 1 << 40)] = 0


def measure(domain: Any) -> bool:
    """virDomainStartDirtyRateCalc (libvirt 7.2), which does not wait for its end; False where it cannot be measured, or
    just is. Raises libvirtError."""
    try:
        domain.startDirtyRateCalc(PERIOD_S)
    except libvirt.libvirtError as error:
        if error.get_error_code() in _UNABLE:
            return False
        raise
    return True


def mib_s(connection: Any, domain: Any) -> float | None:
    """What measure() has begun to measure; None where it is not done in time. Raises libvirtError, ValueError."""
    end = time.monotonic() + PERIOD_S + _LATE_S
    while time.monotonic() < end:
        found = _rate(connection.domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_DIRTYRATE))
        if found.calc_status == libvirt.VIR_DOMAIN_DIRTYRATE_MEASURED:
            return float(found.megabytes_per_second)
        time.sleep(_LOOK_S)
    return None


def _rate(listed: Any) -> _Rate:
    told: dict[str, Any] = listed[0][1] if listed else {}
    head = "dirtyrate."
    known = {name: told[head + name] for name in ("calc_status", "megabytes_per_second") if head + name in told}
    return fields.decode(_Rate, known, "dirty rate")
