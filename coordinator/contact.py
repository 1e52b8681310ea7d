"""Contact: everything a site has to know, on one snapshot, with proof that the log only grew."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from coordinator import (
    descent,
    issuance,
    logbook,
    publication,
    registry,
    releases,
    state,
    submissions,
    upkeep,
)
from coordinator.context import Coordinator
from coordinator.logbook import Entry, Proofs
from coordinator.submissions import Status
from federation.auditlog.events import Event, Kind
from kit.errors import DiskFullError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOffer:
    """A study with the key that this site seals to; empty once the study is closed.

    `delegation` says who may sign that key.
    """

    manifest: bytes
    recipient_key: bytes
    open: bool
    delegation: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseOffer:
    """A release, its signed statement with the chain that signed it, and all the log says of it."""

    envelope: bytes
    signing_chain: bytes
    withdrawn: bool
    published: Entry
    withdrawal: tuple[Entry, ...]
    earlier: tuple[Entry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """The answer to one contact."""

    checkpoint: str
    consistency: tuple[bytes, ...]
    revocations: bytes
    certificate_revocations: bytes
    authority_revocations: bytes
    signing_chain: bytes
    pseudonym_salt: bytes
    studies: tuple[StudyOffer, ...]
    blueprints: tuple[Status, ...]
    releases: tuple[ReleaseOffer, ...]
    bases: tuple[ReleaseOffer, ...]
    first_leaf: int
    leaves: tuple[bytes, ...]
    witnessed: tuple[str, ...]
    repository: tuple[tuple[str, bytes], ...]


def contact(
    coordinator: Coordinator,
    site: str,
    known_size: int,
    first_leaf: int,
    versions: Mapping[str, int],
) -> News:
    """Note that a site is here, and return the state of the world for it.

    Raises:
        StateError: this log is shorter than what the site has seen.
    """
    try:
        with coordinator.write() as tx:
            registry.touch(tx, site)
    except DiskFullError as error:  # news and withdrawals matter more than the time of a contact
        _log.warning("a contact is not noted: %s", error)
    try:
        files = publication.current(coordinator)
    except DiskFullError as error:  # a site takes what it can verify; nothing new is installed
        _log.warning("the repository is not renewed: %s", error)
        files = {}
    lacking = publication.unknown_to(files, versions)
    return news(coordinator, site, known_size, first_leaf, lacking)


def news(
    coordinator: Coordinator,
    site: str,
    known_size: int,
    first_leaf: int,
    files: Mapping[str, bytes],
) -> News:
    """Return the state of the world for one site, with the first page of leaves it has not read.

    `files` are those of the repository's metadata that go along.

    Raises:
        StateError: this log is shorter than what the site has seen.
    """
    certificate_revocations = issuance.revocation_list(coordinator)
    with coordinator.state.read() as tx:
        proofs = Proofs(coordinator, tx)
        revocations, signing_chain = releases.revocations(coordinator, tx)
        bases = descent.bases(tx)
        are_bases = {row.digest for row in bases}
        return News(
            checkpoint=proofs.checkpoint,
            consistency=tuple(proofs.consistency(known_size)),
            revocations=revocations,
            certificate_revocations=certificate_revocations,
            authority_revocations=issuance.authority_list(tx),
            signing_chain=signing_chain,
            pseudonym_salt=upkeep.salt_of(tx),
            studies=tuple(_studies(tx, site)),
            blueprints=tuple(submissions.status(site, tx, proofs)),
            releases=tuple(
                _release(coordinator, tx, row, proofs)
                for row in releases.visible(tx)
                if row.digest not in are_bases
            ),
            bases=tuple(_release(coordinator, tx, row, proofs) for row in bases),
            first_leaf=first_leaf,
            leaves=tuple(logbook.leaves(tx, first_leaf)),
            witnessed=tuple(proofs.witnessed()),
            repository=tuple(sorted(files.items())),
        )


def _studies(tx: "state.Transaction", site: str) -> list[StudyOffer]:
    key, study, right = state.recipient_keys, state.studies, state.delegations
    own = (key.c.study_digest == study.c.digest) & (key.c.site == site)
    columns = (key.c.envelope.label("recipient"), right.c.envelope.label("delegation"))
    query = (
        sa.select(study.c.envelope, study.c.open, *columns)
        .select_from(
            study.outerjoin(key, own).outerjoin(right, right.c.study_digest == study.c.digest)
        )
        .where(key.c.kid.is_not(None) | ~study.c.open)
    )
    return [
        StudyOffer(
            manifest=row.envelope,
            recipient_key=row.recipient or b"",
            open=row.open,
            delegation=row.delegation or b"",
        )
        for row in tx.all(query.order_by(study.c.id))
    ]


def _release(
    coordinator: Coordinator, tx: "state.Transaction", row: "sa.Row[Any]", proofs: Proofs
) -> ReleaseOffer:
    entries = proofs.entries(row.digest)
    kinds = [Event.from_leaf(entry.leaf).kind for entry in entries]
    last = max(i for i, kind in enumerate(kinds) if kind is Kind.RELEASE_PUBLISHED)
    return ReleaseOffer(
        envelope=row.envelope,
        signing_chain=issuance.chain_of(coordinator, tx, releases.signed_by(row)),
        withdrawn=row.withdrawn,
        published=entries[last],
        withdrawal=tuple(entries[last + 1 :]),
        earlier=tuple(entries[:last]),
    )
