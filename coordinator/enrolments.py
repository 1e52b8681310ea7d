"""How a hospital becomes a site: invitation, request, a code read out, certificates (A13, A14)."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from coordinator import (
    authorities,
    issuance,
    logbook,
    readmission,
    recipients,
    registry,
    state,
    upkeep,
)
from coordinator.context import Coordinator
from coordinator.errors import NotAllowedError, StateError
from coordinator.state import Transaction
from federation.auditlog import pseudonyms
from federation.auditlog.events import Kind
from federation.study import Study
from kit import clock
from pki import certificates, enrolment, identity, keys, verification
from pki.errors import IdentityError, RequestError

WITNESS_KEY_BYTES = 32
MAX_CHAIN_BYTES = 16 * 1024

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentReply:
    """What an enrolling site gets: certificates once confirmed."""

    confirmed: bool
    tls_chain: bytes
    signing_chain: bytes
    pseudonym: str


def issue_token(
    coordinator: Coordinator,
    site: str,
    *,
    authority: str | None = None,
    lifetime: timedelta = enrolment.TOKEN_LIFETIME,
    replace: bool = False,
) -> enrolment.Token:
    """Invite a site: returns the token (sensitive), keeps its hash for `lifetime`.

    Inviting a revoked site, or one whose token expired, replaces what was there; `replace` does so
    with a token that still lives, which counts no more then. `authority` names the registered CA
    that will speak for the site; None is the federation's own.

    Raises:
        StateError: the site is enrolled or invited already, the lifetime is out of bounds, or what
            the token would pin is not what the log began with (A16).
        NotAllowedError: it was enrolled before and no quorum consented (A1), or the authority may
            not speak for it (A14).
    """
    if not timedelta(0) < lifetime <= enrolment.MAX_TOKEN_LIFETIME:
        raise StateError("a token lives from one hour to 30 days")
    who = identity.site(coordinator.config.federation, site)
    secret = enrolment.new_secret()
    with coordinator.write() as tx:
        _check_pins(coordinator, tx)
        row = tx.one(sa.select(state.sites).where(state.sites.c.id == site))
        if row is not None and row.state in (registry.ACTIVE, registry.REQUESTED):
            raise StateError(
                f"site `{site}` is {row.state} already",
                hint=f"run `coordinator sites revoke {site}` first",
            )
        if not replace:
            _check_uninvited(row, tx.now)
        readmission.require(coordinator, tx, site)
        _check_authority(coordinator, tx, site, authority)
        expires = tx.now + lifetime
        pseudonym = row.pseudonym if row is not None else _pseudonym(tx, who)
        tx.execute(sa.delete(state.sites).where(state.sites.c.id == site))
        tx.execute(
            sa.insert(state.sites).values(
                id=site,
                pseudonym=pseudonym,
                state=registry.INVITED,
                authority=authority,
                token_hash=enrolment.secret_hash(secret),
                token_expires=clock.rfc3339(expires),
                ledger_counter=row.ledger_counter if row is not None else 0,
                ledger_head=row.ledger_head if row is not None else None,
            )
        )
        tx.record(Kind.TOKEN_ISSUED, enrolment.secret_hash(secret), site=pseudonym)
    settings = coordinator.config
    host = settings.hosts.split(",")[0].strip()
    return enrolment.Token(
        site=who.name,
        secret=secret,
        enrol_address=f"{host}:{settings.enrol_port}",
        exchange_address=f"{host}:{settings.exchange_port}",
        expires=expires,
        pins=pins(coordinator),
        checkpoint=logbook.checkpoint(coordinator),
    )


def _check_uninvited(row: sa.Row[Any] | None, now: datetime) -> None:
    if row is None or row.state != registry.INVITED or not row.token_expires:
        return
    if now <= clock.parse_rfc3339(row.token_expires):
        raise StateError(
            f"site `{row.id}` was invited already; its token is good until {row.token_expires}",
            hint="a second token would void the first: if that one is lost, give --replace",
        )


def _check_pins(coordinator: Coordinator, tx: Transaction) -> None:
    found = logbook.pin_differences(coordinator, tx)
    if found:
        raise StateError(
            "; ".join(found),
            hint="no token is made; restore `certificates` from a backup, and find out who changed"
            " it: tokens made since pin it, and their sites refuse this log",
        )


def _pseudonym(tx: Transaction, who: identity.Identity) -> str:
    return pseudonyms.pseudonym(upkeep.salt_of(tx), who.uri)


def _check_authority(
    coordinator: Coordinator, tx: Transaction, site: str, authority: str | None
) -> None:
    named = [a.name for a in authorities.list_authorities(coordinator) if site in a.sites]
    if named != ([] if authority is None else [authority]):
        owner = f"authority `{named[0]}`" if named else "the federation's own authority"
        raise NotAllowedError(
            f"site `{site}` belongs to {owner}",
            hint="see `coordinator authority list`; give that one with --authority",
        )


def pins(coordinator: Coordinator) -> enrolment.Pins:
    """Return what every site of this federation pins."""
    return enrolment.Pins(
        federation=coordinator.config.federation,
        root_der=certificates.der(coordinator.root),
        study_key=coordinator.study_public,
        log_origin=coordinator.log_origin,
        log_key=keys.public_bytes(coordinator.log_key),
    )


def enrol(
    coordinator: Coordinator,
    *,
    token: str,
    tls_request: bytes,
    signing_request: bytes,
    witness_key: bytes,
    tls_chain: bytes = b"",
    signing_chain: bytes = b"",
) -> EnrolmentReply:
    """Take a site's request, or say where it stands; every name in the requests is ignored.

    `token` is the hash of the token's secret: how the secret was proved is the door's matter.
    A site with its own authority brings the chains (PEM) that it got there; the requests prove that
    it holds their keys.

    The first request burns the token and binds it to these keys. The same request may be repeated
    until a person confirms it. A second, different request on a used token is an alarm: the site
    is revoked, because one of the two holds a stolen token (A13). A confirmed site's token stops
    being one when its life is over.

    Raises:
        NotAllowedError: unknown, expired or reused token.
        IdentityError: a request does not prove its key.
    """
    with coordinator.state.read() as tx:
        _invitation(tx, token)  # a stranger gets no further, and no write lock
    certificates.requested_tls_key(tls_request)
    certificates.requested_signing_key(signing_request)
    if len(witness_key) != WITNESS_KEY_BYTES:
        raise RequestError("the witness key is not an Ed25519 public key")
    code = enrolment.confirmation_code(tls_request, signing_request, witness_key)
    reused = False
    with coordinator.write() as tx:
        row = _invitation(tx, token)
        if row.state == registry.INVITED:
            chains = (tls_chain, signing_chain)
            _check_chains(coordinator, tx, row, (tls_request, signing_request), chains)
            _take_request(tx, row, code, tls_request, signing_request, witness_key)
            if row.authority is not None:
                registry.change(tx, row.id, tls_chain=tls_chain, signing_chain=signing_chain)
        elif row.code != code:
            if row.state == registry.ACTIVE and _is_expired(tx, row):
                raise _used_up()  # a copy found in a drawer must not shut the site out
            tx.record(Kind.TOKEN_REUSED, row.token_hash, site=row.pseudonym)
            registry.shut_out(tx, row)
            reused = True
    if reused:
        _log.error("alarm: the enrolment token of site %s was used by two; revoked", row.id)
        raise NotAllowedError(
            "this enrolment token was used with other keys; the site is revoked",
            hint="find out who holds a copy of the token, then ask for a new one",
        )
    if row.state != registry.ACTIVE:
        return EnrolmentReply(confirmed=False, tls_chain=b"", signing_chain=b"", pseudonym="")
    return _confirmed(row)


def invited(coordinator: Coordinator, token: str) -> str:
    """Return the site that a token was made for.

    Raises:
        NotAllowedError: unknown token.
    """
    with coordinator.state.read() as tx:
        site: str = _invitation(tx, token).id
    return site


def _check_chains(
    coordinator: Coordinator,
    tx: Transaction,
    row: sa.Row[Any],
    requests: tuple[bytes, bytes],
    chains: tuple[bytes, bytes],
) -> None:
    """Check the chains of a site with its own authority; from another site none are taken."""
    if row.authority is None:
        if any(chains):
            raise RequestError(
                "this site's certificates come from the federation's own authority",
                hint="enrol without certificate files, or ask for a token with --authority",
            )
        return
    tls_key = certificates.requested_tls_key(requests[0])
    check_own_chain(coordinator, tx, row, chains[0], tls_key, verification.verify_tls_client)
    signing_key = certificates.requested_signing_key(requests[1])
    check_own_chain(coordinator, tx, row, chains[1], signing_key, verification.verify_signing)


def check_own_chain(
    coordinator: Coordinator,
    tx: Transaction,
    row: sa.Row[Any],
    chain: bytes,
    key: certificates.PublicKey,
    verify: Callable[..., identity.Identity],
) -> None:
    """Check a chain from a site's own authority: its identity, its usage, and that it is for `key`.

    Raises:
        RequestError: it is not.
    """
    anchor = authorities.anchor(coordinator, tx, row.authority)
    if len(chain) > MAX_CHAIN_BYTES:
        raise RequestError("certificate chain is over its size limit")
    try:
        found = certificates.from_pem(chain)
        who = verify(found, root=anchor.root, now=tx.now, revocations=anchor.revocations)
    except IdentityError as error:
        raise RequestError(f"certificate of the site's own authority: {error}") from error
    expected = identity.site(coordinator.config.federation, row.id)
    if who != expected or found[0].public_key() != key:
        raise RequestError(f"the certificate is not for `{expected.uri}` and the requested key")


def _invitation(tx: Transaction, token: str) -> sa.Row[Any]:
    """Return the row of a token's site."""
    row = tx.one(
        sa.select(state.sites).where(
            state.sites.c.token_hash == token,
            state.sites.c.state != registry.REVOKED,
        )
    )
    if row is None:
        raise _used_up()
    return row


def _used_up() -> NotAllowedError:
    return NotAllowedError(
        "this enrolment token is not known here or was used up",
        hint="ask the coordinator for a new token",
    )


def _is_expired(tx: Transaction, row: sa.Row[Any]) -> bool:
    return tx.now > clock.parse_rfc3339(row.token_expires)


def _take_request(
    tx: Transaction,
    row: sa.Row[Any],
    code: str,
    tls_request: bytes,
    signing_request: bytes,
    witness_key: bytes,
) -> None:
    if _is_expired(tx, row):
        raise NotAllowedError(
            "this enrolment token has expired", hint="ask the coordinator for a new token"
        )
    registry.change(
        tx,
        row.id,
        state=registry.REQUESTED,
        code=code,
        tls_request=tls_request,
        signing_request=signing_request,
        witness_key=witness_key,
    )
    request = enrolment.request_digest(tls_request, signing_request, witness_key)
    tx.record(Kind.SITE_REQUESTED, request, site=row.pseudonym)


def confirm(coordinator: Coordinator, site: str, code: str) -> registry.Site:
    """Issue a requesting site's certificates after its operator read out the code.

    Raises:
        NotFoundError: no such site.
        StateError: it has not asked yet, or the code is not the one of its keys.
    """
    with coordinator.write() as tx:
        row = registry.row_of(tx, site)
        if row.state != registry.REQUESTED:
            raise StateError(f"site `{site}` is {row.state}, not waiting for confirmation")
        if code.strip().upper() != row.code:
            raise StateError(
                f"the code is not that of the request from `{site}`",
                hint="somebody else may have used the token: compare again, then revoke the site",
            )
        tls_chain, signing_chain = _confirmed_chains(coordinator, tx, row)
        own = row.authority is None
        tls = issuance.keep(tx, tls_chain, holder=site, usage=issuance.TLS, own=own)
        signing = issuance.keep(tx, signing_chain, holder=site, usage=issuance.SIGNING, own=own)
        registry.change(
            tx,
            site,
            state=registry.ACTIVE,
            tls_chain=tls_chain,
            signing_chain=signing_chain,
            tls_fingerprint=tls,
            signing_fingerprint=signing,
        )
        tx.record(Kind.SITE_CONFIRMED, signing, site=row.pseudonym, request=_request_digest(row))
        tx.record(Kind.WITNESS_REGISTERED, row.witness_key.hex(), site=row.pseudonym)
        for study in tx.all(sa.select(state.studies).where(state.studies.c.open)):
            recipients.add(coordinator, tx, Study.from_bytes(study.manifest), site)
        return registry.site_of(tx, registry.row_of(tx, site))


def _confirmed_chains(
    coordinator: Coordinator, tx: Transaction, row: sa.Row[Any]
) -> tuple[bytes, bytes]:
    """Return the TLS and signing chains (PEM) of a site whose code was confirmed."""
    if row.authority is not None:
        return row.tls_chain, row.signing_chain
    who = identity.site(coordinator.config.federation, row.id)
    issuing = coordinator.issuing
    tls = certificates.issue_tls_client(
        issuing, who, certificates.requested_tls_key(row.tls_request), now=tx.now
    )
    signing = certificates.issue_signing(
        issuing, who, certificates.requested_signing_key(row.signing_request), now=tx.now
    )
    ca = issuing.certificate
    return certificates.pem(tls, ca), certificates.pem(signing, ca)


def _request_digest(row: sa.Row[Any]) -> str:
    """Return the digest by which a site knows its own enrolment in the log."""
    return enrolment.request_digest(row.tls_request, row.signing_request, row.witness_key)


def issued_to(coordinator: Coordinator, site: str) -> EnrolmentReply:
    """Return the certificates that an active site holds, or is to fetch.

    Raises:
        NotAllowedError: the site is not active.
    """
    with coordinator.state.read() as tx:
        row = registry.active_site(tx, site)
    return _confirmed(row)


def _confirmed(row: sa.Row[Any]) -> EnrolmentReply:
    return EnrolmentReply(
        confirmed=True,
        tls_chain=row.tls_chain,
        signing_chain=row.signing_chain,
        pseudonym=row.pseudonym,
    )
