"""The language between orchestrator and agent, and host side too: versioned JSON, a message a line, fixed verbs.

Both ends treat what they read as hostile: lines are bounded, verbs are listed, arguments are plain
scalars. Every verb may be repeated and then answers the same.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Union

VERSION = 1
CHANNEL_NAME = "org.vmacro.agent.0"
MAX_REQUEST_BYTES = 4096
MAX_REPLY_BYTES = 1 << 20
MAX_CONNECTIONS = 2048  # at some 300 bytes each they fit one reply

VERBS = frozenset({"status", "claim", "release", "connections", "consent", "prepare", "arrive", "retire"})
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")

Scalar = Union[str, int, bool]


class ProtocolError(ValueError):
    """A line that is no message of this protocol. `code` is stable, the text is for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Request:
    id: str
    verb: str
    args: dict[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    id: str
    result: dict[str, Any] = field(default_factory=dict)
    error_code: str = ""
    error_text: str = ""

    @property
    def ok(self) -> bool:
        return not self.error_code


def is_identifier(value: object) -> bool:
    """Whether value may name a request or a move: 1 to 64 letters, digits, '.', '_' or '-'."""
    return isinstance(value, str) and _ID.match(value) is not None


def encode_request(request: Request) -> bytes:
    message = {"v": VERSION, "id": request.id, "verb": request.verb, "args": request.args}
    return _line(message, MAX_REQUEST_BYTES)


def decode_request(line: bytes, verbs: frozenset[str] = VERBS) -> Request:
    """Raises ProtocolError: too-long, not-json, bad-version, bad-id, bad-verb or bad-args."""
    message = _object(line, MAX_REQUEST_BYTES)
    verb, args = message.get("verb"), message.get("args", {})
    if not isinstance(verb, str) or verb not in verbs:
        raise ProtocolError("bad-verb", f"verb {str(verb)[:40]!r} is not one of {', '.join(sorted(verbs))}")
    if not isinstance(args, dict) or not all(isinstance(v, (str, int, bool)) for v in args.values()):
        raise ProtocolError("bad-args", "args must be an object of strings, integers and booleans")
    return Request(message["id"], verb, args)


def encode_reply(reply: Reply) -> bytes:
    message: dict[str, Any] = {"v": VERSION, "id": reply.id, "ok": reply.ok}
    if reply.ok:
        message["result"] = reply.result
    else:
        message["error"] = {"code": reply.error_code, "text": reply.error_text[:500]}
    return _line(message, MAX_REPLY_BYTES)


def decode_reply(line: bytes) -> Reply:
    """Raises ProtocolError as decode_request, or bad-reply."""
    message = _object(line, MAX_REPLY_BYTES)
    if message.get("ok") is True and isinstance(message.get("result"), dict):
        return Reply(message["id"], message["result"])
    error = message.get("error")
    if message.get("ok") is False and isinstance(error, dict):
        code, text = str(error.get("code", "unknown")), str(error.get("text", ""))
        return Reply(message["id"], {}, code[:40], text[:500])
    raise ProtocolError("bad-reply", "a reply has either ok=true and a result, or ok=false and an error")


def _line(message: dict[str, Any], limit: int) -> bytes:
    line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
    if len(line) > limit:
        raise ProtocolError("too-long", f"message of {len(line)} bytes is over the limit of {limit}")
    return line


def _object(line: bytes, limit: int) -> dict[str, Any]:
    if len(line) > limit:
        raise ProtocolError("too-long", f"line of {len(line)} bytes is over the limit of {limit}")
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("not-json", "line is not JSON") from error
    if not isinstance(message, dict):
        raise ProtocolError("not-json", "line is not a JSON object")
    if message.get("v") != VERSION:
        seen = str(message.get("v"))[:20]
        raise ProtocolError("bad-version", f"protocol version {seen!r}, expected {VERSION}")
    if not is_identifier(message.get("id")):
        raise ProtocolError("bad-id", "id must be 1 to 64 letters, digits, '.', '_' or '-'")
    return message
