"""pki init, issue, renew, show."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from vmacro import inventory as inventories
from vmacro.cli import render, wiring
from vmacro.cli.move import InventoryOption, JsonOption
from vmacro.errors import ConfigurationError
from vmacro.inventory import Settings
from vmacro.pki.store import LIFETIME_DAYS, MAX_REQUEST_BYTES, OPERATOR, RENEW_DAYS, Store

app = typer.Typer(help="An authority of your own, for libvirt's and QEMU's TLS.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help=f"a host of the inventory, or {OPERATOR!r}")]
DaysOption = Annotated[float, typer.Option(help="how long it is valid; below 0: expired, for tests")]


@app.command()
def init(inventory: InventoryOption = None) -> None:
    """Make the authority (orchestrator.ca_dir) and the operator's certificate (orchestrator.pki_dir). Idempotent."""
    settings = wiring.load(inventory)
    store = store_of(settings)
    made = store.init(f"vmacro {settings.path.stem}")
    render.out.print(f"authority: {'made' if made else 'is there already'}: {store.folder / 'cacert.pem'}")
    store.issue_pair(operators_folder(settings), OPERATOR, ())
    render.out.print(f"operator's certificate: {operators_folder(settings) / 'clientcert.pem'}")
    render.out.print("Keep cakey.pem: whoever has it can be any host. Next: vmacro provision hosts")


@app.command()
def issue(
    name: NameArgument,
    csr: Annotated[Path | None, typer.Option(help="the host's request (PKCS#10 PEM); - is standard input")] = None,
    days: DaysOption = LIFETIME_DAYS,
    inventory: InventoryOption = None,
) -> None:
    """Print a host's certificate for the key that its request shows; the one it has, while that will do.

    The names in it are the inventory's, whatever the request says.
    """
    settings = wiring.load(inventory)
    if name == OPERATOR:
        store_of(settings).issue_pair(operators_folder(settings), OPERATOR, (), days)
        return
    names = names_of(settings, name)
    if csr is None:
        hint = "the host makes key and request: `vmacro provision hosts` does so, or openssl req -new"
        raise ConfigurationError(f"certificate {name!r}: no --csr given", hint)
    try:
        request = sys.stdin.buffer.read(MAX_REQUEST_BYTES + 1) if str(csr) == "-" else csr.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{csr}: cannot be read: {error.strerror}") from error
    print(store_of(settings).issue_for_request(name, names, request, days).decode(), end="")


@app.command()
def renew(
    names: Annotated[list[str] | None, typer.Argument(help=f"default: all with less than {RENEW_DAYS:g} days")] = None,
    days: DaysOption = LIFETIME_DAYS,
    inventory: InventoryOption = None,
) -> None:
    """New certificates for the keys that are there; `vmacro provision hosts --tags tls` brings them to the hosts."""
    settings = wiring.load(inventory)
    store = store_of(settings)
    due = [i.name for i in store.issued() if not i.is_authority and i.days_left < RENEW_DAYS]
    for name in names or due:
        certificate = store.renew(name, days)
        if name == OPERATOR:
            (operators_folder(settings) / "clientcert.pem").write_bytes(certificate)
        render.out.print(f"{name}: renewed")
    if not names and not due:
        render.out.print(f"nothing is due: every certificate is valid for {RENEW_DAYS:g} days or more")


@app.command()
def show(inventory: InventoryOption = None, json: JsonOption = False) -> None:
    """The authority and what it has issued, with the days that are left."""
    found = store_of(wiring.load(inventory)).issued()
    if json:
        render.as_json([asdict(i) for i in found])
        return
    rows = [("(authority)" if i.is_authority else i.name, ", ".join(i.names), i.expires, i.days_left) for i in found]
    render.table(render.rows("", ("certificate of", "valid for", "expires", "days left"), rows))


def store_of(settings: Settings) -> Store:
    """Raises ConfigurationError where the inventory names no folder for it."""
    return Store(settings.named_folder("ca_dir"))


def operators_folder(settings: Settings) -> Path:
    return settings.named_folder("pki_dir")


def names_of(settings: inventories.Settings, name: str) -> tuple[str, ...]:
    """What a host's certificate must be valid for: the names by which we and the other hosts call it."""
    host = settings.inventory.host(name)
    if host is None:
        known = ", ".join(h.name for h in settings.inventory.hosts)
        raise ConfigurationError(f"host {name!r}: not in {settings.path}", f"known hosts: {known}")
    called = (host.tls_name, host.address, *(urlsplit(u).hostname or "" for u in (host.uri, host.peer_uri)))
    return tuple(dict.fromkeys(n for n in called if n))
