"""The columns of the table: each method's settings, and how it is measured on one deal."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import baselines
from benchmarks.accuracy import dp_fedavg, factory, linear_head
from benchmarks.accuracy.cells import Cell
from benchmarks.accuracy.datasets import Federation, Outline, image_units
from benchmarks.accuracy.dp_fedavg import DpFedAvgPlan
from benchmarks.accuracy.factory import FactoryPlan
from benchmarks.accuracy.features import ColourRings, FrozenFeatures, Scattering
from benchmarks.accuracy.record import digest
from benchmarks.baselines import FedAvgPlan
from benchmarks.trials import DELTA
from federation.accounting import noise_multiplier_for
from federation.learning.downstream import train as classifier_training
from federation.learning.downstream.augmentation import STANDARD
from federation.learning.downstream.metrics import Metrics, evaluate

_QUICK_STEPS = 2
_STATISTICS_PRESET = "moments"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Every method's settings; `quick` takes the same path with next to no steps.

    Generators are kept below `folder`, a folder for each deal and settings; None keeps none.
    """

    factory: FactoryPlan = field(default_factory=FactoryPlan)
    fedavg: FedAvgPlan | None = None
    dp_fedavg: DpFedAvgPlan = field(default_factory=DpFedAvgPlan)
    is_quick: bool = False
    folder: Path | None = None

    @property
    def classifier_steps(self) -> int:
        """Steps of every classifier that is trained in one go."""
        return self.factory.classifier_steps

    @classmethod
    def quick(cls) -> "Work":
        """Return settings that take seconds and learn nothing."""
        return cls(
            factory=FactoryPlan(
                steps=_QUICK_STEPS,
                shard_size=8,
                sampler_steps=2,
                classifier_steps=_QUICK_STEPS,
            ),
            fedavg=FedAvgPlan(rounds=2, local_steps=1),
            dp_fedavg=DpFedAvgPlan(rounds=2),
            is_quick=True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One column.

    Attributes:
        title: for people.
        is_private: its figure depends on epsilon.
        is_federated: its figure depends on how images are dealt to hospitals.
        settings: everything that decides the result, as plain values.
        measure: figures of one cell: `accuracy`, `balanced_accuracy`, `auroc` and whatever else.
    """

    title: str
    is_private: bool
    is_federated: bool
    settings: Callable[[Outline, Cell, Work], dict[str, Any]]
    measure: Callable[[Federation, Cell, Work, int], dict[str, Any]]


def _factory_settings(outline: Outline, cell: Cell, work: Work) -> dict[str, Any]:
    return factory.settings(outline, cell.epsilon, work.factory)


def _factory_measure(
    federation: Federation, cell: Cell, work: Work, workers: int
) -> dict[str, Any]:
    outcome = factory.run(
        federation,
        cell.epsilon,
        work.factory,
        seed=cell.seed,
        workers=workers,
        folder=_folder(federation, cell, work),
    )
    return _figures(outcome.metrics) | {
        "generator_s": outcome.generator_s,
        "build_s": outcome.build_s,
        "exchanges": 1,
        "bytes": outcome.bytes,
    }


def _folder(federation: Federation, cell: Cell, work: Work) -> Path | None:
    """Return where a cell's generators are kept, whatever is built of them."""
    if work.folder is None:
        return None
    settings = _factory_settings(federation.outline, cell, work)
    del settings["build"]
    words = (cell.dataset, cell.clients, cell.images or "all", cell.epsilon or "none", cell.seed)
    return work.folder / "-".join(map(str, (*words, digest(settings))))


def _by_statistics(work: Work) -> Work:
    """Return the same work with the generator of class statistics, which has no steps to choose."""
    return replace(work, factory=replace(work.factory, preset=_STATISTICS_PRESET, steps=None))


def _statistics_settings(outline: Outline, cell: Cell, work: Work) -> dict[str, Any]:
    return _factory_settings(outline, cell, _by_statistics(work))


def _statistics_measure(
    federation: Federation, cell: Cell, work: Work, workers: int
) -> dict[str, Any]:
    return _factory_measure(federation, cell, _by_statistics(work), workers)


def _centralized_settings(_o: Outline, _c: Cell, work: Work) -> dict[str, Any]:
    return {"classifier": baselines.CLASSIFIER, "steps": work.classifier_steps} | _training()


def _centralized(federation: Federation, cell: Cell, work: Work, _workers: int) -> dict[str, Any]:
    row = baselines.centralized(
        federation.sites,
        num_classes=len(federation.outline.classes),
        steps=work.classifier_steps,
        seed=cell.seed,
    )
    return _figures(row.metrics) | {"exchanges": 0, "bytes": 0}


def _once_settings(_o: Outline, _c: Cell, work: Work) -> dict[str, Any]:
    return {"variants": baselines.FEDAVG_VARIANTS, "steps": work.classifier_steps} | _training()


def _once(federation: Federation, cell: Cell, work: Work, _workers: int) -> dict[str, Any]:
    found = [
        baselines.one_exchange(
            federation.sites,
            num_classes=len(federation.outline.classes),
            steps=work.classifier_steps,
            seed=cell.seed,
            classifier=classifier,
        ).averaged
        for classifier in baselines.FEDAVG_VARIANTS
    ]
    return _best(found)


def _fedavg_plan(outline: Outline, work: Work) -> FedAvgPlan:
    if work.fedavg is not None:
        return work.fedavg
    is_silo = len(outline.labels) == len(outline.classes)
    return _FEDAVG_SILOS if is_silo else FedAvgPlan()


def _fedavg_settings(outline: Outline, _c: Cell, work: Work) -> dict[str, Any]:
    variants = {"variants": baselines.FEDAVG_VARIANTS}
    return asdict(_fedavg_plan(outline, work)) | variants | _training()


def _fedavg(federation: Federation, cell: Cell, work: Work, _workers: int) -> dict[str, Any]:
    plan = _fedavg_plan(federation.outline, work)
    count = len(federation.outline.classes)
    return _best(
        [
            baselines.fedavg(
                federation.sites, plan, num_classes=count, seed=cell.seed, classifier=classifier
            )
            for classifier in baselines.FEDAVG_VARIANTS
        ]
    )


def _dp_fedavg_settings(outline: Outline, cell: Cell, work: Work) -> dict[str, Any]:
    return asdict(work.dp_fedavg) | _promise(outline, cell)


def _dp_fedavg(federation: Federation, cell: Cell, work: Work, _workers: int) -> dict[str, Any]:
    if cell.epsilon is None:
        raise RuntimeError("without privacy DP-FedAvg is FedAvg")
    plan, outline = work.dp_fedavg, federation.outline
    sites = [
        dp_fedavg.PrivateSite(
            images=site.train_images,
            labels=site.train_labels,
            units=image_units(site),
            n_declared=declared,
        )
        for site, declared in zip(federation.sites, outline.declared, strict=True)
    ]
    event = dp_fedavg.event_for(plan, epsilon=cell.epsilon, delta=_delta(outline))
    network = dp_fedavg.train(sites, plan, event, num_classes=len(outline.classes), seed=cell.seed)
    return _figures(baselines.score(network, federation.sites)) | {
        "noise_multiplier": event.noise_multiplier,
        "exchanges": plan.rounds,
        "bytes": baselines.exchanged_bytes(network, sites=len(sites), rounds=plan.rounds),
    }


def _head_noise(outline: Outline, cell: Cell) -> float:
    if cell.epsilon is None:
        return 0.0
    return noise_multiplier_for(
        epsilon=cell.epsilon, delta=_delta(outline), sample_rate=1.0, steps=1
    )


def _head_plan(outline: Outline, noise: float) -> linear_head.HeadPlan:
    features: FrozenFeatures = _COLOUR
    if outline.rule.channels == 1:
        features = _GREY if outline.rule.height <= 16 else _GREY_28
    if noise / sum(outline.declared) > _MUCH_NOISE:
        return linear_head.HeadPlan.class_sums(features)
    return linear_head.HeadPlan(features=features)


def _head_settings(outline: Outline, cell: Cell, _work: Work) -> dict[str, Any]:
    plan = _head_plan(outline, _head_noise(outline, cell))
    return asdict(plan) | _promise(outline, cell)


def _head(federation: Federation, cell: Cell, _work: Work, _workers: int) -> dict[str, Any]:
    outline = federation.outline
    noise = _head_noise(outline, cell)
    plan = _head_plan(outline, noise)
    sent = []
    parts = zip(federation.sites, outline.labels, outline.declared, strict=True)
    for site, labels, n_declared in parts:
        _, first = np.unique(np.array(image_units(site)), return_index=True)
        sent.append(
            linear_head.statistics(
                linear_head.head_features(site.train_images[first], plan),
                site.train_labels[first],
                declared=[outline.classes.index(label) for label in labels],
                n_declared=n_declared,
                num_classes=len(outline.classes),
                noise_multiplier=noise,
                plan=plan,
            )
        )
    weights, biases = linear_head.discriminant(sent, plan)
    images, truth = baselines.held_out(federation.sites)
    logits = linear_head.head_features(images, plan) @ weights + biases
    probabilities = torch.softmax(torch.from_numpy(logits), dim=1).numpy()
    return _figures(evaluate(probabilities, truth)) | {
        "noise_multiplier": noise,
        "exchanges": 1,
        "bytes": sum(linear_head.sent_bytes(s) for s in sent),
    }


def _delta(outline: Outline) -> float:
    """Return the delta that the kit's own plans keep at the largest hospital."""
    return min(DELTA, *(1 / (100 * declared) for declared in outline.declared))


def _promise(outline: Outline, cell: Cell) -> dict[str, Any]:
    declared = list(outline.declared)
    return {"epsilon": cell.epsilon, "delta": _delta(outline), "n_declared": declared}


def _training() -> dict[str, Any]:
    return {
        "batch": classifier_training.BATCH,
        "rate": classifier_training.LEARNING_RATE,
        "augmentation": {n: v for n, v in asdict(STANDARD).items() if v is not False},
    }


def _figures(metrics: Metrics) -> dict[str, Any]:
    return {
        "accuracy": metrics.accuracy,
        "balanced_accuracy": metrics.balanced_accuracy,
        "auroc": metrics.auroc,
        "held_out": metrics.images,
    }


def _best(found: list[baselines.Baseline]) -> dict[str, Any]:
    """Return the better variant on the held-out images: a choice in FedAvg's favour."""
    row = max(found, key=lambda one: one.metrics.accuracy)
    kept = {"exchanges": row.rounds, "bytes": row.bytes, "classifier": row.classifier}
    return _figures(row.metrics) | kept


# Tuned on the deals of seeds 100 and 101, which no row of the table uses; see the README.
_FEDAVG_SILOS = replace(FedAvgPlan(), rounds=100, local_steps=2)
_MUCH_NOISE = 1.2e-3  # noise multiplier over declared images; above it class sums do better
_GREY = Scattering(scales=1, orientations=8, grid=4, local_grid=4)
_GREY_28 = Scattering(scales=2, orientations=8, grid=4, local_grid=7)
_COLOUR = ColourRings(bins=10, radii=(0.5, 1.0))

METHODS = {
    "ours": Method(
        title="ours",
        is_private=True,
        is_federated=True,
        settings=_factory_settings,
        measure=_factory_measure,
    ),
    "ours-statistics": Method(
        title="ours (statistics)",
        is_private=True,
        is_federated=True,
        settings=_statistics_settings,
        measure=_statistics_measure,
    ),
    "dp-head": Method(
        title="DP linear head",
        is_private=True,
        is_federated=True,
        settings=_head_settings,
        measure=_head,
    ),
    "dp-fedavg": Method(
        title="DP-FedAvg",
        is_private=True,
        is_federated=True,
        settings=_dp_fedavg_settings,
        measure=_dp_fedavg,
    ),
    "fedavg-once": Method(
        title="FedAvg once",
        is_private=False,
        is_federated=True,
        settings=_once_settings,
        measure=_once,
    ),
    "fedavg": Method(
        title="FedAvg tuned",
        is_private=False,
        is_federated=True,
        settings=_fedavg_settings,
        measure=_fedavg,
    ),
    "centralized": Method(
        title="centralized",
        is_private=False,
        is_federated=False,
        settings=_centralized_settings,
        measure=_centralized,
    ),
}


def exists(method: str, epsilon: float | None) -> bool:
    """Whether there is such a cell: without privacy DP-FedAvg is FedAvg, in a column of its own."""
    return not (method == "dp-fedavg" and epsilon is None)


def cpu_seconds(since: float) -> float:
    """Return processor seconds of this process since `time.process_time()` gave `since`."""
    return round(time.process_time() - since, 1)
