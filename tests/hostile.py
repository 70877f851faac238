"""What a party may say that means harm, and the places in which it may be said."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from vmacro.wire import fields

# What no field must let through as it is: it would rule a terminal, spoof a line, or break who encodes it.
RAW: tuple[str, ...] = (
    "\x1b[2J\x1b[31m",
    "line\nvmacro: moved",
    "a\rb\x00\x07\x9b2J",
    "\ud800",
    "web \u202eb1\u202c \u2066x",
    "\u2028\u2029\x85",
)
# Printable, and harmless to whoever takes it for text.
WORDS: tuple[str, ...] = (
    "[red]marked[/red] up",
    "[/]",
    "[bold",
    "[link=file:///etc/shadow]here[/link]",
    ":skull:",
    "<script>alert(1)</script>&amp;",
    "{0.__class__.__mro__} {} %s %n %(x)s",
    r"$\frac{$",
    "../../etc/cron.d/x",
    "-oProxyCommand=id",
    "{{ lookup('pipe', 'id') }}",
    "x" * 5000,
    "10.0.0.1/8",
    "10.0.0.256",
    "0x0a000001",
    "fe80::1%eth0",
    "",
)
OTHERS: tuple[Any, ...] = (
    None,
    True,
    {},
    [],
    [1],
    ["x"],
    [[]],
    {"a": {"a": {}}},
    -1,
    0,
    -0.5,
    1 << 64,
    10**400,
    float("inf"),
    float("nan"),
    ["10.0.0.1"] * 5000,
)
HOSTILE: tuple[Any, ...] = (*RAW, *WORDS, *OTHERS)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value where something may be put instead."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, below in inner:
        yield from places(below, (*path, key))


def put(value: Any, path: tuple[Any, ...], other: object) -> Any:
    """The value with something else at a place."""
    if not path:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(value[path[0]], path[1:], other)
    return copy


def whole(message: Any) -> bool:
    """Whether each field of a message, and of what is in it, is there to be replaced: one that is new and that no
    example has would go untested."""
    if dataclasses.is_dataclass(message):
        return all(whole(getattr(message, f.name)) for f in dataclasses.fields(message))
    if isinstance(message, tuple):
        return bool(message) and all(whole(item) for item in message)
    return message is not None


def replaced(message: Any) -> Iterator[tuple[str, Any, Any]]:
    """For each place in a message as JSON and each hostile value: the place, the value, the message with it."""
    plain = fields.encode(message)
    for path in places(plain):
        for odd in HOSTILE:
            yield "/".join(map(str, path)), odd, put(plain, path, odd)


def is_harmless(shown: str) -> bool:
    """Whether text may go to a terminal: nothing in it rules that, and any encoding of Unicode can hold it."""
    return all(line.isprintable() for line in shown.replace("\t", " ").split("\n"))
