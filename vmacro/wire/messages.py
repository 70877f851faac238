"""Versioned JSON, one message per line: a request with a verb, and its reply.

Both ends treat what they read as hostile. Every verb may be repeated and then answers the same.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from vmacro.wire import fields
from vmacro.wire.text import printable as printable

VERSION = 2
MAX_REQUEST_BYTES = 4096
MAX_REPLY_BYTES = 1 << 20
# While one reply is waited for: others' may come before it, and what is left of them.
MAX_HEARD_BYTES = 4 * MAX_REPLY_BYTES
MAX_HEARD_LINES = 1000
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")  # neither an option nor a way up: it names files, too

Args = TypeVar("Args")
Result = TypeVar("Result")


class ProtocolError(ValueError):
    """A line that is no message of this protocol. `code` is stable, the text is for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Nothing:
    """No arguments, or no result."""


@dataclass(frozen=True)
class Verb(Generic[Args, Result]):
    """What may be asked: `args` and `result` are its messages' types, `deadline_s` bounds the wait for the reply."""

    name: str
    args: type[Args]
    result: type[Result]
    deadline_s: float

    def request(self, request_id: str, args: Args) -> bytes:
        """The line that asks. Raises ProtocolError (too-long)."""
        return encode_request(Request(request_id, self.name, fields.encode(args)))

    def decode_args(self, request: Request) -> Args:
        """Raises ProtocolError (bad-args)."""
        try:
            return fields.decode(self.args, request.args)
        except fields.FieldError as error:
            raise ProtocolError("bad-args", str(error)) from None

    def decode_result(self, reply: Reply) -> Result:
        """Of a reply that is ok. Raises ProtocolError (bad-reply)."""
        try:
            return fields.decode(self.result, reply.result)
        except fields.FieldError as error:
            raise ProtocolError("bad-reply", str(error)) from None


@dataclass(frozen=True)
class Request:
    """`args` as JSON gave them: Verb.decode_args() types and bounds them."""

    id: str
    verb: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """`result` as JSON gave it: Verb.decode_result() types and bounds it. `error_code` is '' where it went well."""

    id: str
    result: dict[str, Any] = field(default_factory=dict)
    error_code: str = ""
    error_text: str = ""

    @property
    def ok(self) -> bool:
        """Whether the verb was carried out."""
        return not self.error_code


class Hearing:
    """What has come while a reply was waited for: how much of it is put up with, however soon it comes."""

    def __init__(self) -> None:
        self._bytes = self._lines = 0

    def more(self, data: bytes) -> None:
        """Raises ProtocolError (flood)."""
        self._bytes += len(data)
        if self._bytes > MAX_HEARD_BYTES:
            raise ProtocolError("flood", f"over {MAX_HEARD_BYTES} bytes, and no answer among them")

    def another(self) -> None:
        """A line that was no answer. Raises ProtocolError (flood)."""
        self._lines += 1
        if self._lines > MAX_HEARD_LINES:
            raise ProtocolError("flood", f"over {MAX_HEARD_LINES} lines, and no answer among them")


def is_identifier(value: object) -> bool:
    """Whether value may name a request or a move: a letter or digit, and up to 63 of these, '.', '_' or '-'."""
    return isinstance(value, str) and _ID.match(value) is not None


def encode_request(request: Request) -> bytes:
    """Raises ProtocolError (too-long)."""
    message = {"v": VERSION, "id": request.id, "verb": request.verb, "args": request.args}
    return _line(message, MAX_REQUEST_BYTES)


def decode_request(line: bytes) -> Request:
    """Raises ProtocolError: too-long, not-json, bad-version, bad-id, bad-verb or bad-args."""
    message = _object(line, MAX_REQUEST_BYTES)
    verb, args = message.get("verb"), message.get("args", {})
    if not is_identifier(verb):
        raise ProtocolError("bad-verb", "verb must be 1 to 64 letters, digits, '.', '_' or '-'")
    if not isinstance(args, dict):
        raise ProtocolError("bad-args", "args must be an object")
    return Request(message["id"], str(verb), args)


def encode_reply(reply: Reply) -> bytes:
    """Raises ProtocolError (too-long)."""
    message: dict[str, Any] = {"v": VERSION, "id": reply.id, "ok": reply.ok}
    if reply.ok:
        message["result"] = reply.result
    else:
        message["error"] = {"code": reply.error_code, "text": printable(reply.error_text)}
    return _line(message, MAX_REPLY_BYTES)


def decode_reply(line: bytes) -> Reply:
    """Raises ProtocolError as decode_request(), or bad-reply."""
    message = _object(line, MAX_REPLY_BYTES)
    if message.get("ok") is True and isinstance(message.get("result"), dict):
        return Reply(message["id"], message["result"])
    error = message.get("error")
    if message.get("ok") is False and isinstance(error, dict):
        code, text = error.get("code"), error.get("text", "")
        return Reply(message["id"], {}, str(code) if is_identifier(code) else "unknown", printable(str(text)))
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
