"""init: a first inventory, commented; what was not given is asked for."""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from vmacro import inventory as inventories
from vmacro import private, wiring, wording
from vmacro.cli import render
from vmacro.errors import ConfigurationError

HEAD = """\
# The inventory of vmacro: sites, their hypervisor hosts, and the guests that move between them.
# `vmacro doctor` says what is still missing. Next: vmacro pki init; vmacro provision hosts.

[orchestrator]
ca_dir = "{folder}/ca"            # your certificate authority: keep it on this machine only
pki_dir = "{folder}/pki"          # this machine's own certificate
# addresses = ["192.0.2.1"]       # who may reach hosts' libvirt, besides the hosts; default: anybody
# ssh_key = "/root/.ssh/id_ed25519"
# ssh_known_hosts = "/root/.ssh/known_hosts"
# database_url = "postgresql://user@host/name"   # when several machines orchestrate

[policy]
# bandwidth_mib_s = 80            # of a copy: leave clients their share of the link
# max_downtime_ms = 300
# linger_s = 60                   # how long an old address takes new connections; default: as long as names are kept

# [dns]                           # names that follow their guests (guests.NAME.names); docs/names.md
# server = "192.0.2.53"
# key_file = "/etc/vmacro/dns.key"
"""
SITE = """
[sites.{key}]
# anti_spoofing = true            # its provider drops packets with sources of other sites
"""
NETWORK = """\
[{owner}]
# What `vmacro provision hosts` makes; your routers send it to this host.
subnet = "{subnet}"
# subnet6 = "2001:db8:{number}::/64"
# guard = false                   # let guests send as whatever MAC and address they like
"""
HOST = """
[hosts.{key}]
site = "{site}"
ssh = "{ssh}"
uri = "qemu+tls://{address}/system"
peer_uri = "qemu+tls://{name}/system"
address = "{address}"             # where the other hosts send migration data
network = "front"
{emulation}# guests run without KVM here
# plain_tunnel = true             # legs to hosts that say so, too, are not encrypted: the path between them is private
"""
GUEST = """
[guests.{key}]
# ssh = "root@"                   # for `vmacro provision guests`: its host is asked where it is
# servers = ["nginx"]             # units in it that are to speak MPTCP
"""
TAIL = """
# [guests.web]                    # libvirt's name of a domain; one table each
"""


@dataclass(frozen=True)
class Asked:
    """One host, as it was given: SITE/NAME=[USER@]ADDRESS."""

    site: str
    name: str
    ssh: str
    address: str


def init(
    path: Annotated[
        Path, typer.Argument(help="the file to write; certificates will be beside it: ca/, pki/")
    ] = wiring.SYSTEM_INVENTORY,
    host: Annotated[list[str] | None, typer.Option(help="SITE/NAME=[USER@]ADDRESS, once for each host")] = None,
    subnet: Annotated[list[str] | None, typer.Option(help="SITE=SUBNET, once for each site")] = None,
    guest: Annotated[list[str] | None, typer.Option(help="libvirt's name of a guest that shall move")] = None,
    emulation: Annotated[bool, typer.Option("--emulation", help="guests run without KVM, and that is meant")] = False,
) -> None:
    """Write a commented inventory; ask for what was not given. Never overwrites."""
    if path.exists():
        raise ConfigurationError(f"{path}: is there already", "edit it; vmacro doctor says what is missing")
    hosts = [_host(text) for text in host or _asked_until_empty("a host (SITE/NAME=USER@ADDRESS; empty: no more)")]
    if len({h.site for h in hosts}) < 2:
        raise ConfigurationError("vmacro init: guests move between sites: name hosts of two or more", "--host")
    given = dict(_pair(text, "--subnet") for text in subnet or [])
    sites, guests = list(dict.fromkeys(h.site for h in hosts)), guest or []
    _once("--host", "host", [h.name for h in hosts])
    _once("--guest", "guest", guests)
    for site in given.keys() - set(sites):
        raise ConfigurationError(f"--subnet {site}={given[site]}: no --host is at site {site!r}", ", ".join(sites))
    subnets = {site: given.get(site) or _asked(f"the guests' subnet at {site}", "--subnet") for site in sites}
    text = HEAD.format(folder=path.resolve().parent)
    networks = _networks(hosts, subnets)
    text += "".join(SITE.format(key=_key(site)) + networks.get(site, "") for site in sites)
    emulated = "emulation = true                  " if emulation else "# emulation = true                "
    for h in hosts:
        text += HOST.format(
            key=_key(h.name), name=h.name, site=h.site, ssh=h.ssh, address=h.address, emulation=emulated
        )
        text += networks.get(f"{h.site}/{h.name}", "")
    text += "".join(GUEST.format(key=_key(name)) for name in guests) + TAIL
    _write_if_good(path, text)
    render.say(f"{path}: {len(hosts)} hosts at {len(sites)} sites. Next: vmacro pki init; vmacro provision hosts")


def _networks(hosts: list[Asked], subnets: dict[str, str]) -> dict[str, str]:
    """Of each site with one host, by its name; of each of several hosts a part of it, by SITE/NAME."""
    found: dict[str, str] = {}
    for site, subnet in subnets.items():
        names = [h.name for h in hosts if h.site == site]
        try:
            parts = inventories.parts_of(ipaddress.IPv4Network(subnet), len(names))
        except ValueError as error:
            said = wording.valued(error, subnet)
            raise ConfigurationError(f"--subnet {site}={subnet}: {said}", f"a subnet for {len(names)} hosts") from None
        alone = {site: f"sites.{_key(site)}.network"}
        owners = alone if len(names) == 1 else {f"{site}/{n}": f"hosts.{_key(n)}.guest_network" for n in names}
        for (name, owner), part in zip(owners.items(), parts, strict=True):
            found[name] = NETWORK.format(owner=owner, subnet=part, number=len(found) + 1)
    return found


def _write_if_good(path: Path, text: str) -> None:
    """What is wrong with it is said of the file that would have been."""
    if why := private.why_no_folder(path.parent):
        raise ConfigurationError(f"{path}: {why}", "a place that can be written to")
    private.folder(path.parent)
    part = path.with_name(f"{path.name}.part")
    private.write(part, text)
    try:
        inventories.load(part)
    except ConfigurationError as error:
        part.unlink()
        raise ConfigurationError(error.message.replace(str(part), str(path)), error.hint) from error
    part.rename(path)


def _host(text: str) -> Asked:
    names, ssh = _pair(text, "--host")
    site, _, name = names.partition("/")
    user, _, address = ssh.rpartition("@")
    if not site or not name or not address:
        raise ConfigurationError(f"--host {text!r}: not SITE/NAME=[USER@]ADDRESS")
    for part in (site, name):
        _named(part, f"--host {text!r}")
    return Asked(site, name, f"{user or 'root'}@{address}", _resolved(address))


def _named(name: str, where: str) -> None:
    try:
        inventories.check_name(name)
    except ValueError as error:
        raise ConfigurationError(f"{where}: {name!r}: {error}") from None


def _once(option: str, kind: str, names: list[str]) -> None:
    """Two of one name would be one table."""
    for name, times in Counter(names).items():
        _named(name, f"{option} {name!r}")
        if times > 1:
            raise ConfigurationError(
                f"{option}: {kind} {name!r} is named {times} times", "each needs a name of its own"
            )


def _key(name: str) -> str:
    """As TOML has it in the head of a table: with a dot, bare, it would be a table in another."""
    return f'"{name}"' if "." in name else name


def _resolved(address: str) -> str:
    """Migration data goes to an address, whatever name the host has today."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        pass  # a name
    try:
        return str(socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise ConfigurationError(f"host address {address!r}: cannot be resolved: {error.strerror}") from error


def _pair(text: str, option: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise ConfigurationError(f"{option} {text!r}: needs the form NAME=VALUE")
    return key.strip(), value.strip()


def _asked_until_empty(what: str) -> list[str]:
    found = []
    while answer := _asked(what, "--host", default=""):
        found.append(answer)
    return found


def _asked(what: str, option: str, default: str | None = None) -> str:
    if not sys.stdin.isatty():
        raise ConfigurationError(f"vmacro init: {what} is not known, and nobody is there to be asked", f"give {option}")
    return str(typer.prompt(what, default=default, show_default=False))
