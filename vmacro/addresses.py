"""How machines, their libvirt, databases and public addresses may be written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, ip_address
from itertools import combinations
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from vmacro.config import shown
from vmacro.wire.fields import is_special

_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")  # RFC 1123 section 2.1, and the underscore that hosts files have
_NUMERIC = re.compile(
    r"(.*\.)?([0-9]+|0[xX][0-9a-fA-F]*)\.?"
)  # inet_aton(3) takes it for an address: 10.9.0 is 10.9.0.0

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
# By the URI's driver. Of options (libvirt.org/uri.html) those that neither turn a check off nor name a program to run.
_PATHS = {"qemu": ("/system",), "xen": ("", "/", "/system")}
_TRANSPORTS = ("tls", "ssh", "libssh", "libssh2")
_SSH_OPTIONS = ("keyfile", "known_hosts", "no_tty", "proxy", "sshauth")


def check_machine(name: str) -> str:
    """An IP address, or a host name that can be looked up. Raises ValueError."""
    try:
        ip_address(name)
    except ValueError:
        written = _ascii(name)
        if len(name) > 253 or not _HOST_NAME.fullmatch(written) or _NUMERIC.fullmatch(written):
            raise ValueError(f"{shown(name)!r} is neither an IP address nor a host name") from None
    return name


def check_libvirt(uri: str) -> str:
    """A URI of another machine's libvirt that is encrypted, and by which both ends are verified. Raises ValueError,
    which shows no password."""
    if not uri.isprintable() or len(uri) > 2000:
        raise ValueError("must be printable, and no longer than 2000 characters")
    parts = urlsplit(uri)
    driver, _, transport = parts.scheme.partition("+")
    if driver not in _PATHS:
        raise ValueError("must begin with qemu+ or xen+")
    if transport not in _TRANSPORTS or not parts.hostname:
        raise ValueError("must be encrypted and name a host: qemu+tls://HOST/system or qemu+ssh://HOST/system")
    check_machine(parts.hostname)
    if not _has_good_port(parts):
        raise ValueError("has a port that is not one of 1 to 65535")
    if parts.password is not None or (parts.username is not None and not _USER.fullmatch(parts.username)):
        raise ValueError("must name its user plainly, and without a password: qemu+ssh://USER@HOST/system")
    if parts.path not in _PATHS[driver] or parts.fragment:
        raise ValueError("must end with /system")
    allowed = () if transport == "tls" else _SSH_OPTIONS
    for option in re.split("[&;]", parts.query) if parts.query else ():  # as libvirt's virURIParseParams splits them
        if option.partition("=")[0] not in allowed:
            known = ", ".join(allowed) or "none"
            raise ValueError(f"has the option {option.partition('=')[0]!r}; those that may be there: {known}")
    return uri


def _has_good_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:  # it quotes the text, which may be a part of a password
        return False


def check_login(ssh: str) -> str:
    """USER@ADDRESS, of which either part may be missing. Raises ValueError."""
    user, _, address = ssh.rpartition("@")
    if address:
        check_machine(address)
    if ":" in user:
        raise ValueError("must be USER@ADDRESS, without a password")
    if not user.isprintable():
        raise ValueError(f"{user!r} is no name of a user")
    return ssh


def check_public(found: IPv4Address | IPv4Network) -> IPv4Address | IPv4Network:
    """What clients elsewhere can reach a guest by: no address of this machine, of a link or of a group. Raises
    ValueError."""
    ends = (found, found) if isinstance(found, IPv4Address) else (found[0], found[-1])
    if any(is_special(str(address)) for address in ends):
        raise ValueError(f"{found}: no address that a machine of a network can have")
    return found


def publics_of_two(
    subnets: Mapping[str, IPv4Network], tables: Mapping[str, Mapping[IPv4Address, IPv4Address]]
) -> list[str]:
    """What is public for two guests' addresses at once: names, and clients, would be led to either. `subnets`: each
    host's, by its name; `tables`: each site's."""
    problems = [
        f"hosts {a} and {b}: the public_subnet {x} of one overlaps {y} of the other"
        for (a, x), (b, y) in combinations(subnets.items(), 2)
        if x.overlaps(y)
    ]
    first: dict[IPv4Address, tuple[str, IPv4Address]] = {}
    for site, table in tables.items():
        for address, public in table.items():
            where, other = first.setdefault(public, (site, address))
            if other != address:
                stands = f"which stands for {other} already (sites.{where}.public)"
                problems.append(f"sites.{site}.public: {address} is {public}, {stands}")
    return problems


def check_dns_name(name: str) -> str:
    """A name of a machine in DNS, complete, in lower case and without the last dot. Raises ValueError."""
    found = name.rstrip(".").lower()
    labels = found.split(".")
    if len(found) > 253 or not _HOST_NAME.fullmatch(found) or len(labels) < 2 or labels[-1].isdecimal():
        raise ValueError(f"{shown(name)!r} is no complete name in DNS, such as www.example.net")
    return found


def check_plain(text: str) -> str:
    """What the journal, a terminal and a URI can have in a line. Raises ValueError."""
    if not text.isprintable() or len(text) > 253:
        raise ValueError("must be at most 253 printable characters")
    return text


def check_path(path: Path) -> Path:
    """A file, wherever one stands. Raises ValueError."""
    if not path.is_absolute():
        raise ValueError(f"{shown(str(path))!r} is no absolute path")
    check_plain(str(path))
    return path


Machine = Annotated[str, AfterValidator(check_machine)]
Login = Annotated[str, AfterValidator(check_plain), AfterValidator(check_login)]
LibvirtUri = Annotated[str, AfterValidator(check_libvirt)]
Plain = Annotated[str, AfterValidator(check_plain)]
File = Annotated[Path, AfterValidator(check_path)]
PublicAddress = Annotated[IPv4Address, AfterValidator(check_public)]
PublicSubnet = Annotated[IPv4Network, AfterValidator(check_public)]
DnsName = Annotated[str, AfterValidator(check_dns_name)]


def with_psycopg(database_url: str) -> str:
    """PostgreSQL is always reached with psycopg, whatever the URL says."""
    return re.sub(r"^postgres(ql)?(\+\w+)?:", "postgresql+psycopg:", database_url)


def check_database(url: str) -> None:
    """That a journal can be there. Raises ValueError, which does not show a password."""
    wanted = "must be postgresql://USER@HOST/DATABASE or sqlite:////FOLDER/FILE"
    try:
        parts = make_url(with_psycopg(url))
    except (ArgumentError, ValueError):
        raise ValueError(f"database_url: {wanted}") from None
    a_file = parts.drivername == "sqlite" and parts.database != ":memory:" and not parts.query
    if not (a_file or parts.drivername == "postgresql+psycopg") or not parts.database or not url.isprintable():
        raise ValueError(f"database_url: {wanted} (value: {without_password(parts)!r})")


def without_password(url: URL) -> str:
    """A database's URL as it may be shown: its query may have a password too."""
    return url.set(query={}).render_as_string(hide_password=True)


def _ascii(name: str) -> str:
    """IDNA (RFC 3490) of a host name, as the resolver makes it; '' where there is none."""
    try:
        return name.encode("idna").decode()
    except UnicodeError:
        return ""
