"""Renewal of a site's certificates: TLS over mutual TLS alone, signing on the present key's order.

Invariants:

- What was issued but never used may never have arrived: the certificate before it stays good until
  the first use of the new one. Only then it goes on the revocation list, as superseded.
- A new signing key is one that the present signing key signed for (A1).
- An order may come twice: the same key gets the same certificate.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from cryptography import x509

from coordinator import authorities, enrolments, issuance, logbook, registry, state
from coordinator.context import Coordinator
from coordinator.errors import NotAllowedError
from coordinator.state import Transaction
from federation.auditlog.events import Kind
from federation.rekey import MAX_AGE, MAX_CHAIN_BYTES, Rekey, Usage
from kit import canonical
from kit.errors import LimitError
from pki import certificates, identity, verification


def renew(coordinator: Coordinator, site: str, tls_request: bytes) -> bytes:
    """Return a fresh TLS chain (PEM) for a site's fresh key.

    Raises:
        RequestError: the request does not prove its key.
        NotAllowedError: the site is not active, or has an authority of its own.
        LimitError: it renewed too often today.
    """
    key = certificates.requested_tls_key(tls_request)
    with coordinator.write() as tx:
        row = registry.active_site(tx, site)
        logbook.charge(tx, site)
        if row.authority is not None:
            raise NotAllowedError(
                "this site's TLS certificates come from its own authority",
                hint="run `edge-agent renew` with the files that it issued",
            )
        # One that was never used may never have arrived: the site still holds the one before it.
        in_use = row.tls_previous or row.tls_fingerprint
        unused = row.tls_fingerprint if row.tls_previous else None
        chain, fingerprint = _issue_tls(coordinator, tx, row, key)
        if unused is not None:
            issuance.revoke(tx, unused)
        _set(tx, site, tls_chain=chain, tls_fingerprint=fingerprint, tls_previous=in_use)
        tx.record(
            Kind.CERTIFICATE_RENEWED,
            fingerprint,
            site=row.pseudonym,
            request=canonical.digest(tls_request),
        )
    return chain


def rekey(
    coordinator: Coordinator,
    site: str,
    envelope: bytes,
    signing_chain: bytes,
    *,
    oldest: timedelta = MAX_AGE,
) -> bytes:
    """Carry out an order signed with a site's present signing key; returns the new chain (PEM).

    Raises:
        FormatError: the order is off, old, or not signed by this site.
        NotAllowedError: the certificate that signed is not the site's present one.
    """
    if len(signing_chain) > MAX_CHAIN_BYTES:
        raise LimitError("certificate chain is over its size limit")
    chain = certificates.from_pem(signing_chain)
    with coordinator.write() as tx:
        row = registry.active_site(tx, site)
        anchor = authorities.anchor(coordinator, tx, row.authority)
        order = Rekey.verify(
            envelope,
            chain,
            signer=identity.site(coordinator.config.federation, site),
            root=anchor.root,
            now=tx.now,
            revocations=authorities.revocations(coordinator, tx, anchor, chain),
            oldest=oldest,
        )
        done = _already_done(tx, row, order)
        if done is not None:
            return done
        check_signer(row, chain)
        logbook.charge(tx, site)
        settle_signer(tx, row, order.previous)
        row = registry.active_site(tx, site)
        carry_out = _new_signing if order.usage is Usage.SIGNING else _only_tls
        return carry_out(coordinator, tx, row, order, canonical.digest(envelope))


def _already_done(tx: Transaction, row: sa.Row[Any], order: Rekey) -> bytes | None:
    """Return the chain that an order got before: its answer may have been lost."""
    current = row.signing_chain if order.usage is Usage.SIGNING else row.tls_chain
    wanted = _requested(order)
    if certificates.from_pem(current)[0].public_key() != wanted:
        return None
    return bytes(current)


def _requested(order: Rekey) -> certificates.PublicKey:
    if order.usage is Usage.SIGNING:
        return certificates.requested_signing_key(order.request)
    return certificates.requested_tls_key(order.request)


def _new_signing(
    coordinator: Coordinator, tx: Transaction, row: sa.Row[Any], order: Rekey, digest: str
) -> bytes:
    key = _requested(order)
    if row.authority is None:
        leaf = certificates.issue_signing(
            coordinator.issuing, _who(coordinator, row), key, now=tx.now
        )
        chain = certificates.pem(leaf, coordinator.issuing.certificate)
    else:
        chain = order.chain
        enrolments.check_own_chain(coordinator, tx, row, chain, key, verification.verify_signing)
    own = row.authority is None
    fingerprint = issuance.keep(tx, chain, holder=row.id, usage=issuance.SIGNING, own=own)
    if row.signing_previous is not None:
        issuance.revoke(tx, row.signing_fingerprint)
    _set(
        tx,
        row.id,
        signing_chain=chain,
        signing_fingerprint=fingerprint,
        signing_previous=row.signing_previous or row.signing_fingerprint,
    )
    tx.record(
        Kind.SIGNING_KEY_RENEWED,
        fingerprint,
        site=row.pseudonym,
        previous=order.previous,
        request=canonical.digest(order.request),
        order=digest,
    )
    return chain


def _only_tls(
    coordinator: Coordinator, tx: Transaction, row: sa.Row[Any], order: Rekey, digest: str
) -> bytes:
    """Issue a TLS certificate; its first use takes every other one of the site out of use."""
    if row.authority is not None:
        raise NotAllowedError(
            "this site's TLS certificates come from its own authority",
            hint="have that authority revoke the copied one, and hand its list to the coordinator",
        )
    issuance.hold(tx, row.id)
    chain, fingerprint = _issue_tls(coordinator, tx, row, _requested(order))
    in_use = row.tls_previous or row.tls_fingerprint  # until the first use of the new one
    _set(tx, row.id, tls_chain=chain, tls_fingerprint=fingerprint, tls_previous=in_use)
    tx.record(
        Kind.CERTIFICATE_RENEWED,
        fingerprint,
        site=row.pseudonym,
        request=canonical.digest(order.request),
        order=digest,
    )
    return chain


def _issue_tls(
    coordinator: Coordinator, tx: Transaction, row: sa.Row[Any], key: certificates.PublicKey
) -> tuple[bytes, str]:
    leaf = certificates.issue_tls_client(
        coordinator.issuing, _who(coordinator, row), key, now=tx.now
    )
    chain = certificates.pem(leaf, coordinator.issuing.certificate)
    return chain, issuance.keep(tx, chain, holder=row.id, usage=issuance.TLS)


def _who(coordinator: Coordinator, row: sa.Row[Any]) -> identity.Identity:
    return identity.site(coordinator.config.federation, row.id)


def _set(tx: Transaction, site: str, **values: Any) -> None:
    tx.execute(sa.update(state.sites).where(state.sites.c.id == site).values(**values))


def check_signer(row: sa.Row[Any], chain: Sequence[x509.Certificate]) -> None:
    """Refuse a signing certificate that is not the present one of a site.

    Raises:
        NotAllowedError: it is another one, or was replaced or revoked.
    """
    known = {row.signing_fingerprint, row.signing_previous} - {None}
    if not chain or certificates.fingerprint(chain[0]) not in known:
        raise NotAllowedError("the signing certificate is not the current one of this site")


def settle_signer(tx: Transaction, row: sa.Row[Any], fingerprint: str) -> None:
    """Note the first use of a renewed signing certificate: the one before it is superseded now."""
    if row.signing_previous is not None and fingerprint == row.signing_fingerprint:
        issuance.revoke(tx, row.signing_previous)
        _set(tx, row.id, signing_previous=None)
