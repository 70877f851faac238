"""Typed, bounded fields: what a message may hold is declared on a frozen dataclass, and decoded here alone.

    @dataclass(frozen=True)
    class Retire:
        address: Annotated[str, Address()]
        force: bool = False

    decode(Retire, {"address": "10.0.0.1"}) == Retire("10.0.0.1")

Supported: str (Text, Said, Word, Address, Unicast, Mac, Choice or Matches says which), int and float (Number), bool,
Enum, dataclasses, Optional of these, tuple[X, ...] (Items) and tuples of fixed length. A bare str is Text(200), a bare
int Number(0, 2**53).
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import ipaddress
import math
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from vmacro.wire.text import printable

Message = TypeVar("Message")
# Optional[X], and X | None, which is of another kind from Python 3.10 until 3.13.
_UNIONS = (Union, getattr(types, "UnionType", Union))
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
_WORD = re.compile(r"[A-Za-z0-9._:-]+\Z")
_MAC = re.compile(r"(?:[0-9A-Fa-f]{1,2}:){5}[0-9A-Fa-f]{1,2}\Z")


class FieldError(ValueError):
    """A field that is missing, unknown, of another type, or out of its bounds. The text names the field."""


@dataclass(frozen=True)
class Text:
    """At most `most` printable characters: neither control characters nor lone surrogates."""

    most: int = 200


@dataclass(frozen=True)
class Said:
    """What people are told, of any kind: what is not printable is escaped, what is over `most` characters cut off."""

    most: int = 500


@dataclass(frozen=True)
class Word:
    """A name: 1 to `most` ASCII letters, digits, '.', '_', ':' or '-'; also '' where `optional`."""

    most: int = 64
    optional: bool = False


@dataclass(frozen=True)
class Address:
    """An IP address in its canonical form (RFC 5952), without a scope; also '' where `optional`. `version`: 4, 6, or 0
    where it may be either."""

    optional: bool = False
    version: int = 0


@dataclass(frozen=True)
class Unicast(Address):
    """An address that one machine of a network can have: not one that stands for this machine, a link, a group,
    everybody or nobody (RFC 6890), nor an IPv4 address in the clothes of IPv6."""


@dataclass(frozen=True)
class Mac:
    """A network card's address: six bytes, as libvirt reads them (virMacAddrParse). However it was written, it is kept
    in lower case with two digits a byte, so that equal ones are equal; also '' where `optional`."""

    optional: bool = False


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Matches:
    """At most `most` printable characters, all of which match a regular expression; `what` it is, for people."""

    pattern: str
    what: str
    most: int = 200


@dataclass(frozen=True)
class Number:
    """From `least` to `most`, both included; never NaN or infinite."""

    least: float = 0
    most: float = 1 << 53


@dataclass(frozen=True)
class Items:
    """At most `most` of them."""

    most: int = 64


def decode_as(kind: Any, data: object, where: str) -> Any:
    """`data`, as JSON gave it, as any kind that a field may have; `where` names it in errors. Raises FieldError."""
    return _value(kind, data, where)


def decode(kind: type[Message], data: object, where: str = "") -> Message:
    """`data`, as JSON gave it, as a message of `kind`. Raises FieldError."""
    if not isinstance(data, Mapping):
        raise FieldError(f"{where or kind.__name__}: must be an object, not {_named(data)}")
    known = _declared(cast(Any, kind))
    unknown = sorted(str(key)[:40] for key in data if key not in known)
    if unknown:
        raise FieldError(f"{where or kind.__name__}: unknown field {unknown[0]!r}")
    values = {}
    for name, (declared, required) in known.items():
        place = f"{where}.{name}" if where else name
        if name in data:
            values[name] = _value(declared, data[name], place)
        elif required:
            raise FieldError(f"{place}: missing")
    return kind(**values)


def encode(message: Any) -> dict[str, Any]:
    """The reverse of decode(): what json.dumps() takes."""
    return dataclasses.asdict(message)


def is_special(address: str) -> bool:
    """Whether no machine of a network can have it. Raises ValueError for what is no address."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address) and (found.scope_id is not None or found.is_site_local):
        return True
    kinds = (found.is_unspecified, found.is_loopback, found.is_link_local, found.is_multicast, found.is_reserved)
    return any(kinds) or found in _THIS_NETWORK


@functools.cache
def _declared(kind: Any) -> dict[str, tuple[Any, bool]]:
    """By name: the declared type, and whether there is no default."""
    hints = get_type_hints(kind, include_extras=True)
    missing = dataclasses.MISSING
    return {
        f.name: (hints[f.name], f.default is missing and f.default_factory is missing) for f in dataclasses.fields(kind)
    }


def _value(declared: Any, value: object, where: str) -> Any:
    bound = next((m for m in getattr(declared, "__metadata__", ())), None)
    plain = declared.__origin__ if bound is not None else declared
    if get_origin(plain) in _UNIONS:
        inner = next(a for a in get_args(plain) if a is not type(None))
        return None if value is None else _value(inner, value, where)
    if get_origin(plain) is tuple:
        return _tuple(get_args(plain), bound or Items(), value, where)
    if dataclasses.is_dataclass(plain):
        return decode(plain, value, where)  # type: ignore[arg-type]
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        return plain(_text(Choice(tuple(str(member.value) for member in plain)), value, where))
    if plain is bool:
        if isinstance(value, bool):
            return value
        raise FieldError(f"{where}: must be true or false, not {_named(value)}")
    if plain in (int, float):
        return _number(plain, bound or Number(), value, where)
    return _text(bound or Text(), value, where)


def _tuple(declared: tuple[Any, ...], bound: Items, value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise FieldError(f"{where}: must be a list, not {_named(value)}")
    if declared[-1] is Ellipsis:
        if len(value) > bound.most:
            raise FieldError(f"{where}: {len(value)} items, at most {bound.most} are allowed")
        declared = (declared[0],) * len(value)
    elif len(value) != len(declared):
        raise FieldError(f"{where}: {len(value)} items, must be {len(declared)}")
    pairs = enumerate(zip(declared, value))
    return tuple(_value(kind, item, f"{where}[{number}]") for number, (kind, item) in pairs)


def _number(kind: type[Any], bound: Number, value: object, where: str) -> Any:
    wanted = (int, float) if kind is float else (int,)
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise FieldError(f"{where}: must be {'a number' if kind is float else 'an integer'}, not {_named(value)}")
    if (isinstance(value, float) and not math.isfinite(value)) or not bound.least <= value <= bound.most:
        raise FieldError(f"{where}: must be {bound.least:g} to {bound.most:g}")
    return kind(value)


def _text(bound: Any, value: object, where: str) -> str:
    if not isinstance(value, str):
        raise FieldError(f"{where}: must be a string, not {_named(value)}")
    if isinstance(bound, Choice):
        if value not in bound.words:
            raise FieldError(f"{where}: {value[:40]!r} is not one of {', '.join(bound.words)}")
    elif isinstance(bound, Said):
        return printable(value, bound.most)
    elif isinstance(bound, (Text, Matches)):
        if len(value) > bound.most or not value.isprintable():
            raise FieldError(f"{where}: must be at most {bound.most} printable characters")
        if isinstance(bound, Matches) and not re.fullmatch(bound.pattern, value):
            raise FieldError(f"{where}: {value[:40]!r} is not {bound.what}")
    elif value != "" or not bound.optional:
        return _plain(bound, value, where)
    return value


def _plain(bound: Any, value: str, where: str) -> str:
    """An address, a card's or a word."""
    if isinstance(bound, Address):
        _check_address(value, bound.version, where)
        if isinstance(bound, Unicast) and is_special(value):
            raise FieldError(f"{where}: {value!r} is no address that a machine of a network can have")
    elif isinstance(bound, Mac):
        if not _MAC.match(value):
            raise FieldError(f"{where}: {value[:40]!r} is not six bytes")
        return ":".join(byte.zfill(2) for byte in value.lower().split(":"))
    elif len(value) > bound.most or not _WORD.match(value):
        raise FieldError(f"{where}: {value[:40]!r} is not a plain word of 1 to {bound.most} characters")
    return value


def _check_address(value: str, version: int, where: str) -> None:
    try:
        found = ipaddress.ip_address(value)
    except ValueError:
        raise FieldError(f"{where}: {value[:50]!r} is not an IP address") from None
    if str(found) != value or "%" in value:
        raise FieldError(f"{where}: {value[:50]!r} is not in its plain form, {str(found)[:50]!r}")
    if version not in (0, found.version):
        raise FieldError(f"{where}: {value[:50]!r} is not an IPv{version} address")


def _named(value: object) -> str:
    return "null" if value is None else type(value).__name__
