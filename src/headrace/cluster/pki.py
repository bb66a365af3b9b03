"""Certificates of one deployment: its own CA and leaf certificates, as PEM text.

A leaf is one file with its PKCS#8 key, its certificate and the CA, as read without a password by Kafka's PEM stores
(KIP-651) and Cassandra's PEMBasedSslContextFactory (CASSANDRA-17031).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS = 3650
LEAF_DAYS = 365


@dataclass(frozen=True)
class Authority:
    """A certificate authority as PEM text; the key never leaves its Secret and the Job that signs."""

    key: str
    certificate: str


def make_authority(name: str, now: datetime | None = None) -> Authority:
    """Return a new CA, valid for ten years from `now`; it can sign only leaf certificates."""
    key = ec.generate_private_key(ec.SECP256R1())
    begin = _begin(now)
    subject = _name(name)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(_key_text(key), _certificate_text(certificate))


def make_leaf(authority: Authority, name: str, hosts: Sequence[str], now: datetime | None = None) -> str:
    """Return key, certificate and CA as one text: a server and client certificate for `hosts` with common name `name`."""
    signer = serialization.load_pem_private_key(authority.key.encode(), None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise TypeError("the authority's key is not an elliptic curve key")
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    key = ec.generate_private_key(ec.SECP256R1())
    begin = _begin(now)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(min(begin + timedelta(days=LEAF_DAYS), issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return _key_text(key) + _certificate_text(certificate) + authority.certificate


def days_left(leaf: str, now: datetime | None = None) -> float:
    """Return the number of days for which a leaf (text of `make_leaf`) is still valid."""
    certificate = x509.load_pem_x509_certificates(leaf[leaf.index("-----BEGIN CERTIFICATE") :].encode())[0]
    return (certificate.not_valid_after_utc - (now or datetime.now(UTC))) / timedelta(days=1)


def _begin(now: datetime | None) -> datetime:
    return (now or datetime.now(UTC)) - timedelta(minutes=5)  # tolerance for different node clocks


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_text(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def _certificate_text(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
