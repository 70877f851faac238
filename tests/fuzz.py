"""Coverage-guided fuzzing of everything that reads what another party sent: python tests/fuzz.py TARGET [atheris flags]

An exception that a codec does not promise ends it with the input. `-runs=N` bounds it; without, it runs on.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris
import tomllib

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

with atheris.instrument_imports(include=["guest_agent", "vmacro"]):
    from guest_agent import channel, protocol
    from vmacro import config, inventory
    from vmacro.errors import ConfigurationError
    from vmacro.host.legs import LegError, from_alias, from_words
    from vmacro.host.server import VERBS, Server
    from vmacro.rtt import wire
    from vmacro.services import journal


class _Nothing:
    """A kernel that refuses everything."""

    def __getattr__(self, name: str) -> Callable[..., object]:
        def refuse(*_args: object, **_kwargs: object) -> object:
            raise OSError(name)

        return refuse


async def _echo(request: protocol.Request) -> protocol.Reply:
    assert request.verb in protocol.VERBS, "no command that is not on the list"
    return protocol.Reply(request.id, {"verb": request.verb, **request.args})


def agent(data: bytes) -> None:
    """One line, as the guest's agent answers it."""
    reply = asyncio.run(channel.answer(data, _echo))
    assert len(reply) <= protocol.MAX_REPLY_BYTES and reply.endswith(b"\n")


def reply(data: bytes) -> None:
    """What a guest or a host says, as the orchestrator reads it."""
    try:
        protocol.decode_reply(data)
    except protocol.ProtocolError:
        return


def host(data: bytes) -> None:
    """One line, as the host side answers it, with no kernel behind it."""
    answered = Server(_Nothing(), "test:///none").answer(data)
    assert len(protocol.encode_reply(answered)) <= protocol.MAX_REPLY_BYTES
    assert not answered.ok or answered.result == {"turned": []}, "nothing can be done here"


def alias(data: bytes) -> None:
    """What the kernel says is written on a link, which anybody with root there may have written."""
    from_alias(data.decode(errors="replace"))
    try:
        from_words({"address": data.decode(errors="replace")})
    except LegError:
        return


def toml(data: bytes) -> None:
    """An operator's inventory."""
    try:
        config.parse(tomllib.loads(data.decode()), inventory.Inventory, "fuzzed")
    except (ConfigurationError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
        return


def log(data: bytes) -> None:
    """A journal that anybody may have written to."""
    try:
        journal.Json().deserialize(data.decode())
    except (ValueError, RecursionError, KeyError, TypeError):
        return


def probe(data: bytes) -> None:
    """Records of round trips."""
    try:
        wire.decode(bytearray(data))
    except wire.WireError:
        return


TARGETS = {t.__name__: t for t in (agent, reply, host, alias, toml, log, probe)}
_LEG = b"web-1", b"web", b"10.1.0.7", b"52:54:00:00:00:01", b"front0", b"10.9.0.6"
# What is right, to begin with: from nothing nobody guesses JSON.
SEEDS = {
    "agent": [protocol.encode_request(protocol.Request("a", verb, {"address": "10.0.0.1"})) for verb in protocol.VERBS],
    "host": [protocol.encode_request(protocol.Request("a", verb, {"move": "web-1"})) for verb in VERBS],
    "reply": [
        protocol.encode_reply(protocol.Reply("a", {"connections": []})),
        protocol.encode_reply(protocol.Reply("a", {}, "claimed", "by another")),
    ],
    "alias": [b" ".join((b"vmacro", b"home", b"vxlan", *_LEG))],
    "toml": [Path(__file__).with_name("fuzz.toml").read_bytes()],
    "log": [b'{"__error__":"CopyError","message":"m","hint":"h"}'],
    "probe": [wire.encode(7) * 3],
}

if __name__ == "__main__":
    chosen = TARGETS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    if chosen is None:
        sys.exit(f"fuzz.py: which target? {', '.join(TARGETS)}")
    logging.disable()
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS[sys.argv[1]]):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *sys.argv[2:], corpus], chosen)
        atheris.Fuzz()
