"""Renewal of what the coordinator itself holds: its document-signing key, and the issuing CA.

Nothing is restarted: whoever signs asks the home each time (`Coordinator.signing_chain`), and a
release is verified with the chain that signed it, at the time the log gives it.
"""

from dataclasses import dataclass
from pathlib import Path

from coordinator import issuance, roots
from coordinator.context import Coordinator
from coordinator.errors import StateError
from federation.auditlog.events import Kind
from kit import canonical, clock
from kit.files import exclusive, os_errors, write_atomic
from pki import certificates, keys, lifetimes
from pki.certificates import Authority
from pki.crl import Reason

_BUSY = "another process is renewing certificates of this home"


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """A certificate of the coordinator that was just made."""

    certificate: str
    fingerprint: str
    expires: str


def renew_due(coordinator: Coordinator) -> int:
    """Renew the document-signing certificate at two thirds of its life; returns how many."""
    if coordinator.now() < lifetimes.renewal_due(coordinator.signing_chain[0]):
        return 0
    renew_documents(coordinator)
    return 1


def renew_documents(coordinator: Coordinator, *, compromised: bool = False) -> Renewed:
    """Replace the document-signing key and its certificate.

    What the old one signed stays valid, unless it is `compromised`: then nothing does, and every
    release must be published again.

    Raises:
        KitError: another process does the same, or a file cannot be written.
    """
    with exclusive(coordinator.home.path / "renewal.lock", busy=_BUSY):
        old = certificates.pem(*coordinator.signing_chain)
        key = keys.new_signing_key()
        issuing = coordinator.issuing
        next_key = coordinator.home.key("signing-next.key")
        _settle_key(coordinator, "signing")
        keys.save(next_key, key)
        with coordinator.write() as tx:
            leaf = certificates.issue_signing(
                issuing, coordinator.identity, key.public_key(), now=tx.now
            )
            chain = certificates.pem(leaf, issuing.certificate)
            who, usage = issuance.COORDINATOR, issuance.SIGNING
            previous = issuance.keep(tx, old, holder=who, usage=usage)
            fingerprint = issuance.keep(tx, chain, holder=who, usage=usage)
            tx.record(Kind.DOCUMENT_KEY_RENEWED, fingerprint, previous=previous)
            if compromised:
                issuance.revoke(tx, previous, Reason.key_compromise)
                tx.record(Kind.CERTIFICATE_REVOKED, previous)
        write_atomic(coordinator.home.certificate("signing.pem"), chain)
        _settle_key(coordinator, "signing")
    return Renewed(
        certificate="document signing",
        fingerprint=fingerprint,
        expires=clock.rfc3339(leaf.not_valid_after_utc),
    )


def renew_issuing(
    coordinator: Coordinator, folder: Path | None = None, *, new_key: bool = False
) -> Renewed:
    """Have the root sign the issuing CA anew, and the document-signing certificate under it.

    Sites' leaves that were issued before stay good: the registry knows each of them. With a new key
    every certificate of the old one goes on a list that the root signs and the log names: whoever
    holds the old key makes nothing that a site believes.

    `folder` holds the offline keys; None is where `init` wrote them.

    Raises:
        NotFoundError: the root's key was not brought.
        IdentityError: it is another federation's.
    """
    key = roots.root_key(coordinator.home, folder, certificate=coordinator.root)
    root = Authority(coordinator.root, key)
    if coordinator.now() > coordinator.root.not_valid_after_utc:
        raise StateError("the root certificate has expired", hint="found a new federation")
    with exclusive(coordinator.home.path / "renewal.lock", busy=_BUSY):
        _settle_key(coordinator, "issuing")
        kept = None if new_key else coordinator.issuing.key
        made = certificates.new_issuing(
            root, coordinator.config.federation, now=coordinator.now(), key=kept
        )
        if new_key:
            keys.save(coordinator.home.key("issuing-next.key"), made.key)
        fingerprint = certificates.fingerprint(made.certificate)
        with coordinator.write() as tx:
            details = {}
            if new_key:
                made_list = issuance.revoke_issuing(coordinator, tx, root, replaced_by=made)
                details["revocations"] = canonical.digest(made_list)
            tx.record(Kind.ISSUING_RENEWED, fingerprint, **details)
        write_atomic(
            coordinator.home.certificate("issuing.pem"), certificates.pem(made.certificate)
        )
        _settle_key(coordinator, "issuing")
    renew_documents(coordinator)
    return Renewed(
        certificate="issuing CA",
        fingerprint=fingerprint,
        expires=clock.rfc3339(made.certificate.not_valid_after_utc),
    )


def _settle_key(coordinator: Coordinator, name: str) -> None:
    """Put the next key in place if the certificate is for it: a renewal may have died before."""
    following = coordinator.home.key(f"{name}-next.key")
    if not following.is_file():
        return
    key = coordinator.issuing.key if name == "issuing" else coordinator.signer[1]
    load = keys.load_tls if name == "issuing" else keys.load_signing
    if load(following).public_key() == key.public_key():
        with os_errors(following):
            following.replace(coordinator.home.key(f"{name}.key"))
    else:
        following.unlink()
