"""Who calls: the site that a certificate chain proves, checked anew every time."""

from collections.abc import Sequence

import sqlalchemy as sa
from cryptography import x509

from coordinator import (
    authorities,
    issuance,
    registry,
    state,
)
from coordinator.context import Coordinator
from coordinator.errors import NotAllowedError
from pki import certificates, identity, verification


def authenticate(
    coordinator: Coordinator, chain: Sequence[x509.Certificate], *, superseded: bool = False
) -> str:
    """Return the site that a TLS client chain proves, checked anew at every call.

    `superseded` lets a certificate in that was replaced but has not expired: somebody else may have
    replaced it, and the site must still be able to see that (A1).

    Raises:
        IdentityError: the chain does not prove a site of this federation, or is revoked.
        NotAllowedError: the site is not active, its authority is another, or this is not its
            current certificate.
    """
    with coordinator.state.read() as tx:
        who, authority = authorities.prove(coordinator, tx, chain, verification.verify_tls_client)
        if who.role is not identity.Role.SITE or who.federation != coordinator.config.federation:
            raise NotAllowedError("the certificate is not that of a site of this federation")
        row = registry.active_site(tx, who.name)
        if authority != row.authority:
            raise NotAllowedError("the certificate is of another authority than this site's")
        if authority is not None:
            return who.name  # its own authority renews it, and says what is revoked
        fingerprint = certificates.fingerprint(chain[0])
        if fingerprint not in (row.tls_fingerprint, row.tls_previous):
            if superseded and issuance.is_superseded(tx, fingerprint, holder=who.name):
                return who.name
            raise NotAllowedError(
                "the certificate is not the current one of this site",
                hint="if this site did not renew it, its TLS key was copied: `edge-agent status`"
                " tells, `edge-agent renew --reclaim` takes the copy out of use",
            )
    if row.tls_previous is not None and fingerprint == row.tls_fingerprint:
        with coordinator.write() as tx:
            changed = tx.execute(
                sa.update(state.sites)
                .where(state.sites.c.id == who.name, state.sites.c.tls_fingerprint == fingerprint)
                .values(tls_previous=None)
            )
            if changed.rowcount:
                issuance.settle_tls(tx, who.name, row.tls_previous)
    return who.name


def authenticate_signer(coordinator: Coordinator, chain: Sequence[x509.Certificate]) -> str:
    """Return the site that a document-signing chain proves, where there is no channel to prove one.

    Raises:
        IdentityError: the chain does not prove a signer of this federation.
        NotAllowedError: the site is not active, or this is not its registered certificate.
    """
    with coordinator.state.read() as tx:
        who, authority = authorities.prove(coordinator, tx, chain, verification.verify_signing)
        if who.role is not identity.Role.SITE or who.federation != coordinator.config.federation:
            raise NotAllowedError("the certificate is not that of a site of this federation")
        row = registry.active_site(tx, who.name)
    if authority != row.authority:
        raise NotAllowedError("the certificate is of another authority than this site's")
    current = {row.signing_fingerprint, row.signing_previous} - {None}
    if certificates.fingerprint(chain[0]) not in current:
        raise NotAllowedError("the signing certificate is not the current one of this site")
    return who.name


def root_of(coordinator: Coordinator, site: str) -> x509.Certificate:
    """Return the root that an active site's certificates lead to.

    Raises:
        NotAllowedError: the site is not active, or its authority is not registered any more.
    """
    with coordinator.state.read() as tx:
        return authorities.anchor(coordinator, tx, registry.active_site(tx, site).authority).root
