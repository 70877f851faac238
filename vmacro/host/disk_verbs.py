"""What the host side may be asked to do with disks: words in, words out."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from guest_agent import protocol
from vmacro.host import disks
from vmacro.host.disks import Copy, DiskError

Arguments = dict[str, protocol.Scalar]


def _look(args: Arguments) -> dict[str, Any]:
    return disks.look(_copy(args))


def _serve(args: Arguments) -> dict[str, Any]:
    return {"port": disks.serve(_copy(args), _address(args))}


def _fetch(args: Arguments) -> dict[str, Any]:
    port, rate = _number(args, "port", 65_535), _number(args, "bytes_s", 1 << 40)
    name = _text(args, "tls_name")
    if not name or not all(c.isalnum() or c in ".-_" for c in name):
        raise DiskError(f"tls_name {name!r}: not a name")
    disks.fetch(_copy(args), _address(args), port, name, rate)
    return {}


def _fetched(args: Arguments) -> dict[str, Any]:
    return disks.fetched(_copy(args))


def _lay(args: Arguments) -> dict[str, Any]:
    disks.lay(_copy(args))
    return {}


def _stop(args: Arguments) -> dict[str, Any]:
    disks.stop(_copy(args), args.get("drop_overlay") is True)
    return {}


def _remove(args: Arguments) -> dict[str, Any]:
    disks.remove(_copy(args))
    return {}


VERBS: dict[str, Callable[[Arguments], dict[str, Any]]] = {
    "disk-look": _look,
    "disk-serve": _serve,
    "disk-fetch": _fetch,
    "disk-fetched": _fetched,
    "disk-lay": _lay,
    "disk-stop": _stop,
    "disk-remove": _remove,
}


def _copy(args: Arguments) -> Copy:
    return disks.from_words(*(_text(args, key) for key in ("id", "base", "format")))


def _address(args: Arguments) -> str:
    try:
        return str(ipaddress.ip_address(_text(args, "address")))
    except ValueError as error:
        raise DiskError(f"address: {error}") from None


def _text(args: Arguments, key: str) -> str:
    value = args.get(key, "")
    if not isinstance(value, str) or len(value) > 500:
        raise DiskError(f"{key} must be a short string")
    return value


def _number(args: Arguments, key: str, most: int) -> int:
    value = args.get(key, 0)
    if not isinstance(value, int) or not 0 <= value <= most:
        raise DiskError(f"{key} must be 0 to {most}")
    return value
