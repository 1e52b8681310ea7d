"""Builds: approved blueprints in, one signed release out, every bit a function of the plan.

Invariants:

- Inputs are ordered by the digest of their plaintext weights, never by arrival or site.
- A shard depends on one blueprint, its class, the study's secret and the build policy alone, and
  is generated whole; an interrupted build goes on from the last whole shard.
- Equality of releases is claimed between equal numerics fingerprints only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from coordinator import payloads, registry, releases, reviews, state
from coordinator.context import Coordinator
from coordinator.errors import StateError
from coordinator.plans import Input, Plan
from coordinator.submissions import BlueprintState
from federation.blueprint.statement import Statement
from federation.study import Study
from kit import canonical, seeds
from kit.files import exclusive

if TYPE_CHECKING:
    from federation.learning.methods.federated_factory import ReleaseModel

_PARITY_IMAGES = 64

Report = Callable[[str, int, int], None]
Shards = list[tuple[int, NDArray[np.uint8]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What a build made."""

    release: str
    plan: str
    labels: tuple[str, ...]
    blueprints: int
    shards: int
    shards_generated: int
    model_bytes: int
    parity_difference: float


def plan(coordinator: Coordinator, study_name: str) -> Plan:
    """Return what a build of a study would do now.

    Raises:
        NotFoundError: no such study.
        StateError: no approved blueprint, or one that no quorum of reviewers signed for.
    """
    from federation.learning.downstream.numerics import numerics_fingerprint

    table = state.blueprints
    with coordinator.state.read() as tx:
        study_row = registry.find_study(tx, study_name)
        rows = tx.all(
            sa.select(table).where(
                table.c.study_digest == study_row.digest,
                table.c.state == BlueprintState.APPROVED,
            )
        )
        study = Study.from_bytes(study_row.manifest)
        for row in rows:
            reviews.require_quorum(tx, row.digest, study)
    if not rows:
        raise StateError(
            f"study `{canonical.printable(study_name)}` has no approved blueprint",
            hint="see `coordinator list`, then `coordinator approve`",
        )
    inputs = [
        Input(
            weights_sha256=row.weights_sha256,
            blueprint=row.digest,
            outputs=Statement.from_bytes(row.statement).outputs,
        )
        for row in rows
    ]
    return Plan(
        study=study,
        inputs=tuple(sorted(inputs, key=lambda entry: entry.weights_sha256)),
        numerics=dict(numerics_fingerprint(coordinator.config.threads)),
    )


def build(coordinator: Coordinator, study_name: str, *, report: Report) -> BuildResult:
    """Synthesise, train, export, check and publish; `report(what, done, total)` follows it.

    Raises:
        NotFoundError: no such study.
        StateError: nothing to build from, another build is running, or an input was revoked.
        KitError: the exported model differs from the trained one.
    """
    from federation.learning.downstream.numerics import pinned_threads

    with exclusive(coordinator.home.path / "build.lock", busy="another build is running"):
        work = plan(coordinator, study_name)
        with pinned_threads(coordinator.config.threads):
            shards, generated = _synthesise(coordinator, work, report)
            model = _train(coordinator, work, shards, report)
            report("export", 0, 1)
            data, difference = _export(work, model, shards)
        release = releases.publish(coordinator, work, data, card=_card(work, difference))
        report("export", 1, 1)
    return BuildResult(
        release=release.digest,
        plan=work.digest,
        labels=work.labels,
        blueprints=len(work.inputs),
        shards=len(shards),
        shards_generated=generated,
        model_bytes=len(data),
        parity_difference=difference,
    )


def _synthesise(coordinator: Coordinator, work: Plan, report: Report) -> tuple[Shards, int]:
    total = sum(len(entry.outputs) for entry in work.inputs)
    shards: Shards = []
    generated = 0
    for entry in work.inputs:
        loaded: tuple[Any, Any] | None = None
        for label in work.study.classes:
            if label not in entry.outputs:
                continue
            report("shards", len(shards), total)
            name = _shard_name(work.study, label)
            shape = _shard_shape(work.study)
            images = payloads.load_shard(coordinator, entry.blueprint, name, shape)
            if images is None:
                loaded = loaded or _load_network(coordinator, entry)
                images = _generate(coordinator, work.study, entry, loaded, label)
                payloads.save_shard(coordinator, entry.blueprint, name, images)
                generated += 1
            shards.append((work.study.classes.index(label), images))
    report("shards", total, total)
    return shards, generated


def _shard_name(study: Study, label: str) -> str:
    policy = study.build
    key = f"{study.digest}/{policy.version}/{study.classes.index(label)}"
    return canonical.digest(key.encode())[:32]


def _shard_shape(study: Study) -> tuple[int, int, int, int]:
    image = study.image
    return (study.build.shard_size, image.channels, image.height, image.width)


def _load_network(coordinator: Coordinator, entry: Input) -> tuple[Any, Any]:
    from federation.learning.generator import architecture as networks

    with coordinator.state.read() as tx:
        row = reviews.find(tx, entry.blueprint)
        study_row = registry.find_study(tx, row.study_digest)
    statement = Statement.from_bytes(row.statement)
    architecture = networks.Architecture.from_table(statement.architecture)
    network = networks.build_network(architecture)
    table = reviews.tensor_table(study_row, statement)
    networks.load_weights(network, payloads.open_weights(coordinator, statement, table))
    return network, architecture


def _generate(
    coordinator: Coordinator, study: Study, entry: Input, loaded: tuple[Any, Any], label: str
) -> NDArray[np.uint8]:
    from federation.learning.methods import federated_factory

    network, architecture = loaded
    secret = coordinator.study_secret(study.digest)
    return federated_factory.shard(
        network,
        architecture,
        study.classes.index(label),
        size=study.build.shard_size,
        seed=seeds.seed(secret, "shard", entry.weights_sha256, label, str(study.build.version)),
        sampler_steps=study.build.sampler_steps,
    )


def _train(coordinator: Coordinator, work: Plan, shards: Shards, report: Report) -> "ReleaseModel":
    from federation.learning.methods import federated_factory

    report("classifier", 0, 1)
    secret = coordinator.study_secret(work.study.digest)
    model = federated_factory.release_model(
        shards,
        classes=work.study.classes,
        classifier=work.study.build.classifier,
        steps=work.study.build.classifier_steps,
        seed=seeds.seed(secret, "classifier", str(work.study.build.version)),
        threads=coordinator.config.threads,
    )
    report("classifier", 1, 1)
    return model


def _export(work: Plan, model: "ReleaseModel", shards: Shards) -> tuple[bytes, float]:
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
    some = np.concatenate([images[:8] for _, images in shards])[:_PARITY_IMAGES]
    difference = export.check_parity(
        model.network,
        data,
        some.astype(np.float32) / np.float32(255),
        height=image.height,
        width=image.width,
    )
    return data, difference


def _card(work: Plan, difference: float) -> dict[str, Any]:
    return {
        "method": work.study.method,
        "classifier": work.study.build.classifier,
        "shard_size": work.study.build.shard_size,
        "labels": list(work.labels),
        "blueprints": len(work.inputs),
        "numerics": work.numerics,
        "parity_difference": canonical.real(difference),
    }
