"""What a node of a cluster does: ids in, plain strings and numbers out.

A node opens the same home as the coordinator: arguments and answers carry no key, weight or image.
"""

import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from coordinator import experts, jobs, reviews, shards, state
from coordinator.context import Coordinator
from coordinator.engines.parts import AnyMaker, Part
from coordinator.plans import Input, Setting, code_version, setting_of
from federation.blueprint.statement import Statement
from federation.study import Study
from kit import passphrases
from kit.errors import KitError
from pki import unlocking

_PASSPHRASES = "COORDINATOR_PASSPHRASE_FILE"  # of the node: none travels


def setting_here(threads: int) -> dict[str, Any]:
    """Return what the bits depend on, as this node has it."""
    from federation.learning.downstream.numerics import numerics_fingerprint

    return dict(numerics_fingerprint(threads)) | code_version()


def make_part(home: str, build: int, job: int) -> dict[str, Any]:
    """Have the part of a leased job kept; returns who made it, or what was wrong."""
    from federation.learning.downstream.numerics import pinned_threads

    files = tuple(map(Path, os.environ.get(_PASSPHRASES, "").split()))
    unlocking.use(passphrases.Sources(files, "coordinator.passphrase"))
    try:
        with Coordinator.open(Path(home)) as coordinator:
            setting, part = _read(coordinator, build, job)
            with pinned_threads(setting.threads):  # whatever the cluster exported
                is_new = AnyMaker(coordinator, setting).make(part)
    except KitError as error:
        return {"error": str(error), "hint": error.hint or ""}
    return {"generated": is_new, **jobs.worker()}


def _read(coordinator: Coordinator, build: int, job: int) -> tuple[Setting, Part]:
    builds, studies, table = state.builds, state.studies, state.jobs
    joined = builds.join(studies, builds.c.study_digest == studies.c.digest)
    whole = sa.select(builds.c.document, studies.c.manifest).select_from(joined)
    part = sa.select(table).where(table.c.build == build, table.c.number == job)
    with coordinator.state.read() as tx:
        row, mine = tx.one(whole.where(builds.c.number == build)), tx.one(part)
        if row is None or mine is None or mine.blueprint is None:
            raise KitError(f"build {build} has no part that is job {job}")
        blueprint = reviews.find(tx, mine.blueprint)
    entry = Input(
        weights_sha256=blueprint.weights_sha256,
        blueprint=mine.blueprint,
        outputs=Statement.from_bytes(blueprint.statement).outputs,
    )
    setting = setting_of(row.document, Study.from_bytes(row.manifest))
    parts: list[Part] = [*shards.of_input(setting, entry), experts.of_input(setting, entry)]
    return setting, next(part for part in parts if part.work == mine.work)
