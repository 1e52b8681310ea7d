"""The certificates of a federation (RFC 5280): profiles, not options.

Root CA -> issuing CA -> leaves. Leaves are of three kinds, told apart by extended key usage: TLS
server, TLS client, and document signing (RFC 9336), so that a stolen TLS key signs nothing.
A certificate request proves possession of a key; every name in it is ignored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from kit.files import read_document
from pki.errors import IdentityError, RequestError
from pki.identity import Identity
from pki.keys import PrivateKey, TlsKey, new_tls_key

DOCUMENT_SIGNING = ObjectIdentifier("1.3.6.1.5.5.7.3.36")
ROOT_YEARS, ISSUING_YEARS = 10, 5
TLS_DAYS = 7
SIGNING_DAYS = 365
MAX_REQUEST_BYTES = 4096
MAX_CHAIN_BYTES = 16 << 10
_BACKDATE = timedelta(minutes=10)  # a site's clock may run behind the coordinator's
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA certificate with its private key (P-256)."""

    certificate: x509.Certificate
    key: TlsKey


def new_root(federation: str, *, now: datetime, key: TlsKey | None = None) -> Authority:
    """Return a self-signed root for a federation, with a fresh or a given key."""
    key = key or new_tls_key()
    name = _name(f"{federation} root CA")
    builder = _builder(name, name, key.public_key(), now, days=ROOT_YEARS * 365)
    return Authority(_as_ca(builder, path_length=1).sign(key, hashes.SHA256()), key)


def new_issuing(
    root: Authority, federation: str, *, now: datetime, key: TlsKey | None = None
) -> Authority:
    """Return an issuing CA signed by the root, for a fresh or a given key; it signs leaves only.

    The name stays at a renewal, so one revocation list covers the leaves of every issuing
    certificate (RFC 5280 section 6.3.3: a list is matched to certificates by issuer name).
    """
    key = key or new_tls_key()
    subject = _name(f"{federation} issuing CA")
    builder = _builder(
        subject, root.certificate.subject, key.public_key(), now, days=ISSUING_YEARS * 365
    ).add_extension(  # RFC 5280 section 4.2.1.1 wants it on every certificate but a root
        x509.AuthorityKeyIdentifier.from_issuer_public_key(root.key.public_key()), critical=False
    )
    return Authority(_as_ca(builder, path_length=0).sign(root.key, hashes.SHA256()), key)


def issue_tls_server(
    ca: Authority, identity: Identity, public: PublicKey, hosts: Sequence[str], *, now: datetime
) -> x509.Certificate:
    """Return a server leaf (serverAuth) for the names and addresses in `hosts`."""
    alternatives = [_host(host) for host in hosts]
    return _leaf(ca, identity, public, ExtendedKeyUsageOID.SERVER_AUTH, alternatives, now, TLS_DAYS)


def issue_tls_client(
    ca: Authority, identity: Identity, public: PublicKey, *, now: datetime
) -> x509.Certificate:
    """Return a client leaf (clientAuth, days)."""
    return _leaf(ca, identity, public, ExtendedKeyUsageOID.CLIENT_AUTH, [], now, TLS_DAYS)


def issue_signing(
    ca: Authority, identity: Identity, public: PublicKey, *, now: datetime
) -> x509.Certificate:
    """Return a document-signing leaf (RFC 9336, one year)."""
    return _leaf(ca, identity, public, DOCUMENT_SIGNING, [], now, SIGNING_DAYS)


def request(key: PrivateKey) -> bytes:
    """Return a DER certificate request (RFC 2986) that proves possession and names nobody."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


def requested_tls_key(der: bytes) -> PublicKey:
    """Return the P-256 key that a request proves.

    Raises:
        RequestError: not a request, a bad proof, or another kind of key.
    """
    key = _requested_key(der)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RequestError("a TLS certificate request must carry a P-256 key")
    return key


def requested_signing_key(der: bytes) -> PublicKey:
    """Return the Ed25519 key that a request proves.

    Raises:
        RequestError: not a request, a bad proof, or another kind of key.
    """
    key = _requested_key(der)
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise RequestError("a signing certificate request must carry an Ed25519 key")
    return key


def _requested_key(der: bytes) -> object:
    if len(der) > MAX_REQUEST_BYTES:
        raise RequestError(f"certificate request is over {MAX_REQUEST_BYTES} bytes")
    try:
        csr = x509.load_der_x509_csr(der)
        if not csr.is_signature_valid:
            raise RequestError("certificate request does not prove possession of its key")
        return csr.public_key()
    except _UNREADABLE as error:
        raise RequestError("bytes are not a certificate request") from error


def der(certificate: x509.Certificate) -> bytes:
    """Return the DER bytes of a certificate."""
    return certificate.public_bytes(serialization.Encoding.DER)


def pem(*certificates: x509.Certificate) -> bytes:
    """Return certificates as concatenated PEM, leaf first."""
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the hexadecimal SHA-256 of the DER bytes."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def from_der(data: bytes) -> x509.Certificate:
    """Read one DER certificate.

    Raises:
        IdentityError: the bytes are not a certificate.
    """
    try:
        return x509.load_der_x509_certificate(data)
    except _UNREADABLE as error:
        raise IdentityError("bytes are not a certificate") from error


def from_pem(data: bytes) -> tuple[x509.Certificate, ...]:
    """Read concatenated PEM certificates.

    Raises:
        IdentityError: the bytes are not certificates.
    """
    try:
        return tuple(x509.load_pem_x509_certificates(data))
    except _UNREADABLE as error:
        raise IdentityError("bytes are not PEM certificates") from error


def read_pem(path: Path, *, limit: int = MAX_CHAIN_BYTES) -> tuple[x509.Certificate, ...]:
    """Read the certificates in a file that a person named.

    Raises:
        KitError: it is missing, too large, or holds something else.
    """
    return read_document(
        path,
        from_pem,
        limit=limit,
        what="certificate",
        hint="give PEM, from `-----BEGIN CERTIFICATE-----` on, leaf first",
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: PublicKey, now: datetime, *, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _as_ca(builder: x509.CertificateBuilder, *, path_length: int) -> x509.CertificateBuilder:
    constraints = x509.BasicConstraints(ca=True, path_length=path_length)
    return builder.add_extension(constraints, critical=True).add_extension(
        _usage(ca=True), critical=True
    )


def _leaf(
    ca: Authority,
    identity: Identity,
    public: PublicKey,
    usage: ObjectIdentifier,
    hosts: list[x509.GeneralName],
    now: datetime,
    days: int,
) -> x509.Certificate:
    issuer = ca.certificate.subject
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri), *hosts])
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    return (
        _builder(_name(identity.name or identity.role), issuer, public, now, days=days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(names, critical=False)
        .add_extension(authority, critical=False)
        .sign(ca.key, hashes.SHA256())
    )
