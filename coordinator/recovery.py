"""Recovery after a backup was restored: the log from sites' copies, the tables from the log (A4).

What the backup lacks comes back as the log has it: revocations and withdrawals hold, spent tokens
and lost enrolments end, and what was lost itself (payloads, models, approvals) is taken out of use
rather than guessed. The quorum of every study signs the record of it, which the log names.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from coordinator import delegations, exports, recipients, revocation, state
from coordinator.context import Coordinator
from coordinator.errors import StateError
from coordinator.releases import change_revocations
from coordinator.state import Transaction
from federation.auditlog import merkle
from federation.auditlog import recovery as rules
from federation.auditlog.bundle import Verified
from federation.auditlog.events import PROOF_OF_STATE, Event, Kind, read_leaf
from federation.auditlog.history import History
from federation.auditlog.recovery import Recovery
from federation.blueprint import approval
from federation.study import Study
from kit import canonical, clock
from kit.files import read_limited, write_atomic
from pki import keys

_ENDED = ("refused", "rejected", "revoked")
_ENROLMENT = (Kind.TOKEN_ISSUED, Kind.SITE_REQUESTED, Kind.SITE_CONFIRMED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What a recovery did, or will do once the quorum has signed."""

    done: bool
    epoch: int
    restored_size: int
    size: int
    waits_for: tuple[str, ...]
    lost: tuple[str, ...]
    record: Path


def recover(
    coordinator: Coordinator,
    copies: Sequence[Path],
    *,
    reviewer_key: keys.SigningKey,
    reason: str,
) -> Recovered:
    """Sign the record of a recovery; the last signature that a quorum wants makes it so.

    `copies` are exports of sites (`edge-agent audit export`). The longest becomes this log. The
    reason stays in no file here: the record commits to it under a salt that is not kept.

    Raises:
        StateError: a copy is of another log, or this log went on after the backup.
        FormatError: the key is no reviewer's, or a copy proves nothing.
    """
    with coordinator.write() as tx:
        leaves = _longest(coordinator, tx, copies)
        record, signed = _record(coordinator, tx, leaves, reason)
        studies = [Study.from_bytes(row.manifest) for row in tx.all(sa.select(state.studies))]
        envelopes = [*signed, record.sign(reviewer_key)]
        rules.signers(envelopes, studies)
        waits = rules.lacking(envelopes, studies)
        lost: list[str] = []
        if not waits:
            lost = _apply(coordinator, tx, leaves, record)
    path = _path(coordinator, record.epoch)
    write_atomic(path, b"".join(envelope + b"\n" for envelope in sorted(set(envelopes))))
    if not waits:
        revocation.destroy_due(coordinator)
    return Recovered(
        done=not waits,
        epoch=record.epoch,
        restored_size=record.restored_size,
        size=record.size,
        waits_for=tuple(waits),
        lost=tuple(lost),
        record=path,
    )


def _path(coordinator: Coordinator, epoch: int) -> Path:
    return coordinator.home.path / "recoveries" / f"epoch-{epoch}.jsonl"


def _longest(coordinator: Coordinator, tx: Transaction, copies: Sequence[Path]) -> list[bytes]:
    public, tree = keys.public_bytes(coordinator.log_key), tx.tree()
    best: tuple[Verified, list[bytes]] | None = None
    for path in copies:
        bundle = exports.load(path)
        found = bundle.verify(key=public)
        size = min(tree.size, found.tree.size)
        if tree.root(size) != found.tree.root(size):
            raise StateError(
                f"the copy `{path}` and this log differ before entry {size}",
                hint="if this log went on after the backup was restored, restore the backup again"
                " and recover before anything else; if not, somebody rewrote one of the two",
            )
        if best is not None:
            size = min(best[0].tree.size, found.tree.size)
            if best[0].tree.root(size) != found.tree.root(size):
                raise StateError(
                    f"the copies of two sites differ before entry {size}: `{path}` is one of them",
                    hint="the log was forked before the backup; keep both copies as evidence",
                )
        if best is None or found.tree.size > best[0].tree.size:
            best = (found, list(bundle.leaves))
    if best is None or best[0].tree.size < tree.size:
        raise StateError(
            "no copy is as long as this log: there is nothing to recover from",
            hint="ask every site for `edge-agent audit export`",
        )
    return best[1]


def _record(
    coordinator: Coordinator, tx: Transaction, leaves: list[bytes], reason: str
) -> tuple[Recovery, list[bytes]]:
    """Return the record to sign, and what others signed of it already."""
    history = History().read([read_leaf(leaf) for leaf in leaves])
    root = merkle.root([merkle.leaf_hash(leaf) for leaf in leaves])
    epoch, size = len(history.epochs) + 1, len(leaves)
    path = _path(coordinator, epoch)
    if path.is_file():
        data = read_limited(path, limit=rules.MAX_FILE_BYTES, what="recovery record")
        signed = data.splitlines()
        found = rules.read(signed)
        if (found.restored_size, found.size, found.root) == (tx.log_size(), size, root.hex()):
            return found, signed
        raise StateError(
            f"`{path}` is the record of a recovery from other copies",
            hint="give the same copies, or remove that file to begin again",
        )
    return Recovery(
        origin=coordinator.log_origin,
        epoch=epoch,
        restored_size=tx.log_size(),
        size=size,
        root=root.hex(),
        reason_commitment=approval.commitment(reason, os.urandom(approval.SALT_BYTES)),
        time=clock.rfc3339(tx.now),
    ), []


def _apply(
    coordinator: Coordinator, tx: Transaction, leaves: list[bytes], record: Recovery
) -> list[str]:
    missing = []
    for leaf in leaves[record.restored_size :]:
        event = Event.from_leaf(leaf)
        tx.append(leaf, event.subject)
        missing.append(event)
    said = History().read([read_leaf(leaf) for leaf in leaves])
    tx.record(
        Kind.LOG_RECOVERED,
        record.digest,
        epoch=record.epoch,
        restored=record.restored_size,
        size=record.size,
    )
    lost = [
        *_sites(tx, said, missing),
        *_studies(tx, said),
        *_blueprints(tx, said),
        *_releases(tx, said),
    ]
    for row in tx.all(sa.select(state.recipient_keys)):
        recipients.rotate(coordinator, tx, row.study_digest, row.site)
    tx.put("revocations", str(max(int(tx.get("revocations") or 0), said.revocations[0])))
    change_revocations(tx)
    return lost


def _sites(tx: Transaction, said: History, missing: list[Event]) -> list[str]:
    """End every enrolment that moved in what was lost: its keys and spent token went with it."""
    table, lost = state.sites, []
    moved = {e.details["site"] for e in missing if e.kind in _ENROLMENT}
    rows = {row.pseudonym: row for row in tx.all(sa.select(table))}
    for pseudonym, logged in said.sites.items():
        row = rows.get(pseudonym)
        if row is None:
            lost.append(_lose(tx, pseudonym, "site"))
        elif pseudonym in moved or logged == "revoked":
            tx.execute(sa.update(table).where(table.c.id == row.id).values(state="revoked"))
            recipients.retire_site(tx, row.id)
            lost += [f"site {pseudonym}"] if pseudonym in moved else []
        if logged != "revoked" and (row is None or pseudonym in moved):
            tx.record(Kind.SITE_REVOKED, canonical.digest(pseudonym.encode()), site=pseudonym)
    for event in missing:
        row = rows.get(str(event.details.get("site")))
        if event.kind is Kind.CERTIFICATE_RENEWED and row is not None:
            fresh = {"tls_fingerprint": event.subject, "tls_previous": row.tls_fingerprint}
            tx.execute(sa.update(table).where(table.c.id == row.id).values(**fresh))
    return lost


def _studies(tx: Transaction, said: History) -> list[str]:
    table, lost = state.studies, []
    rows = {row.digest: row for row in tx.all(sa.select(table))}
    for digest in sorted(said.studies):
        if digest not in rows:
            lost.append(_lose(tx, digest, "study"))
            if digest not in said.closed:
                tx.record(Kind.STUDY_CLOSED, digest)
        elif digest in said.closed and rows[digest].open:
            tx.execute(sa.update(table).where(table.c.digest == digest).values(open=False))
            recipients.retire_study(tx, digest)
            delegations.end(tx, digest)
        elif delegations.digests(tx).get(digest) != said.delegations.get(digest):
            delegations.end(tx, digest)
            lost.append(f"the right to sign recipient keys of study {digest}: `study extend`")
    return lost


def _blueprints(tx: Transaction, said: History) -> list[str]:
    table, lost = state.blueprints, []
    rows = {row.digest: row for row in tx.all(sa.select(table))}
    for digest, logged in said.blueprints.items():
        row = rows.get(digest)
        if row is None:
            lost.append(_lose(tx, digest, "blueprint"))
            if logged != "revoked":
                tx.record(Kind.BLUEPRINT_REVOKED, digest)
        elif logged in _ENDED and row.state != logged:
            ended = {"state": logged, "wrapped_key": None, "destroyed": None}
            ended["destroy_after"] = clock.rfc3339(tx.now)
            tx.execute(sa.update(table).where(table.c.digest == digest).values(**ended))
        elif row.state != logged and row.state in PROOF_OF_STATE:
            tx.record(PROOF_OF_STATE[row.state], digest, study=row.study_digest)
            lost.append(f"what was decided on blueprint {digest}")
        if row is not None and digest in said.destroyed and row.destroyed is None:
            due = {"destroy_after": clock.rfc3339(tx.now)}  # the backup brought its keys back
            tx.execute(sa.update(table).where(table.c.digest == digest).values(**due))
    return lost


def _releases(tx: Transaction, said: History) -> list[str]:
    table, lost = state.releases, []
    kept = {row.digest for row in tx.all(sa.select(table.c.digest))}
    for digest, withdrawn in said.releases.items():
        if digest not in kept:
            lost.append(_lose(tx, digest, "release"))
            if not withdrawn:
                tx.record(Kind.RELEASE_WITHDRAWN, digest)
        elif withdrawn:
            tx.execute(sa.update(table).where(table.c.digest == digest).values(withdrawn=True))
    return lost


def _lose(tx: Transaction, name: str, kind: str) -> str:
    known = state.lost.c.name == name
    if tx.one(sa.select(state.lost).where(known)) is None:
        tx.execute(sa.insert(state.lost).values(name=name, kind=kind))
    return f"{kind} {name}"
