"""Erasing what a person wrote: text and salt go, the signed record and the log entry stay.

Without its salt a commitment says nothing about the words; with both gone nobody, the coordinator
included, can show or test them.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from coordinator import state
from coordinator.context import Coordinator
from coordinator.errors import NotFoundError
from federation.study import Study
from kit import canonical


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What was erased, and what still names this person."""

    reviewer: str
    reasons_erased: int
    signed_records_that_name_them: int
    studies_that_name_them: tuple[str, ...]


def erase_reviewer(coordinator: Coordinator, reviewer: str) -> Erased:
    """Delete every reason that a reviewer gave, each with its salt; erasing twice changes nothing.

    Reasons are given for decisions on blueprints and for readmissions of sites; no other table
    holds a person's words (`tests/coordinator/test_erasure.py` looks through all of the home).

    The identifier itself stands in signed manifests and records, and cannot leave them: choose
    identifiers that are no names.

    Raises:
        NotFoundError: nobody of this identifier decided anything or is named by a study.
        KitError: it is erased, but the journal of the database is in use; run it again.
    """
    table, consents = state.approvals, state.readmissions
    own = table.c.reviewer == reviewer
    with coordinator.write() as tx:
        rows = tx.all(sa.select(table.c.salt).where(own))
        studies = [Study.from_bytes(r.manifest) for r in tx.all(sa.select(state.studies))]
        naming = [s.id for s in studies if reviewer in {r.name for r in s.reviewers}]
        if not rows and not naming:
            raise NotFoundError(
                f"no reviewer `{canonical.printable(reviewer)}`",
                hint="see `coordinator study show`",
            )
        held = {r.public_key for s in studies for r in s.reviewers if r.name == reviewer}
        agreed = consents.c.reviewer_key.in_(held)
        given = [*rows, *tx.all(sa.select(consents.c.salt).where(agreed))]
        tx.execute(sa.update(table).where(own).values(reason="", salt=b""))
        tx.execute(sa.update(consents).where(agreed).values(reason="", salt=b""))
    coordinator.state.purge(table, consents)
    return Erased(
        reviewer=reviewer,
        reasons_erased=sum(1 for row in given if row.salt),
        signed_records_that_name_them=len(rows),
        studies_that_name_them=tuple(sorted(naming)),
    )
