"""Certificate revocation lists (RFC 5280 section 5): issued by the issuing CA, checked by everyone.

Invariants:

- A list is checked against one issuer: its name, its key, and the right to sign lists (cRLSign).
- `number` (RFC 5280 section 5.2.3) only grows; whoever reads lists keeps the highest one seen.
- A certificate that was replaced or given up still proves what was signed before that moment; one
  revoked for any other reason proves nothing any more.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pki.certificates import Authority
from pki.errors import IdentityError

# A new list is made daily and comes with every contact; a stick in the post is the measure.
LIFETIME = timedelta(days=101)
MAX_CRL_BYTES = 4 << 20  # 20,000 entries were 0.7 MB
_SKEW = timedelta(minutes=10)
Reason = x509.ReasonFlags
# Reasons that say nothing against what the key signed before the date of the entry.
_ORDERLY = (Reason.superseded, Reason.cessation_of_operation)
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """One entry: a serial number, since when, and why."""

    serial: int
    since: datetime
    reason: Reason = Reason.unspecified


def issue(
    ca: Authority,
    revoked: Iterable[Revoked],
    *,
    number: int,
    now: datetime,
    until: datetime | None = None,
) -> bytes:
    """Return the DER of list `number` of a CA, good for `LIFETIME` or `until` a time."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.certificate.subject)
        .last_update(now)
        .next_update(until or now + LIFETIME)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False
        )
    )
    for item in sorted(revoked, key=lambda entry: entry.serial):
        entry = x509.RevokedCertificateBuilder().serial_number(item.serial)
        entry = entry.revocation_date(item.since)
        if item.reason is not Reason.unspecified:  # RFC 5280 section 5.3.1 wants it left out
            entry = entry.add_extension(x509.CRLReason(item.reason), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    signed = builder.sign(ca.key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationList:
    """A verified list of one issuer."""

    issuer: x509.Name
    number: int
    entries: Mapping[int, Revoked]

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Read a list that was verified when it was kept.

        Raises:
            IdentityError: the bytes are not a list, or one without a number.
        """
        return cls._of(_parse(data))

    @classmethod
    def verify(cls, data: bytes, issuer: x509.Certificate, *, now: datetime) -> Self:
        """Read a DER list and check that `issuer` signed it and that it is still good at `now`.

        One from the future is taken: it says no less, and a slow clock is refused elsewhere.

        Raises:
            IdentityError: not a list, another issuer's, without a number, or stale.
        """
        found = _parse(data)
        try:
            is_its_own = found.issuer == issuer.subject and _signs_lists(issuer)
            is_signed = is_its_own and found.is_signature_valid(_key(issuer))
        except _UNREADABLE:
            is_signed = False
        if not is_signed:
            raise IdentityError("certificate revocation list is not signed by its CA")
        if found.next_update_utc is None or found.next_update_utc + _SKEW < now:
            raise IdentityError(
                "certificate revocation list is out of date",
                hint="check the clock of this machine, then ask for a newer list",
            )
        return cls._of(found)

    @classmethod
    def _of(cls, found: x509.CertificateRevocationList) -> Self:
        try:
            number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            entries = {item.serial: item for item in map(_entry, found)}
        except _UNREADABLE as error:
            raise IdentityError(
                "certificate revocation list has no number or a bad entry"
            ) from error
        return cls(issuer=found.issuer, number=number, entries=entries)

    def check(self, certificate: x509.Certificate, *, at: datetime) -> None:
        """Refuse a certificate of this issuer that is on the list, for what it signed `at`.

        Raises:
            IdentityError: it is.
        """
        entry = self.entries.get(certificate.serial_number)
        if entry is None or certificate.issuer != self.issuer:
            return
        if entry.reason not in _ORDERLY or at >= entry.since:
            words = "replaced" if entry.reason is Reason.superseded else "revoked"
            raise IdentityError(f"certificate was {words} on {entry.since:%Y-%m-%d %H:%M} UTC")


@dataclass(frozen=True, slots=True)
class RevocationLists:
    """Lists of several issuers that are asked together."""

    lists: tuple[RevocationList, ...]

    def check(self, certificate: x509.Certificate, *, at: datetime) -> None:
        """Refuse a certificate that its issuer's list has, for what it signed `at`.

        Raises:
            IdentityError: it has.
        """
        for found in self.lists:
            found.check(certificate, at=at)


def _parse(data: bytes) -> x509.CertificateRevocationList:
    if len(data) > MAX_CRL_BYTES:
        raise IdentityError(f"certificate revocation list is over {MAX_CRL_BYTES} bytes")
    try:
        found = x509.load_der_x509_crl(data)
        unknown = [e.oid for e in found.extensions if e.critical]
    except _UNREADABLE as error:
        raise IdentityError("bytes are not a certificate revocation list") from error
    if unknown:  # RFC 5280 section 5.2: such a list must not be used
        raise IdentityError("certificate revocation list has an unknown critical extension")
    return found


def to_der(data: bytes) -> bytes:
    """Return the DER of a list given as DER or PEM.

    Raises:
        IdentityError: it is neither.
    """
    load = x509.load_pem_x509_crl if data.startswith(b"-----") else x509.load_der_x509_crl
    try:
        return load(data).public_bytes(serialization.Encoding.DER)
    except _UNREADABLE as error:
        raise IdentityError("bytes are not a certificate revocation list") from error


def _entry(item: x509.RevokedCertificate) -> Revoked:
    reason = Reason.unspecified
    for extension in item.extensions:
        if isinstance(extension.value, x509.CRLReason):
            reason = extension.value.reason
        elif extension.critical:
            raise ValueError("an entry has an unknown critical extension")
    return Revoked(serial=item.serial_number, since=item.revocation_date_utc, reason=reason)


def _signs_lists(issuer: x509.Certificate) -> bool:
    return issuer.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign


def _key(issuer: x509.Certificate) -> "ec.EllipticCurvePublicKey":
    key = issuer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey):
        raise TypeError("no key that signs lists")
    return key  # type: ignore[return-value]
