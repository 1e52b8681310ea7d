"""Review: what a person sees of a blueprint, and the signed record of what they decide."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from coordinator import descent, inspections, payloads, recipients, registry, state
from coordinator.context import Coordinator
from coordinator.errors import NotFoundError, StateError
from coordinator.state import Transaction
from coordinator.submissions import IN_PLAY, BlueprintState
from federation import dsse
from federation.auditlog.events import Event, Kind
from federation.blueprint import approval, weights
from federation.blueprint.approval import Approval, Decision
from federation.blueprint.statement import Statement
from federation.learning.downstream.support import estimate_of
from federation.study import Study
from kit import canonical, clock, seeds
from kit.errors import FormatError, KitError
from kit.files import sha256_file
from pki import certificates, keys

MIN_PREFIX = 6
MAX_RECORD_AGE = timedelta(days=30)  # a revocation that travels; quorums meet by post
_SKEW = timedelta(minutes=10)
MAX_REASON_CHARACTERS = 500
_GATE = {
    True: "none of the site's own tests failed; what they could not tell stays at the site",
    False: "one of the site's own tests failed",
}
LOST = "the payload was lost at the coordinator; submit again, it costs no privacy budget"
_SHEET_SAMPLER_STEPS = 18
_REPEATABLE = (Decision.REVOKE, Decision.RESTORE)
_TURNS = (Kind.BLUEPRINT_REVOKED, Kind.BLUEPRINT_RESTORED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One blueprint as its reviewers see it, in plain words."""

    digest: str
    site: str
    study: str
    state: str
    reason: str
    outputs: tuple[str, ...]
    not_cross_checkable: tuple[str, ...]
    privacy: str
    gate: str
    support: tuple[str, ...]
    architecture: str
    base: str
    payload_bytes: int
    issued: str
    received: str | None
    certificate: str
    weights_sha256: str
    aids: tuple[str, ...]
    decisions: tuple[str, ...]


def list_reviews(coordinator: Coordinator) -> list[Review]:
    """Return every blueprint, oldest first."""
    table = state.blueprints
    with coordinator.state.read() as tx:
        rows = tx.all(sa.select(table).order_by(table.c.received, table.c.digest))
        return [_review(tx, row) for row in rows if row.state != BlueprintState.RECEIVING]


def show(coordinator: Coordinator, prefix: str) -> Review:
    """Return one blueprint.

    Raises:
        NotFoundError: none or several begin with `prefix`.
    """
    with coordinator.state.read() as tx:
        return _review(tx, find(tx, prefix))


def sample_sheet(coordinator: Coordinator, prefix: str, *, per_class: int = 8) -> bytes:
    """Return a PNG with samples of every declared class, rendered now and kept nowhere.

    The seeds derive from the study's secret, so a site cannot choose what is seen (A6).

    Raises:
        NotFoundError: no such blueprint, or its key was destroyed.
    """
    import torch

    from federation.learning.generator import architecture as registry_of_networks
    from federation.learning.generator.sampler import sample
    from federation.learning.generator.sheet import sheet_png

    with coordinator.state.read() as tx:
        row = find(tx, prefix)
        study_row = registry.find_study(tx, row.study_digest)
    statement = Statement.from_bytes(row.statement)
    study = Study.from_bytes(study_row.manifest)
    table = tensor_table(study_row, statement)
    architecture = registry_of_networks.Architecture.from_table(statement.architecture)
    network = registry_of_networks.build_network(architecture)
    arrays = payloads.open_weights(coordinator, statement, table)
    registry_of_networks.load_weights(network, arrays)
    secret = coordinator.study_secret(study.digest)
    samples = {}
    for label in statement.outputs:
        images = sample(
            network,
            architecture,
            torch.full((per_class,), study.classes.index(label)),
            seed=seeds.seed(secret, row.weights_sha256, label, "review"),
            steps=_SHEET_SAMPLER_STEPS,
            batch_size=per_class,
        )
        samples[label] = images.numpy()
    return sheet_png(samples)


# Makes one decision on a blueprint's row a record; returns the decisions on it that count.
Recorder = Callable[[Transaction, sa.Row[Any], Study], list[Approval]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A signed record, and the words and salt that its commitment opens to."""

    envelope: bytes
    reason: str
    salt: bytes


def decide(
    coordinator: Coordinator,
    prefix: str,
    decision: Decision,
    *,
    reviewer_key: keys.SigningKey,
    reason: str,
) -> Review:
    """Sign and record one reviewer's approval or rejection; a quorum changes the state.

    Raises:
        NotFoundError: no such blueprint.
        StateError: it is not pending.
        FormatError: the key is no reviewer's of this study.
    """
    return _decide(coordinator, prefix, decision, signing(decision, reviewer_key, reason))


def take(coordinator: Coordinator, prefix: str, decision: Decision, signed: Signed) -> Review:
    """Record an approval or rejection that was signed on another machine.

    Raises:
        NotFoundError: no such blueprint.
        StateError: it is not pending, or this reviewer decided so before.
        FormatError: the record is off, of a stranger, or about something else.
    """
    return _decide(coordinator, prefix, decision, keeping(decision, signed))


def signing(decision: Decision, reviewer_key: keys.SigningKey, reason: str) -> Recorder:
    """Return what signs a decision here and keeps it."""
    return lambda tx, row, study: record_decision(tx, row, study, decision, reviewer_key, reason)


def keeping(decision: Decision, signed: Signed) -> Recorder:
    """Return what checks and keeps a decision that was signed on another machine."""
    return lambda tx, row, study: _keep(tx, row, study, decision, signed)


def _decide(coordinator: Coordinator, prefix: str, decision: Decision, record: Recorder) -> Review:
    with coordinator.write() as tx:
        row = find(tx, prefix)
        if row.state != BlueprintState.PENDING:
            waits = row.state in (BlueprintState.RECEIVING, BlueprintState.RECEIVED)
            raise StateError(
                f"blueprint `{row.digest[:16]}` is {row.state}, not pending",
                hint="a running `serve` checks it first; `coordinator list` shows when that is done"
                if waits
                else "there is nothing left to decide; `coordinator show` says why",
            )
        study = Study.from_bytes(registry.find_study(tx, row.study_digest).manifest)
        if approval.has_quorum(record(tx, row, study), study, decision):
            _conclude(coordinator, tx, row, decision)
        result = _review(tx, find(tx, row.digest))
    if result.state == BlueprintState.REJECTED:
        payloads.destroy(coordinator, row.digest)
        recipients.destroy_idle(coordinator)
    return result


def report_lost(coordinator: Coordinator, prefix: str) -> Review:
    """Refuse a blueprint whose payload this coordinator lost, so that its site may send it again.

    The site seals it anew from its own copy, which costs no privacy budget. Releases made from it
    stay; a build does without it until it is here and approved again.

    Raises:
        NotFoundError: no such blueprint.
        StateError: it is not in play, or its payload is here.
    """
    with coordinator.write() as tx:
        row = find(tx, prefix)
        if row.state not in IN_PLAY:
            raise StateError(f"blueprint `{row.digest[:16]}` is {row.state}, not in play")
        if _is_here(coordinator, row):
            raise StateError(
                f"the payload of blueprint `{row.digest[:16]}` is here and whole",
                hint="reject it with a reviewer's --key, if that is what you mean",
            )
        tx.execute(
            sa.update(state.blueprints)
            .where(state.blueprints.c.digest == row.digest)
            .values(state=BlueprintState.REFUSED, reason=LOST, wrapped_key=None)
        )
        tx.record(Kind.BLUEPRINT_REFUSED, row.digest, study=row.study_digest, why="lost")
        recipients.rotate(coordinator, tx, row.study_digest, row.site)
        result = _review(tx, find(tx, row.digest))
    payloads.destroy(coordinator, result.digest)
    recipients.destroy_idle(coordinator)
    return result


def _is_here(coordinator: Coordinator, row: sa.Row[Any]) -> bool:
    statement = Statement.from_bytes(row.statement)
    if row.state == BlueprintState.RECEIVED:
        whole = coordinator.home.received(row.digest)
        if not payloads.keystore(coordinator).has(payloads.RECIPIENT, row.kid):
            return False  # whole, and nobody can open it
        return whole.is_file() and sha256_file(whole) == statement.ciphertext_sha256
    try:
        payloads.open_payload(coordinator, statement)
    except KitError:
        return False
    return True


def record_decision(
    tx: Transaction,
    row: sa.Row[Any],
    study: Study,
    decision: Decision,
    reviewer_key: keys.SigningKey,
    reason: str,
) -> list[Approval]:
    """Sign, check and keep one decision; returns the decisions on this blueprint that count.

    Raises:
        FormatError: the key is no reviewer's of this study.
        StateError: this reviewer decided so before, and that still counts.
    """
    salt = os.urandom(approval.SALT_BYTES)
    reason = printable_reason(reason)
    record = Approval(
        blueprint=row.digest,
        study=study.digest,
        decision=decision,
        reason_commitment=approval.commitment(reason, salt),
        time=clock.rfc3339(tx.now),
        scheme=approval.SCHEME,
        reviewer=reviewer_name(study, keys.public_bytes(reviewer_key)),
    )
    signed = Signed(envelope=record.sign(reviewer_key), reason=reason, salt=salt)
    return _keep(tx, row, study, decision, signed)


def printable_reason(reason: str) -> str:
    """Return a reason as it is kept (A21)."""
    return canonical.printable(reason, width=MAX_REASON_CHARACTERS)


def reviewer_name(study: Study, public: bytes) -> str:
    """Return the name under which a study lists a key; `unknown` for a stranger's."""
    return next((r.name for r in study.reviewers if r.public_key == public.hex()), "unknown")


def _keep(
    tx: Transaction, row: sa.Row[Any], study: Study, decision: Decision, signed: Signed
) -> list[Approval]:
    record = Approval.verify(signed.envelope, study=study, blueprint=row.digest)
    if record.decision is not decision:
        raise FormatError(f"the record says {record.decision}, not {decision}")
    if approval.commitment(signed.reason, signed.salt) != record.reason_commitment:
        raise FormatError("the reason is not the one that the record commits to")
    table = state.approvals
    same = (table.c.blueprint == row.digest) & (table.c.reviewer == record.reviewer)
    before = tx.one(sa.select(table).where(same & (table.c.decision == decision)))
    if before is not None:
        kept = Approval.verify(before.envelope, study=study, blueprint=row.digest)
        if _counts(tx, kept, _last_turn(tx, row.digest)):
            raise StateError(
                f"reviewer `{record.reviewer}` decided to {decision} this blueprint before"
            )
    if decision in _REPEATABLE:
        _require_current(tx, row.digest, record, signed.envelope)
    if before is not None:
        _set_aside(tx, row.digest, same & (table.c.decision == decision))
    tx.execute(
        sa.insert(table).values(
            blueprint=row.digest,
            reviewer=record.reviewer,
            decision=decision,
            envelope=signed.envelope,
            reason=signed.reason,
            salt=signed.salt,
        )
    )
    tx.record(
        Kind.APPROVAL_RECORDED,
        row.digest,
        actor="reviewer",
        decision=str(decision),
        record=canonical.digest(signed.envelope),
        key=dsse.parse(signed.envelope, approval.PAYLOAD_TYPE).keyid,
        reason=record.reason_commitment,
    )
    last = _last_turn(tx, row.digest)
    return [made for made in _decisions(tx, row.digest, study) if _counts(tx, made, last)]


def _require_current(tx: Transaction, blueprint: str, record: Approval, envelope: bytes) -> None:
    """Refuse the record of a revocation or undo that has ended, or that somebody kept back (A3).

    Both can happen again to one blueprint, so a signature must be of this time, and count once.
    """
    table = state.approvals
    payload = dsse.parse(envelope, approval.PAYLOAD_TYPE).payload
    for kept in tx.all(sa.select(table.c.envelope).where(table.c.blueprint == blueprint)):
        if dsse.parse(kept.envelope, approval.PAYLOAD_TYPE).payload == payload:
            raise StateError("this record was taken before, and what it decided is over")
    last = _last_turn(tx, blueprint)
    if record.time < last:
        raise FormatError(
            f"the record was signed at {record.time}, before the blueprint was last revoked or"
            f" restored, at {last}",
            hint="sign again; if it was signed since, a clock is wrong",
        )
    age = tx.now - clock.parse_rfc3339(record.time)
    if not -_SKEW <= age <= MAX_RECORD_AGE:
        raise FormatError(
            f"the record was signed at {record.time}, not within the last"
            f" {MAX_RECORD_AGE.days} days",
            hint="sign again; if it was signed since, a clock is wrong",
        )


def _last_turn(tx: Transaction, blueprint: str) -> str:
    """Return when a blueprint was last revoked or restored, by the log; empty if it never was."""
    query = sa.select(state.log.c.leaf).where(state.log.c.subject == blueprint)
    events = [Event.from_leaf(entry.leaf) for entry in tx.all(query)]
    return max((event.time for event in events if event.kind in _TURNS), default="")


def _counts(tx: Transaction, record: Approval, last_turn: str) -> bool:
    """Say whether a kept record is still of this time: it may wait for others, but not for ever.

    An approval or rejection can be made once and does not age.
    """
    if record.decision not in _REPEATABLE:
        return True
    age = tx.now - clock.parse_rfc3339(record.time)
    return record.time >= last_turn and age <= MAX_RECORD_AGE


def set_aside(tx: Transaction, blueprint: str) -> None:
    """Keep the decisions behind a revocation that was undone, and count them no more."""
    ended = state.approvals.c.decision.in_([str(decision) for decision in _REPEATABLE])
    _set_aside(tx, blueprint, ended)


def _set_aside(tx: Transaction, blueprint: str, which: sa.ColumnElement[bool]) -> None:
    table = state.approvals
    of_it = table.c.blueprint == blueprint
    number = len(tx.all(sa.select(table.c.decision).where(of_it, table.c.decision.like("%-%"))))
    tx.execute(
        sa.update(table)
        .where(of_it, which)
        .values(decision=table.c.decision + sa.literal(f"-{number}"))
    )


def require_quorum(tx: Transaction, blueprint: str, study: Study) -> None:
    """Check again that reviewers' signatures, and not only a row's state, approve a blueprint.

    Raises:
        StateError: the study's quorum of approvals is not there.
        KitError: a record's signature does not fit.
    """
    if not approval.has_quorum(_decisions(tx, blueprint, study), study, Decision.APPROVE):
        raise StateError(
            f"blueprint `{blueprint[:16]}` is called approved, but not by {study.quorum} reviewers",
            hint="the state was changed outside this program; see `coordinator audit list`",
        )


def _conclude(
    coordinator: Coordinator, tx: Transaction, row: sa.Row[Any], decision: Decision
) -> None:
    approved = decision is Decision.APPROVE
    new_state = BlueprintState.APPROVED if approved else BlueprintState.REJECTED
    kind = Kind.BLUEPRINT_APPROVED if approved else Kind.BLUEPRINT_REJECTED
    tx.execute(
        sa.update(state.blueprints)
        .where(state.blueprints.c.digest == row.digest)
        .values(state=new_state, reason="" if approved else "rejected by review")
    )
    tx.record(kind, row.digest, study=row.study_digest)
    if not approved:
        recipients.rotate(coordinator, tx, row.study_digest, row.site)  # a kept copy stays shut


def find(tx: Transaction, prefix: str) -> sa.Row[Any]:
    """Return the row of the one blueprint whose digest begins with `prefix`.

    Raises:
        NotFoundError: none or several do.
    """
    if len(prefix) < MIN_PREFIX or not set(prefix) <= set("0123456789abcdef"):
        raise NotFoundError(
            f"`{canonical.printable(prefix)}` is not a digest",
            hint=f"give at least {MIN_PREFIX} of its first digits; see `coordinator list`",
        )
    table = state.blueprints
    rows = tx.all(sa.select(table).where(table.c.digest.startswith(prefix)).limit(2))
    if len(rows) != 1:
        many = "several blueprints begin" if rows else "no blueprint begins"
        raise NotFoundError(f"{many} with `{prefix}`", hint="see `coordinator list`")
    return rows[0]


def tensor_table(study_row: sa.Row[Any], statement: Statement) -> dict[str, Any]:
    """Return the exact tensor table of a statement's architecture."""
    layout = json.loads(study_row.tables)[statement.architecture["preset"]]
    return weights.table_from_json(layout["table"])


def _decisions(tx: Transaction, digest: str, study: Study) -> list[Approval]:
    table = state.approvals
    counts = (table.c.blueprint == digest) & table.c.decision.in_([str(d) for d in Decision])
    rows = tx.all(sa.select(table).where(counts))
    return [Approval.verify(row.envelope, study=study, blueprint=digest) for row in rows]


def _review(tx: Transaction, row: sa.Row[Any]) -> Review:
    statement = Statement.from_bytes(row.statement)
    study = Study.from_bytes(registry.find_study(tx, row.study_digest).manifest)
    decisions = _decisions(tx, row.digest, study)
    return Review(
        digest=row.digest,
        site=row.site,
        study=study.id,
        state=row.state,
        reason=row.reason,
        outputs=statement.outputs,
        not_cross_checkable=_sole_classes(tx, row, statement),
        privacy=_privacy_words(statement),
        gate=_GATE[statement.gate.passed],
        support=_support_words(row.support),
        architecture=", ".join(
            f"{name} {value}" for name, value in sorted(statement.architecture.items())
        ),
        base=descent.words(tx, statement.context.base),
        payload_bytes=statement.plaintext_length,
        issued=statement.issued,
        received=row.received,
        certificate=certificates.fingerprint(certificates.from_pem(row.signing_chain)[0]),
        weights_sha256=row.weights_sha256,
        aids=inspections.of(tx, row).lines(),
        decisions=tuple(f"{d.reviewer}: {d.decision} at {d.time}" for d in decisions),
    )


def _privacy_words(statement: Statement) -> str:
    mechanism = statement.privacy.gaussian
    if mechanism is None:
        return "contains personal data: trained without differential privacy"
    return (
        f"epsilon {mechanism.epsilon:g}, delta {mechanism.delta:g} per {statement.privacy.unit};"
        " declared by the site, arithmetic rechecked"
    )


def _support_words(found: str | None) -> tuple[str, ...]:
    """Return what intake drew of every class, which needs no private image."""
    return tuple(
        f"{label}: {estimate_of(samples, distinct).words()}"
        for label, (samples, distinct) in json.loads(found or "{}").items()
    )


def _sole_classes(tx: Transaction, row: sa.Row[Any], statement: Statement) -> tuple[str, ...]:
    table = state.blueprints
    others = tx.all(
        sa.select(table.c.statement).where(
            table.c.study_digest == row.study_digest,
            table.c.site != row.site,
            table.c.state.in_(IN_PLAY),
        )
    )
    elsewhere = {label for o in others for label in Statement.from_bytes(o.statement).outputs}
    return tuple(label for label in statement.outputs if label not in elsewhere)
