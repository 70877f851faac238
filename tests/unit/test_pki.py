"""Certificates: names are the inventory's, keys stay where they are, nothing is issued for nothing, and what an
inventory does not name any more counts no more."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography import x509

from vmacro.errors import ConfigurationError
from vmacro.pki import certificates
from vmacro.pki import store as pki
from vmacro.pki.names import LIBVIRT, OPERATOR, QEMU
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
    store.issue_pair(tmp_path / "us", OPERATOR, ())
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


WEAK = {
    "P-192": ["EC", "-pkeyopt", "ec_paramgen_curve:P-192"],
    "P-224": ["EC", "-pkeyopt", "ec_paramgen_curve:P-224"],
    "secp256k1": ["EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"],
    "brainpool": ["EC", "-pkeyopt", "ec_paramgen_curve:brainpoolP256r1"],
    "RSA 1024": ["RSA", "-pkeyopt", "rsa_keygen_bits:1024"],
    "RSA 3072": ["RSA", "-pkeyopt", "rsa_keygen_bits:3072"],
    "Ed25519": ["ED25519"],
}


@pytest.mark.parametrize("kind", WEAK)
def test_keys_that_are_weak_or_odd_are_not_signed_for(store: Store, tmp_path: Path, kind: str) -> None:
    """RSA of any size, too: one kind of key is what hosts make, and what is tested."""
    openssl("genpkey", "-algorithm", *WEAK[kind], "-out", str(tmp_path / "key.pem"))
    with pytest.raises(ConfigurationError, match="request of a1"):
        store.issue_for_request("a1", ("a1",), request(tmp_path))
    assert not list((store.folder / "issued").iterdir())


@pytest.mark.parametrize("kind", WEAK)
def test_an_authority_or_an_operator_with_such_a_key_does_not_count(store: Store, tmp_path: Path, kind: str) -> None:
    for file in (store.folder / "cakey.pem", tmp_path / "us/clientkey.pem"):
        file.parent.mkdir(exist_ok=True)
        openssl("genpkey", "-algorithm", *WEAK[kind], "-out", str(file))
    with pytest.raises(ConfigurationError, match=r"cakey\.pem: "):
        store.authority()
    with pytest.raises(ConfigurationError, match=r"clientkey\.pem: "):
        store.issue_pair(tmp_path / "us", OPERATOR, ())


@pytest.mark.parametrize("curve", ["P-256", "P-384", "P-521"])
def test_keys_that_are_signed_for(store: Store, tmp_path: Path, curve: str) -> None:
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}", "-out", str(tmp_path / "key.pem"))
    assert store.issue_for_request("a1", ("a1",), request(tmp_path))


@pytest.mark.parametrize("digest", ["sha1", "sha224", "sha3-256"])
def test_a_request_that_is_signed_weakly(store: Store, tmp_path: Path, digest: str) -> None:
    with pytest.raises(ConfigurationError, match="request of a1"):
        store.issue_for_request("a1", ("a1",), request(tmp_path, f"-{digest}"))


def test_a_key_that_wants_a_password(store: Store, tmp_path: Path) -> None:
    (tmp_path / "us").mkdir()
    words = ["-pkeyopt", "ec_paramgen_curve:P-256", "-aes-256-cbc", "-pass", "pass:x"]
    openssl("genpkey", "-algorithm", "EC", *words, "-out", str(tmp_path / "us/clientkey.pem"))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        store.issue_pair(tmp_path / "us", OPERATOR, ())


def test_an_operator_is_a_client_and_nothing_else(store: Store, tmp_path: Path) -> None:
    """Critical, since libvirt only warns of a use that is not: virNetTLSCertCheckKeyPurpose."""
    store.issue_pair(tmp_path / "us", OPERATOR, ())
    words = ["verify", "-x509_strict", "-CAfile", str(store.folder / "cacert.pem"), "-purpose"]
    certificate = str(tmp_path / "us/clientcert.pem")
    assert openssl(*words, "sslclient", certificate).endswith(b": OK\n")
    assert subprocess.run(["openssl", *words, "sslserver", certificate], capture_output=True).returncode != 0
    found = x509.load_pem_x509_certificate((tmp_path / "us/clientcert.pem").read_bytes())
    assert found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).critical
    assert certificates.names_of(found) == ()


def test_a_renewed_certificate_has_the_uses_that_it_had(store: Store, tmp_path: Path) -> None:
    store.issue_pair(tmp_path / "us", OPERATOR, ())
    store.issue_for_request("a1", ("a1",), request(tmp_path))
    for name, uses in ((OPERATOR, certificates.OPERATOR_USES), ("a1", certificates.HOST_USES)):
        assert certificates.is_for(x509.load_pem_x509_certificate(store.renew(name)), uses)


def test_a_certificate_with_more_uses_than_it_should_have_is_not_kept(store: Store, tmp_path: Path) -> None:
    """As they were issued before: the operator's could be a host's."""
    store.issue_pair(tmp_path / "us", OPERATOR, ())
    found = x509.load_pem_x509_certificate((tmp_path / "us/clientcert.pem").read_bytes())
    older = certificates.pem(
        certificates.peer(store.authority(), certificates.strong(found.public_key()), OPERATOR, (), 365)
    )
    (store.folder / f"issued/{OPERATOR}.pem").write_bytes(older)
    store.issue_pair(tmp_path / "us", OPERATOR, ())
    assert (tmp_path / "us/clientcert.pem").read_bytes() != older


def test_what_qemu_can_read_is_of_another_authority(tmp_path: Path) -> None:
    assert pki.init(tmp_path / "ca", "test") and not pki.init(tmp_path / "ca", "test")
    stores = pki.stores(tmp_path / "ca")
    (tmp_path / "a1.pem").write_bytes(stores[QEMU].issue_for_request("a1", ("a1",), request(tmp_path)))
    for purpose, trusted in ((QEMU, True), (LIBVIRT, False)):
        words = ["openssl", "verify", "-CAfile", str(stores[purpose].folder / "cacert.pem"), str(tmp_path / "a1.pem")]
        assert (subprocess.run(words, capture_output=True).returncode == 0) is trusted
    for folder in (tmp_path / "ca", tmp_path / "ca/qemu"):
        assert folder.stat().st_mode & 0o777 == 0o700 and (folder / "cakey.pem").stat().st_mode & 0o777 == 0o600


def revoked(store: Store, *names: str) -> set[str]:
    """Whose certificates the list has, by common name and serial number."""
    found = x509.load_pem_x509_crl(store.revocations(names))
    assert found.is_signature_valid(store.authority().key.public_key())
    return {f"{entry.serial_number:x}" for entry in found}


def serial(pem: bytes) -> str:
    return f"{x509.load_pem_x509_certificate(pem).serial_number:x}"


def test_a_name_that_is_gone_counts_no_more_by_any_certificate_that_it_ever_had(store: Store, tmp_path: Path) -> None:
    (tmp_path / "b1").mkdir()
    first = store.issue_for_request("a1", ("a1",), request(tmp_path))
    second = store.renew("a1")
    kept = store.issue_for_request("b1", ("b1",), request(tmp_path / "b1"))
    assert revoked(store, "a1", "b1") == set(), "the key is the same, and its host is still named"
    assert revoked(store, "b1") == {serial(first), serial(second)}
    assert revoked(store) == {serial(first), serial(second), serial(kept)}
    assert revoked(store, "a1", "b1") == set(), "named again, with the key that it had"


def test_a_key_that_a_host_had_before_counts_no_more(store: Store, tmp_path: Path) -> None:
    """Its machine was replaced, or its key was stolen."""
    first = store.issue_for_request("a1", ("a1",), request(tmp_path))
    (tmp_path / "key.pem").unlink()
    second = store.issue_for_request("a1", ("a1",), request(tmp_path))
    assert revoked(store, "a1") == {serial(first)} and serial(first) != serial(second)


def test_a_name_or_address_that_a_host_had_before_counts_no_more(store: Store, tmp_path: Path) -> None:
    """It may be another host's now, for which this one could answer with the key that it still has."""
    first = store.issue_for_request("a1", ("a1", "192.0.2.1"), request(tmp_path))
    second = store.issue_for_request("a1", ("a1", "192.0.2.7"), request(tmp_path))
    assert revoked(store, "a1") == {serial(first)} and serial(first) != serial(second)
    third = store.issue_for_request("a1", ("a1", "192.0.2.7", "a1.example"), request(tmp_path))
    assert revoked(store, "a1") == {serial(first)} and serial(third) != serial(second), "fewer names are no others"


def test_the_list_is_the_same_while_nothing_changes(store: Store, tmp_path: Path) -> None:
    """Or each provisioning would restart every libvirt."""
    store.issue_for_request("a1", ("a1",), request(tmp_path))
    lists = [store.revocations(names) for names in ((), ("a1",), ("a1", "c1"), ())]
    assert lists[1] == lists[2] and lists[0] != lists[1] and store.revocations(()) == lists[3]
    for name in ("cakey.pem", "cacert.pem"):
        (store.folder / name).unlink()
    store.init("another")
    assert revoked(store) == {serial((store.folder / "issued/a1.pem").read_bytes())}, "of the new authority"


@pytest.mark.parametrize("gone", [False, True])
def test_nobody_who_is_gone_gets_in(store: Store, tmp_path: Path, gone: bool) -> None:
    """A handshake, as server and client each verify; OpenSSL here, libvirt and QEMU in tests/lab."""
    for name in ("a1", "b1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cert.pem").write_bytes(store.issue_for_request(name, (name,), request(tmp_path / name)))
    trusted = store.ca_pem + store.revocations({"a1"} if gone else {"a1", "b1"})
    server, client = (
        context(trusted, tmp_path / name, purpose)
        for name, purpose in (("a1", ssl.Purpose.CLIENT_AUTH), ("b1", ssl.Purpose.SERVER_AUTH))
    )
    ours, theirs = socket.socketpair()
    results: list[object] = []

    def serve() -> None:
        try:
            with server.wrap_socket(ours, server_side=True) as secure:
                results.append(secure.recv(1))
                secure.send(b"y")
        except ssl.SSLError as error:
            results.append(error.reason)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(theirs, server_hostname="a1") as secure:
            secure.send(b"x")
            assert secure.recv(1) == b"y"
    except (ssl.SSLError, OSError):
        assert gone
    thread.join(timeout=30)
    assert results == (["CERTIFICATE_VERIFY_FAILED"] if gone else [b"x"])


def context(trusted: bytes, folder: Path, purpose: ssl.Purpose) -> ssl.SSLContext:
    made = ssl.create_default_context(purpose, cadata=None)
    (folder / "trusted.pem").write_bytes(trusted)
    made.load_verify_locations(folder / "trusted.pem")
    made.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return made
