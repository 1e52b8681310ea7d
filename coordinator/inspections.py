"""What reviewers see of the aids: what was kept, beside whom, and likeness to what was revoked."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from coordinator import review_records, sketches, state
from coordinator.state import Transaction
from coordinator.submissions import BlueprintState
from federation.blueprint.statement import Statement
from federation.learning.review.finding import Finding, Outcome

MAX_COMPARED = 24  # others; those that share most classes, so that memory stays bounded
NONE_YET = "none yet: run `coordinator inspect`"
HERE = (BlueprintState.PENDING, BlueprintState.APPROVED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What the aids said of one blueprint.

    Attributes:
        blueprint: its digest.
        site: whose it is.
        made: when, RFC 3339; None if never.
        compared_with: digests of other sites' blueprints.
        is_of_today: whether those are the ones that it would be compared with now.
        findings: one per aid, `revoked` as it is now.
    """

    blueprint: str
    site: str
    made: str | None
    compared_with: tuple[str, ...]
    is_of_today: bool
    findings: tuple[Finding, ...]

    def lines(self) -> tuple[str, ...]:
        """Return everything as lines for a reviewer."""
        found = tuple(finding.line() for finding in self.findings)
        if self.made is None:
            return (NONE_YET, *found)
        late = "" if self.is_of_today else "; others are in play now: inspect again"
        return (f"made {self.made} beside {len(self.compared_with)} others{late}", *found)

    @property
    def flagged(self) -> tuple[Finding, ...]:
        """Return what somebody should look at."""
        return tuple(f for f in self.findings if f.outcome is Outcome.FLAGGED)


def of(tx: Transaction, row: sa.Row[Any]) -> Inspection:
    """Return what was kept of a blueprint's row."""
    kept = review_records.of(tx, row.digest)
    compared = () if kept is None else kept.compared_with
    now = {other.digest for other in others(tx, row)}
    return Inspection(
        blueprint=row.digest,
        site=row.site,
        made=None if kept is None else kept.made,
        compared_with=compared,
        is_of_today=kept is not None and set(compared) == now,
        findings=(*(() if kept is None else kept.findings), sketches.finding(tx, row)),
    )


def others(tx: Transaction, row: sa.Row[Any]) -> list[sa.Row[Any]]:
    """Return what a blueprint is compared with: other sites', those that share most classes."""
    table = state.blueprints
    own = set(Statement.from_bytes(row.statement).outputs)
    rows = tx.all(
        sa.select(table).where(
            table.c.study_digest == row.study_digest,
            table.c.site != row.site,
            table.c.state.in_(HERE),
        )
    )
    shared = {r.digest: len(own & set(Statement.from_bytes(r.statement).outputs)) for r in rows}
    return sorted(rows, key=lambda r: (-shared[r.digest], r.digest))[:MAX_COMPARED]
