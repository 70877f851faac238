"""Connections that real kernels are told to keep quiet (guest_agent/muting.py)."""

from __future__ import annotations

import itertools
import socket

import pytest

from guest_agent import muting
from guest_agent.ports import Ends
from tests.contract.test_kernel_events import HOME, HOME6, KINDS, Scene, ask, places, scene

pytestmark = pytest.mark.lab
__all__ = ["places", "scene"]
QUIET_S, WITHIN_S = 0.5, 8.0
UNHEARD: Ends = (HOME, 7000, "10.72.0.200", 9)


def ends(near: socket.socket) -> Ends:
    (local, local_port, *_), (remote, remote_port, *_) = near.getsockname(), near.getpeername()
    return local, local_port, remote, remote_port


def rules(scene: Scene) -> str:
    return scene.server.ip("rule", "list") + scene.server.ip("-6", "rule", "list")


@pytest.mark.parametrize("how", ["unmute", "by the next agent"])
@pytest.mark.parametrize("kind", ["tcp", "tcp, ipv6"])
def test_what_is_muted_is_sent_later_and_nobody_else_waits(scene: Scene, kind: str, how: str) -> None:
    before = rules(scene)
    (near, far), (other_near, other_far) = scene.opened(KINDS[kind]), scene.opened(KINDS[kind])
    with scene.server.inside():
        muting.mute([ends(near), UNHEARD])
    near.send(b"hello")
    ask(other_far, other_near)
    far.settimeout(QUIET_S)
    with pytest.raises(TimeoutError):
        far.recv(9)
    with scene.server.inside():
        for _ in range(2):  # twice is as good as once
            muting.unmute([ends(near), UNHEARD]) if how == "unmute" else muting.unmute_all()
    far.settimeout(WITHIN_S)
    assert far.recv(9) == b"hello"
    assert rules(scene) == before


def test_of_very_many_some_are_muted(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    before = rules(scene)
    many = [
        (address, 80, address[:-1] + "9", port) for port, address in itertools.product(range(1, 400), (HOME, HOME6))
    ]
    with scene.server.inside():
        muting.mute(many)
        assert rules(scene).count("blackhole") == muting.MOST_MUTED
        muting.unmute(many)
    assert rules(scene) == before and "798 connections" in caplog.text


def test_one_that_the_kernel_refuses_keeps_no_other_back(scene: Scene) -> None:
    before, wrong = rules(scene), (HOME, 0, "10.72.0.9", 1)  # port 0 is none
    with scene.server.inside():
        with pytest.raises(OSError, match="netlink refused"):
            muting.mute([wrong, UNHEARD])
        assert rules(scene).count("blackhole") == 1
        muting.unmute([UNHEARD])
    assert rules(scene) == before
