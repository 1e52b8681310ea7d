"""What the review aids found, as rows: kept until the blueprint is destroyed, or one beside it.

A number about others would otherwise outlive what it was measured against.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from coordinator import state
from coordinator.context import Coordinator
from coordinator.reserve import drawn_on
from coordinator.state import Transaction
from federation.learning.review.finding import Finding
from kit import clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """When a blueprint was examined (RFC 3339), beside which others, and what came out."""

    made: str
    compared_with: tuple[str, ...]
    findings: tuple[Finding, ...]


def of(tx: Transaction, digest: str) -> Record | None:
    """Return what is kept of a blueprint."""
    table = state.review_aids
    row = tx.one(sa.select(table).where(table.c.blueprint == digest))
    if row is None:
        return None
    return Record(
        made=row.made,
        compared_with=tuple(json.loads(row.compared_with)),
        findings=tuple(Finding.from_table(entry) for entry in json.loads(row.findings)),
    )


def keep(
    tx: Transaction, digest: str, compared_with: Iterable[str], findings: Sequence[Finding]
) -> None:
    """Keep what was found now, in place of what was found before."""
    table = state.review_aids
    tx.execute(sa.delete(table).where(table.c.blueprint == digest))
    tx.execute(
        sa.insert(table).values(
            blueprint=digest,
            made=clock.rfc3339(tx.now),
            compared_with=json.dumps(sorted(compared_with)),
            findings=json.dumps([finding.to_table() for finding in findings]),
        )
    )


def forget(coordinator: Coordinator, digest: str) -> None:
    """Delete what was found of a blueprint, and of those that were compared with it."""
    with coordinator.state.read() as tx:
        is_there = bool(_depending(tx, digest))
    if is_there:  # else no write lock is taken
        table = state.review_aids
        with drawn_on(coordinator.home), coordinator.write() as tx:  # a full disk stops no end
            tx.execute(sa.delete(table).where(table.c.blueprint.in_(_depending(tx, digest))))


def _depending(tx: Transaction, digest: str) -> list[str]:
    table = state.review_aids
    rows = tx.all(sa.select(table.c.blueprint, table.c.compared_with))
    return [r.blueprint for r in rows if digest in (r.blueprint, *json.loads(r.compared_with))]
