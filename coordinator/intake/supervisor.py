"""What happens to a `received` blueprint: checked, re-encrypted, then `pending` or `refused`.

Every step may be repeated after a crash; the state changes once, together with its log entry.
"""

import json
import logging
from typing import Any

import sqlalchemy as sa

from coordinator import payloads, recipients, registry, sketches, state
from coordinator.context import Coordinator
from coordinator.errors import NotFoundError
from coordinator.intake import limited
from coordinator.submissions import BlueprintState
from federation.auditlog.events import Kind
from federation.blueprint.errors import RefusalError
from federation.blueprint.statement import Statement
from federation.learning.downstream.support import MAX_SAMPLES
from federation.learning.review.sketch import Sketch
from federation.study import Study
from kit import canonical, seeds
from kit.errors import FormatError, KitError

BYTE_LIMITS = limited.Limits(memory_bytes=256 << 20, timeout_s=120)
MODEL_LIMITS = limited.Limits(memory_bytes=1 << 30, timeout_s=600)
MAX_REASON_CHARACTERS = 300
BYTE_CHECK, MODEL_CHECK = "coordinator.intake.byte_check", "coordinator.intake.model_check"

_log = logging.getLogger(__name__)


def run_waiting(coordinator: Coordinator) -> int:
    """Take in one `received` blueprint of every site; returns how many there were.

    The longest waiting goes first, and nobody twice before everybody once: a site with many
    studies, or with payloads that use up their time, delays another by one check at most. One
    that cannot be checked now, because a disk is full or a check was stopped, waits alone.
    """
    taken: set[str] = set()
    for row in _waiting(coordinator):
        if row.site in taken:
            continue
        try:
            take_in(coordinator, row.digest)
            taken.add(row.site)
        except (KitError, OSError) as error:
            _log.error("blueprint %s has to wait: %s", row.digest[:16], error)
    return len(taken)


def _waiting(coordinator: Coordinator) -> list[sa.Row[Any]]:
    table = state.blueprints
    query = sa.select(table.c.digest, table.c.site).where(table.c.state == BlueprintState.RECEIVED)
    with coordinator.state.read() as tx:
        return list(tx.all(query.order_by(table.c.received, table.c.digest)))


def take_in(coordinator: Coordinator, digest: str) -> None:
    """Check one received blueprint and settle its state."""
    with coordinator.state.read() as tx:
        row = tx.one(sa.select(state.blueprints).where(state.blueprints.c.digest == digest))
        if row is None or row.state != BlueprintState.RECEIVED:
            return
        study_row = registry.find_study(tx, row.study_digest)
    statement = Statement.from_bytes(row.statement)
    try:
        support, sketch = _check(coordinator, row, statement, study_row)
    except (RefusalError, limited.CheckFailedError, NotFoundError) as error:
        _refuse(coordinator, row, str(error))
        return
    if not _settle(
        coordinator,
        row,
        BlueprintState.PENDING,
        Kind.BLUEPRINT_PENDING,
        reason="",
        support=json.dumps(support),
        sketch=sketch,
    ):
        payloads.destroy(coordinator, digest)  # revoked while it was being checked
        return
    coordinator.home.received(digest).unlink(missing_ok=True)
    _log.info("blueprint %s is pending", digest[:16])


def _check(
    coordinator: Coordinator, row: sa.Row[Any], statement: Statement, study_row: sa.Row[Any]
) -> tuple[dict[str, list[int]], Sketch]:
    """Run both checks; returns what `_support` and `_sketch` read from the second one's verdict."""
    digest = statement.digest
    store = payloads.keystore(coordinator)
    content_key = payloads.content_key(coordinator, row.wrapped_key, statement)
    if not store.has(payloads.BLUEPRINT, digest):
        store.create(payloads.BLUEPRINT, digest)
    study = Study.from_bytes(study_row.manifest)
    layout = json.loads(study_row.tables)[statement.architecture["preset"]]
    common = {
        "statement": canonical.b64encode(row.statement),
        "table": layout["table"],
        "blueprint_key": canonical.b64encode(store.get(payloads.BLUEPRINT, digest)),
        "blueprint_context": canonical.b64encode(payloads.payload_context(digest)),
    }
    bytes_only = {
        "content_key": canonical.b64encode(content_key),
        "embedding": layout["embedding"],
        "classes": list(study.classes),
    }
    _check_bytes(coordinator, digest, common | bytes_only)
    # The site cannot know what is drawn: the seed hangs on the study's secret (A6).
    secret = seeds.derive(coordinator.study_secret(study.digest), "intake", row.weights_sha256)
    model_only = {
        "study": canonical.b64encode(study_row.manifest),
        "secret": canonical.b64encode(secret),
        "sketch_key": canonical.b64encode(sketches.key(coordinator)),
    }
    with (
        coordinator.stores.payloads.local(payloads.payload_name(digest)) as path,
        path.open("rb") as sealed,
    ):
        verdict = limited.run(
            MODEL_CHECK, common | model_only, MODEL_LIMITS, files={"sealed": sealed.fileno()}
        )
    support = _support(verdict.get("support"), statement)
    return support, _sketch(verdict.get("sketch"), statement)


def _sketch(value: Any, statement: Statement) -> Sketch:
    """Read the sketch from a verdict; the process that made it had seen the payload.

    Raises:
        CheckFailedError: it is none, or not of every declared class.
    """
    try:
        found = Sketch.from_table(value)
    except FormatError as error:
        raise limited.CheckFailedError("the check gave no readable verdict") from error
    if set(found.classes) != set(statement.outputs):
        raise limited.CheckFailedError("the check gave no readable verdict")
    return found


def _support(value: Any, statement: Statement) -> dict[str, list[int]]:
    """Read samples and different ones per class; the process that said so had seen the payload.

    Raises:
        CheckFailedError: the verdict is not about every declared class, or no such numbers.
    """
    try:
        table = canonical.fields(value, set(statement.outputs), what="support")
        found = {}
        for label, counts in table.items():
            samples, distinct = counts
            canonical.integer(samples, low=2, high=MAX_SAMPLES, what="samples")
            found[label] = [samples, canonical.integer(distinct, low=1, high=samples, what="")]
    except (FormatError, TypeError, ValueError) as error:
        raise limited.CheckFailedError("the check gave no readable verdict") from error
    return found


def _check_bytes(coordinator: Coordinator, digest: str, request: dict[str, Any]) -> None:
    """Check the received payload; it is kept, sealed under its own key, only if it passes."""
    try:
        received = coordinator.home.received(digest).open("rb")
    except FileNotFoundError as error:
        raise limited.CheckFailedError("the received payload is gone; send it again") from error
    with (
        received,
        coordinator.stores.payloads.writing(payloads.payload_name(digest)) as part,
        part.open("wb") as sealed,
    ):
        files = {"ciphertext": received.fileno(), "sealed": sealed.fileno()}
        limited.run(BYTE_CHECK, request, BYTE_LIMITS, files=files)


def _refuse(coordinator: Coordinator, row: sa.Row[Any], reason: str) -> None:
    reason = canonical.printable(reason, width=MAX_REASON_CHARACTERS)
    _settle(coordinator, row, BlueprintState.REFUSED, Kind.BLUEPRINT_REFUSED, reason=reason)
    payloads.destroy(coordinator, row.digest)
    _log.warning("blueprint %s is refused: %s", row.digest[:16], reason)


def _settle(
    coordinator: Coordinator,
    row: sa.Row[Any],
    new_state: BlueprintState,
    kind: Kind,
    *,
    reason: str,
    support: str | None = None,
    sketch: Sketch | None = None,
) -> bool:
    with coordinator.write() as tx:
        changed = tx.execute(
            sa.update(state.blueprints)
            .where(
                state.blueprints.c.digest == row.digest,
                state.blueprints.c.state == BlueprintState.RECEIVED,
            )
            .values(state=new_state, reason=reason, support=support, wrapped_key=None)
        )
        if changed.rowcount:
            tx.record(kind, row.digest, study=row.study_digest)
            if sketch is not None:
                sketches.keep(tx, row.digest, sketch)
            if new_state is BlueprintState.REFUSED:  # a copy that somebody kept stays shut
                recipients.rotate(coordinator, tx, row.study_digest, row.site)
    return bool(changed.rowcount)
