"""Undoing a revocation within its grace period (A3): by whom it was made, and on the log.

What a quorum revoked a quorum restores; what a site withdrew only the site's signing key does,
also where the site's order came after the quorum's revocation.
After the grace period there is nothing left to restore.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from coordinator import descent, papers, registry, releases, reviews, state
from coordinator.context import Coordinator
from coordinator.errors import StateError
from coordinator.state import Transaction
from coordinator.submissions import IN_PLAY, BlueprintState
from federation.auditlog.events import Event, Kind
from federation.blueprint import approval
from federation.blueprint.approval import Decision
from federation.study import Study
from kit import canonical, clock
from pki import keys

BY_QUORUM = "coordinator"
_PROOF = {
    Kind.BLUEPRINT_RECEIVED: BlueprintState.RECEIVED,
    Kind.BLUEPRINT_PENDING: BlueprintState.PENDING,
    Kind.BLUEPRINT_APPROVED: BlueprintState.APPROVED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoration:
    """What an undo did, or will do once the quorum is reached."""

    blueprint: str
    done: bool
    state: str
    releases: tuple[str, ...]


def restore(
    coordinator: Coordinator, prefix: str, *, reviewer_key: keys.SigningKey, reason: str
) -> Restoration:
    """Record a reviewer's decision to undo a revocation; the study's quorum makes it so.

    Raises:
        NotFoundError: no such blueprint.
        StateError: it is not revoked, its grace period is over, or its site withdrew it.
    """
    return _restore(coordinator, prefix, reviews.signing(Decision.RESTORE, reviewer_key, reason))


def take(coordinator: Coordinator, prefix: str, signed: reviews.Signed) -> Restoration:
    """Record a decision to undo a revocation that was signed on another machine.

    Raises:
        FormatError: the record is off, of a stranger, about something else, or not of this time.
        StateError: as `restore`; or the record, or this reviewer's, is here already.
    """
    return _restore(coordinator, prefix, reviews.keeping(Decision.RESTORE, signed))


def _restore(coordinator: Coordinator, prefix: str, record: reviews.Recorder) -> Restoration:
    with coordinator.write() as tx:
        row = reviews.find(tx, prefix)
        before = _undoable(tx, row, actor=BY_QUORUM)
        study = Study.from_bytes(registry.find_study(tx, row.study_digest).manifest)
        records = record(tx, row, study)
        back: tuple[str, ...] = ()
        done = approval.has_quorum(records, study, Decision.RESTORE)
        if done:
            back = _put_back(tx, row, before, actor=BY_QUORUM)
        now = reviews.find(tx, row.digest).state
    return Restoration(blueprint=row.digest, done=done, state=now, releases=back)


def put_back(tx: Transaction, row: sa.Row[Any], *, actor: str, order: bytes) -> None:
    """Undo a site's withdrawal on its signed word.

    Raises:
        StateError: there is none of this site's to undo, or the grace period is over.
    """
    before = _undoable(tx, row, actor=actor)
    _put_back(tx, row, before, actor=actor, order=canonical.digest(order))


def _undoable(tx: Transaction, row: sa.Row[Any], *, actor: str) -> tuple[Kind, BlueprintState]:
    """Return the state to go back to, with the event that proves it."""
    name = f"blueprint `{row.digest[:16]}`"
    if row.state != BlueprintState.REVOKED:
        raise StateError(f"{name} is {row.state}, not revoked")
    if row.destroyed is not None or row.destroy_after <= clock.rfc3339(tx.now):
        raise StateError(f"the grace period of {name} is over; what it held is destroyed")
    query = sa.select(state.log.c.leaf).where(state.log.c.subject == row.digest)
    rows = tx.all(query.order_by(state.log.c.position))
    events = [Event.from_leaf(entry.leaf) for entry in rows]
    [by] = [event.actor for event in events if event.kind is Kind.BLUEPRINT_REVOKED][-1:]
    if by == actor == BY_QUORUM and _is_withdrawn(tx, row):
        raise StateError(f"{name} is not yours to restore: its site withdrew it as well")
    if by != actor:
        whose = "its site withdrew it" if actor == BY_QUORUM else "a quorum of reviewers revoked it"
        raise StateError(f"{name} is not yours to restore: {whose}")
    table = state.blueprints
    same = (table.c.site == row.site) & (table.c.study_digest == row.study_digest)
    if tx.one(sa.select(table.c.digest).where(same, table.c.state.in_(IN_PLAY))) is not None:
        raise StateError(
            f"the site of {name} has another blueprint in this study by now",
            hint="one of a site's is in play at a time",
        )
    descent.require_standing(tx, row.digest)
    last = [event.kind for event in events if event.kind in _PROOF][-1]
    return last, _PROOF[last]


def _is_withdrawn(tx: Transaction, row: sa.Row[Any]) -> bool:
    """Say whether its site's last word, which may have come after a quorum's, takes it back."""
    last = papers.last_word(tx, row.digest, row.site)
    return last is not None and not last.is_undo


def _put_back(
    tx: Transaction,
    row: sa.Row[Any],
    before: tuple[Kind, BlueprintState],
    *,
    actor: str,
    **details: str,
) -> tuple[str, ...]:
    kind, standing = before
    table = state.blueprints
    tx.execute(
        sa.update(table)
        .where(table.c.digest == row.digest)
        .values(state=standing, reason="", destroy_after=None)
    )
    reviews.set_aside(tx, row.digest)
    study = row.study_digest
    tx.record(Kind.BLUEPRINT_RESTORED, row.digest, actor=actor, study=study, **details)
    tx.record(kind, row.digest, actor=actor, study=study)  # a state rests on its newest entry
    back = releases.put_back(tx, row.digest)
    releases.change_revocations(tx)
    return back
