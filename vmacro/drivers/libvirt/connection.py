"""Connections to libvirt daemons, the event loop they need, and their errors in our words."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import libvirt

from vmacro.addresses import check_libvirt
from vmacro.drivers.libvirt.events import LifecycleEvents
from vmacro.drivers.system import side_by_side
from vmacro.errors import HostError, UnreachableError, UntrustedError, all_of, reason_of
from vmacro.model.nouns import Host

CONNECT_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 20.0  # above what keep-alive takes to end one whose host is gone
KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 5, 3
_PORTS = {"tls": 16514, "ssh": 22, "libssh2": 22, "libssh": 22}
_TRUST_CODES = (libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_ERR_GNUTLS_ERROR)


@cache
def start_event_loop() -> None:
    """To be called once per process, before the first connection: otherwise no event ever comes."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt-events", daemon=True).start()


class Connections:
    """One connection per host, opened on demand and again where it broke. Threads that ask different hosts do not wait
    for each other."""

    def __init__(self, pki_dir: Path | None = None) -> None:
        self._pki_dir = pki_dir
        self._open: dict[str, Any] = {}
        self._events: dict[str, LifecycleEvents] = {}
        self._locks: dict[str, threading.Lock] = {}

    def get(self, host: Host) -> Any:
        """A live virConnect. Raises UnreachableError, UntrustedError."""
        with self._locks.setdefault(host.name, threading.Lock()):
            connection = self._open.get(host.name)
            if connection is None or not _alive(connection):
                connection = self._connect(host)
                self._open[host.name] = connection
            return connection

    def events(self, host: Host) -> LifecycleEvents:
        """Of the host's domains, by the connection of get(). Raises UnreachableError, UntrustedError."""
        connection = self.get(host)
        with self._locks[host.name]:
            known = self._events.get(host.name)
            if known is None or known.connection is not connection:
                known = self._events[host.name] = LifecycleEvents(connection)
            return known

    def another(self, host: Host) -> Any:
        """A further connection, which is the caller's to close. Raises UnreachableError, UntrustedError."""
        return self._connect(host)

    def certificate_days_left(self, host: Host) -> float | None:
        """Of what the host's libvirt shows us; None where we do not speak TLS with it, or could not look."""
        try:
            parts = urlsplit(host.uri)
            if self._pki_dir is None or not parts.scheme.endswith("+tls") or not parts.hostname:
                return None
            context = ssl.create_default_context(cafile=self._pki_dir / "cacert.pem")
            context.load_cert_chain(self._pki_dir / "clientcert.pem", self._pki_dir / "clientkey.pem")
            address = (parts.hostname, parts.port or _PORTS["tls"])
            with (
                socket.create_connection(address, timeout=CONNECT_TIMEOUT_S) as plain,
                context.wrap_socket(plain, server_hostname=parts.hostname) as secure,
            ):
                expires = (secure.getpeercert() or {}).get("notAfter")
        except (OSError, ValueError):
            return None  # whoever uses the connection is told why
        if not isinstance(expires, str):
            return None
        return (ssl.cert_time_to_seconds(expires) - time.time()) / 86_400

    def close(self) -> None:
        """All at once: each waits for its host's word."""
        opened = [*self._open.values()]
        self._open.clear()
        side_by_side([partial(_close, connection) for connection in opened], CLOSE_TIMEOUT_S)

    def _connect(self, host: Host) -> Any:
        start_event_loop()
        uri = host.uri
        with_ours = self._pki_dir is not None and "+tls" in uri
        if with_ours:
            self._see_that_there_is_a_certificate(host)
        _knock(host)
        if with_ours:
            uri += f"?pkipath={self._pki_dir}"
        with translated(host.name, "cannot connect to libvirt", UnreachableError):
            connection = libvirt.open(uri)
            connection.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
            return connection

    def _see_that_there_is_a_certificate(self, host: Host) -> None:
        """libvirt would name the file, but not who makes it."""
        path = (self._pki_dir or Path()) / "clientcert.pem"
        if not path.exists():
            text = f"host {host.name}: {path}: there is no such file, so we have no certificate to show it"
            raise UntrustedError(text, "vmacro pki init")


@contextmanager
def translated(host: str, what: str, kind: type[HostError] = HostError) -> Iterator[None]:
    """libvirtError as one of ours, once, with its text kept."""
    try:
        yield
    except libvirt.libvirtError as error:
        text = f"host {host}: {what}: {all_of(error)}"
        if error.get_error_code() in _TRUST_CODES or "ertificate" in str(error):
            hint = "is it issued by the CA that both ends trust, for this name, and not expired?"
            raise UntrustedError(text, hint) from error
        raise kind(text) from error


@contextmanager
def understood(host: str, what: str) -> Iterator[None]:
    """As translated(), and what a host's libvirt says that cannot be meant, too: a ValueError of xml.py, of wire.fields
    or, where it is no UTF-8, of libvirt's binding."""
    with translated(host, what):
        try:
            yield
        except (ValueError, OverflowError) as error:
            text = f"host {host}: {what}: its libvirt says what cannot be: {all_of(error)}"
            raise HostError(text, "is it the libvirt that it was provisioned with?") from error


def _knock(host: Host) -> None:
    """libvirt would wait for minutes for a host that does not answer."""
    try:
        parts = urlsplit(check_libvirt(host.uri))  # a plan from the journal may name a host, too
    except ValueError as error:
        raise UnreachableError(f"host {host.name}: its uri {error}", f"hosts.{host.name}.uri") from error
    address = (parts.hostname, parts.port or _PORTS[parts.scheme.partition("+")[2]])
    try:
        socket.create_connection(address, timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:  # ValueError: its name is none
        raise UnreachableError(
            f"host {host.name}: no answer from {address[0]} port {address[1]}: {reason_of(error)}",
            "is it up, and does its firewall let this machine in?",
        ) from error


def _close(connection: Any) -> None:
    try:
        connection.close()
    except libvirt.libvirtError:
        pass  # it is broken, hence closed


def _alive(connection: Any) -> bool:
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False
