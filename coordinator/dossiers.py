"""The signed dossier of one revocation: gathered from state, log and papers, signed, and checked.

What is signed here is verified by the reader's own rules before it is handed out: a dossier that
its own coordinator's log does not bear out is not written.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from coordinator import descent, issuance, papers, registry, releases, reviews, state
from coordinator.context import Coordinator
from coordinator.errors import StateError
from coordinator.logbook import Proofs
from coordinator.papers import Paper
from coordinator.revocation import NOT_REACHED
from coordinator.state import Transaction
from coordinator.submissions import BlueprintState
from federation.auditlog.events import Event, Kind
from federation.auditlog.history import History, revocations_digest
from federation.blueprint.approval import Decision
from federation.dossier import document, page
from federation.dossier import verification as rules
from federation.dossier.document import Dossier, OutOfUse, Proved, SiteWord
from federation.dossier.verification import Verified
from federation.release.statement import sign
from kit import canonical, clock
from kit.files import write_folder
from pki import certificates, keys

_ABOUT_SITES = (Kind.SITE_CONFIRMED, Kind.SIGNING_KEY_RENEWED, Kind.WITNESS_REGISTERED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written, and how much of it is not there yet."""

    out: str
    blueprint: str
    destroyed: bool
    acknowledged: int
    sites: int


def write(coordinator: Coordinator, prefix: str, out: Path) -> Written:
    """Write the dossier of a blueprint's revocation into a new folder, signed, with its page.

    Raises:
        NotFoundError: no such blueprint.
        StateError: it is not revoked.
        KitError: the log does not bear out what the state says, or the folder is not empty.
    """
    chain, key = coordinator.signer
    with coordinator.state.read() as tx:
        made = gather(coordinator, tx, prefix)
    envelope = sign(made.to_bytes(), document.PAYLOAD_TYPE, key, chain[0])
    found = rules.verify(envelope, chain, root=coordinator.root)
    files = {
        document.DOSSIER: envelope,
        document.CHAIN: certificates.pem(*chain),
        document.PAGE: page.to_text(found).encode(),
    }
    write_folder(out, files)
    return Written(
        out=str(out),
        blueprint=found.blueprint,
        destroyed=all(item.time for item in found.destroyed),
        acknowledged=sum(1 for a in found.acknowledgements if a.log_size),
        sites=len(found.acknowledgements),
    )


def check(folder: Path, root: Path, log_key: str) -> Verified:
    """Verify a dossier with its folder, the root's certificate and, if given, the log's key.

    Raises:
        KitError: a file is missing, or the first step that does not hold.
    """
    envelope, chain = document.read(folder)
    [pinned, *_] = certificates.read_pem(root)
    return rules.verify(
        envelope,
        chain,
        root=pinned,
        log_key=bytes.fromhex(canonical.sha256_hex(log_key, what="log key")) if log_key else None,
    )


def gather(coordinator: Coordinator, tx: Transaction, prefix: str) -> Dossier:
    """Return the dossier of a revoked blueprint as of now, unsigned. Raises as `write`."""
    row = reviews.find(tx, prefix)
    if row.state != BlueprintState.REVOKED:
        raise StateError(
            f"blueprint `{row.digest[:16]}` is {row.state}: there is no revocation to show",
            hint="see `coordinator list`",
        )
    leaves = [r.leaf for r in tx.all(sa.select(state.log.c.leaf).order_by(state.log.c.position))]
    events = [Event.from_leaf(leaf) for leaf in leaves]
    at = _last(events, Kind.BLUEPRINT_REVOKED, row.digest)
    before, after = _lists(events, at)
    gained = {*after.blueprints, *after.releases} - {*before.blueprints, *before.releases}
    since = _releases_since(coordinator, tx, row, events[at])
    study = registry.find_study(tx, row.study_digest)
    decided = _decisions(tx, row)
    subjects = {row.digest, row.kid, *gained, *(paper.subject for paper in since)}
    proofs = Proofs(coordinator, tx)
    wanted = {0, at} | {
        index
        for index, event in enumerate(events)
        if event.subject in subjects or event.kind in _ABOUT_SITES or _is_list(event, before, after)
    }
    return Dossier(
        federation=coordinator.config.federation,
        made=clock.rfc3339(coordinator.now()),
        blueprint=row.digest,
        recipient_key=row.kid,
        log_origin=coordinator.log_origin,
        log_key=keys.public_bytes(coordinator.log_key),
        study_key=coordinator.study_public,
        checkpoint=proofs.checkpoint,
        entries=tuple(Proved(leaf=leaves[i], index=i, path=proofs.path(i)) for i in sorted(wanted)),
        before=before,
        after=after,
        papers=(
            document.Paper(kind="study", envelope=study.envelope),
            *decided,
            *(paper.document for paper in since),
        ),
        sites=tuple(_words(tx, proofs, events, at)),
        not_reached=NOT_REACHED,
    )


def _last(events: list[Event], kind: Kind, subject: str) -> int:
    found = [i for i, e in enumerate(events) if e.kind is kind and e.subject == subject]
    if not found:
        raise StateError("the log has no entry of this revocation", hint="run `audit verify`")
    return found[-1]


def _is_list(event: Event, *held: OutOfUse) -> bool:
    return event.kind is Kind.REVOCATIONS_CHANGED and event.details.get("number") in {
        each.number for each in held
    }


def _lists(events: list[Event], at: int) -> tuple[OutOfUse, OutOfUse]:
    """Return the revocation lists before and after entry `at`, made again from the log."""
    found: list[OutOfUse] = []
    blueprints: set[str] = set()
    withdrawn: set[str] = set()
    for index, event in enumerate(events):
        if event.kind is Kind.BLUEPRINT_REVOKED:
            blueprints.add(event.subject)
        elif event.kind is Kind.BLUEPRINT_RESTORED:
            blueprints.discard(event.subject)
        elif event.kind is Kind.RELEASE_WITHDRAWN:
            withdrawn.add(event.subject)
        elif event.kind is Kind.RELEASE_PUBLISHED:
            withdrawn.discard(event.subject)
        elif event.kind is Kind.REVOCATIONS_CHANGED:
            if event.subject != revocations_digest(blueprints, withdrawn):
                continue
            made = OutOfUse(
                number=int(event.details["number"]),
                blueprints=tuple(sorted(blueprints)),
                releases=tuple(sorted(withdrawn)),
            )
            if index > at:
                if found and found[-1].number + 1 == made.number:
                    return found[-1], made
                break
            found.append(made)
    raise StateError(
        "the revocation list of that time cannot be made again from the log",
        hint="after a recovery that happens; the log itself still shows the entries",
    )


@dataclass(frozen=True, slots=True)
class _Since:
    subject: str
    document: document.Paper


def _releases_since(
    coordinator: Coordinator, tx: Transaction, row: sa.Row[Any], revoked: Event
) -> list[_Since]:
    """Return the study's current releases that were published after the revocation."""
    found = []
    for each in releases.visible(tx):
        release = descent.release_of(each)
        is_newer = each.published >= revoked.time and not release.is_base
        if is_newer and not each.withdrawn and each.study_digest == row.study_digest:
            chain = issuance.chain_of(coordinator, tx, releases.signed_by(each))
            paper = document.Paper(kind="release", envelope=each.envelope, chain=chain)
            found.append(_Since(release.digest, paper))
    return found


def _decisions(tx: Transaction, row: sa.Row[Any]) -> Iterable[document.Paper]:
    """Return the signed records to revoke, and the site's own orders."""
    table = state.approvals
    own = (table.c.blueprint == row.digest) & (table.c.decision == Decision.REVOKE)
    for each in tx.all(sa.select(table.c.envelope).where(own).order_by(table.c.reviewer)):
        yield document.Paper(kind="approval", envelope=each.envelope)
    for each in papers.of(tx, row.digest, Paper.WITHDRAWAL):
        yield document.Paper(kind="order", envelope=each.envelope, chain=each.chain)


def _words(tx: Transaction, proofs: Proofs, events: list[Event], at: int) -> Iterable[SiteWord]:
    """Return, for every site that was active at the revocation, its first cosignature after it."""
    history = History().read(events[:at])
    ids = {row.pseudonym: row.id for row in tx.all(sa.select(state.sites))}
    table = state.cosignatures
    for pseudonym in sorted(name for name, what in history.sites.items() if what == "active"):
        query = sa.select(sa.func.min(table.c.size)).where(
            table.c.pseudonym == pseudonym, table.c.size > at
        )
        size = tx.connection.scalar(query)
        yield SiteWord(
            pseudonym=pseudonym,
            id=ids.get(pseudonym, "unknown"),
            checkpoint=proofs.note(size) if size else "",
            path=proofs.path(at, size) if size else (),
        )
