"""Recipient keys: what one site seals to in one round of one study, and when they end (A2).

A seed is here while its public key is offered to the site, or while a blueprint that was sealed to
it still has to be taken in or may still be restored. Whatever ends that (a refusal, a rejection, a
revocation, an upload that expired, the close of the study, a site shut out) only changes rows;
`destroy_idle` then destroys every seed that no row needs any more, and a crash in between leaves it
to the next call.
"""

import logging
from dataclasses import dataclass

import sqlalchemy as sa

from coordinator import delegations, payloads, state
from coordinator.context import Coordinator
from coordinator.state import Transaction
from federation import dsse
from federation.auditlog.events import Kind
from federation.study import RECIPIENT_KEY_TYPE, RecipientKey, Study
from pki import kem

_log = logging.getLogger(__name__)

# The states of `coordinator.submissions.BlueprintState` in which the seed may still be needed.
_WAITING = ("receiving", "received")
_STANDING = ("pending", "approved")
_REVOKED = "revoked"


def add(coordinator: Coordinator, tx: Transaction, study: Study, site: str) -> None:
    """Give a site its key in a study, unless it has one.

    A study whose delegation is not in this home gives none until `study extend` brings one.
    """
    signer = delegations.delegate(coordinator, tx, study.digest)
    if _offered(tx, study.digest, site):
        return
    if signer is None:
        _log.warning("nobody here may sign recipient keys of study %s", study.id)
        return
    public = payloads.new_recipient(coordinator)
    document = RecipientKey(study_digest=study.digest, round=study.round, site=site, public=public)
    tx.execute(
        sa.insert(state.recipient_keys).values(
            kid=kem.key_id(public),
            study_digest=study.digest,
            site=site,
            envelope=signer.sign(document),
        )
    )
    query = sa.select(state.sites.c.pseudonym).where(state.sites.c.id == site)
    pseudonym = tx.connection.scalar(query)
    tx.record(Kind.RECIPIENT_ISSUED, kem.key_id(public), study=study.digest, site=pseudonym)


def offer(coordinator: Coordinator, tx: Transaction, study: Study) -> None:
    """Give every active site its key in a study that has a delegation; what is there is re-signed.

    A new signature over the same key changes no seed and no log entry.
    """
    table, signer = state.recipient_keys, delegations.delegate(coordinator, tx, study.digest)
    for row in tx.all(sa.select(table).where(table.c.study_digest == study.digest)):
        payload = dsse.parse(row.envelope, RECIPIENT_KEY_TYPE).payload
        envelope = signer.sign(RecipientKey.from_bytes(payload)) if signer else row.envelope
        tx.execute(sa.update(table).where(table.c.kid == row.kid).values(envelope=envelope))
    for site in tx.all(sa.select(state.sites.c.id).where(state.sites.c.state == "active")):
        add(coordinator, tx, study, site.id)


def rotate(coordinator: Coordinator, tx: Transaction, study_digest: str, site: str) -> None:
    """Replace a site's key in a study; nothing is sealed to the old one any more.

    A site that holds none, because it was shut out or the study is closed, gets none.
    """
    if not _offered(tx, study_digest, site):
        return
    table = state.recipient_keys
    tx.execute(sa.delete(table).where(table.c.study_digest == study_digest, table.c.site == site))
    study = tx.one(sa.select(state.studies).where(state.studies.c.digest == study_digest))
    if study is not None and study.open:
        add(coordinator, tx, Study.from_bytes(study.manifest), site)


def retire_site(tx: Transaction, site: str) -> None:
    """Take every key of a site away."""
    tx.execute(sa.delete(state.recipient_keys).where(state.recipient_keys.c.site == site))


def retire_study(tx: Transaction, study_digest: str) -> None:
    """Take every site's key in a study away."""
    table = state.recipient_keys
    tx.execute(sa.delete(table).where(table.c.study_digest == study_digest))


def needed(tx: Transaction) -> set[str]:
    """Return the ids of the keys whose seeds may not be destroyed yet.

    What a site that was shut out had sent and nobody has taken in is not waited for.
    """
    blueprint, site = state.blueprints, state.sites
    waits = blueprint.c.state.in_(_WAITING)
    in_grace = (blueprint.c.state == _REVOKED) & blueprint.c.destroyed.is_(None)
    active = sa.select(site.c.id).where(site.c.state == "active")
    rows = tx.all(sa.select(blueprint.c.kid).where(waits | in_grace, blueprint.c.site.in_(active)))
    return {row.kid for row in [*rows, *tx.all(sa.select(state.recipient_keys.c.kid))]}


def destroy_idle(coordinator: Coordinator) -> int:
    """Destroy every seed that nothing needs any more, each with its log entry; returns how many."""
    store = payloads.keystore(coordinator)
    with coordinator.state.read() as tx:
        if not store.digests(payloads.RECIPIENT) - needed(tx):
            return 0
    # Seeds are made under the write lock as well: one that is seen here has its row.
    with coordinator.write() as tx:
        idle = store.digests(payloads.RECIPIENT) - needed(tx)
        for kid in sorted(idle):
            store.destroy(payloads.RECIPIENT, kid)
            tx.record(Kind.KEY_DESTROYED, kid, what="recipient-key")
    return len(idle)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """What `replace_lost` did, and what stays lost.

    Attributes:
        replaced: the keys that were given anew, as `study/site`.
        lost_blueprints: blueprints in play that nobody here can open any more.
    """

    replaced: tuple[str, ...]
    lost_blueprints: tuple[str, ...]


def replace_lost(coordinator: Coordinator) -> Replaced:
    """Give a new recipient key wherever the key store lacks the seed of the one on offer.

    Each loss and each new key is on the log. What was sealed to a lost key, or lies under a lost
    key of its own, is named and left as it is: `reject --lost` lets its site send it again.
    """
    store = payloads.keystore(coordinator)
    seeds, sealed = store.digests(payloads.RECIPIENT), store.digests(payloads.BLUEPRINT)
    key, study, blueprint = state.recipient_keys, state.studies, state.blueprints
    query = sa.select(key.c.kid, key.c.site, key.c.study_digest, study.c.id)
    with coordinator.write() as tx:
        rows = tx.all(query.where(study.c.digest == key.c.study_digest, key.c.kid.not_in(seeds)))
        for row in rows:
            tx.record(Kind.KEY_DESTROYED, row.kid, what="recipient-key", why="lost")
            rotate(coordinator, tx, row.study_digest, row.site)
        waits = blueprint.c.state.in_(_WAITING) & blueprint.c.kid.not_in(seeds)
        stands = blueprint.c.state.in_(_STANDING) & blueprint.c.digest.not_in(sealed)
        lost = tx.all(sa.select(blueprint.c.digest).where(waits | stands))
    return Replaced(
        replaced=tuple(sorted(f"{row.id}/{row.site}" for row in rows)),
        lost_blueprints=tuple(sorted(row.digest for row in lost)),
    )


def _offered(tx: Transaction, study_digest: str, site: str) -> bool:
    table = state.recipient_keys
    where = (table.c.study_digest == study_digest) & (table.c.site == site)
    return tx.one(sa.select(table.c.kid).where(where)) is not None
