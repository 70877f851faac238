"""Connections to libvirt daemons, the event loop they need, and their errors in our words."""

from __future__ import annotations

import functools
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import libvirt

from vmacro.errors import HostError, UnreachableError, UntrustedError
from vmacro.model.nouns import Host

CONNECT_TIMEOUT_S = 5.0
KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 5, 3
_PORTS = {"tls": 16514, "tcp": 16509, "ssh": 22, "libssh2": 22, "libssh": 22}
_TRUST_CODES = (libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_ERR_GNUTLS_ERROR)


@functools.cache
def start_event_loop() -> None:
    """Once a process, and before the first connection, or no event ever comes."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt-events", daemon=True).start()


class Connections:
    """One connection a host, opened on demand and again where it broke."""

    def __init__(self, pki_dir: Path | None = None) -> None:
        self._pki_dir = pki_dir
        self._open: dict[str, Any] = {}
        self._lock = threading.Lock()

    def get(self, host: Host) -> Any:
        """A live virConnect. Raises UnreachableError, UntrustedError."""
        with self._lock:
            connection = self._open.get(host.name)
            if connection is None or not _alive(connection):
                connection = self._connect(host)
                self._open[host.name] = connection
            return connection

    def another(self, host: Host) -> Any:
        """A further connection, which is the caller's to close. Raises UnreachableError, UntrustedError."""
        return self._connect(host)

    def certificate_days_left(self, host: Host) -> float | None:
        """Of what the host's libvirt shows us; None where we do not speak TLS with it, or could not look."""
        parts = urlsplit(host.uri)
        if self._pki_dir is None or not parts.scheme.endswith("+tls") or not parts.hostname:
            return None
        try:
            context = ssl.create_default_context(cafile=self._pki_dir / "cacert.pem")
            context.load_cert_chain(self._pki_dir / "clientcert.pem", self._pki_dir / "clientkey.pem")
            address = (parts.hostname, parts.port or _PORTS["tls"])
            with (
                socket.create_connection(address, timeout=CONNECT_TIMEOUT_S) as plain,
                context.wrap_socket(plain, server_hostname=parts.hostname) as secure,
            ):
                expires = (secure.getpeercert() or {}).get("notAfter")
        except OSError:
            return None  # whoever uses the connection is told why
        if not isinstance(expires, str):
            return None
        return (ssl.cert_time_to_seconds(expires) - time.time()) / 86_400

    def close(self) -> None:
        with self._lock:
            for connection in self._open.values():
                try:
                    connection.close()
                except libvirt.libvirtError:
                    continue  # it is broken, hence closed
            self._open.clear()

    def _connect(self, host: Host) -> Any:
        start_event_loop()
        _knock(host)
        uri = host.uri
        if self._pki_dir is not None and "+tls" in uri:
            uri += f"{'&' if '?' in uri else '?'}pkipath={self._pki_dir}"
        with translated(host.name, "cannot connect to libvirt", UnreachableError):
            connection = libvirt.open(uri)
            connection.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
            return connection


@contextmanager
def translated(host: str, what: str, kind: type[HostError] = HostError) -> Iterator[None]:
    """libvirtError as one of ours, once, with its text kept."""
    try:
        yield
    except libvirt.libvirtError as error:
        text = f"host {host}: {what}: {error}"
        if error.get_error_code() in _TRUST_CODES or "ertificate" in str(error):
            hint = "is it issued by the CA that both ends trust, for this name, and not expired?"
            raise UntrustedError(text, hint) from error
        raise kind(text) from error


def _knock(host: Host) -> None:
    """libvirt would wait for minutes for a host that does not answer."""
    parts = urlsplit(host.uri)
    transport = parts.scheme.partition("+")[2] or ("tls" if parts.hostname else "")
    if not parts.hostname or transport not in _PORTS:
        return
    address = (parts.hostname, parts.port or _PORTS[transport])
    try:
        socket.create_connection(address, timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise UnreachableError(
            f"host {host.name}: no answer from {address[0]} port {address[1]}: {error.strerror or error}",
            "is it up, and does its firewall let this machine in?",
        ) from error


def _alive(connection: Any) -> bool:
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False
