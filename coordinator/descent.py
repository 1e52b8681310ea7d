"""What came from what: the lineage table, from bases over blueprints to releases and on (A19).

A node that is taken out of use takes along everything that it flowed into, whoever's it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from coordinator import state
from coordinator.errors import StateError
from coordinator.state import Transaction
from federation import dsse
from federation.blueprint.statement import Statement
from federation.release.base import Manifest
from federation.release.lineage import Lineage
from federation.release.statement import RELEASE_TYPE, Release

_NO_BASE = "none: trained from random weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallen:
    """What a node flowed into and is still in use, sorted."""

    blueprints: tuple[str, ...]
    releases: tuple[str, ...]


def release_of(row: sa.Row[Any]) -> Release:
    """Return the release that a row keeps."""
    return Release.from_bytes(dsse.parse(row.envelope, RELEASE_TYPE).payload)


def graph(tx: Transaction) -> Lineage:
    """Return every edge."""
    edges = tx.all(sa.select(state.lineage))
    return Lineage(frozenset((row.ancestor, row.descendant) for row in edges))


def fallen(tx: Transaction, node: str, *, revocable: tuple[str, ...]) -> Fallen:
    """Return what falls with a node: blueprints in a `revocable` state, and current releases."""
    descendants = graph(tx).descendants(node)
    blueprint, release = state.blueprints, state.releases
    held = tx.all(sa.select(blueprint.c.digest).where(blueprint.c.state.in_(revocable)))
    current = tx.all(sa.select(release.c.digest).where(release.c.withdrawn.is_(False)))
    return Fallen(
        blueprints=tuple(sorted(row.digest for row in held if row.digest in descendants)),
        releases=tuple(sorted(row.digest for row in current if row.digest in descendants)),
    )


def offered(tx: Transaction, study_digest: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the bases that a study's training may start from: digest -> architecture."""
    return {
        row.digest: Manifest.from_bytes(row.plan).architecture
        for row in bases(tx)
        if row.study_digest == study_digest and not row.withdrawn
    }


def bases(tx: Transaction) -> list[sa.Row[Any]]:
    """Return the rows of all bases, oldest first; `plan` holds a base's manifest."""
    table = state.releases
    built = sa.select(state.lineage.c.descendant)  # a build has ancestors, a base has none
    query = sa.select(table).where(table.c.digest.not_in(built)).order_by(table.c.published)
    return [row for row in tx.all(query) if release_of(row).is_base]


def note(tx: Transaction, statement: Statement) -> None:
    """Record which base a received blueprint came from, once and for all.

    Raises:
        StateError: the base was withdrawn while the blueprint was on its way.
    """
    base = statement.context.base
    if base is None:
        return
    if base not in offered(tx, statement.context.study_digest):
        raise StateError(
            f"base `{base[:16]}`, from which this blueprint was trained, is withdrawn",
            hint="train a new run, from another base or none",
        )
    edge = {"ancestor": base, "descendant": statement.digest}
    tx.execute(sa.insert(state.lineage).values(**edge))


def require_standing(tx: Transaction, node: str) -> None:
    """Check that nothing which a node came from is out of use.

    Raises:
        StateError: something is: with it, the node stays out of use too.
    """
    blueprint, release = state.blueprints, state.releases
    revoked = tx.all(sa.select(blueprint.c.digest).where(blueprint.c.state == "revoked"))
    withdrawn = tx.all(sa.select(release.c.digest).where(release.c.withdrawn.is_(True)))
    gone = {row.digest for row in (*revoked, *withdrawn)} & graph(tx).ancestors(node)
    if gone:
        raise StateError(
            f"`{node[:16]}` came from `{min(gone)[:16]}`, which is out of use",
            hint="that one has to be back in use first",
        )


def words(tx: Transaction, base: str | None) -> str:
    """Say in words what a blueprint was trained from."""
    if base is None:
        return _NO_BASE
    for row in bases(tx):
        if row.digest == base:
            origin, recipe = _made(row)
            gone = "; WITHDRAWN" if row.withdrawn else ""
            return f"{base[:16]}, public: {origin} images, {recipe}{gone}"
    return f"{base[:16]}, which is not known here"


def _made(row: sa.Row[Any]) -> tuple[str, str]:
    manifest = Manifest.from_bytes(row.plan)
    return manifest.origin, ", ".join(f"{k} {v}" for k, v in sorted(manifest.recipe.items()))
