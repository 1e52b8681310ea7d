"""Readmission of a known site: reviewers consent before it may be invited again (A1)."""

import os
from dataclasses import dataclass

import sqlalchemy as sa

from coordinator import issuance, state
from coordinator.context import Coordinator
from coordinator.errors import NotAllowedError, NotFoundError
from coordinator.state import Transaction
from federation import readmission as rules
from federation.auditlog.events import Kind
from federation.blueprint import approval
from federation.readmission import Readmission
from federation.study import Study
from kit import canonical, clock
from pki import keys

MAX_REASON_CHARACTERS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """Where a readmission stands; `missing` are the studies whose quorum is not reached."""

    site: str
    previous: str
    missing: tuple[str, ...]


def readmit(
    coordinator: Coordinator, site: str, *, reviewer_key: keys.SigningKey, reason: str
) -> Consent:
    """Record one reviewer's consent to another enrolment of a site.

    Raises:
        NotFoundError: the site was never enrolled: it needs no consent.
        NotAllowedError: the key is no reviewer's of an open study.
    """
    public = keys.public_bytes(reviewer_key)
    reason = canonical.printable(reason, width=MAX_REASON_CHARACTERS)
    with coordinator.write() as tx:
        last = issuance.newest(tx, site, issuance.SIGNING)
        if last is None:
            raise NotFoundError(f"site `{canonical.printable(site)}` was never enrolled")
        reviewer = rules.reviewer_of(_studies(tx), public)
        if reviewer is None:
            raise NotAllowedError("the key is no reviewer's of an open study")
        row = tx.one(sa.select(state.sites).where(state.sites.c.id == site))
        salt = os.urandom(approval.SALT_BYTES)
        record = Readmission(
            federation=coordinator.config.federation,
            site=site,
            previous=last.fingerprint,
            reason_commitment=approval.commitment(reason, salt),
            time=clock.rfc3339(tx.now),
        )
        envelope = record.sign(reviewer_key)
        table = state.readmissions
        key = {"site": site, "previous": last.fingerprint, "reviewer_key": public.hex()}
        tx.execute(sa.delete(table).filter_by(**key))
        tx.execute(sa.insert(table).values(**key, envelope=envelope, reason=reason, salt=salt))
        tx.record(
            Kind.READMISSION_RECORDED,
            last.fingerprint,
            actor="reviewer",
            site=row.pseudonym if row else "unknown",
            record=canonical.digest(envelope),
            key=canonical.digest(public),
            reason=record.reason_commitment,
        )
        return Consent(
            site=site, previous=last.fingerprint, missing=tuple(_missing(coordinator, tx, site))
        )


def require(coordinator: Coordinator, tx: Transaction, site: str) -> None:
    """Let a site that was enrolled before be invited again only by the quorum of every open study.

    Raises:
        NotAllowedError: a quorum has not consented.
    """
    missing = _missing(coordinator, tx, site)
    if missing:
        raise NotAllowedError(
            f"site `{site}` was enrolled before; the quorum of study `{missing[0]}` has not"
            " consented to another enrolment",
            hint=f"each reviewer runs `coordinator sites readmit {site} --key FILE --reason ...`",
        )


def _missing(coordinator: Coordinator, tx: Transaction, site: str) -> list[str]:
    last = issuance.newest(tx, site, issuance.SIGNING)
    if last is None:
        return []
    table = state.readmissions
    rows = tx.all(
        sa.select(table.c.envelope).where(
            table.c.site == site, table.c.previous == last.fingerprint
        )
    )
    return rules.missing(
        (row.envelope for row in rows),
        _studies(tx),
        federation=coordinator.config.federation,
        site=site,
        previous=last.fingerprint,
        now=tx.now,
    )


def _studies(tx: Transaction) -> list[Study]:
    query = sa.select(state.studies.c.manifest).where(state.studies.c.open)
    return [Study.from_bytes(row.manifest) for row in tx.all(query.order_by(state.studies.c.id))]
