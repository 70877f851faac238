"""X.509 certificates and revocation lists as libvirt, QEMU and GnuTLS want them (RFC 5280)."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

CA_LIFETIME = datetime.timedelta(days=3650)
BACKDATED = datetime.timedelta(hours=1)  # the clocks of hosts differ
# A host takes guests and sends them; an operator's machine only asks.
HOST_USES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
OPERATOR_USES = (ExtendedKeyUsageOID.CLIENT_AUTH,)
# What GnuTLS and OpenSSL take for 128 bits of strength or more, and every Debian since 11 knows.
CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
DIGESTS = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
PublicKey = ec.EllipticCurvePublicKey


@dataclass(frozen=True)
class Authority:
    """A certificate authority: its private key, and its certificate, which all peers know."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def new_key() -> ec.EllipticCurvePrivateKey:
    """A private key on the curve P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def self_signed(name: str) -> Authority:
    """A new authority, whose certificates sign no further authorities."""
    key, subject = new_key(), _subject(name)
    builder = _builder(subject, subject, key.public_key(), CA_LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return Authority(key, builder.sign(key, hashes.SHA256()))


def peer(
    ca: Authority,
    public: PublicKey,
    name: str,
    names: tuple[str, ...],
    days: float,
    uses: tuple[ObjectIdentifier, ...] = HOST_USES,
) -> x509.Certificate:
    """A certificate for `name`, valid for these DNS names and addresses, and for these uses alone.

    The uses are critical: of others libvirt's virNetTLSCertCheckKeyPurpose only warns.
    """
    builder = _builder(_subject(name), ca.certificate.subject, public, datetime.timedelta(days=days))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(n) for n in names]), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    return builder.add_extension(issuer, critical=False).sign(ca.key, hashes.SHA256())


def revocations(ca: Authority, serials: Collection[int]) -> x509.CertificateRevocationList:
    """What of the authority's certificates counts no more (RFC 5280 section 5), good for as long as the authority."""
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject)
    builder = builder.last_update(now - BACKDATED).next_update(ca.certificate.not_valid_after_utc)
    for serial in sorted(serials):
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - BACKDATED)
        builder = builder.add_revoked_certificate(revoked.build())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    builder = builder.add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
    return builder.add_extension(issuer, critical=False).sign(ca.key, hashes.SHA256())


def strong(public: object) -> PublicKey:
    """The key, if an authority signs for it, and it may sign for an authority. Raises ValueError for any other."""
    if not isinstance(public, PublicKey) or not isinstance(public.curve, CURVES):
        known = ", ".join(curve.name for curve in CURVES)
        raise ValueError(f"is no key of an elliptic curve among {known}, but {_kind(public)}")
    return public


def is_for(certificate: x509.Certificate, uses: tuple[ObjectIdentifier, ...]) -> bool:
    """Whether it is good for these uses and no others, so that everybody enforces it."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        return False
    return found.critical and tuple(found.value) == uses


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names and addresses that it is valid for (subjectAltName), in its order."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(n.value) for n in found if isinstance(n, (x509.DNSName, x509.IPAddress)))


def name_of(certificate: x509.Certificate) -> str:
    """Its subject's common name, or ''."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def days_left(certificate: x509.Certificate, now: datetime.datetime) -> float:
    """Days until it expires; negative once it has."""
    return (certificate.not_valid_after_utc - now).total_seconds() / 86_400


def pem(signed: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    """As PEM (RFC 7468)."""
    return signed.public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """As PKCS#8 in PEM, without a password: libvirt and QEMU ask for none."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public: PublicKey, lifetime: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + lifetime) - BACKDATED)
        .not_valid_after(now + lifetime)
    )


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=not signs_certificates,  # libvirt insists on it
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _kind(public: object) -> str:
    if isinstance(public, PublicKey):
        return f"one of {public.curve.name}"
    bits = getattr(public, "key_size", None)
    return type(public).__name__.lstrip("_") + (f" of {bits} bits" if bits else "")
