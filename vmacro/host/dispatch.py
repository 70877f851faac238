"""A line in, a line out: the verb's arguments typed before anything is done, its result as declared."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vmacro.host.errors import RefusedError
from vmacro.wire import fields, messages
from vmacro.wire.messages import Args, ProtocolError, Reply, Request, Result, Verb

# What the kernel or a library refuses, by the code with which the other end is told.
Refusals = Mapping[type[Exception], str]
BY_KERNEL: Refusals = {OSError: "kernel"}
_log = logging.getLogger("vmacro-host")


@dataclass(frozen=True)
class Handler:
    """What carries out a verb. `answer` takes a request's arguments and gives a reply's result as JSON has them."""

    verb: str
    answer: Callable[[Request], dict[str, Any]]


def handler(verb: Verb[Args, Result], carry_out: Callable[[Args], Result]) -> Handler:
    """`carry_out` gets arguments that the verb has typed and bounded."""
    return Handler(verb.name, lambda request: fields.encode(carry_out(verb.decode_args(request))))


class Dispatcher:
    """Answers lines. Only what we refuse, or what `refusals` names, is told to the other end as such; a bug is
    logged with its traceback and told as `internal`, since events of guests must be heard afterwards too."""

    def __init__(self, handlers: Iterable[Handler], refusals: Refusals = BY_KERNEL) -> None:
        self._handlers = {h.verb: h.answer for h in handlers}
        self._refusals = refusals

    def answer(self, line: bytes | None) -> bytes:
        """The reply's line; None stands for a line over the limit. Never raises."""
        reply = self._reply(line)
        try:
            return messages.encode_reply(reply)
        except ProtocolError as error:
            return messages.encode_reply(Reply(reply.id, {}, error.code, str(error)))

    def _reply(self, line: bytes | None) -> Reply:
        request = Request("unknown", "unknown")
        try:
            if line is None:
                raise ProtocolError("too-long", f"line is over the limit of {messages.MAX_REQUEST_BYTES} bytes")
            request = messages.decode_request(line)
            if request.verb not in self._handlers:
                raise RefusedError("unknown-verb", f"no verb {request.verb!r} here")
            return Reply(request.id, self._handlers[request.verb](request))
        except (ProtocolError, RefusedError) as error:
            return Reply(request.id, {}, error.code, str(error))
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            code = next((code for kind, code in self._refusals.items() if isinstance(error, kind)), "")
            if code:
                return Reply(request.id, {}, code, text)
            _log.exception("bug in verb %s", request.verb)
            return Reply(request.id, {}, "internal", f"bug in {request.verb!r}: {text}")
