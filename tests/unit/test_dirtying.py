"""How fast a domain changes its memory, and how much memory goes with the bytes that are sent: as libvirt tells it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import libvirt
import pytest

from vmacro.drivers.libvirt import dirtying
from vmacro.drivers.libvirt.migration import progress

MEASURING, MEASURED = libvirt.VIR_DOMAIN_DIRTYRATE_MEASURING, libvirt.VIR_DOMAIN_DIRTYRATE_MEASURED


class Host:
    """A connection and its one domain; what it says, the last for ever. `refuses`: libvirt's code."""

    def __init__(self, says: Iterable[dict[str, Any]], refuses: int = 0) -> None:
        self._says, self._refuses = list(says), refuses

    def startDirtyRateCalc(self, seconds: int) -> None:  # noqa: N802 libvirt's name
        assert seconds == dirtying.PERIOD_S
        if self._refuses:
            error = libvirt.libvirtError("no")
            error.err = (self._refuses, 0, "no", 0, "", "", "", 0, 0)
            raise error

    def domainListGetStats(self, domains: list[Any], kind: int) -> list[tuple[Any, dict[str, Any]]]:  # noqa: N802
        assert kind == libvirt.VIR_DOMAIN_STATS_DIRTYRATE
        return [(domains[0], self._says.pop(0) if len(self._says) > 1 else self._says[0])]


def said(status: int, rate: object = 0) -> dict[str, Any]:
    return {"dirtyrate.calc_status": status, "dirtyrate.megabytes_per_second": rate, "dirtyrate.calc_period": 1}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dirtying, "_LOOK_S", 0.001)
    monkeypatch.setattr(dirtying, "_LATE_S", 0.1 - dirtying.PERIOD_S)


def test_a_rate_is_waited_for() -> None:
    host = Host([{}, said(MEASURING, 99), said(MEASURED, 12)])
    assert dirtying.measure(host) and dirtying.mib_s(host, host) == 12.0


def test_one_that_never_comes_is_not() -> None:
    host = Host([said(MEASURING, 99)])
    assert dirtying.mib_s(host, host) is None


@pytest.mark.parametrize("code", [libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_OPERATION_INVALID])
def test_a_libvirt_that_does_not_measure_says_so(code: int) -> None:
    assert not dirtying.measure(Host([], refuses=code))


def test_another_error_is_one() -> None:
    with pytest.raises(libvirt.libvirtError):
        dirtying.measure(Host([], refuses=libvirt.VIR_ERR_INTERNAL_ERROR))


@pytest.mark.parametrize("rate", [-1, 1 << 50, "12", None, 0.5])
def test_what_cannot_be_a_rate_is_none(rate: object) -> None:
    host = Host([said(MEASURED, rate)])
    with pytest.raises(ValueError, match="dirty rate"):
        dirtying.mib_s(host, host)


@pytest.mark.parametrize(
    ("normal_mib", "sent_mib", "memory_mib_s"),
    [(90, 30, 30.0), (30, 31, 10.0), (0, 0, 10.0)],
    ids=["compressed", "as it is", "nothing yet"],
)
def test_compressed_bytes_stand_for_more_memory(normal_mib: int, sent_mib: int, memory_mib_s: float) -> None:
    sizes = {"memory_total": 256 << 20, "memory_remaining": 1, "memory_bps": 10 << 20}
    seen = progress(sizes | {"memory_normal_bytes": normal_mib << 20, "memory_processed": sent_mib << 20})
    assert seen is not None and (seen.rate_mib_s, seen.memory_mib_s) == (10.0, memory_mib_s)
