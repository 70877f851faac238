"""The host side's words: what describes a leg, what is refused, and that a bug ends nothing. No root needed."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.exceptions import NetlinkError

from vmacro.host import legs, names, server
from vmacro.host.dispatch import Dispatcher, handler
from vmacro.host.errors import RefusedError
from vmacro.host.legs import LegEnd
from vmacro.wire import host_verbs, messages
from vmacro.wire.fields import FieldError, encode
from vmacro.wire.host_verbs import Disk, Domain, Turned
from vmacro.wire.messages import Reply, Request

LEG = LegEnd("home", "vxlan", "web-1", "web", "10.1.0.7", "52:54:00:00:00:01", "front0", "10.9.0.6")
DISK = Disk("ab12cd34ef56", "/images/web.qcow2", "qcow2")


def test_a_leg_is_told_by_its_alias() -> None:
    assert legs.from_alias(LEG.alias()) == LEG
    assert len(LEG.alias()) < 256, "what IFLA_IFALIAS takes"
    assert legs.from_alias("uplink to the provider") is None
    assert legs.from_alias(LEG.alias() + " more") is None
    assert legs.from_alias(LEG.alias().replace("front0", "../etc")) is None


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
        {"bridge": "x" * 16},
        {"address": "FD50::1"},
        {"mac": "52:54:00"},
        {"mac": "52:54:00:00:00:0A"},
        {"address": "10.1.0"},
        {"peer": "host; reboot"},
    ],
)
def test_a_leg_of_odd_words_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(FieldError, match=next(iter(wrong))):
        replace(LEG, **wrong)
    assert _refused("open", encode(LEG) | wrong) == "bad-args"


@pytest.mark.parametrize(
    "wrong",
    [
        {"base": "images/web.qcow2"},
        {"base": "/images/../etc/shadow"},
        {"base": "/images/.."},
        {"base": "/"},
        {"base": "/images/"},
        {"base": "/images/web,file=x"},
        {"base": "/images/web\n"},
        {"base": 7},
        {"id": "x; reboot"},
        {"id": ""},
        {"format": "vmdk"},
    ],
)
def test_what_is_no_disk_of_ours_is_refused(wrong: dict[str, object]) -> None:
    args = encode(DISK) | wrong
    serving = {"disk": args, "address": "10.9.0.2"}
    fetching = serving | {"port": 49215, "tls_name": "berlin"}
    assert _refused("disk-look", args) == _refused("disk-remove", args) == "bad-args"
    assert _refused("disk-serve", serving) == _refused("disk-fetch", fetching) == "bad-args"


@pytest.mark.parametrize(
    ("verb", "wrong"),
    [
        ("facts", {"bridge": "front0", "peer": "no address"}),
        ("facts", {"bridge": "front0", "probe": "no address"}),
        ("facts", {"bridge": "/"}),
        ("turn", {"domain": "web", "to": "up"}),
        ("point", {"move": "web-1", "address": "", "to": "guest"}),
        ("arm", {"domain": 7}),
        ("turned", {}),
        ("close", {"move": ""}),
        ("join", {"move": "web-1", "address": "10.1.0.7", "far": {"public_key": "--help", "port": 51820}}),
        ("disk-files", {"paths": ["isos/a.iso"]}),
        ("disk-files", {"paths": ["/isos/a\n.iso"]}),
        ("disk-files", {"paths": ["/x"] * 65}),
        ("disk-fetch", {"disk": encode(DISK), "address": "10.9.0.2", "port": 49215, "tls_name": "a,b"}),
    ],
)
def test_odd_arguments_are_refused(verb: str, wrong: dict[str, Any]) -> None:
    assert _refused(verb, wrong) == "bad-args"


@given(st.binary(max_size=300))
def test_no_line_makes_it_fail(line: bytes) -> None:
    """It answers whatever comes with one bounded line; here without a kernel or libvirt behind it."""
    reply = messages.decode_reply(_host().answer(line))
    assert not reply.ok and reply.error_code != "internal"


def test_a_line_over_the_limit_is_answered() -> None:
    assert messages.decode_reply(_host().answer(None)).error_code == "too-long"


def test_every_verb_has_one_to_carry_it_out() -> None:
    for verb in host_verbs.VERBS:
        assert _refused(verb, {"unknown": 1}) == "bad-args"
    assert _refused("exec", {}) == "unknown-verb"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RefusedError("no-leg", "move 'x' has no leg"), "no-leg"),
        (OSError(5, "input/output error"), "kernel"),
        (NetlinkError(16, "busy"), "kernel"),
        (libvirt.libvirtError("no domain"), "libvirt"),
        (KeyError("a bug"), "internal"),
        (AttributeError("a bug"), "internal"),
    ],
)
def test_only_a_bug_is_called_one_and_it_ends_nothing(
    error: Exception, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_args: Domain) -> Turned:
        raise error

    asked = [handler(host_verbs.TURNED, fail), handler(host_verbs.ARM, lambda _: messages.Nothing())]
    host = Dispatcher(asked, server.REFUSALS)
    assert _ask(host, "turned", {"domain": "web"}).error_code == code
    assert _ask(host, "arm", {"domain": "web"}).ok
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.exc_info is not None for record in logged] == ([True] if code == "internal" else [])


def test_a_result_that_is_too_long_is_an_error_too() -> None:
    end = host_verbs.FoundLegEnd(**encode(LEG), points_to="guest")
    facts = host_verbs.LinkFacts("0.1.0", (), "", 1500, 1500, True, legs=(end,) * 10_000)
    reply = _ask(Dispatcher([handler(host_verbs.FACTS, lambda _: facts)]), "facts", {"bridge": "front0"})
    assert reply.error_code == "too-long"


def _host() -> Dispatcher:
    return server.dispatcher(_Nothing(), "test:///none")


def _ask(host: Dispatcher, verb: str, args: dict[str, Any]) -> Reply:
    reply = messages.decode_reply(host.answer(messages.encode_request(Request("a", verb, args))))
    assert reply.id == "a"
    return reply


def _refused(verb: str, args: dict[str, Any]) -> str:
    """The error's code; arguments are looked at before anything is done, so that disks here are safe."""
    return _ask(_host(), verb, args).error_code


class _Nothing:
    """A kernel that refuses everything."""

    def __getattr__(self, name: str) -> object:
        def refuse(*_args: object, **_kwargs: object) -> object:
            raise OSError(name)

        return refuse


def test_what_is_at_a_path_is_told_and_no_more(tmp_path: Path) -> None:
    """A link counts as where it leads; what nobody can look at is not called absent."""
    (tmp_path / "a b.iso").write_bytes(b"x" * 5000)
    (tmp_path / "link").symlink_to("a b.iso")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    names_there = ("a b.iso", "link", "dangling", "nowhere", "a b.iso/below", "", "loop")
    paths = [str(tmp_path / name) for name in names_there] + ["/dev/null"]
    told = _ask(_host(), "disk-files", {"paths": paths}).result["files"]
    assert [(f["path"].rpartition("/")[2], f["kind"], f["bytes"]) for f in told] == [
        ("a b.iso", "file", 5000),
        ("link", "file", 5000),
        ("dangling", "absent", 0),
        ("nowhere", "absent", 0),
        ("below", "absent", 0),
        (tmp_path.name, "folder", 0),
        ("null", "other", 0),
    ]


@pytest.mark.parametrize(("script", "known"), [("exit 0", True), ("exit 2", False), ("exec sleep 30", False)])
def test_a_host_that_does_not_know_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, known: bool
) -> None:
    """Also where whoever it asks says nothing."""
    getent = tmp_path / "getent"
    getent.write_text(f"#!/bin/sh\n{script}\n")
    getent.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert names.resolves_own_name(patience_s=5.0 if known else 0.5) is known
