"""Builds: approved blueprints in, one signed release out, every bit a function of the plan.

Invariants:

- Inputs are ordered by the digest of their plaintext weights, never by arrival or site.
- A build is a plan and its jobs: stopped anywhere, the same command goes on from the last whole
  shard, and two commands at once share the jobs of one build.
- Equality of releases is claimed between equal numerics fingerprints only.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from coordinator import companions, experts, jobs, model_making, plans, releases, shards, state
from coordinator.context import Coordinator
from coordinator.engines import Engine
from coordinator.engines.in_process import InProcess
from coordinator.engines.parts import Part, Parts
from coordinator.jobs import Job, JobKind, Owner
from coordinator.plans import Plan

Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What a build made; `shards_generated` and `experts_trained` are those of this command.

    `quality` is what held-out synthetic images say, in the words of the release card.
    """

    build: int
    release: str
    plan: str
    labels: tuple[str, ...]
    blueprints: int
    shards: int
    shards_generated: int
    experts_trained: int
    model_bytes: int
    parity_difference: float
    quality: dict[str, Any]


def build(
    coordinator: Coordinator, study_name: str, *, report: Report, engine: Engine | None = None
) -> BuildResult:
    """Synthesise, train, export, check and publish; `report(what, done, total)` follows it.

    Raises:
        NotFoundError: no such study.
        StateError: nothing to build from, a newer plan took over, or an input was revoked.
        KitError: the exported model differs from the trained one.
    """
    work = plans.propose(coordinator, study_name)
    chosen = engine or InProcess()
    with Owner(coordinator).living() as owner:
        number = jobs.join(coordinator, work, engine=chosen.name)
        for parts in _parts(work, number, owner, report):
            chosen.make(coordinator, parts)
        for job in jobs.each(coordinator, number, JobKind.RELEASE, owner, lambda *_: None):
            with jobs.held(coordinator, job, owner):
                _release(coordinator, job, owner, work, report)
        return _result(coordinator, number, owner)


def _parts(work: Plan, number: int, owner: Owner, report: Report) -> Iterator[Parts]:
    """Yield what is to be made before the release, in the order of the jobs."""
    first = 0
    of_kind: dict[JobKind, tuple[Part, ...]]
    of_kind = {JobKind.SHARD: shards.of(work), JobKind.EXPERT: experts.of(work)}
    for kind, parts in of_kind.items():
        if parts:
            yield Parts(
                build=number,
                kind=kind,
                setting=work.setting,
                first=first,
                parts=parts,
                owner=owner,
                report=partial(report, f"{kind}s"),
            )
        first += len(parts)


def _release(coordinator: Coordinator, job: Job, owner: Owner, work: Plan, report: Report) -> None:
    """Do the last job of a build: make the model of what is kept, and publish."""
    from federation.learning.downstream.numerics import pinned_threads

    with pinned_threads(work.setting.threads):
        model = model_making.make(coordinator, work, report)
        beside = companions.Beside(
            golden=companions.golden_images(model.data, work.study.image),
            synthetic=companions.synthetic_set(coordinator, work),
        )
    release = releases.publish(coordinator, work, model.data, beside=beside, card=model.card)
    made = {
        "build": job.build,
        "release": release.digest,
        "plan": work.digest,
        "labels": work.labels,
        "blueprints": len(work.inputs),
        "shards": len(shards.of(work)),
        "model_bytes": len(model.data),
        "parity_difference": model.parity_difference,
        "quality": model.quality,
    }
    jobs.end(coordinator, job, owner, made)
    report("export", 1, 1)


def _result(coordinator: Coordinator, number: int, owner: Owner) -> BuildResult:
    """Return what the build made, whoever did its last job."""
    builds, jobs_, events = state.builds, state.jobs, state.build_events
    same = (events.c.build == jobs_.c.build) & (events.c.job == jobs_.c.number)
    done = (
        sa.select(jobs_.c.kind, events.c.details)
        .select_from(events.join(jobs_, same))
        .where(events.c.build == number, events.c.kind == "done")
    )
    with coordinator.state.read() as tx:
        made = sa.select(builds.c.result).where(builds.c.number == number)
        table = json.loads(tx.connection.scalar(made) or "{}")
        told = [(row.kind, json.loads(row.details)) for row in tx.all(done)]
    mine = [kind for kind, each in told if each.get("generated") and each["owner"] == owner.id]
    return BuildResult(
        **table | {"labels": tuple(table["labels"])},
        shards_generated=mine.count(JobKind.SHARD),
        experts_trained=mine.count(JobKind.EXPERT),
    )
