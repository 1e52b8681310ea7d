"""Sketches of blueprints: a few hundred bits that outlive the shredding, to know copies (A20).

They are made in the limited process of intake and read here alone, for reviewers: no plan, shard or
release depends on one, and the tests hold that. What they can tell nobody:
`federation.learning.review.sketch`.
"""

import json
import secrets
from typing import Any

import sqlalchemy as sa

from coordinator import state
from coordinator.context import Coordinator
from coordinator.state import Transaction
from coordinator.submissions import BlueprintState
from federation.learning.review.finding import Aid, Finding, Outcome
from federation.learning.review.sketch import (
    ALIKE_IMAGES,
    ALIKE_WEIGHTS,
    Likeness,
    Sketch,
    likeness,
)

_KEY, _KEY_BYTES = "sketch-key", 32
OUT_OF_USE = (BlueprintState.REVOKED, BlueprintState.REJECTED)


def key(coordinator: Coordinator) -> bytes:
    """Return the key of this coordinator's projections, the same for all studies; sensitive.

    It lies in the state, beside what it is for: who has both learns no more than the bits say.
    """
    with coordinator.state.read() as tx:
        found = tx.get(_KEY)
    if found is None:
        with coordinator.write() as tx:
            found = tx.get(_KEY)
            if found is None:
                found = secrets.token_hex(_KEY_BYTES)
                tx.put(_KEY, found)
    return bytes.fromhex(found)


def keep(tx: Transaction, blueprint: str, sketch: Sketch) -> None:
    """Keep the sketch of a blueprint that was taken in."""
    table = state.sketches
    tx.execute(sa.delete(table).where(table.c.blueprint == blueprint))
    text = json.dumps(sketch.to_table(), sort_keys=True)
    tx.execute(sa.insert(table).values(blueprint=blueprint, sketch=text))


def finding(tx: Transaction, row: sa.Row[Any]) -> Finding:
    """Say whether a blueprint is like one that was revoked or rejected, in any study."""
    own = _of(tx, row.digest)
    if own is None:
        return _finding(Outcome.CANNOT_TELL, None, "it was taken in before sketches were made")
    found = [(likeness(own, sketch), other) for sketch, other in _out_of_use(tx, row.digest)]
    found = [(near, other) for near, other in found if near.nearest]
    if not found:
        return _finding(Outcome.CLEAR, None, "nothing of its kind was revoked or rejected")
    near, other = max(found, key=lambda pair: (pair[0].is_copy, pair[0].nearest))
    whose = "the same site's" if other.site == row.site else "another site's"
    about = f"{whose} {other.state} `{other.digest[:16]}`: {_words(near)}"
    if near.is_copy:
        return _finding(Outcome.FLAGGED, near, f"all but a copy of {about}")
    return _finding(Outcome.CLEAR, near, f"nearest is {about}")


def _finding(outcome: Outcome, near: Likeness | None, words: str) -> Finding:
    by_images = near is not None and (near.weights or 0.0) < ALIKE_WEIGHTS and near.is_copy
    return Finding(
        aid=Aid.REVOKED,
        outcome=outcome,
        measure=None if near is None else near.images if by_images else near.weights,
        threshold=ALIKE_IMAGES if by_images else ALIKE_WEIGHTS,
        words=words,
    )


def _words(near: Likeness) -> str:
    weights = "not comparable" if near.weights is None else f"{near.weights:.0%}"
    images = "not comparable" if near.images is None else f"{near.images:.0%}"
    return f"bits that agree, of the weights {weights}, of what it draws {images}"


def _of(tx: Transaction, blueprint: str) -> Sketch | None:
    table = state.sketches
    row = tx.one(sa.select(table.c.sketch).where(table.c.blueprint == blueprint))
    return None if row is None else Sketch.from_table(json.loads(row.sketch))


def _out_of_use(tx: Transaction, but: str) -> list[tuple[Sketch, sa.Row[Any]]]:
    table, known = state.blueprints, state.sketches
    rows = tx.all(
        sa.select(table.c.digest, table.c.site, table.c.state, known.c.sketch)
        .join(known, known.c.blueprint == table.c.digest)
        .where(table.c.state.in_(OUT_OF_USE), table.c.digest != but)
        .order_by(table.c.digest)
    )
    return [(Sketch.from_table(json.loads(row.sketch)), row) for row in rows]
