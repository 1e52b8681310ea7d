"""Revocation: out of use at once, shredded after the grace period, descendants withdrawn.

The next build of the study does not know the blueprint: no seed, order, label or weight of it
depends on what was revoked, so the release is the one of a federation that never had it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from cryptography import x509

from coordinator import (
    authorities,
    descent,
    leftovers,
    logbook,
    papers,
    payloads,
    recipients,
    registry,
    rekeying,
    restoration,
    reviews,
    staging,
    state,
)
from coordinator.context import Coordinator
from coordinator.errors import NotAllowedError, StateError
from coordinator.releases import change_revocations, delete_files
from coordinator.reserve import drawn_on
from coordinator.state import Transaction
from coordinator.submissions import BlueprintState
from federation import dsse
from federation.auditlog.events import Kind
from federation.blueprint import approval, limits
from federation.blueprint.approval import Decision
from federation.release.statement import (
    RESTORATION_TYPE,
    WITHDRAWAL_TYPE,
    Withdrawal,
    open_signed,
)
from federation.study import Study
from kit import canonical, clock
from kit.errors import FormatError
from pki import certificates, identity, keys

NOT_REACHED = (
    "copies at the site: its run folder, and its outbox until its next contact",
    "released models at sites until their next contact, and predictions already made",
    "copies outside the kit: backups of the key store, sticks, disk images, what people saw",
)
_SKEW = timedelta(seconds=limits.MAX_CLOCK_SKEW_S)
REVOCABLE = (BlueprintState.RECEIVED, BlueprintState.PENDING, BlueprintState.APPROVED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """What a revocation did, or will do once the quorum is reached."""

    blueprint: str
    done: bool
    revoked_blueprints: tuple[str, ...]
    withdrawn_releases: tuple[str, ...]
    destroy_after: str | None
    not_reached: tuple[str, ...] = NOT_REACHED


def preview(coordinator: Coordinator, prefix: str) -> Revocation:
    """Return what revoking a blueprint would take along, without doing it.

    Raises:
        NotFoundError: no such blueprint.
    """
    with coordinator.state.read() as tx:
        row = reviews.find(tx, prefix)
        falling = descent.fallen(tx, row.digest, revocable=REVOCABLE)
    return _revocation(row.digest, falling, done=False, destroy_after=None)


def revoke(
    coordinator: Coordinator, prefix: str, *, reviewer_key: keys.SigningKey, reason: str
) -> Revocation:
    """Record a reviewer's decision to revoke; the study's quorum makes it so.

    Raises:
        NotFoundError: no such blueprint.
        StateError: it is in no state to be revoked.
    """
    return _revoke(coordinator, prefix, reviews.signing(Decision.REVOKE, reviewer_key, reason))


def take(coordinator: Coordinator, prefix: str, signed: reviews.Signed) -> Revocation:
    """Record a decision to revoke that was signed on another machine.

    Raises:
        FormatError: the record is off, of a stranger, about something else, or not of this time.
        StateError: as `revoke`; or the record, or this reviewer's, is here already.
    """
    return _revoke(coordinator, prefix, reviews.keeping(Decision.REVOKE, signed))


def _revoke(coordinator: Coordinator, prefix: str, record: reviews.Recorder) -> Revocation:
    with coordinator.write() as tx:
        row = reviews.find(tx, prefix)
        _check_revocable(row)
        study = Study.from_bytes(registry.find_study(tx, row.study_digest).manifest)
        records = record(tx, row, study)
        falling = descent.fallen(tx, row.digest, revocable=REVOCABLE)
        done = approval.has_quorum(records, study, Decision.REVOKE)
        after = _take_out(coordinator, tx, row) if done else None
    destroy_due(coordinator)
    return _revocation(row.digest, falling, done=done, destroy_after=after)


def _revocation(
    digest: str, falling: descent.Fallen, *, done: bool, destroy_after: str | None
) -> Revocation:
    return Revocation(
        blueprint=digest,
        done=done,
        revoked_blueprints=falling.blueprints,
        withdrawn_releases=falling.releases,
        destroy_after=destroy_after,
    )


def withdraw(
    coordinator: Coordinator, site: str, envelope: bytes, chain: Sequence[x509.Certificate]
) -> str:
    """Revoke a site's own blueprint on its signed word, or undo that; returns its digest.

    An order counts once, whatever it did: one that comes again, as with a file that is imported
    twice, changes nothing, also where it was refused for the blueprint's state. The last that the
    site signed counts, in whichever order they come. One for a blueprint that is not here keeps it
    from being taken in later.

    Raises:
        FormatError: the order is off, from the future, or not signed by this site (A3).
        NotAllowedError: the blueprint is another site's, or the certificate not the current one.
        StateError: it is in no state to be revoked, or to be restored; or the site signed another
            order since.
        LimitError: this site sent too many orders today that did nothing.
    """
    is_undo = _kind_of(envelope) == RESTORATION_TYPE
    with coordinator.state.read() as tx:
        site_row = registry.active_site(tx, site)
        anchor = authorities.anchor(coordinator, tx, site_row.authority)
        revoked = authorities.revocations(coordinator, tx, anchor, chain)
    payload = open_signed(
        envelope,
        RESTORATION_TYPE if is_undo else WITHDRAWAL_TYPE,
        chain,
        signer=identity.site(coordinator.config.federation, site),
        root=anchor.root,
        now=coordinator.now(),
        revocations=revoked,
    )
    order = Withdrawal.from_bytes(payload)
    destroy_due(coordinator)
    refused: StateError | None = None
    with drawn_on(coordinator.home), coordinator.write() as tx:
        site_row = registry.active_site(tx, site)
        rekeying.check_signer(site_row, chain)
        rekeying.settle_signer(tx, site_row, certificates.fingerprint(chain[0]))
        if not papers.has(tx, envelope):
            _check_clock(tx, order)
            act = _put_back if is_undo else _take_back
            try:
                _check_last(tx, site, order)
                done = act(coordinator, tx, site_row, order, envelope)
            except StateError as error:  # raised before anything was changed
                refused, done = error, False
            if not done:
                logbook.charge(tx, site)  # keeping it takes room, as an entry does
            kind = papers.Paper.RESTORATION if is_undo else papers.Paper.WITHDRAWAL
            papers.keep(tx, order.blueprint, kind, envelope, chain=certificates.pem(*chain))
    if refused is not None:
        raise refused
    destroy_due(coordinator)
    return order.blueprint


def _check_clock(tx: Transaction, order: Withdrawal) -> None:
    """Refuse an order from the future: it would outlast every later word of its site."""
    if clock.parse_rfc3339(order.time) - tx.now > _SKEW:
        raise FormatError(
            f"the order was signed at {order.time}, which is yet to come",
            hint="set the clock that is wrong; then the site orders again",
        )


def _check_last(tx: Transaction, site: str, order: Withdrawal) -> None:
    """Refuse an order older than the last that its site signed, both by the site's own clock.

    An honest file that comes late is carried out, whatever others decided since: it is still what
    the site said last.
    """
    last = papers.last_word(tx, order.blueprint, site)
    if last is not None and order.time < last.time:
        what = "undoing" if last.is_undo else "withdrawal"
        raise StateError(
            f"the site signed this order at {order.time}, and another since: the {what} of"
            f" {last.time} counts",
            hint="if it wants something else now, it orders again; if this was signed later, its"
            " clock was wrong",
        )


def _put_back(
    coordinator: Coordinator,
    tx: Transaction,
    site: sa.Row[Any],
    order: Withdrawal,
    envelope: bytes,
) -> bool:
    row = reviews.find(tx, order.blueprint)
    _check_own(row, site, order)
    restoration.put_back(tx, row, actor=site.pseudonym, order=envelope)
    return True


def _take_back(
    coordinator: Coordinator,
    tx: Transaction,
    site: sa.Row[Any],
    order: Withdrawal,
    envelope: bytes,
) -> bool:
    """Carry a withdrawal out; says whether there was anything to do."""
    table = state.blueprints
    row = tx.one(sa.select(table).where(table.c.digest == order.blueprint))
    if row is not None:
        _check_own(row, site, order)
    if row is None or row.state == BlueprintState.RECEIVING:
        logbook.charge(tx, site.id)  # an order costs as much as the entry that it stands for
        staging.give_up(coordinator, tx, order.blueprint)
    elif row.state != BlueprintState.REVOKED:
        _check_revocable(row)
        _take_out(coordinator, tx, row, actor=site.pseudonym, order=envelope)
    else:
        return False
    return True


def _check_own(row: sa.Row[Any], site: sa.Row[Any], order: Withdrawal) -> None:
    if (row.site, row.study_digest) != (site.id, order.study_digest):
        raise NotAllowedError("this site has no such blueprint")


def ordered(envelope: bytes) -> Withdrawal:
    """Return what an order says, whoever signed it.

    Raises:
        FormatError: it is none.
    """
    return Withdrawal.from_bytes(dsse.parse(envelope, _kind_of(envelope)).payload)


def _kind_of(envelope: bytes) -> str:
    try:
        table = canonical.decode(envelope, limit=dsse.MAX_ENVELOPE_BYTES)
        return str(table["payloadType"])
    except (KeyError, TypeError) as error:
        raise FormatError("the order is no signed document") from error


def destroy_due(coordinator: Coordinator) -> int:
    """Shred every revoked blueprint whose grace period is over; returns how many.

    Refused and rejected ones are due at once: what a crash left between the decision and the
    shredding is shredded here. So are uploads that nobody can finish, and idle recipient keys.
    """
    table = state.blueprints
    is_over = (table.c.state == BlueprintState.REVOKED) & (
        table.c.destroy_after <= clock.rfc3339(coordinator.now())
    )
    is_unwanted = table.c.state.in_((BlueprintState.REFUSED, BlueprintState.REJECTED))
    with coordinator.state.read() as tx:
        due = tx.all(sa.select(table).where(table.c.destroyed.is_(None), is_over | is_unwanted))
    for row in due:
        payloads.destroy(coordinator, row.digest)
        # Before the row says so: what a crash interrupts here is found due again.
        for release in _withdrawn_releases(coordinator, row.digest):
            delete_files(coordinator, release)
        with drawn_on(coordinator.home), coordinator.write() as tx:
            changed = tx.execute(
                sa.update(table)
                .where(table.c.digest == row.digest, table.c.destroyed.is_(None))
                .values(destroyed=clock.rfc3339(tx.now), wrapped_key=None)
            )
            if changed.rowcount:
                tx.record(Kind.KEY_DESTROYED, row.digest)
    staging.drop_dead(coordinator)
    recipients.destroy_idle(coordinator)
    if due:
        leftovers.sweep(coordinator)
    return len(due)


def _check_revocable(row: sa.Row[Any]) -> None:
    if row.state not in REVOCABLE:
        raise StateError(
            f"blueprint `{row.digest[:16]}` is {row.state}; there is nothing to revoke"
        )


def _take_out(
    coordinator: Coordinator,
    tx: Transaction,
    row: sa.Row[Any],
    *,
    actor: str = "coordinator",
    order: bytes | None = None,
) -> str:
    details = {} if order is None else {"order": canonical.digest(order)}
    after = _end(coordinator, tx, row, actor=actor, **details)
    take_along(coordinator, tx, row.digest)
    recipients.rotate(coordinator, tx, row.study_digest, row.site)
    return after


def take_along(coordinator: Coordinator, tx: Transaction, node: str) -> None:
    """Take everything out of use that came from a node, second-hand and further too (A19)."""
    falling = descent.fallen(tx, node, revocable=REVOCABLE)
    for digest in falling.blueprints:
        row = reviews.find(tx, digest)
        _end(coordinator, tx, row, actor="coordinator", cause=node)
        recipients.rotate(coordinator, tx, row.study_digest, row.site)
    for release in falling.releases:
        tx.execute(
            sa.update(state.releases)
            .where(state.releases.c.digest == release)
            .values(withdrawn=True)
        )
        tx.record(Kind.RELEASE_WITHDRAWN, release, cause=node)
    change_revocations(tx)


def _end(
    coordinator: Coordinator, tx: Transaction, row: sa.Row[Any], *, actor: str, **details: Any
) -> str:
    grace = timedelta(hours=coordinator.config.revocation_grace_hours)
    after = clock.rfc3339(tx.now + grace)
    tx.execute(
        sa.update(state.blueprints)
        .where(state.blueprints.c.digest == row.digest)
        .values(
            # One that was not taken in yet keeps its wrapped key, so that this can be undone.
            state=BlueprintState.REVOKED,
            reason="revoked",
            destroy_after=after,
        )
    )
    details["until"] = int((tx.now + grace).timestamp())
    tx.record(Kind.BLUEPRINT_REVOKED, row.digest, actor=actor, study=row.study_digest, **details)
    return after


def _withdrawn_releases(coordinator: Coordinator, digest: str) -> list[str]:
    with coordinator.state.read() as tx:
        fallen = descent.graph(tx).descendants(digest)
        rows = tx.all(
            sa.select(state.releases.c.digest).where(state.releases.c.withdrawn.is_(True))
        )
    return [row.digest for row in rows if row.digest in fallen]
