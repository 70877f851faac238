"""An authority's folder: cacert.pem, cakey.pem; in issued/ the present certificate of each name, in former/ those that
it had before; crl.pem, what of all these counts no more."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ObjectIdentifier

from vmacro import private
from vmacro.errors import ConfigurationError
from vmacro.pki import certificates
from vmacro.pki.certificates import HOST_USES, OPERATOR_USES, Authority, PublicKey
from vmacro.pki.names import LIBVIRT, QEMU

MAX_REQUEST_BYTES = 16_384
RENEW_DAYS = 30.0
LIFETIME_DAYS = 365.0
Parsed = TypeVar("Parsed")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")


@dataclass(frozen=True)
class Issued:
    """What an operator wants to know about a certificate. `purpose`: LIBVIRT or QEMU."""

    purpose: str
    name: str
    names: tuple[str, ...]
    expires: str
    days_left: float
    serial: str
    is_authority: bool = False


def stores(folder: Path) -> dict[str, Store]:
    """The authorities of an inventory, by purpose. What QEMU's user can read, and a guest that has broken out of its
    QEMU with it, must open no libvirt: hence two."""
    return {LIBVIRT: Store(folder), QEMU: Store(folder / QEMU, QEMU)}


def init(folder: Path, name: str) -> bool:
    """Make the authorities; False where they are there already. Raises ConfigurationError."""
    made = [store.init(f"{name} {purpose}") for purpose, store in stores(folder).items()]
    return any(made)


class Store:
    """An authority in its folder. Every method raises ConfigurationError; none of them contacts a host."""

    def __init__(self, folder: Path, purpose: str = LIBVIRT) -> None:
        self.folder = folder
        self.purpose = purpose

    @property
    def ca_pem(self) -> bytes:
        """The authority's certificate, which every host and the operator get."""
        return _read(self.folder / "cacert.pem")

    def init(self, name: str) -> bool:
        """Make the authority; False where there is one already."""
        if (self.folder / "cacert.pem").exists():
            self.authority()
            return False
        ca = certificates.self_signed(name)
        private.folder(self.folder / "issued")
        self.folder.chmod(0o700)
        private.write(self.folder / "cakey.pem", certificates.key_pem(ca.key))
        private.write(self.folder / "cacert.pem", certificates.pem(ca.certificate))
        return True

    def authority(self) -> Authority:
        """Its key and certificate, which must fit each other."""
        key_file = self.folder / "cakey.pem"
        key = _private(key_file)
        certificate = _loaded(self.folder / "cacert.pem", x509.load_pem_x509_certificate)
        if key.public_key() != certificate.public_key():
            raise ConfigurationError(f"{key_file}: is not the key of cacert.pem beside it")
        return Authority(key, certificate)

    def issue_for_request(
        self, name: str, names: tuple[str, ...], request: bytes, days: float = LIFETIME_DAYS
    ) -> bytes:
        """A host's certificate (PEM) for the key in its request (PKCS#10), valid for `names` whatever the request says.

        It is the present one, if that fits and is valid for more than RENEW_DAYS.
        """
        return certificates.pem(self._issue(name, names, _key_of(request, name), days, HOST_USES, renew=False))

    def issue_pair(self, folder: Path, name: str, names: tuple[str, ...], days: float = LIFETIME_DAYS) -> None:
        """Fill a client's folder as libvirt's `pkipath` wants it. Its key is made once, and then kept. Idempotent."""
        private.folder(folder)
        key_file = folder / "clientkey.pem"
        if not key_file.exists():
            private.write(key_file, certificates.key_pem(certificates.new_key()))
        public = _private(key_file).public_key()
        certificate = self._issue(name, names, public, days, OPERATOR_USES, renew=False)
        private.write(folder / "clientcert.pem", certificates.pem(certificate))
        private.write(folder / "cacert.pem", self.ca_pem)

    def renew(self, name: str, days: float = LIFETIME_DAYS) -> bytes:
        """A new certificate with the key, the names and the uses of the present one of `name`."""
        old = self._current(name)
        if old is None:
            known = ", ".join(i.name for i in self.issued() if not i.is_authority) or "none"
            raise ConfigurationError(f"certificate {name!r}: none was issued by {self.folder}", f"issued: {known}")
        public = _strong(old.public_key(), f"certificate {name!r}")
        uses = OPERATOR_USES if certificates.is_for(old, OPERATOR_USES) else HOST_USES
        return certificates.pem(self._issue(name, certificates.names_of(old), public, days, uses, renew=True))

    def revocations(self, names: Collection[str]) -> bytes:
        """The revocation list (PEM) by which only `names` are let in, and they only by the keys and names that they
        have now.

        The same list again while nothing changes: hosts restart their libvirt for another.
        """
        path, wanted = self.folder / "crl.pem", set(self._revoked(names))
        if path.exists():
            kept = _loaded(path, x509.load_pem_x509_crl)
            if {r.serial_number for r in kept} == wanted and kept.is_signature_valid(self.authority().key.public_key()):
                return certificates.pem(kept)
        made = certificates.pem(certificates.revocations(self.authority(), wanted))
        private.write(path, made)
        return made

    def issued(self) -> list[Issued]:
        """All certificates: the authority's first, then by name."""
        found = [_loaded(self.folder / "cacert.pem", x509.load_pem_x509_certificate), *self._all("issued")]
        return [self._described(certificate, number == 0) for number, certificate in enumerate(found)]

    def _revoked(self, names: Collection[str]) -> Iterator[int]:
        present = {certificates.name_of(c): c for c in self._all("issued")}
        for certificate in [*present.values(), *self._all("former")]:
            name = certificates.name_of(certificate)
            now = present.get(name)
            if name not in names or now is None or now.public_key() != certificate.public_key():
                yield certificate.serial_number
            elif not set(certificates.names_of(certificate)) <= set(certificates.names_of(now)):
                yield certificate.serial_number  # a name that it had may be another host's now

    def _all(self, kind: str) -> list[x509.Certificate]:
        return [_loaded(path, x509.load_pem_x509_certificate) for path in sorted((self.folder / kind).glob("*.pem"))]

    def _issue(
        self,
        name: str,
        names: tuple[str, ...],
        public: PublicKey,
        days: float,
        uses: tuple[ObjectIdentifier, ...],
        renew: bool,
    ) -> x509.Certificate:
        ca, old = self.authority(), self._current(name)
        if not renew and old is not None and _will_do(old, names, public, uses, ca):
            return old
        certificate = certificates.peer(ca, public, name, names, days, uses)
        if old is not None:  # before it is overwritten: what is not known cannot be revoked
            private.folder(self.folder / "former")
            private.write(self.folder / "former" / f"{old.serial_number:x}.pem", certificates.pem(old))
        private.folder(self.folder / "issued")
        private.write(self.folder / "issued" / f"{name}.pem", certificates.pem(certificate))
        return certificate

    def _current(self, name: str) -> x509.Certificate | None:
        if not _NAME.match(name):
            raise ConfigurationError(f"certificate {name!r}: not a name of letters, digits, dots and dashes")
        path = self.folder / "issued" / f"{name}.pem"
        return _loaded(path, x509.load_pem_x509_certificate) if path.exists() else None

    def _described(self, certificate: x509.Certificate, is_authority: bool) -> Issued:
        return Issued(
            self.purpose,
            certificates.name_of(certificate),
            certificates.names_of(certificate),
            certificate.not_valid_after_utc.strftime("%Y-%m-%d"),
            round(certificates.days_left(certificate, _now()), 1),
            f"{certificate.serial_number:x}",
            is_authority,
        )


def _will_do(
    old: x509.Certificate,
    names: tuple[str, ...],
    public: PublicKey,
    uses: tuple[ObjectIdentifier, ...],
    ca: Authority,
) -> bool:
    try:
        old.verify_directly_issued_by(ca.certificate)
    except (InvalidSignature, ValueError):
        return False  # issued by an earlier authority
    enough = certificates.days_left(old, _now()) > RENEW_DAYS
    same = certificates.names_of(old) == names and certificates.is_for(old, uses)
    return enough and same and old.public_key() == public


def _key_of(request: bytes, name: str) -> PublicKey:
    if len(request) > MAX_REQUEST_BYTES:
        raise ConfigurationError(f"request of {name}: over {MAX_REQUEST_BYTES} bytes")
    try:
        found = x509.load_pem_x509_csr(request)
        public = _strong(found.public_key(), f"request of {name}")
        digest = found.signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"request of {name}: not a PKCS#10 request in PEM: {error}") from error
    if not isinstance(digest, certificates.DIGESTS):
        known = ", ".join(d.name for d in certificates.DIGESTS)
        raise ConfigurationError(f"request of {name}: is signed with {digest.name if digest else 'none'}, not {known}")
    if not found.is_signature_valid:
        raise ConfigurationError(f"request of {name}: not signed by the key that it names")
    return public


def _private(path: Path) -> ec.EllipticCurvePrivateKey:
    key = _loaded(path, lambda data: serialization.load_pem_private_key(data, None))
    _strong(key.public_key(), str(path))
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _strong(public: object, subject: str) -> PublicKey:
    try:
        return certificates.strong(public)
    except ValueError as error:
        hint = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
        raise ConfigurationError(f"{subject}: {error}", hint) from error


def _loaded(path: Path, parse: Callable[[bytes], Parsed]) -> Parsed:
    try:
        return parse(_read(path))
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:  # TypeError: a key that wants a password
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        hint = "`vmacro pki init` makes an authority" if isinstance(error, FileNotFoundError) else ""
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}", hint) from error


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
