"""What cannot be a machine, or a file of host keys, is trouble of one host, told as such; not the end of a survey."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from vmacro.drivers.fake import host
from vmacro.drivers.libvirt.connection import Connections
from vmacro.drivers.ssh import Ssh
from vmacro.errors import UnreachableError, UntrustedError
from vmacro.pki import store as pki
from vmacro.pki.names import LIBVIRT, OPERATOR
from vmacro.rtt.prober import ProbeError, Prober, Target

URIS = ["qemu+tls://h:99999/system", "qemu+tls://h:x/system", "qemu+tls://[::1/system", "qemu+tls://a..b/system"]
UNSAFE = [
    "qemu+tcp://h/system",
    "qemu+ssh://h/system?command=/tmp/x",
    "qemu+tls://h/system?no_verify=1",
    "test:///default",
]


@pytest.mark.parametrize("uri", URIS)
def test_a_uri_that_nobody_is_at(uri: str, tmp_path: Path) -> None:
    named = replace(host("b1"), uri=uri)
    with pytest.raises(UnreachableError, match=r"^host b1: "):
        Connections().get(named)
    assert Connections(tmp_path).certificate_days_left(named) is None


@pytest.mark.parametrize("uri", UNSAFE)
def test_a_uri_that_checks_nobody_is_not_opened_wherever_it_comes_from(uri: str) -> None:
    """A plan in the journal names hosts as well, whatever the inventory says."""
    with pytest.raises(UnreachableError, match=r"^host b1: its uri (must|has the option)"):
        Connections().get(replace(host("b1"), uri=uri))


def test_who_has_no_certificate_yet_is_told_who_makes_it(tmp_path: Path) -> None:
    """libvirt would name a file, and ask whether it has expired."""
    with pytest.raises(UntrustedError, match=r"^host b1: .*clientcert\.pem: there is no such file") as told:
        Connections(tmp_path).get(host("b1"))
    assert told.value.hint == "vmacro pki init"


def test_libvirt_itself_writes_nothing_to_standard_error(tmp_path: Path) -> None:
    """Our errors say that a certificate is another host's. What keeps libvirt quiet is not handed on to programs."""
    pki.init(tmp_path / "ca", "test")
    ours = tmp_path / "us"
    pki.stores(tmp_path / "ca")[LIBVIRT].issue_pair(ours, OPERATOR, ())
    talk = (
        "import os, sys, vmacro.drivers.libvirt.connection, libvirt\n"
        "libvirt.registerErrorHandler(lambda *_: None, None)\n"
        "try: libvirt.open(sys.argv[1])\n"
        "except libvirt.libvirtError as error: print('LIBVIRT_DEBUG' in os.environ, error)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LIBVIRT_DEBUG"}
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_shakes_hands, args=(server, ours), daemon=True).start()
        uri = f"qemu+tls://127.0.0.1:{server.getsockname()[1]}/system?pkipath={ours}"
        done = subprocess.run([sys.executable, "-c", talk, uri], capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("False ") and "verify peer" in done.stdout, done.stdout + done.stderr
    assert done.stderr == ""


def _shakes_hands(server: socket.socket, keys: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "clientcert.pem", keys / "clientkey.pem")
    with contextlib.suppress(OSError), context.wrap_socket(server.accept()[0], server_side=True) as guest:
        guest.recv(1)


def test_a_certificate_of_a_host_whose_name_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own certificates are good; it is the name that cannot be looked up."""
    monkeypatch.setattr("vmacro.drivers.libvirt.connection.ssl.create_default_context", lambda **_: _AnyContext())
    assert Connections(tmp_path).certificate_days_left(replace(host("b1"), uri=URIS[-1])) is None


class _AnyContext:
    def load_cert_chain(self, *_: Path) -> None:
        pass  # any will do


@pytest.mark.parametrize("address", ["a..b", "x" * 70])
def test_ssh_to_what_is_no_host_name(address: str, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text("")
    with pytest.raises(UnreachableError, match=f"^host b1: no SSH to {address}: "):
        Ssh(None, tmp_path / "known_hosts").connect("host b1", "root", address)


@pytest.mark.parametrize("raw", [b"h\xff ssh-ed25519 AAAA\n", b"h ssh-rsa AAAAB3NzaC1yc2EA!!!\n"])
@pytest.mark.parametrize("own", [True, False])
def test_known_hosts_that_cannot_be_read(
    raw: bytes, own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/known_hosts").write_bytes(raw)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UntrustedError, match="known_hosts: cannot be read: "):
        Ssh(None, tmp_path / ".ssh/known_hosts" if own else None).connect("host b1", "root", "127.0.0.1")


def test_a_prober_of_what_is_no_host_name(tmp_path: Path) -> None:
    with (tmp_path / "r").open("w") as out, pytest.raises(ProbeError, match=r"^no connection to a\.\.b"):
        Prober(Target("a..b"), 10, out).run(lambda: False, 0)
