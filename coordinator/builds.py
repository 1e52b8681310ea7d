"""Builds: approved blueprints in, one signed release out, every bit a function of the plan.

Invariants:

- Inputs are ordered by the digest of their plaintext weights, never by arrival or site.
- A build is a plan and its jobs: stopped anywhere, the same command goes on from the last whole
  shard, and two commands at once share the jobs of one build.
- Equality of releases is claimed between equal numerics fingerprints only.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from coordinator import companions, jobs, plans, releases, shards, state
from coordinator.context import Coordinator
from coordinator.engines import Engine
from coordinator.engines.in_process import InProcess
from coordinator.engines.parts import Parts
from coordinator.errors import StateError
from coordinator.jobs import Job, JobKind, Owner
from coordinator.plans import Plan
from kit import canonical, seeds

if TYPE_CHECKING:
    from federation.learning.methods.federated_factory import ReleaseModel

_PARITY_IMAGES = 64

Report = Callable[[str, int, int], None]
Images = list[tuple[int, shards.Images]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What a build made; `shards_generated` are those of this command."""

    build: int
    release: str
    plan: str
    labels: tuple[str, ...]
    blueprints: int
    shards: int
    shards_generated: int
    model_bytes: int
    parity_difference: float


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
        parts = Parts(
            build=number,
            setting=work.setting,
            shards=shards.of(work),
            owner=owner,
            report=partial(report, "shards"),
        )
        chosen.make_shards(coordinator, parts)
        for job in jobs.each(coordinator, number, JobKind.RELEASE, owner, lambda *_: None):
            with jobs.held(coordinator, job, owner):
                _release(coordinator, job, owner, work, report)
        return _result(coordinator, number, owner)


def _release(coordinator: Coordinator, job: Job, owner: Owner, work: Plan, report: Report) -> None:
    """Do the last job of a build: train on its shards, and publish."""
    from federation.learning.downstream.numerics import pinned_threads

    with pinned_threads(work.setting.threads):
        images = _load(coordinator, work)
        model = _train(coordinator, work, images, report)
        report("export", 0, 1)
        data, difference = _export(work, model, images)
        golden = companions.golden_images(data, work.study.image)
    card = _card(work, model, difference)
    release = releases.publish(coordinator, work, data, golden=golden, card=card)
    made = {
        "build": job.build,
        "release": release.digest,
        "plan": work.digest,
        "labels": work.labels,
        "blueprints": len(work.inputs),
        "shards": len(images),
        "model_bytes": len(data),
        "parity_difference": difference,
    }
    jobs.end(coordinator, job, owner, made)
    report("export", 1, 1)


def _result(coordinator: Coordinator, number: int, owner: Owner) -> BuildResult:
    """Return what the build made, whoever did its last job."""
    builds, events = state.builds, state.build_events
    done = sa.select(events.c.details).where(events.c.build == number, events.c.kind == "done")
    with coordinator.state.read() as tx:
        made = sa.select(builds.c.result).where(builds.c.number == number)
        table = json.loads(tx.connection.scalar(made) or "{}")
        told = [json.loads(row.details) for row in tx.all(done)]
    mine = sum(each.get("generated", False) for each in told if each["owner"] == owner.id)
    return BuildResult(**table | {"labels": tuple(table["labels"]), "shards_generated": mine})


def _load(coordinator: Coordinator, work: Plan) -> Images:
    found = []
    for shard in shards.of(work):
        images = shards.load(coordinator, work.study, shard)
        if images is None:
            raise StateError(
                f"a shard of blueprint `{shard.blueprint[:16]}` is gone from its store",
                hint="run the build again",
            )
        found.append((work.study.classes.index(shard.label), images))
    return found


def _train(coordinator: Coordinator, work: Plan, images: Images, report: Report) -> "ReleaseModel":
    from federation.learning.downstream.calibration import HeldOut
    from federation.learning.methods import federated_factory

    policy = work.study.build
    report("classifier", 0, 1)
    secret = coordinator.study_secret(work.study.digest)
    model = federated_factory.release_model(
        images,
        classes=work.study.classes,
        classifier=policy.classifier,
        steps=policy.classifier_steps,
        seed=seeds.seed(secret, "classifier", str(policy.version)),
        threads=work.setting.threads,
        augmentation=policy.augmentation,
        held_out=HeldOut(images=policy.held_out, calibration=policy.calibration),
    )
    report("classifier", 1, 1)
    return model


def _export(work: Plan, model: "ReleaseModel", shards_: Images) -> tuple[bytes, float]:
    from federation.learning.downstream import export

    image = work.study.image
    data = export.export_onnx(
        model.network,
        channels=image.channels,
        height=image.height,
        width=image.width,
        labels=model.labels,
        metadata={"study": work.study.digest},
    )
    some = np.concatenate([images[:8] for _, images in shards_])[:_PARITY_IMAGES]
    difference = export.check_parity(
        model.network,
        data,
        some.astype(np.float32) / np.float32(255),
        height=image.height,
        width=image.width,
    )
    return data, difference


def _card(work: Plan, model: "ReleaseModel", difference: float) -> dict[str, Any]:
    known = model.calibrated
    return {
        "method": work.study.method,
        "policy": work.study.build.to_table(),
        "held_out": None if known is None else known.to_table(),
        "labels": list(work.labels),
        "blueprints": len(work.inputs),
        "numerics": work.setting.numerics,
        "code": work.setting.code,
        "parity_difference": canonical.real(difference),
    }
