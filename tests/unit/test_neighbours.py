"""Who uses an address: ARP probes and answers, byte by byte (RFC 826, RFC 5227)."""

from __future__ import annotations

import pytest

from vmacro.host import neighbours

MAC = bytes.fromhex("525400000001")
PROBE = bytes.fromhex(
    "ffffffffffff 525400000001 0806"  # to all, from us, ARP
    "0001 0800 06 04 0001"  # Ethernet, IPv4, a request
    "525400000001 00000000 000000000000 0a010007"  # from nobody's address, for 10.1.0.7
)
ANSWER = bytes.fromhex(
    "525400000001 525400000002 0806 0001 0800 06 04 0002 525400000002 0a010007 525400000001 00000000"
)


def test_a_probe_claims_no_address() -> None:
    assert neighbours.probe("10.1.0.7", MAC) == PROBE
    with pytest.raises(OSError):
        neighbours.probe("fd50::7", MAC)


def test_only_an_answer_for_the_address_counts() -> None:
    assert neighbours.answer(ANSWER, "10.1.0.7") == "52:54:00:00:00:02"
    assert neighbours.answer(ANSWER + bytes(18), "10.1.0.7") == "52:54:00:00:00:02", "padded to Ethernet's least"
    assert neighbours.answer(ANSWER, "10.1.0.8") == ""
    assert neighbours.answer(PROBE, "10.1.0.7") == ""


@pytest.mark.parametrize("frame", [b"", ANSWER[:-1], ANSWER.replace(b"\x08\x06", b"\x08\x00", 1)])
def test_anything_else_is_no_answer(frame: bytes) -> None:
    assert neighbours.answer(frame, "10.1.0.7") == ""
