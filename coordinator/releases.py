"""Releases: published with their lineage, served while no ancestor is revoked."""

import json
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from coordinator import companions, descent, issuance, reviews, state
from coordinator.companions import Beside
from coordinator.context import Coordinator
from coordinator.errors import NotFoundError, StateError
from coordinator.plans import Plan
from coordinator.state import Transaction
from coordinator.submissions import BlueprintState
from federation import dsse
from federation.auditlog.events import Kind
from federation.auditlog.history import revocations_digest
from federation.blueprint.statement import Statement
from federation.release import statement as documents
from federation.release.statement import Artefact, Release, Revocations, Role
from federation.study import SyntheticSets
from kit import canonical, clock
from pki import certificates


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A release as the coordinator lists it."""

    digest: str
    study: str
    role: str
    labels: tuple[str, ...]
    blueprints: int
    personal_data: bool
    published: str
    state: str
    withdrawn: bool
    card: dict[str, Any]


def publish(
    coordinator: Coordinator,
    work: Plan,
    model: bytes,
    *,
    beside: Beside,
    card: dict[str, Any],
) -> Release:
    """Sign, keep and log a release; publishing the same model again returns the one that is there.

    Its synthetic set only as far as the study goes: what one blueprint without privacy is in may be
    personal data.

    Raises:
        StateError: an input is not approved (any more), or not by the study's reviewers.
    """
    digest = canonical.digest(model)
    with coordinator.write() as tx:
        personal = _check_inputs(tx, work)
        # After the check: what was made from a blueprint revoked meanwhile reaches no disk.
        coordinator.stores.releases.put(model_name(digest), model)
        present = _in_use(tx, digest)
        if present is not None:
            return descent.release_of(present)
        rule = work.study.sharing.synthetic_sets
        if not companions.is_public(rule, personal_data=personal):
            beside = replace(beside, synthetic=None)
        card = card | {"synthetic_set": _of_the_set(rule, beside)}
        file = Artefact(
            role=Role.INFERENCE_MODEL,
            media_type=documents.ONNX_MEDIA_TYPE,
            sha256=digest,
            length=len(model),
            licence=companions.LICENCE,
        )
        release = Release(
            study=work.study.id,
            study_digest=work.study.digest,
            round=work.study.round,
            plan=work.digest,
            labels=work.labels,
            personal_data=personal,
            ancestors=tuple(sorted(entry.blueprint for entry in work.inputs)),
            artefacts=(file, *companions.make(coordinator, tx, work, file, beside)),
            numerics=canonical.digest(canonical.encode(work.setting.numerics)),
            created=clock.rfc3339(tx.now),
            lease_until=None,
        )
        return put(coordinator, tx, release, plan=work.to_bytes(), card=card)


def _of_the_set(rule: SyntheticSets, beside: Beside) -> str:
    """Say in a release's card what became of its synthetic set."""
    if beside.synthetic is not None:
        return f"{beside.synthetic.count} images beside the model"
    if rule is SyntheticSets.WITHHELD:
        return "withheld by the study"
    return "left out: a blueprint without differential privacy is in it"


def put(
    coordinator: Coordinator,
    tx: Transaction,
    release: Release,
    *,
    plan: bytes,
    card: dict[str, Any],
) -> Release:
    """Sign and log a release whose file is in its place, or return the one that is there."""
    present = _in_use(tx, release.digest)
    if present is not None:
        return descent.release_of(present)
    query = sa.select(state.releases.c.digest).where(state.releases.c.digest == release.digest)
    _insert(coordinator, tx, release, plan, card, replaces=tx.one(query) is not None)
    return release


def _in_use(tx: Transaction, digest: str) -> sa.Row[Any] | None:
    """Return the row of a release that stands; not of one whose signing key was revoked."""
    table = state.releases
    row = tx.one(sa.select(table).where(table.c.digest == digest, table.c.withdrawn.is_(False)))
    return None if row is None or _is_void(tx, row) else row


def _check_inputs(tx: Transaction, work: Plan) -> bool:
    table = state.blueprints
    personal = False
    for entry in work.inputs:
        row = tx.one(sa.select(table).where(table.c.digest == entry.blueprint))
        if row is None or row.state != BlueprintState.APPROVED:
            raise StateError(
                f"blueprint `{entry.blueprint[:16]}` is not approved any more",
                hint="run the build again: it leaves that blueprint out",
            )
        reviews.require_quorum(tx, entry.blueprint, work.study)
        personal |= Statement.from_bytes(row.statement).privacy.gaussian is None
    return personal


def _insert(
    coordinator: Coordinator,
    tx: Transaction,
    release: Release,
    plan: bytes,
    card: dict[str, Any],
    *,
    replaces: bool,
) -> None:
    envelope, chain = _sign(coordinator, release.to_bytes(), documents.RELEASE_TYPE)
    issuance.keep(tx, chain, holder=issuance.COORDINATOR, usage=issuance.SIGNING)
    if replaces:
        tx.execute(sa.delete(state.releases).where(state.releases.c.digest == release.digest))
        tx.execute(sa.delete(state.lineage).where(state.lineage.c.descendant == release.digest))
    tx.execute(
        sa.insert(state.releases).values(
            digest=release.digest,
            study_digest=release.study_digest,
            envelope=envelope,
            plan=plan,
            card=json.dumps(card),
            published=release.created,
            withdrawn=False,
        )
    )
    for ancestor in release.ancestors:
        edge = {"ancestor": ancestor, "descendant": release.digest}
        tx.execute(sa.insert(state.lineage).values(**edge))
    _record(tx, release)
    if replaces:
        change_revocations(tx)


def _record(tx: Transaction, release: Release) -> None:
    tx.record(
        Kind.RELEASE_PUBLISHED,
        release.digest,
        study=release.study_digest,
        plan=release.plan,
        statement=canonical.digest(release.to_bytes()),
    )


def put_back(tx: Transaction, blueprint: str) -> tuple[str, ...]:
    """Publish again what was withdrawn for one blueprint alone; returns the releases' digests."""
    table, edge = state.releases, state.lineage
    revoked = set(out_of_use(tx)[0])
    descends = sa.select(edge.c.descendant).where(edge.c.ancestor == blueprint)
    rows = tx.all(sa.select(table).where(table.c.withdrawn, table.c.digest.in_(descends)))
    back = [
        release for release in map(descent.release_of, rows) if not set(release.ancestors) & revoked
    ]
    for release in back:
        tx.execute(sa.update(table).where(table.c.digest == release.digest).values(withdrawn=False))
        _record(tx, release)
    return tuple(sorted(release.digest for release in back))


def list_releases(coordinator: Coordinator) -> list[Published]:
    """Return every release, oldest first."""
    table = state.releases
    with coordinator.state.read() as tx:
        rows = tx.all(sa.select(table).order_by(table.c.published, table.c.digest))
    found = [_published(row) for row in rows]
    newest = {(r.study, r.role): r.digest for r in found if not r.withdrawn}  # the last one stays
    return [
        replace(r, state="newest" if r.digest in newest.values() else "older")
        if not r.withdrawn
        else r
        for r in found
    ]


def visible(tx: Transaction) -> list[sa.Row[Any]]:
    """Return the rows of all releases, oldest first, withdrawn ones included."""
    return tx.all(sa.select(state.releases).order_by(state.releases.c.published))


def model_name(digest: str) -> str:
    """Return the name of a release's model in its store."""
    return f"{digest}.onnx"


def require_file(coordinator: Coordinator, digest: str) -> str:
    """Return the name, in the store of releases, of a release's file by the file's own digest.

    Raises:
        NotFoundError: no release has such an artefact.
        StateError: that release is withdrawn.
    """
    digest = canonical.sha256_hex(digest, what="digest")
    with coordinator.state.read() as tx:
        for row in reversed(visible(tx)):
            release = descent.release_of(row)
            for artefact in release.artefacts:
                if artefact.sha256 == digest:
                    if row.withdrawn:
                        raise StateError("this release is withdrawn")
                    return stored_name(release.digest, artefact.role)
    raise NotFoundError("no such release")


def stored_name(digest: str, role: Role) -> str:
    """Return the name of one file of a release in the store of releases."""
    is_model = role in (Role.INFERENCE_MODEL, Role.INITIAL_WEIGHTS)
    return model_name(digest) if is_model else companions.stored_name(digest, role)


def delete_files(coordinator: Coordinator, digest: str) -> None:
    """Delete every file of a release from the store."""
    for role in Role:
        coordinator.stores.releases.delete(stored_name(digest, role))


def change_revocations(tx: Transaction) -> None:
    """Give the list of everything out of use its next number, on the log."""
    number = int(tx.get("revocations") or 0) + 1
    tx.put("revocations", str(number))
    tx.record(Kind.REVOCATIONS_CHANGED, revocations_digest(*out_of_use(tx)), number=number)


def out_of_use(tx: Transaction) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the digests of every revoked blueprint and every withdrawn release, sorted."""
    blueprint, release = state.blueprints, state.releases
    revoked = tx.all(
        sa.select(blueprint.c.digest).where(blueprint.c.state == BlueprintState.REVOKED)
    )
    withdrawn = tx.all(sa.select(release.c.digest).where(release.c.withdrawn.is_(True)))
    gone = {"blueprint": {r.digest for r in revoked}, "release": {r.digest for r in withdrawn}}
    for row in tx.all(sa.select(state.lost).where(state.lost.c.kind.in_(tuple(gone)))):
        gone[row.kind].add(row.name)
    return tuple(sorted(gone["blueprint"])), tuple(sorted(gone["release"]))


def revocations(coordinator: Coordinator, tx: Transaction) -> tuple[bytes, bytes]:
    """Return the signed list of everything out of use, and the chain (PEM) that signed it."""
    blueprints, withdrawn = out_of_use(tx)
    document = Revocations(
        federation=coordinator.config.federation,
        number=int(tx.get("revocations") or 0),
        issued=clock.rfc3339(tx.now),
        blueprints=blueprints,
        releases=withdrawn,
    )
    return _sign(coordinator, document.to_bytes(), documents.REVOCATIONS_TYPE)


def _sign(coordinator: Coordinator, payload: bytes, kind: str) -> tuple[bytes, bytes]:
    """Sign with the key of this moment; returns the envelope and its chain (PEM), which belong."""
    chain, key = coordinator.signer
    return documents.sign(payload, kind, key, chain[0]), certificates.pem(*chain)


def _is_void(tx: Transaction, row: sa.Row[Any]) -> bool:
    """Say whether the key that signed a release was revoked: the same model is signed again."""
    return issuance.is_revoked(tx, signed_by(row))


def signed_by(row: sa.Row[Any]) -> str:
    """Return the fingerprint of the certificate under which a release was signed."""
    return dsse.parse(row.envelope, documents.RELEASE_TYPE).keyid


def _published(row: sa.Row[Any]) -> Published:
    release = descent.release_of(row)
    return Published(
        digest=release.digest,
        study=release.study,
        role=release.model.role,
        labels=release.labels,
        blueprints=len(release.ancestors),
        personal_data=release.personal_data,
        published=row.published,
        state="withdrawn" if row.withdrawn else "older",
        withdrawn=row.withdrawn,
        card=json.loads(row.card),
    )
