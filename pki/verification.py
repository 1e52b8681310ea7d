"""Certificate policy: whom a certificate proves, and for what.

Both gRPC and path validation accept a leaf without extended key usage; here it is mandatory, and
exactly one. A check raises; it never returns a boolean.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from pki.certificates import DOCUMENT_SIGNING
from pki.crl import RevocationList, RevocationLists
from pki.errors import IdentityError
from pki.identity import Identity

Revocations = RevocationList | RevocationLists

MAX_CHAIN_DEPTH = 1  # root -> issuing CA -> leaf: one intermediate


def verify_tls_client(
    chain: Sequence[x509.Certificate],
    *,
    root: x509.Certificate,
    now: datetime,
    revocations: Revocations | None = None,
) -> Identity:
    """Return whom a TLS client leaf proves; `chain` is leaf first.

    Raises:
        IdentityError: untrusted, expired, revoked, wrong usage or key, or not one identity.
    """
    proven = _verify(chain, root, now, ExtendedKeyUsageOID.CLIENT_AUTH, _is_p256)
    _check_not_revoked(chain, revocations, now)
    return proven


def verify_tls_server(
    chain: Sequence[x509.Certificate], *, root: x509.Certificate, now: datetime
) -> Identity:
    """Return whom a TLS server leaf proves. Raises as `verify_tls_client`."""
    return _verify(chain, root, now, ExtendedKeyUsageOID.SERVER_AUTH, _is_p256)


def verify_signing(
    chain: Sequence[x509.Certificate],
    *,
    root: x509.Certificate,
    now: datetime,
    revocations: Revocations | None = None,
) -> Identity:
    """Return whom a document-signing leaf proves, `now` being when it signed.

    Raises as `verify_tls_client`.
    """
    proven = _verify(chain, root, now, DOCUMENT_SIGNING, _is_ed25519)
    _check_not_revoked(chain, revocations, now)
    return proven


def _check_not_revoked(
    chain: Sequence[x509.Certificate], revocations: Revocations | None, now: datetime
) -> None:
    """Path validation knows no revocation lists: each certificate is looked up here."""
    if revocations is not None:
        for certificate in chain:
            revocations.check(certificate, at=now)


def _is_p256(key: object) -> bool:
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)


def _is_ed25519(key: object) -> bool:
    return isinstance(key, ed25519.Ed25519PublicKey)


def _verify(
    chain: Sequence[x509.Certificate],
    root: x509.Certificate,
    now: datetime,
    usage: ObjectIdentifier,
    has_right_kind: Callable[[object], bool],
) -> Identity:
    if not chain:
        raise IdentityError("no certificate was presented")
    leaf, intermediates = chain[0], list(chain[1:])
    _check_time(leaf, now)
    builder = (
        PolicyBuilder()
        .store(Store([root]))
        .time(now)
        .max_chain_depth(MAX_CHAIN_DEPTH)
        .extension_policies(
            ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=_leaf_policy(usage)
        )
    )
    try:
        verified = builder.build_client_verifier().verify(leaf, intermediates)
    except VerificationError as error:
        raise IdentityError("certificate is not trusted for this use") from error
    if not has_right_kind(leaf.public_key()):
        raise IdentityError("certificate carries the wrong kind of key")
    return _identity(verified.subjects or [])


def _check_time(leaf: x509.Certificate, now: datetime) -> None:
    if now > leaf.not_valid_after_utc:
        raise IdentityError(
            f"certificate expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
            hint="enrol this site again with a new token from the coordinator",
        )
    if now < leaf.not_valid_before_utc:
        raise IdentityError(
            f"certificate is valid only from {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
            hint="check the clock of this machine",
        )


def _leaf_policy(usage: ObjectIdentifier) -> ExtensionPolicy:
    return (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.CRITICAL, _not_a_ca)
        .require_present(x509.KeyUsage, Criticality.CRITICAL, _signs_only)
        .require_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _exactly(usage))
        .require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
    )


def _not_a_ca(_policy: Policy, _leaf: x509.Certificate, ext: x509.BasicConstraints) -> None:
    if ext.ca:
        raise ValueError("a leaf must not be a CA")


def _signs_only(_policy: Policy, _leaf: x509.Certificate, ext: x509.KeyUsage) -> None:
    if not ext.digital_signature or ext.key_cert_sign:
        raise ValueError("a leaf must have digitalSignature and not keyCertSign")


def _exactly(
    usage: ObjectIdentifier,
) -> Callable[[Policy, x509.Certificate, x509.ExtendedKeyUsage], None]:
    def check(_policy: Policy, _leaf: x509.Certificate, ext: x509.ExtendedKeyUsage) -> None:
        if list(ext) != [usage]:
            raise ValueError(f"extended key usage must be exactly {usage.dotted_string}")

    return check


def claimed_identity(leaf: x509.Certificate) -> Identity:
    """Return whom a leaf names; proves nothing before its chain was verified.

    Raises:
        IdentityError: it names nobody, or several.
    """
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise IdentityError("certificate must name exactly one identity") from error
    return _identity(list(names))


def _identity(subjects: Sequence[x509.GeneralName]) -> Identity:
    uris = [s.value for s in subjects if isinstance(s, x509.UniformResourceIdentifier)]
    if len(uris) != 1:
        raise IdentityError("certificate must name exactly one identity")
    return Identity.parse(uris[0])
