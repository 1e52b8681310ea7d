"""Sites and studies: invitations, enrolment, confirmation, revocation, who calls, manifests."""

import json
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from cryptography import x509

from coordinator import (
    authorities,
    issuance,
    logbook,
    readmission,
    recipients,
    staging,
    state,
    upkeep,
)
from coordinator.context import Coordinator
from coordinator.errors import NotAllowedError, NotFoundError, StateError
from coordinator.state import Transaction
from federation import dsse
from federation.auditlog import pseudonyms
from federation.auditlog.events import Event, Kind
from federation.study import PAYLOAD_TYPE, Study
from kit import canonical, clock
from pki import certificates, enrolment, identity, keys, verification
from pki.errors import IdentityError, RequestError

INVITED, REQUESTED, ACTIVE, REVOKED = "invited", "requested", "active", "revoked"
WITNESS_KEY_BYTES = 32
MAX_CHAIN_BYTES = 16 * 1024

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One hospital as the registry sees it."""

    id: str
    pseudonym: str
    state: str
    code: str | None
    last_contact: str | None
    certificate_expires: str | None
    signing_certificate_expires: str | None
    authority: str | None
    alarm: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentReply:
    """What an enrolling site gets: certificates once confirmed."""

    confirmed: bool
    tls_chain: bytes
    signing_chain: bytes
    pseudonym: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """What closing a study did."""

    study: str
    digest: str
    recipient_keys_destroyed: int
    wait_for_intake: tuple[str, ...]


def issue_token(
    coordinator: Coordinator,
    site: str,
    *,
    authority: str | None = None,
    lifetime: timedelta = enrolment.TOKEN_LIFETIME,
) -> enrolment.Token:
    """Invite a site: returns the token (sensitive), keeps its hash for `lifetime`.

    Inviting an invited or revoked site again replaces what was there. `authority` names the
    registered CA that will speak for the site; None is the federation's own.

    Raises:
        StateError: the site is enrolled already, or the lifetime is out of bounds.
        NotAllowedError: it was enrolled before and no quorum consented (A1), or the authority may
            not speak for it (A14).
    """
    if not timedelta(0) < lifetime <= enrolment.MAX_TOKEN_LIFETIME:
        raise StateError("a token lives from one hour to 30 days")
    who = identity.site(coordinator.config.federation, site)
    secret = enrolment.new_secret()
    with coordinator.write() as tx:
        row = tx.one(sa.select(state.sites).where(state.sites.c.id == site))
        if row is not None and row.state in (ACTIVE, REQUESTED):
            raise StateError(
                f"site `{site}` is {row.state} already",
                hint=f"run `coordinator sites revoke {site}` first",
            )
        readmission.require(coordinator, tx, site)
        _check_authority(coordinator, tx, site, authority)
        expires = tx.now + lifetime
        pseudonym = row.pseudonym if row is not None else _pseudonym(tx, who)
        tx.execute(sa.delete(state.sites).where(state.sites.c.id == site))
        tx.execute(
            sa.insert(state.sites).values(
                id=site,
                pseudonym=pseudonym,
                state=INVITED,
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
        study_key=keys.public_bytes(coordinator.study_key),
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
        if row.state == INVITED:
            chains = (tls_chain, signing_chain)
            _check_chains(coordinator, tx, row, (tls_request, signing_request), chains)
            _take_request(tx, row, code, tls_request, signing_request, witness_key)
            if row.authority is not None:
                _set(tx, row.id, tls_chain=tls_chain, signing_chain=signing_chain)
        elif row.code != code:
            if row.state == ACTIVE and _is_expired(tx, row):
                raise _used_up()  # a copy found in a drawer must not shut the site out
            tx.record(Kind.TOKEN_REUSED, row.token_hash, site=row.pseudonym)
            _revoke_row(tx, row)
            reused = True
    if reused:
        _log.error("alarm: the enrolment token of site %s was used by two; revoked", row.id)
        raise NotAllowedError(
            "this enrolment token was used with other keys; the site is revoked",
            hint="find out who holds a copy of the token, then ask for a new one",
        )
    if row.state != ACTIVE:
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
            state.sites.c.state != REVOKED,
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
    _set(
        tx,
        row.id,
        state=REQUESTED,
        code=code,
        tls_request=tls_request,
        signing_request=signing_request,
        witness_key=witness_key,
    )
    request = enrolment.request_digest(tls_request, signing_request, witness_key)
    tx.record(Kind.SITE_REQUESTED, request, site=row.pseudonym)


def confirm(coordinator: Coordinator, site: str, code: str) -> Site:
    """Issue a requesting site's certificates after its operator read out the code.

    Raises:
        NotFoundError: no such site.
        StateError: it has not asked yet, or the code is not the one of its keys.
    """
    with coordinator.write() as tx:
        row = _site_row(tx, site)
        if row.state != REQUESTED:
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
        _set(
            tx,
            site,
            state=ACTIVE,
            tls_chain=tls_chain,
            signing_chain=signing_chain,
            tls_fingerprint=tls,
            signing_fingerprint=signing,
        )
        tx.record(Kind.SITE_CONFIRMED, signing, site=row.pseudonym, request=_request_digest(row))
        tx.record(Kind.WITNESS_REGISTERED, row.witness_key.hex(), site=row.pseudonym)
        for study in tx.all(sa.select(state.studies).where(state.studies.c.open)):
            recipients.add(coordinator, tx, Study.from_bytes(study.manifest), site)
        return _site(tx, _site_row(tx, site))


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


def revoke_site(coordinator: Coordinator, site: str) -> Site:
    """Shut a site out from its next call on; its blueprints are revoked one by one, by choice.

    Its recipient keys go at once, so that nothing it sealed and kept can be opened here again (A2).

    Raises:
        NotFoundError: no such site.
    """
    with coordinator.write() as tx:
        row = _site_row(tx, site)
        if row.state != REVOKED:
            _revoke_row(tx, row)
        revoked = _site(tx, _site_row(tx, site))
    staging.drop_dead(coordinator)
    recipients.destroy_idle(coordinator)
    return revoked


def _revoke_row(tx: Transaction, row: sa.Row[Any]) -> None:
    tx.execute(sa.update(state.sites).where(state.sites.c.id == row.id).values(state=REVOKED))
    recipients.retire_site(tx, row.id)
    issuance.revoke_holder(tx, row.id)
    subject = row.signing_fingerprint or row.token_hash
    tx.record(Kind.SITE_REVOKED, subject, site=row.pseudonym)


def list_sites(coordinator: Coordinator) -> list[Site]:
    """Return every site, by id."""
    with coordinator.state.read() as tx:
        return [_site(tx, row) for row in tx.all(sa.select(state.sites).order_by(state.sites.c.id))]


def active_site(tx: Transaction, site: str) -> sa.Row[Any]:
    """Return the row of a site that may act.

    Raises:
        NotAllowedError: unknown, not confirmed or revoked.
    """
    row = tx.one(sa.select(state.sites).where(state.sites.c.id == site))
    if row is None or row.state != ACTIVE:
        raise NotAllowedError(
            f"site `{site}` is not enrolled or was revoked", hint="ask the coordinator"
        )
    return row


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
        row = active_site(tx, who.name)
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
        row = active_site(tx, who.name)
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
        return authorities.anchor(coordinator, tx, active_site(tx, site).authority).root


def issued_to(coordinator: Coordinator, site: str) -> EnrolmentReply:
    """Return the certificates that an active site holds, or is to fetch.

    Raises:
        NotAllowedError: the site is not active.
    """
    with coordinator.state.read() as tx:
        row = active_site(tx, site)
    return _confirmed(row)


def _confirmed(row: sa.Row[Any]) -> EnrolmentReply:
    return EnrolmentReply(
        confirmed=True,
        tls_chain=row.tls_chain,
        signing_chain=row.signing_chain,
        pseudonym=row.pseudonym,
    )


def touch(tx: Transaction, site: str) -> None:
    """Note when a site was last here."""
    tx.execute(
        sa.update(state.sites)
        .where(state.sites.c.id == site)
        .values(last_contact=clock.rfc3339(tx.now))
    )


def create_study(coordinator: Coordinator, study: Study) -> str:
    """Sign and open a study for every enrolled site; returns its digest.

    Raises:
        StateError: a study of this id exists, or it names an unknown architecture.
        FormatError: the manifest is off.
    """
    manifest = study.to_bytes()
    Study.from_bytes(manifest)
    if study.federation != coordinator.config.federation:
        raise StateError("the study names another federation")
    tables = _tensor_tables(study)
    key = coordinator.study_key
    keyid = canonical.digest(keys.public_bytes(key))
    with coordinator.write() as tx:
        if tx.one(sa.select(state.studies).where(state.studies.c.id == study.id)):
            raise StateError(f"study `{study.id}` exists already")
        coordinator.save_study_secret(study.digest, secrets.token_bytes(32))
        tx.execute(
            sa.insert(state.studies).values(
                digest=study.digest,
                id=study.id,
                envelope=dsse.sign(manifest, PAYLOAD_TYPE, key, keyid=keyid),
                manifest=manifest,
                tables=json.dumps(tables),
                open=True,
            )
        )
        issued = int(clock.parse_rfc3339(study.created).timestamp())
        tx.record(Kind.STUDY_CREATED, study.digest, round=study.round, issued=issued)
        for row in tx.all(sa.select(state.sites).where(state.sites.c.state == ACTIVE)):
            recipients.add(coordinator, tx, study, row.id)
    return study.digest


def _tensor_tables(study: Study) -> dict[str, object]:
    """Return preset -> {table, embedding}: what torch-free checks compare payloads with."""
    from federation.learning.generator import architecture as registry

    tables: dict[str, object] = {}
    for entry in study.architectures:
        architecture = registry.architecture_for(study, entry.preset)
        tables[entry.preset] = {
            "table": registry.expected_tensors(architecture),
            "embedding": registry.class_embedding_name(architecture),
        }
    return tables


def close_study(coordinator: Coordinator, name: str) -> Closed:
    """Close a study: no site submits to it any more, and its recipient keys end (A2).

    What was received before is still taken in, reviewed and built from.

    Raises:
        NotFoundError: no such study.
        StateError: it is closed already.
    """
    with coordinator.write() as tx:
        row = find_study(tx, name)
        if not row.open:
            raise StateError(f"study `{row.id}` is closed already")
        tx.execute(
            sa.update(state.studies).where(state.studies.c.digest == row.digest).values(open=False)
        )
        recipients.retire_study(tx, row.digest)
        tx.record(Kind.STUDY_CLOSED, row.digest)
        table = state.blueprints
        waiting = tx.all(
            sa.select(table.c.digest).where(
                table.c.study_digest == row.digest, table.c.state == "received"
            )
        )
    staging.drop_dead(coordinator)
    destroyed = recipients.destroy_idle(coordinator)
    return Closed(
        study=row.id,
        digest=row.digest,
        recipient_keys_destroyed=destroyed,
        wait_for_intake=tuple(entry.digest for entry in waiting),
    )


def find_study(tx: Transaction, name: str) -> sa.Row[Any]:
    """Return the row of a study by id or digest.

    Raises:
        NotFoundError: there is none.
    """
    row = tx.one(
        sa.select(state.studies).where(
            (state.studies.c.id == name) | (state.studies.c.digest == name)
        )
    )
    if row is None:
        raise NotFoundError(
            f"no study `{canonical.printable(name)}`", hint="see `coordinator study list`"
        )
    return row


def list_studies(coordinator: Coordinator) -> list[tuple[Study, bool]]:
    """Return every study and whether it is open."""
    with coordinator.state.read() as tx:
        rows = tx.all(sa.select(state.studies).order_by(state.studies.c.id))
    return [(Study.from_bytes(row.manifest), row.open) for row in rows]


def _site_row(tx: Transaction, site: str) -> sa.Row[Any]:
    row = tx.one(sa.select(state.sites).where(state.sites.c.id == site))
    if row is None:
        raise NotFoundError(
            f"no site `{canonical.printable(site)}`", hint="see `coordinator sites list`"
        )
    return row


def _site(tx: Transaction, row: sa.Row[Any]) -> Site:
    return Site(
        id=row.id,
        pseudonym=row.pseudonym,
        state=row.state,
        code=row.code,
        last_contact=row.last_contact,
        certificate_expires=_expiry(row.tls_chain),
        signing_certificate_expires=_expiry(row.signing_chain),
        authority=row.authority,
        alarm=_alarm(tx, row),
    )


def _alarm(tx: Transaction, row: sa.Row[Any]) -> str | None:
    """Return what somebody must look into before this site is invited again (A13)."""
    query = sa.select(state.log.c.leaf).where(state.log.c.subject == row.token_hash)
    for entry in tx.all(query):
        event = Event.from_leaf(entry.leaf)
        if event.kind is Kind.TOKEN_REUSED:
            return f"its enrolment token was used by two, on {event.time}"
    return None


def _set(tx: Transaction, site: str, **values: Any) -> None:
    tx.execute(sa.update(state.sites).where(state.sites.c.id == site).values(**values))


def _expiry(chain: bytes | None) -> str | None:
    if not chain:
        return None
    moment: datetime = certificates.from_pem(chain)[0].not_valid_after_utc
    return clock.rfc3339(moment)
