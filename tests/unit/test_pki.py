"""Certificates: names are the inventory's, keys stay where they are, and nothing is issued for nothing."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from vmacro.errors import ConfigurationError
from vmacro.pki import certificates
from vmacro.pki.store import MAX_REQUEST_BYTES, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "ca")
    assert made.init("test")
    return made


def openssl(*words: str, given: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=given, check=True, capture_output=True).stdout


def request(folder: Path, *words: str) -> bytes:
    """As a host makes it."""
    key = folder / "key.pem"
    if not key.exists():
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(key))
    return openssl("req", "-new", "-key", str(key), "-subj", "/CN=whoever", *words)


def test_an_authority_is_made_once_and_its_key_is_nobody_elses(store: Store) -> None:
    before = store.ca_pem
    assert not store.init("test") and store.ca_pem == before
    assert (store.folder / "cakey.pem").stat().st_mode & 0o777 == 0o600
    assert store.folder.stat().st_mode & 0o777 == 0o700


def test_names_are_ours_whatever_the_request_says(store: Store, tmp_path: Path) -> None:
    asked = request(tmp_path, "-addext", "subjectAltName=DNS:bank.example")
    issued = x509.load_pem_x509_certificate(store.issue_for_request("a1", ("a1", "10.0.0.1"), asked))
    assert certificates.name_of(issued) == "a1" and certificates.names_of(issued) == ("a1", "10.0.0.1")
    assert x509.load_pem_x509_csr(asked).public_key() == issued.public_key()


def test_a_certificate_that_will_do_is_kept(store: Store, tmp_path: Path) -> None:
    names = ("a1", "10.0.0.1")
    first = store.issue_for_request("a1", names, request(tmp_path))
    assert store.issue_for_request("a1", names, request(tmp_path)) == first
    other_names = store.issue_for_request("a1", ("a1", "10.0.0.9"), request(tmp_path))
    assert other_names != first
    (tmp_path / "key.pem").unlink()
    assert store.issue_for_request("a1", ("a1", "10.0.0.9"), request(tmp_path)) != other_names, "another key"


def test_one_that_expires_soon_is_renewed_and_one_can_be_at_any_time(store: Store, tmp_path: Path) -> None:
    short = store.issue_for_request("a1", ("a1",), request(tmp_path), days=29)
    (shown,) = [i for i in store.issued() if not i.is_authority]
    assert (shown.name, shown.names) == ("a1", ("a1",)) and 28.9 < shown.days_left < 29.1
    longer = store.issue_for_request("a1", ("a1",), request(tmp_path))
    assert longer != short
    renewed = x509.load_pem_x509_certificate(store.renew("a1"))
    old = x509.load_pem_x509_certificate(longer)
    assert renewed.serial_number != old.serial_number and renewed.public_key() == old.public_key()
    with pytest.raises(ConfigurationError, match="issued: a1"):
        store.renew("b1")


def test_one_of_another_authority_is_not_kept(store: Store, tmp_path: Path) -> None:
    first = store.issue_for_request("a1", ("a1",), request(tmp_path))
    for name in ("cakey.pem", "cacert.pem"):
        (store.folder / name).unlink()
    store.init("another")
    second = store.issue_for_request("a1", ("a1",), request(tmp_path))
    assert second != first
    x509.load_pem_x509_certificate(second).verify_directly_issued_by(store.authority().certificate)


def test_openssl_agrees(store: Store, tmp_path: Path) -> None:
    """Both ways, as server and as client, with the name checked."""
    certificate = tmp_path / "a1.pem"
    certificate.write_bytes(store.issue_for_request("a1", ("a1", "10.0.0.1"), request(tmp_path)))
    for purpose in ("sslserver", "sslclient"):
        words = [
            "-x509_strict",
            "-purpose",
            purpose,
            "-verify_hostname",
            "a1",
            "-CAfile",
            str(store.folder / "cacert.pem"),
        ]
        assert openssl("verify", *words, str(certificate)).endswith(b": OK\n")
    store.issue_pair(tmp_path / "us", "operator", ())
    context = ssl.create_default_context(cafile=tmp_path / "us/cacert.pem")
    context.load_cert_chain(tmp_path / "us/clientcert.pem", tmp_path / "us/clientkey.pem")
    assert (tmp_path / "us/clientkey.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (b"nonsense", "not a PKCS#10 request"),
        (b"x" * (MAX_REQUEST_BYTES + 1), "over 16384 bytes"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "not a PKCS#10 request"),
    ],
)
def test_what_is_no_request(store: Store, asked: bytes, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        store.issue_for_request("a1", ("a1",), asked)


def test_a_request_that_was_tampered_with(store: Store, tmp_path: Path) -> None:
    der = bytearray(
        subprocess.run(["openssl", "req", "-outform", "DER"], input=request(tmp_path), capture_output=True).stdout
    )
    der[-1] ^= 1
    pem = subprocess.run(["openssl", "base64"], input=bytes(der), capture_output=True).stdout
    forged = b"-----BEGIN CERTIFICATE REQUEST-----\n" + pem + b"-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(ConfigurationError, match="request of a1"):
        store.issue_for_request("a1", ("a1",), forged)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a b", "a\n"])
def test_a_name_stays_in_its_folder(store: Store, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="not a name"):
        store.issue_for_request(name, ("a1",), request(tmp_path))
