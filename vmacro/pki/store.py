"""The authority's folder: cacert.pem, cakey.pem, and in issued/ the certificate that each name has now."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from vmacro.errors import ConfigurationError
from vmacro.pki import certificates
from vmacro.pki.certificates import Authority, PublicKey

MAX_REQUEST_BYTES = 16_384
OPERATOR = "operator"
RENEW_DAYS = 30.0
LIFETIME_DAYS = 365.0
Parsed = TypeVar("Parsed")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")


@dataclass(frozen=True)
class Issued:
    """What an operator wants to know of a certificate."""

    name: str
    names: tuple[str, ...]
    expires: str
    days_left: float
    serial: str
    is_authority: bool = False


class Store:
    """Every method raises ConfigurationError: nothing of this touches a host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def ca_pem(self) -> bytes:
        return _read(self.folder / "cacert.pem", "`vmacro pki init` makes an authority")

    def init(self, name: str) -> bool:
        """Make the authority; False where there is one already."""
        if (self.folder / "cacert.pem").exists():
            self.authority()
            return False
        ca = certificates.self_signed(name)
        (self.folder / "issued").mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        certificates.write_private(self.folder / "cakey.pem", certificates.key_pem(ca.key))
        (self.folder / "cacert.pem").write_bytes(certificates.pem(ca.certificate))
        return True

    def authority(self) -> Authority:
        key_file = self.folder / "cakey.pem"
        key = _loaded(key_file, lambda data: serialization.load_pem_private_key(data, None))
        certificate = _loaded(self.folder / "cacert.pem", x509.load_pem_x509_certificate)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ConfigurationError(f"{key_file}: is not the key of cacert.pem beside it")
        return Authority(key, certificate)

    def issue_for_request(
        self, name: str, names: tuple[str, ...], request: bytes, days: float = LIFETIME_DAYS
    ) -> bytes:
        """A host's certificate (PEM) for the key in its request (PKCS#10); its names come from us, not from it.

        The one it has, if that will do for RENEW_DAYS more.
        """
        return certificates.pem(self._issue(name, names, _key_of(request, name), days, renew=False))

    def issue_pair(self, folder: Path, name: str, names: tuple[str, ...], days: float = LIFETIME_DAYS) -> None:
        """A client's folder, as libvirt's `pkipath` wants it; its key is made there, and stays. Idempotent."""
        folder.mkdir(parents=True, exist_ok=True)
        key_file = folder / "clientkey.pem"
        if not key_file.exists():
            certificates.write_private(key_file, certificates.key_pem(certificates.new_key()))
        key = _loaded(key_file, lambda data: serialization.load_pem_private_key(data, None))
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigurationError(f"{key_file}: not a key of an elliptic curve")
        certificate = self._issue(name, names, key.public_key(), days, renew=False)
        (folder / "clientcert.pem").write_bytes(certificates.pem(certificate))
        (folder / "cacert.pem").write_bytes(self.ca_pem)

    def renew(self, name: str, days: float = LIFETIME_DAYS) -> bytes:
        """A new certificate for the key and the names of the one that `name` has."""
        old = self._current(name)
        if old is None:
            known = ", ".join(i.name for i in self.issued() if not i.is_authority) or "none"
            raise ConfigurationError(f"certificate {name!r}: none was issued by {self.folder}", f"issued: {known}")
        public = old.public_key()
        assert isinstance(public, PublicKey)
        return certificates.pem(self._issue(name, certificates.names_of(old), public, days, renew=True))

    def issued(self) -> list[Issued]:
        """The authority first, then by name."""
        found = [_loaded(self.folder / "cacert.pem", x509.load_pem_x509_certificate)]
        files = sorted((self.folder / "issued").glob("*.pem"))
        found += [_loaded(path, x509.load_pem_x509_certificate) for path in files]
        return [_described(certificate, number == 0) for number, certificate in enumerate(found)]

    def _issue(
        self, name: str, names: tuple[str, ...], public: PublicKey, days: float, renew: bool
    ) -> x509.Certificate:
        ca, old = self.authority(), self._current(name)
        if not renew and old is not None and _will_do(old, names, public, ca):
            return old
        certificate = certificates.peer(ca, public, name, names, days)
        (self.folder / "issued").mkdir(exist_ok=True)
        (self.folder / "issued" / f"{name}.pem").write_bytes(certificates.pem(certificate))
        return certificate

    def _current(self, name: str) -> x509.Certificate | None:
        if not _NAME.match(name):
            raise ConfigurationError(f"certificate {name!r}: not a name of letters, digits, dots and dashes")
        path = self.folder / "issued" / f"{name}.pem"
        return _loaded(path, x509.load_pem_x509_certificate) if path.exists() else None


def _will_do(old: x509.Certificate, names: tuple[str, ...], public: PublicKey, ca: Authority) -> bool:
    try:
        old.verify_directly_issued_by(ca.certificate)
    except (InvalidSignature, ValueError):
        return False  # of the authority before this one
    enough = certificates.days_left(old, _now()) > RENEW_DAYS
    return enough and certificates.names_of(old) == names and old.public_key() == public


def _key_of(request: bytes, name: str) -> PublicKey:
    if len(request) > MAX_REQUEST_BYTES:
        raise ConfigurationError(f"request of {name}: over {MAX_REQUEST_BYTES} bytes")
    try:
        found = x509.load_pem_x509_csr(request)
    except ValueError as error:
        raise ConfigurationError(f"request of {name}: not a PKCS#10 request in PEM: {error}") from error
    public = found.public_key()
    if not found.is_signature_valid or not isinstance(public, PublicKey):
        raise ConfigurationError(f"request of {name}: not signed by the elliptic-curve key that it names")
    return public


def _described(certificate: x509.Certificate, is_authority: bool) -> Issued:
    return Issued(
        certificates.name_of(certificate),
        certificates.names_of(certificate),
        certificate.not_valid_after_utc.strftime("%Y-%m-%d"),
        round(certificates.days_left(certificate, _now()), 1),
        f"{certificate.serial_number:x}",
        is_authority,
    )


def _loaded(path: Path, parse: Callable[[bytes], Parsed]) -> Parsed:
    try:
        return parse(_read(path))
    except ValueError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error


def _read(path: Path, hint: str = "") -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}", hint) from error


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
