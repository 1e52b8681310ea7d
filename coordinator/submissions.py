"""Taking a blueprint in: statement first, then bytes with offsets, then durably `received`.

Invariants:

- The statement passed steps 1 to 15 before a single byte of payload is stored.
- A byte that was acknowledged is on disk (fsync) and never asked for again.
- Everything is keyed by the site of the channel, never by a field of a message.
"""

import json
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography import x509

from coordinator import logbook, papers, registry, state
from coordinator.context import Coordinator
from coordinator.errors import NotAllowedError, NotFoundError, StateError
from coordinator.logbook import Entry, Proofs
from coordinator.state import Transaction
from federation import dsse
from federation.auditlog.events import Kind
from federation.blueprint import envelope as envelope_rules
from federation.blueprint import limits
from federation.blueprint.statement import PAYLOAD_TYPE, WEIGHTS, Statement
from federation.study import Study
from kit import canonical, clock
from kit.errors import FormatError, LimitError
from kit.files import os_errors, sha256_file
from pki import certificates, identity

MAX_CHUNK_BYTES = 1 << 20
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
    """
    if len(signing_chain) > MAX_CHAIN_BYTES:
        raise LimitError("certificate chain is over its size limit")
    chain = certificates.from_pem(signing_chain)
    with coordinator.state.read() as tx:
        known = _known(tx, site, envelope)
        if known is None:
            expected = _expectations(coordinator, tx, site, study_digest, chain)
    if known is not None:
        return _progress(coordinator, known)
    # Not under the write lock: a hostile statement takes a second of arithmetic to refuse.
    statement = envelope_rules.verify_statement(envelope, wrapped_key, chain, expected)
    papers.check_outbound(coordinator, statement, expected.study, chain, given)
    with coordinator.write() as tx:
        known = _known(tx, site, envelope)
        if known is not None:
            return _progress(coordinator, known)
        envelope_rules.check_again(
            statement, _expectations(coordinator, tx, site, study_digest, chain)
        )
        _check_single(tx, site, study_digest)
        logbook.charge(tx, site, entries=0)
        _forget_incomplete(coordinator, tx, site, study_digest)
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
    _staged(coordinator, statement.digest)
    return Progress(digest=statement.digest, durable=0, state=BlueprintState.RECEIVING, reason="")


def append(coordinator: Coordinator, site: str, digest: str, offset: int, data: bytes) -> None:
    """Add bytes to an upload at its exact end; durable only after `commit`.

    Raises:
        NotFoundError: this site has no such upload.
        LimitError: the chunk is too large or goes past the signed length.
        FormatError: the offset is not the end of what is here.
    """
    statement = _receiving(coordinator, site, digest)
    if len(data) > MAX_CHUNK_BYTES:
        raise LimitError(f"a chunk has at most {MAX_CHUNK_BYTES} bytes")
    path = _staged(coordinator, digest)
    with os_errors(path), path.open("ab") as stream:
        if stream.tell() != offset:
            raise FormatError(f"chunk starts at {offset}, the upload is at {stream.tell()}")
        if offset + len(data) > statement.ciphertext_length:
            raise LimitError("the upload is longer than its statement says")
        stream.write(data)


def commit(coordinator: Coordinator, site: str, digest: str) -> Progress:
    """Make what was appended durable; a whole upload with the signed digest becomes `received`.

    Raises:
        NotFoundError: this site has no such upload.
        FormatError: the whole upload does not have the signed digest; it starts again from zero.
    """
    with coordinator.state.read() as tx:
        row = _own(tx, site, digest)
    if row.state != BlueprintState.RECEIVING:
        return _progress(coordinator, row)
    statement = Statement.from_bytes(row.statement)
    path = sync(coordinator, digest)
    length = path.stat().st_size
    if length < statement.ciphertext_length:
        return _progress(coordinator, row)
    if sha256_file(path) != statement.ciphertext_sha256:
        path.unlink()
        raise FormatError(
            "the uploaded bytes are not the signed ones", hint="submit again: it starts from zero"
        )
    with coordinator.write() as tx:
        site_row = registry.active_site(tx, site)
        changed = tx.execute(
            sa.update(state.blueprints)
            .where(
                state.blueprints.c.digest == digest,
                state.blueprints.c.state == BlueprintState.RECEIVING,
            )
            .values(state=BlueprintState.RECEIVED, received=clock.rfc3339(tx.now))
        )
        if changed.rowcount:
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
        row = _own(tx, site, digest)
    return _progress(coordinator, row)


def sync(coordinator: Coordinator, digest: str) -> Path:
    """Make every byte of an upload so far durable; returns its file."""
    path = _staged(coordinator, digest)
    with os_errors(path), path.open("rb") as stream:
        os.fsync(stream.fileno())
    return path


def status(site: str, tx: Transaction, proofs: Proofs) -> list[Status]:
    """Return every blueprint of one site with its receipts, within a transaction."""
    query = sa.select(state.blueprints).where(state.blueprints.c.site == site)
    return [
        Status(
            digest=row.digest,
            study_digest=row.study_digest,
            state=row.state,
            reason=row.reason,
            entries=tuple(proofs.entries(row.digest)),
        )
        for row in tx.all(query.order_by(state.blueprints.c.seq))
    ]


def one_status(coordinator: Coordinator, site: str, digest: str) -> Status:
    """Return one blueprint of one site with its receipts.

    Raises:
        NotFoundError: this site has no such blueprint.
    """
    with coordinator.state.read() as tx:
        _own(tx, site, digest)
        found = status(site, tx, Proofs(coordinator, tx))
    return next(item for item in found if item.digest == digest)


def _known(tx: Transaction, site: str, envelope: bytes) -> sa.Row[Any] | None:
    if len(envelope) > limits.MAX_ENVELOPE_BYTES:
        return None  # step 1 refuses it
    try:
        payload = dsse.parse(envelope, PAYLOAD_TYPE, limit=limits.MAX_ENVELOPE_BYTES).payload
    except FormatError:
        return None  # step 2 refuses it
    table = state.blueprints
    digest = canonical.digest(payload)
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
    if not chain or certificates.fingerprint(chain[0]) != site.signing_fingerprint:
        raise NotAllowedError("the signing certificate is not the current one of this site")
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
    presets = json.loads(study_row.tables)

    def architecture(study: Study, declared: Any) -> None:
        _check_architecture(study, declared, presets)

    return envelope_rules.Expectations(
        now=tx.now,
        root=coordinator.root,
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
    )


def _check_architecture(study: Study, declared: Any, presets: dict[str, Any]) -> None:
    from federation.learning.generator.architecture import Architecture, architecture_for

    stated = Architecture.from_table(declared)
    if stated.preset not in presets or stated != architecture_for(study, stated.preset):
        raise FormatError("the architecture is not one that the study allows")


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
        coordinator.home.staging(row.digest).unlink(missing_ok=True)
        papers.forget(tx, row.digest)
    tx.execute(sa.delete(table).where(old))


def _own(tx: Transaction, site: str, digest: str) -> sa.Row[Any]:
    table = state.blueprints
    row = tx.one(sa.select(table).where(table.c.digest == digest, table.c.site == site))
    if row is None:
        raise NotFoundError("this site has no such blueprint here")
    return row


def _receiving(coordinator: Coordinator, site: str, digest: str) -> Statement:
    with coordinator.state.read() as tx:
        row = _own(tx, site, digest)
    if row.state != BlueprintState.RECEIVING:
        raise StateError(f"the blueprint is {row.state}; it takes no more bytes")
    return Statement.from_bytes(row.statement)


def _staged(coordinator: Coordinator, digest: str) -> Path:
    path = coordinator.home.staging(digest)
    with os_errors(path):
        path.touch(mode=0o600)
    return path


def _progress(coordinator: Coordinator, row: sa.Row[Any]) -> Progress:
    statement = Statement.from_bytes(row.statement)
    durable = statement.ciphertext_length
    if row.state == BlueprintState.RECEIVING:
        durable = sync(coordinator, row.digest).stat().st_size
    return Progress(digest=row.digest, durable=durable, state=row.state, reason=row.reason)
