"""Review aids as a service: drawn and examined in limited processes, kept, shown to reviewers.

Invariants:

- An aid changes no state of a blueprint and writes nothing on the log: people decide.
- What is drawn lies beside the shards, sealed under the blueprint's key, and is shredded with it.
- What was found goes when the blueprint is destroyed, or one that it was compared with: a number
  about the others would otherwise outlive it.
"""

import json
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import sqlalchemy as sa

from coordinator import inspections, payloads, registry, review_records, reviews, state
from coordinator.context import Coordinator
from coordinator.errors import NotFoundError, StateError
from coordinator.inspections import HERE, Inspection
from coordinator.intake import limited
from coordinator.state import Transaction
from federation.blueprint.statement import Statement
from federation.learning.downstream.distances import reduced_shape
from federation.learning.review.finding import Aid, Finding
from federation.study import Study
from kit import canonical, seeds
from kit.errors import FormatError

DRAW_LIMITS = limited.Limits(memory_bytes=1 << 30, timeout_s=1200)
SCAN_LIMITS = limited.Limits(memory_bytes=2 << 30, timeout_s=1200)
DRAWING, SCAN = "coordinator.intake.drawing", "coordinator.intake.scan"


def inspect(coordinator: Coordinator, name: str) -> list[Inspection]:
    """Examine one blueprint, or everything that is pending or approved in a study, and keep it.

    Raises:
        NotFoundError: there is no such blueprint or study.
        StateError: the blueprint is neither pending nor approved.
        CheckFailedError: a process passed its limits; nothing is kept of that blueprint, and the
            others of a study are examined all the same.
    """
    named, failed = _named(coordinator, name), []
    for digest in named:
        try:
            _inspect(coordinator, digest)
        except (limited.CheckFailedError, NotFoundError, StateError) as error:
            if len(named) == 1:
                raise
            failed.append(f"`{digest[:16]}` ({error})")
    if failed:
        raise limited.CheckFailedError(
            f"not examined: {'; '.join(failed)}",
            hint=f"{len(named) - len(failed)} others were: see `coordinator show`",
        )
    with coordinator.state.read() as tx:
        return [inspections.of(tx, reviews.find(tx, digest)) for digest in named]


def _named(coordinator: Coordinator, name: str) -> list[str]:
    table = state.blueprints
    with coordinator.state.read() as tx:
        study = tx.one(sa.select(state.studies.c.digest).where(state.studies.c.id == name))
        if study is None:
            row = reviews.find(tx, name)
            _require_here(row)
            return [row.digest]
        here = sa.select(table.c.digest).where(
            table.c.study_digest == study.digest, table.c.state.in_(HERE)
        )
        return [row.digest for row in tx.all(here.order_by(table.c.received, table.c.digest))]


def _require_here(row: sa.Row[Any]) -> None:
    if row.state not in HERE:
        raise StateError(
            f"blueprint `{row.digest[:16]}` is {row.state}; the aids look at pending and approved"
            " ones",
            hint="see `coordinator list`",
        )


def _inspect(coordinator: Coordinator, digest: str) -> None:
    with coordinator.state.read() as tx:
        row = reviews.find(tx, digest)
        others = inspections.others(tx, row)
        study_row = registry.find_study(tx, row.study_digest)
    _draw(coordinator, row, study_row)
    compared = [other for other in others if _can_be_drawn(coordinator, other, study_row)]
    found = _scan(coordinator, [row, *compared], Study.from_bytes(study_row.manifest))
    with coordinator.write() as tx:
        present = {digest, *(other.digest for other in compared)}
        if {r.digest for r in _still_here(tx, present)} != present:
            raise StateError(
                "a blueprint went out of use while it was examined; nothing was kept",
                hint="run the same command again",
            )
        review_records.keep(tx, digest, present - {digest}, found)


def _still_here(tx: Transaction, digests: Iterable[str]) -> list[sa.Row[Any]]:
    table = state.blueprints
    return tx.all(
        sa.select(table.c.digest).where(table.c.digest.in_(digests), table.c.state.in_(HERE))
    )


def _can_be_drawn(coordinator: Coordinator, row: sa.Row[Any], study_row: sa.Row[Any]) -> bool:
    """Draw of another blueprint; one whose payload is lost, or that fails, is left out."""
    try:
        _draw(coordinator, row, study_row)
    except (limited.CheckFailedError, NotFoundError):
        return False
    return True


def _draw(coordinator: Coordinator, row: sa.Row[Any], study_row: sa.Row[Any]) -> None:
    """Have the images of a blueprint drawn and kept, unless they are.

    Raises:
        NotFoundError: its key was destroyed.
        CheckFailedError: its samples are not finite, or it passed the limits.
    """
    name = payloads.drawn_name(row.digest)
    if coordinator.stores.shards.has(name):
        return
    statement, study = Statement.from_bytes(row.statement), Study.from_bytes(study_row.manifest)
    layout = json.loads(study_row.tables)[statement.architecture["preset"]]
    key, context = payloads.drawn_key(coordinator, row.digest)
    secret = seeds.derive(coordinator.study_secret(study.digest), "aids", row.weights_sha256)
    own_key = payloads.keystore(coordinator).get(payloads.BLUEPRINT, row.digest)
    request = {
        "statement": canonical.b64encode(row.statement),
        "study": canonical.b64encode(study_row.manifest),
        "table": layout["table"],
        "blueprint_key": canonical.b64encode(own_key),
        "blueprint_context": canonical.b64encode(payloads.payload_context(row.digest)),
        "secret": canonical.b64encode(secret),
        "key": canonical.b64encode(key),
        "context": canonical.b64encode(context),
    }
    with (
        coordinator.stores.payloads.local(payloads.payload_name(row.digest)) as path,
        path.open("rb") as sealed,
        coordinator.stores.shards.writing(name) as part,
        part.open("wb") as drawn,
    ):
        files = {"sealed": sealed.fileno(), "drawn": drawn.fileno()}
        limited.run(DRAWING, request, DRAW_LIMITS, files=files)


def _scan(coordinator: Coordinator, rows: list[sa.Row[Any]], study: Study) -> list[Finding]:
    image = study.image
    blueprints, files = [], {}
    with ExitStack() as stack:
        for number, row in enumerate(rows):
            path = stack.enter_context(
                coordinator.stores.shards.local(payloads.drawn_name(row.digest))
            )
            stream = stack.enter_context(path.open("rb"))
            key, context = payloads.drawn_key(coordinator, row.digest)
            files[f"file-{number}"] = stream.fileno()
            blueprints.append(
                {
                    "file": f"file-{number}",
                    "labels": list(Statement.from_bytes(row.statement).outputs),
                    "key": canonical.b64encode(key),
                    "context": canonical.b64encode(context),
                }
            )
        secret = coordinator.study_secret(study.digest)
        request = {
            "blueprints": blueprints,
            "shard_size": study.build.shard_size,
            "shape": reduced_shape((image.channels, image.height, image.width)),
            "seed": seeds.seed(secret, "aids", "features"),
        }
        verdict = limited.run(SCAN, request, SCAN_LIMITS, files=files)
    return _findings(verdict.get("findings"))


def _findings(value: Any) -> list[Finding]:
    """Read findings from a verdict.

    Raises:
        CheckFailedError: they are not one of each aid but `revoked`, in order.
    """
    try:
        found = [Finding.from_table(entry) for entry in value]
    except (TypeError, FormatError) as error:
        raise limited.CheckFailedError("the check gave no readable verdict") from error
    if [finding.aid for finding in found] != [aid for aid in Aid if aid is not Aid.REVOKED]:
        raise limited.CheckFailedError("the check gave no readable verdict")
    return found
