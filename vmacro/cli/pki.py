"""pki init, issue, revoked, renew, show."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from vmacro import inventory as inventories
from vmacro import private, wiring
from vmacro.cli import render
from vmacro.cli.options import InventoryOption, JsonOption
from vmacro.errors import ConfigurationError
from vmacro.inventory import Settings
from vmacro.pki import store as pki
from vmacro.pki.names import LIBVIRT, OPERATOR, QEMU
from vmacro.pki.store import LIFETIME_DAYS, MAX_REQUEST_BYTES, RENEW_DAYS, Store

app = typer.Typer(help="An authority of your own, for libvirt's and QEMU's TLS.", no_args_is_help=True)


class Purpose(StrEnum):
    """What a certificate is for. Each has an authority of its own."""

    LIBVIRT = LIBVIRT
    QEMU = QEMU


NameArgument = Annotated[str, typer.Argument(help=f"a host of the inventory, or {OPERATOR!r}")]
ForOption = Annotated[Purpose, typer.Option("--for", help="whose TLS it is for; each has an authority of its own")]
DaysOption = Annotated[float, typer.Option(help="how long it is valid; below 0: expired, for tests")]


@app.command()
def init(inventory: InventoryOption = None) -> None:
    """Make the authorities (orchestrator.ca_dir) and the operator's certificate (orchestrator.pki_dir). Idempotent."""
    settings = wiring.load(inventory)
    folder = settings.named_folder("ca_dir")
    made = pki.init(folder, f"vmacro {settings.path.stem}")
    render.out.print(f"authority: {'made' if made else 'is there already'}: {folder / 'cacert.pem'}")
    stores_of(settings)[LIBVIRT].issue_pair(operators_folder(settings), OPERATOR, ())
    render.out.print(f"operator's certificate: {operators_folder(settings) / 'clientcert.pem'}")
    render.out.print("Keep cakey.pem: whoever has it can be any host. Next: vmacro provision hosts")


@app.command()
def issue(
    name: NameArgument,
    csr: Annotated[Path | None, typer.Option(help="the host's request (PKCS#10 PEM); - is standard input")] = None,
    purpose: ForOption = Purpose.LIBVIRT,
    days: DaysOption = LIFETIME_DAYS,
    inventory: InventoryOption = None,
) -> None:
    """Print a host's certificate for the key that its request shows; the one it has, while that will do.

    The names in it are the inventory's, whatever the request says.
    """
    settings = wiring.load(inventory)
    store = stores_of(settings)[purpose]
    if name == OPERATOR:
        stores_of(settings)[LIBVIRT].issue_pair(operators_folder(settings), OPERATOR, (), days)
        return
    names = names_of(settings, name)
    if csr is None:
        hint = "the host makes key and request: `vmacro provision hosts` does so, or openssl req -new"
        raise ConfigurationError(f"certificate {name!r}: no --csr given", hint)
    try:
        request = sys.stdin.buffer.read(MAX_REQUEST_BYTES + 1) if str(csr) == "-" else csr.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{csr}: cannot be read: {error.strerror}") from error
    print(store.issue_for_request(name, names, request, days).decode(), end="")


@app.command()
def revoked(purpose: ForOption = Purpose.LIBVIRT, inventory: InventoryOption = None) -> None:
    """Print the list of certificates that count no more; `vmacro provision hosts` brings it to the hosts.

    They are those of hosts that the inventory does not name any more, and those for keys that a host had before. This
    machine's own copy of the list (in orchestrator.pki_dir) is written along.
    """
    settings = wiring.load(inventory)
    found = stores_of(settings)[purpose].revocations({OPERATOR, *(h.name for h in settings.inventory.hosts)})
    if purpose is Purpose.LIBVIRT and operators_folder(settings).is_dir():
        private.write(operators_folder(settings) / "cacrl.pem", found)  # where libvirt's `pkipath` looks for it
    print(found.decode(), end="")


@app.command()
def renew(
    names: Annotated[list[str] | None, typer.Argument(help=f"default: all with less than {RENEW_DAYS:g} days")] = None,
    days: DaysOption = LIFETIME_DAYS,
    inventory: InventoryOption = None,
) -> None:
    """New certificates for the keys that are there; `vmacro provision hosts --tags tls` brings them to the hosts."""
    settings = wiring.load(inventory)
    count = 0
    for purpose, store in stores_of(settings).items():
        present = [i for i in store.issued() if not i.is_authority]
        known = {i.name for i in present}
        chosen = [n for n in names or () if n in known or purpose == LIBVIRT]  # the operator has none of QEMU's
        for name in chosen or [i.name for i in present if not names and i.days_left < RENEW_DAYS]:
            certificate = store.renew(name, days)
            if name == OPERATOR:
                private.write(operators_folder(settings) / "clientcert.pem", certificate)
            render.out.print(f"{name}: renewed for {purpose}")
            count += 1
    if not count:
        render.out.print(f"nothing is due: every certificate is valid for {RENEW_DAYS:g} days or more")


@app.command()
def show(inventory: InventoryOption = None, json: JsonOption = False) -> None:
    """The authorities and what they have issued, with the days that are left."""
    found = [i for store in stores_of(wiring.load(inventory)).values() for i in store.issued()]
    if json:
        render.as_json([asdict(i) for i in found])
        return
    rows = [
        (i.purpose, "(authority)" if i.is_authority else i.name, ", ".join(i.names), i.expires, i.days_left)
        for i in found
    ]
    render.table(render.rows("", ("for", "certificate of", "names", "expires", "days left"), rows))


def stores_of(settings: Settings) -> dict[str, Store]:
    """By purpose. Raises ConfigurationError where the inventory names no folder for them."""
    return pki.stores(settings.named_folder("ca_dir"))


def operators_folder(settings: Settings) -> Path:
    """Where the operator's certificate is. Raises ConfigurationError if the inventory does not say so."""
    return settings.named_folder("pki_dir")


def names_of(settings: inventories.Settings, name: str) -> tuple[str, ...]:
    """What a host's certificate must be valid for: the names by which we and the other hosts call it."""
    host = settings.inventory.host(name)
    if host is None:
        known = ", ".join(h.name for h in settings.inventory.hosts)
        raise ConfigurationError(f"host {name!r}: not in {settings.path}", f"known hosts: {known}")
    called = (host.tls_name, host.address, *(urlsplit(u).hostname or "" for u in (host.uri, host.peer_uri)))
    return tuple(dict.fromkeys(n for n in called if n))
