"""Bases: made from procedural images, published as releases without ancestors, withdrawn by quorum.

A base is public: no patient's image went into it, so training from it costs no privacy. Withdrawing
one takes every blueprint along that was trained from it, and their releases (A19).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from coordinator import descent, registry, releases, reviews, revocation, state
from coordinator.context import Coordinator
from coordinator.errors import StateError
from coordinator.state import Transaction
from federation.auditlog.events import Kind
from federation.blueprint import approval, weights
from federation.blueprint.approval import Decision
from federation.release import base as rules
from federation.release.base import Base, Manifest, Origin
from federation.release.statement import Artefact, Release, Role
from federation.study import Study
from kit import canonical, clock
from kit.errors import FormatError
from kit.files import exclusive, read_document, write_atomic
from pki import keys

_UNKNOWN = "0" * 64  # stands in a manifest until its weights are there


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A base's file, and what is in it."""

    base: str
    study: str
    origin: str
    recipe: dict[str, Any]
    architecture: dict[str, Any]
    file: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """What withdrawing a base did, or will do once the quorum is reached."""

    base: str
    done: bool
    revoked_blueprints: tuple[str, ...]
    withdrawn_releases: tuple[str, ...]
    not_reached: tuple[str, ...] = revocation.NOT_REACHED


def make(
    coordinator: Coordinator,
    study_name: str,
    out: Path,
    *,
    preset: str,
    recipe: dict[str, Any],
    report: Callable[[int, int], None],
) -> Made:
    """Train a base on procedural images and write its file; the same recipe gives the same bytes.

    Equality is claimed between equal numerics only: this home's threads on the same machine.

    Raises:
        NotFoundError: no such study.
        FormatError: the recipe has a figure out of its range.
        KitError: the study does not allow the preset, or another base is being made.
    """
    from federation.learning.downstream.numerics import numerics_fingerprint, pinned_threads
    from federation.learning.generator import architecture as networks
    from federation.learning.generator.pretrain import Recipe, pretrain

    chosen = Recipe.from_table(recipe)
    with coordinator.state.read() as tx:
        study = Study.from_bytes(registry.find_study(tx, study_name).manifest)
    architecture = networks.architecture_for(study, preset or study.architectures[0].preset)
    threads = coordinator.config.threads
    with (
        exclusive(coordinator.home.path / "base.lock", busy="another base is being made"),
        pinned_threads(threads),
    ):
        tensors = pretrain(architecture, chosen, report=report)
        fingerprint = canonical.encode(dict(numerics_fingerprint(threads)))
    made = rules.make(
        tensors,
        Manifest(
            study=study.digest,
            architecture=architecture.to_table(),
            origin=Origin.PROCEDURAL,
            recipe=chosen.to_table(),
            numerics=canonical.digest(fingerprint),
            weights_sha256=_UNKNOWN,
        ),
    )
    write_atomic(out, made.to_bytes())
    return _made(made, study, out)


def publish(coordinator: Coordinator, path: Path) -> Made:
    """Sign, keep and log a base for the study it was made for; again changes nothing.

    Raises:
        FormatError: the file is no base, of no known recipe, or its weights are off.
        StateError: the study is closed.
        NotFoundError: this coordinator has no such study.
    """
    found = read_document(
        path,
        Base.from_bytes,
        limit=rules.MAX_BYTES,
        what="base",
        hint="it is the file that `coordinator base make` wrote",
    )
    data = found.to_bytes()
    manifest = found.manifest
    with coordinator.state.read() as tx:
        row = registry.find_study(tx, manifest.study)
    study = Study.from_bytes(row.manifest)
    if not row.open:
        raise StateError(f"study `{study.id}` is closed: nobody trains for it any more")
    _check(found, study)
    with coordinator.write() as tx:
        coordinator.stores.releases.put(releases.model_name(found.digest), data)
        release = Release(
            study=study.id,
            study_digest=study.digest,
            round=study.round,
            plan=canonical.digest(manifest.to_bytes()),
            labels=study.classes,
            personal_data=False,
            ancestors=(),
            artefacts=(
                Artefact(
                    role=Role.INITIAL_WEIGHTS,
                    media_type=rules.MEDIA_TYPE,
                    sha256=found.digest,
                    length=len(data),
                    licence=rules.LICENCE,
                ),
            ),
            numerics=manifest.numerics,
            created=clock.rfc3339(tx.now),
            lease_until=None,
        )
        if find(tx, found.digest, withdrawn=True) is not None:
            reviews.set_aside(tx, found.digest)  # what withdrew it counts no more
        card = {"origin": manifest.origin, "recipe": manifest.recipe}
        releases.put(coordinator, tx, release, plan=manifest.to_bytes(), card=card)
    return _made(found, study, path)


def _check(found: Base, study: Study) -> None:
    from federation.learning.generator import architecture as networks
    from federation.learning.generator.pretrain import Recipe, require_trainable

    Recipe.from_table(found.manifest.recipe)
    stated = networks.Architecture.from_table(found.manifest.architecture)
    if stated != networks.architecture_for(study, stated.preset):
        raise FormatError("the base's architecture is not one that its study allows")
    require_trainable(stated)
    table: weights.Table = networks.expected_tensors(stated)
    found.arrays(stated.to_table(), table)


def find(tx: Transaction, prefix: str, *, withdrawn: bool = False) -> sa.Row[Any] | None:
    """Return the row of the one base (in use, or withdrawn) whose digest begins with `prefix`."""
    if len(prefix) < reviews.MIN_PREFIX:
        return None
    known = [row for row in descent.bases(tx) if row.withdrawn is withdrawn]
    rows = [row for row in known if row.digest.startswith(prefix)]
    return rows[0] if len(rows) == 1 else None


def preview(coordinator: Coordinator, prefix: str) -> Withdrawn | None:
    """Return what withdrawing a base would take along, without doing it; None if it is none."""
    with coordinator.state.read() as tx:
        row = find(tx, prefix)
        if row is None:
            return None
        falling = descent.fallen(tx, row.digest, revocable=revocation.REVOCABLE)
    return _withdrawn(row.digest, falling, done=False)


def withdraw(
    coordinator: Coordinator, prefix: str, *, reviewer_key: keys.SigningKey, reason: str
) -> Withdrawn:
    """Record a reviewer's decision to withdraw a base; the study's quorum makes it so (A3).

    Raises:
        StateError: there is no such base in use.
    """
    with coordinator.write() as tx:
        row = find(tx, prefix)
        if row is None:
            raise StateError("there is no such base in use", hint="see `coordinator releases`")
        study = Study.from_bytes(registry.find_study(tx, row.study_digest).manifest)
        records = reviews.record_decision(tx, row, study, Decision.REVOKE, reviewer_key, reason)
        falling = descent.fallen(tx, row.digest, revocable=revocation.REVOCABLE)
        done = approval.has_quorum(records, study, Decision.REVOKE)
        if done:
            table = state.releases
            gone = sa.update(table).where(table.c.digest == row.digest).values(withdrawn=True)
            tx.execute(gone)
            tx.record(Kind.RELEASE_WITHDRAWN, row.digest)
            revocation.take_along(coordinator, tx, row.digest)
    revocation.destroy_due(coordinator)
    return _withdrawn(row.digest, falling, done=done)


def _withdrawn(base: str, falling: descent.Fallen, *, done: bool) -> Withdrawn:
    return Withdrawn(
        base=base,
        done=done,
        revoked_blueprints=falling.blueprints,
        withdrawn_releases=falling.releases,
    )


def _made(found: Base, study: Study, path: Path) -> Made:
    return Made(
        base=found.digest,
        study=study.id,
        origin=found.manifest.origin,
        recipe=found.manifest.recipe,
        architecture=found.manifest.architecture,
        file=str(path),
        bytes=len(found.to_bytes()),
    )
