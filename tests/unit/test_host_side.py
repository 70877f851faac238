"""The host side's words: what describes a leg, and what is refused. No root needed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest_agent import protocol
from vmacro.host import legs, names
from vmacro.host.legs import LegEnd, LegError
from vmacro.host.server import VERBS, Server

LEG = LegEnd("home", "vxlan", "web-1", "web", "10.1.0.7", "52:54:00:00:00:01", "front0", "10.9.0.6")


def test_a_leg_is_told_by_its_alias() -> None:
    assert legs.from_alias(LEG.alias()) == LEG
    assert len(LEG.alias()) < 256, "what IFLA_IFALIAS takes"
    assert legs.from_alias("uplink to the provider") is None
    assert legs.from_alias(LEG.alias() + " more") is None


def test_both_ends_agree_on_what_they_share() -> None:
    far = replace(LEG, side="away", bridge="br7", peer="10.9.0.2")
    assert (far.number, far.device) == (LEG.number, LEG.device) and len(LEG.device) < 16
    assert LEG.hardware_address(LEG.far_side) == far.hardware_address(far.side)
    assert LEG.number != replace(LEG, move="web-2").number


@pytest.mark.parametrize(
    "wrong",
    [
        {"side": "middle"},
        {"kind": "gre"},
        {"domain": "a b"},
        {"move": ""},
        {"move": "x" * 65},
        {"bridge": "../etc"},
        {"bridge": ".."},
        {"address": "FD50::1"},
        {"mac": "52:54:00"},
        {"address": "10.1.0"},
        {"peer": "host; reboot"},
    ],
)
def test_a_leg_of_odd_words_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(LegError):
        replace(LEG, **wrong)


ODD: dict[str, protocol.Scalar] = {"domain": 7, "bridge": "/", "to": "up"}
REQUESTS = [protocol.encode_request(protocol.Request("a", verb, ODD)) for verb in sorted(VERBS - {"turned"})]
REQUESTS += [
    protocol.encode_request(protocol.Request("a", "facts", {"bridge": "front0", key: "no address"}))
    for key in ("peer", "probe")
]


@given(st.one_of(st.binary(max_size=300), st.sampled_from(REQUESTS)))
def test_no_line_makes_it_fail(line: bytes) -> None:
    """It answers whatever comes with one bounded line; here without a kernel or libvirt behind it."""
    reply = Server(_Nothing(), "test:///default").answer(line)
    assert not reply.ok and json.loads(protocol.encode_reply(reply))["error"]["code"]


class _Nothing:
    """A kernel that refuses everything."""

    def __getattr__(self, name: str) -> object:
        def refuse(*_args: object, **_kwargs: object) -> object:
            raise OSError(name)

        return refuse


@pytest.mark.parametrize(("script", "known"), [("exit 0", True), ("exit 2", False), ("exec sleep 30", False)])
def test_a_host_that_does_not_know_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, known: bool
) -> None:
    """Also where whoever it asks says nothing."""
    getent = tmp_path / "getent"
    getent.write_text(f"#!/bin/sh\n{script}\n")
    getent.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert names.knows_itself(patience_s=5.0 if known else 0.5) is known
