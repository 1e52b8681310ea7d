"""Taking a blueprint in: statement first, then bytes with offsets, then durably `received`.

Invariants:

- The statement passed steps 1 to 15 before a single byte of payload is stored.
- A byte that was acknowledged is on disk (fsync) and never asked for again.
- Everything is keyed by the site of the channel, never by a field of a message.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from cryptography import x509

from coordinator import authorities, descent, logbook, papers, registry, rekeying, state, uploads
from coordinator.context import Coordinator
from coordinator.errors import NotAllowedError, NotFoundError, StateError
from coordinator.logbook import Entry, Proofs
from coordinator.reserve import require_room
from coordinator.state import Transaction
from coordinator.uploads import Upload
from federation import dsse
from federation.auditlog.events import Kind
from federation.blueprint import envelope as envelope_rules
from federation.blueprint import limits
from federation.blueprint.approval import Decision
from federation.blueprint.statement import PAYLOAD_TYPE, WEIGHTS, Statement
from federation.study import Study
from kit import canonical, clock
from kit.errors import FormatError, LimitError
from pki import certificates, identity

MAX_OPEN_UPLOADS = 8  # of one site, one in each study
MAX_CHAIN_BYTES = 16 * 1024


class BlueprintState(StrEnum):
    """Where a blueprint is in its life (design: life of a blueprint)."""

    RECEIVING = "receiving"
    RECEIVED = "received"
    PENDING = "pending"
    REFUSED = "refused"
    APPROVED = "approved"
    REJECTED = "rejected"
    REVOKED = "revoked"


IN_PLAY = (
    BlueprintState.RECEIVED,
    BlueprintState.PENDING,
    BlueprintState.APPROVED,
)
REPLAYABLE = (BlueprintState.RECEIVING, BlueprintState.REFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How many bytes of a payload are durable, and the blueprint's state."""

    digest: str
    durable: int
    state: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A blueprint as its own site sees it, with receipts."""

    digest: str
    study_digest: str
    state: str
    reason: str
    entries: tuple[Entry, ...]


def begin(
    coordinator: Coordinator,
    site: str,
    *,
    study_digest: str,
    envelope: bytes,
    signing_chain: bytes,
    wrapped_key: bytes,
    given: papers.Given = papers.NOTHING,
) -> Progress:
    """Check a statement and open (or resume) its upload; idempotent by statement digest.

    Raises:
        RefusalError: a numbered step does not hold.
        NotFoundError: no such study.
        NotAllowedError: the study demands an outbound approval, and none came.
        StateError: this site has another blueprint in play in this study.
        LimitError: the disk has no room for it.
    """
    if len(signing_chain) > MAX_CHAIN_BYTES:
        raise LimitError("certificate chain is over its size limit")
    chain = certificates.from_pem(signing_chain)
    with coordinator.state.read() as tx:
        known = _known(tx, site, envelope)
        if known is None:
            expected = _expectations(coordinator, tx, site, study_digest, chain)
    if known is not None:
        return _go_on(coordinator, site, known.digest)
    # Not under the write lock: a hostile statement costs up to a second of arithmetic.
    statement = envelope_rules.verify_statement(envelope, wrapped_key, chain, expected)
    papers.check_outbound(coordinator, statement, expected.study, chain, given)
    require_room(coordinator.home, 2 * statement.ciphertext_length)  # intake seals it once more
    with coordinator.write() as tx:
        if _known(tx, site, envelope) is None:
            envelope_rules.check_again(
                statement, _expectations(coordinator, tx, site, study_digest, chain)
            )
            if papers.was_withdrawn(tx, statement.digest, site):
                raise NotAllowedError(
                    f"the site withdrew blueprint `{statement.digest[:16]}` before it arrived"
                )
            signed_by = statement.context.sender_cert
            rekeying.settle_signer(tx, registry.active_site(tx, site), signed_by)
            _check_single(tx, site, study_digest)
            logbook.charge(tx, site, entries=0)
            _forget_incomplete(coordinator, tx, site, study_digest)
            _check_quota(coordinator, tx, site, statement)
            tx.execute(
                sa.insert(state.blueprints).values(
                    digest=statement.digest,
                    site=site,
                    study_digest=study_digest,
                    kid=statement.context.kid,
                    seq=statement.context.seq,
                    state=BlueprintState.RECEIVING,
                    statement=statement.to_bytes(),
                    envelope=envelope,
                    signing_chain=signing_chain,
                    wrapped_key=wrapped_key,
                    weights_sha256=statement.file(WEIGHTS).sha256,
                )
            )
            papers.keep_given(tx, statement.digest, given, chain)
    return _go_on(coordinator, site, statement.digest)


@contextmanager
def uploading(coordinator: Coordinator, site: str, digest: str) -> Iterator[Upload]:
    """Open an upload that has begun, for this writer alone; durable only after `commit`.

    Raises:
        NotFoundError: this site has no such upload.
        StateError: it takes no more bytes.
        BusyError: somebody else is writing it.
    """
    statement = require_receiving(coordinator, site, digest)
    with uploads.writing(coordinator, statement) as upload:
        yield upload


def require_receiving(coordinator: Coordinator, site: str, digest: str) -> Statement:
    """Return the statement of an upload that this site may go on with.

    Raises:
        NotAllowedError: the site was revoked.
        NotFoundError: this site has no such upload.
        StateError: it takes no more bytes.
    """
    with coordinator.state.read() as tx:
        registry.active_site(tx, site)
        row = _own(tx, site, digest)
    if row.state != BlueprintState.RECEIVING:
        raise StateError(f"the blueprint is {row.state}; it takes no more bytes")
    return Statement.from_bytes(row.statement)


def commit(
    coordinator: Coordinator, site: str, digest: str, upload: Upload | None = None
) -> Progress:
    """Make what was uploaded durable; a whole upload with the signed digest becomes `received`.

    `upload` is the caller's open writer, if it has one. Whole bytes that a crash kept from becoming
    `received` do so now.

    Raises:
        NotFoundError: this site has no such upload.
        FormatError: the whole upload does not have the signed digest; it starts again from zero.
        BusyError: somebody else is writing it.
    """
    with coordinator.state.read() as tx:
        row = _own(tx, site, digest)
    statement = Statement.from_bytes(row.statement)
    if row.state != BlueprintState.RECEIVING:
        return _progress(row, statement.ciphertext_length)
    if not coordinator.home.received(digest).is_file():
        with nullcontext(upload) if upload else uploads.writing(coordinator, statement) as writer:
            if not uploads.settle(coordinator, statement, writer):
                return _progress(row, writer.size)
    return _progress(_receive(coordinator, site, row, statement), statement.ciphertext_length)


def _receive(
    coordinator: Coordinator, site: str, row: sa.Row[Any], statement: Statement
) -> sa.Row[Any]:
    table, digest = state.blueprints, statement.digest
    with coordinator.write() as tx:
        site_row = registry.active_site(tx, site)
        changed = tx.execute(
            sa.update(table)
            .where(table.c.digest == digest, table.c.state == BlueprintState.RECEIVING)
            .values(state=BlueprintState.RECEIVED, received=clock.rfc3339(tx.now))
        )
        if changed.rowcount:
            descent.note(tx, statement)
            logbook.charge(tx, site, entries=2)  # what intake will say of it as well
            tx.execute(
                sa.update(state.sites)
                .where(state.sites.c.id == site)
                .values(
                    ledger_counter=statement.privacy.ledger_counter,
                    ledger_head=statement.privacy.ledger_head,
                )
            )
            tx.record(
                Kind.BLUEPRINT_RECEIVED,
                digest,
                actor=site_row.pseudonym,
                study=row.study_digest,
                certificate=statement.context.sender_cert,
                **papers.logged(tx, digest),
            )
        return _own(tx, site, digest)


def status(site: str, tx: Transaction, proofs: Proofs) -> list[Status]:
    """Return every blueprint of one site with its receipts, within a transaction."""
    query = sa.select(state.blueprints).where(state.blueprints.c.site == site)
    return [
        Status(
            digest=row.digest,
            study_digest=row.study_digest,
            state=row.state,
            reason=_reason(tx, row),
            entries=tuple(proofs.entries(row.digest)),
        )
        for row in tx.all(query.order_by(state.blueprints.c.seq))
    ]


def _reason(tx: Transaction, row: sa.Row[Any]) -> str:
    """Say why a blueprint ended: for a rejection in the reviewers' words, while they are kept."""
    table = state.approvals
    own = (table.c.blueprint == row.digest) & (table.c.decision == Decision.REJECT)
    words = [each.reason for each in tx.all(sa.select(table.c.reason).where(own)) if each.reason]
    is_told = row.state == BlueprintState.REJECTED and words
    return f"{row.reason}: {'; '.join(words)}" if is_told else str(row.reason)


def one_status(coordinator: Coordinator, site: str, digest: str) -> Status:
    """Return one blueprint of one site with its receipts.

    Raises:
        NotFoundError: this site has no such blueprint.
    """
    with coordinator.state.read() as tx:
        _own(tx, site, digest)
        found = status(site, tx, Proofs(coordinator, tx))
    return next(item for item in found if item.digest == digest)


def digest_of(envelope: bytes) -> str:
    """Return the digest of the statement in an envelope; nothing of it is verified."""
    try:
        payload = dsse.parse(envelope, PAYLOAD_TYPE, limit=limits.MAX_ENVELOPE_BYTES).payload
    except (FormatError, LimitError):
        payload = envelope  # names no blueprint; step 1 or 2 refuses it
    return canonical.digest(payload)


def _known(tx: Transaction, site: str, envelope: bytes) -> sa.Row[Any] | None:
    table, digest = state.blueprints, digest_of(envelope)
    return tx.one(sa.select(table).where(table.c.digest == digest, table.c.site == site))


def _expectations(
    coordinator: Coordinator,
    tx: Transaction,
    name: str,
    study_digest: str,
    chain: tuple[x509.Certificate, ...],
) -> envelope_rules.Expectations:
    study_row = registry.find_study(tx, canonical.sha256_hex(study_digest, what="study digest"))
    site = registry.active_site(tx, name)
    rekeying.check_signer(site, chain)
    anchor = authorities.anchor(coordinator, tx, site.authority)
    table = state.blueprints
    key = tx.one(
        sa.select(state.recipient_keys.c.kid).where(
            state.recipient_keys.c.study_digest == study_row.digest,
            state.recipient_keys.c.site == site.id,
        )
    )
    if key is None:
        raise NotAllowedError("this site has no recipient key in this study")
    own = sa.select(sa.func.max(table.c.seq)).where(
        table.c.site == site.id, table.c.study_digest == study_row.digest
    )
    used: set[str] = set()
    for row in tx.all(sa.select(table.c.digest, table.c.weights_sha256, table.c.state)):
        used |= {row.digest} if row.state in REPLAYABLE else {row.digest, row.weights_sha256}
    used |= {row.name for row in tx.all(sa.select(state.lost.c.name))}
    presets = json.loads(study_row.tables)

    def architecture(study: Study, declared: Any) -> None:
        _check_architecture(study, declared, presets)

    return envelope_rules.Expectations(
        now=tx.now,
        root=anchor.root,
        revocations=authorities.revocations(coordinator, tx, anchor, chain),
        channel=identity.site(coordinator.config.federation, site.id),
        recipient=coordinator.identity,
        study=Study.from_bytes(study_row.manifest),
        study_open=study_row.open,
        kid=key.kid,
        last_seq=tx.connection.scalar(own) or 0,
        ledger_counter=site.ledger_counter,
        ledger_head=site.ledger_head,
        used_digests=frozenset(used),
        architecture=architecture,
        bases=descent.offered(tx, study_row.digest),
    )


def _check_architecture(study: Study, declared: Any, presets: dict[str, Any]) -> None:
    from federation.learning.generator.architecture import Architecture, architecture_for

    stated = Architecture.from_table(declared)
    if stated.preset not in presets or stated != architecture_for(study, stated.preset):
        raise FormatError("the architecture is not one that the study allows")


def _go_on(coordinator: Coordinator, site: str, digest: str) -> Progress:
    try:
        return commit(coordinator, site, digest)
    except FormatError:  # whole, and not the signed bytes: it starts from zero
        return commit(coordinator, site, digest)


def _check_quota(
    coordinator: Coordinator, tx: Transaction, site: str, statement: Statement
) -> None:
    table = state.blueprints
    staged = tx.all(
        sa.select(table.c.statement, table.c.state).where(
            table.c.site == site,
            table.c.state.in_((BlueprintState.RECEIVING, BlueprintState.RECEIVED)),
        )
    )
    limit = coordinator.config.site_staging_mib << 20
    total = sum(Statement.from_bytes(row.statement).ciphertext_length for row in staged)
    if total + statement.ciphertext_length > limit:
        raise LimitError(
            f"this site has {total} bytes on their way here; with this blueprint it would be over"
            f" {limit}",
            hint="finish the uploads of the other studies first, or ask the coordinator",
        )
    if sum(row.state == BlueprintState.RECEIVING for row in staged) >= MAX_OPEN_UPLOADS:
        raise LimitError(
            f"this site has {MAX_OPEN_UPLOADS} uploads open", hint="finish one of them first"
        )


def _check_single(tx: Transaction, site: str, study_digest: str) -> None:
    table = state.blueprints
    other = tx.one(
        sa.select(table.c.digest).where(
            table.c.site == site,
            table.c.study_digest == study_digest,
            table.c.state.in_(IN_PLAY),
        )
    )
    if other is not None:
        raise StateError(
            f"this site has blueprint `{other.digest[:16]}` in this study already",
            hint="withdraw it before submitting another",
        )


def _forget_incomplete(
    coordinator: Coordinator, tx: Transaction, site: str, study_digest: str
) -> None:
    table = state.blueprints
    old = (
        (table.c.site == site)
        & (table.c.study_digest == study_digest)
        & (table.c.state == BlueprintState.RECEIVING)
    )
    for row in tx.all(sa.select(table.c.digest).where(old)):
        uploads.drop(coordinator, row.digest)
        papers.forget(tx, row.digest)
    tx.execute(sa.delete(table).where(old))


def _own(tx: Transaction, site: str, digest: str) -> sa.Row[Any]:
    table = state.blueprints
    row = tx.one(sa.select(table).where(table.c.digest == digest, table.c.site == site))
    if row is None:
        raise NotFoundError("this site has no such blueprint here")
    return row


def _progress(row: sa.Row[Any], durable: int) -> Progress:
    return Progress(digest=row.digest, durable=durable, state=row.state, reason=row.reason)
