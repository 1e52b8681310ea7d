"""From the kept parts of a plan to the model of its release: trained or joined, exported, checked.

The memory that this takes does not grow with the blueprints but for what the model itself is: the
images lie in a spool, and are read batch by batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from coordinator import experts, shards
from coordinator.context import Coordinator
from coordinator.errors import StateError
from coordinator.plans import Plan
from coordinator.shards import Images
from coordinator.spool import Spool, Stored
from federation.build_policy import Mode
from kit import canonical, seeds
from kit.errors import FormatError

if TYPE_CHECKING:
    from federation.learning.methods.federated_factory import ReleaseModel
    from federation.learning.methods.product_of_experts import ProductModel

_PARITY_IMAGES, _PARITY_OF_A_SHARD = 64, 8

Report = Callable[[str, int, int], None]
Pooled = Sequence[tuple[int, Stored]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A model, by how much it differs from the trained network, and what is told of it."""

    data: bytes
    parity_difference: float
    quality: dict[str, Any]
    card: dict[str, Any]


def make(coordinator: Coordinator, work: Plan, report: Report) -> Made:
    """Make the model of a plan whose shards and experts are kept, on the threads pinned now.

    Raises:
        StateError: a shard or an expert is gone from its store.
        KitError: the exported model differs from the trained one, or is over its limits.
    """
    with Spool(coordinator.home.path / "builds") as spool:
        pooled, some = _pool(coordinator, work, spool)
        report("classifier", 0, 1)
        is_product = work.study.build.mode is Mode.EXPERTS
        train = _product if is_product else _classifier
        model = train(coordinator, work, pooled)
        report("classifier", 1, 1)
        report("export", 0, 1)
        data, difference = _export(work, model, some)
    quality = _quality(work, model)
    card = _card(work, difference) | quality
    return Made(data=data, parity_difference=difference, quality=quality, card=card)


def _pool(coordinator: Coordinator, work: Plan, spool: Spool) -> tuple[Pooled, Images]:
    """Bring every shard into the spool; returns them, and a few images to compare with."""
    pooled: list[tuple[int, Stored]] = []
    some: list[Images] = []
    for shard in shards.of(work):
        images = experts.whole(coordinator, work.setting, shard)
        pooled.append((work.study.classes.index(shard.label), spool.add(images)))
        if len(some) * _PARITY_OF_A_SHARD < _PARITY_IMAGES:
            some.append(images[:_PARITY_OF_A_SHARD].copy())
    return pooled, np.concatenate(some)[:_PARITY_IMAGES]


def _classifier(coordinator: Coordinator, work: Plan, pooled: Pooled) -> "ReleaseModel":
    from federation.learning.downstream.calibration import HeldOut
    from federation.learning.methods import federated_factory

    policy = work.study.build
    secret = coordinator.study_secret(work.study.digest)
    return federated_factory.release_model(
        pooled,
        classes=work.study.classes,
        classifier=policy.classifier,
        steps=policy.classifier_steps,
        seed=seeds.seed(secret, "classifier", str(policy.version)),
        threads=work.setting.threads,
        augmentation=policy.augmentation,
        held_out=HeldOut(images=policy.held_out, calibration=policy.calibration),
    )


def _product(coordinator: Coordinator, work: Plan, pooled: Pooled) -> "ProductModel":
    from federation.learning.methods import product_of_experts

    found, own, at = [], [], 0
    for expert in experts.of(work):
        loaded = experts.load(coordinator, work.setting, expert)
        if loaded is None:
            raise StateError(
                f"the expert of blueprint `{expert.blueprint[:16]}` is gone from its store",
                hint="run the build again",
            )
        found.append(loaded)
        own.append(pooled[at : at + len(expert.shards)])
        at += len(expert.shards)
    return product_of_experts.product(
        found,
        own,
        classes=work.study.classes,
        policy=work.study.build,
        threads=work.setting.threads,
    )


def _export(
    work: Plan, model: "ReleaseModel | ProductModel", images: Images
) -> tuple[bytes, float]:
    from federation.learning.downstream import export

    image, metadata = work.study.image, {"study": work.study.digest}
    if model.calibrated is not None:
        metadata["temperature"] = canonical.real(model.calibrated.temperature)
    try:
        data = export.export_onnx(
            model.network,
            channels=image.channels,
            height=image.height,
            width=image.width,
            labels=model.labels,
            metadata=metadata,
        )
    except FormatError as error:
        if work.study.build.mode is not Mode.EXPERTS:
            raise
        raise FormatError(
            f"{error}: {len(work.inputs)} experts do not fit into one model",
            hint="a study of so many hospitals wants mode `monolithic`, or a smaller classifier",
        ) from error
    difference = export.check_parity(
        model.network,
        data,
        images.astype(np.float32) / np.float32(255),
        height=image.height,
        width=image.width,
    )
    return data, difference


def _quality(work: Plan, model: "ReleaseModel | ProductModel") -> dict[str, Any]:
    """Return what the held-out synthetic images say: of no real image, and of no patient."""
    known = model.calibrated
    told: dict[str, Any] = {"held_out": None if known is None else known.to_table()}
    if work.study.build.mode is Mode.EXPERTS:
        told["experts"] = [
            {"blueprint": entry.blueprint} | expert.to_table()
            for entry, expert in zip(work.inputs, getattr(model, "experts", ()), strict=True)
        ]
    return told


def _card(work: Plan, difference: float) -> dict[str, Any]:
    return {
        "method": work.study.method,
        "policy": work.study.build.to_table(),
        "labels": list(work.labels),
        "blueprints": len(work.inputs),
        "numerics": work.setting.numerics,
        "code": work.setting.code,
        "parity_difference": canonical.real(difference),
    }
