"""Experts: one classifier per blueprint, joined at inference as a product (Hinton 2002, eq. 1).

| local mode of FederatedFactory (arXiv 2603.16370)  | here                                      |
|----------------------------------------------------|-------------------------------------------|
| a classifier per client, each of all classes       | `train_expert`: one per blueprint, of its |
|                                                    | own classes and of "none of these"        |
| own real images, other clients' synthetic ones     | the blueprint's own shards, nothing else  |
| sum of the clients' log-softmax, then argmax       | `ProductOfExperts`, one ONNX file         |

An expert depends on one blueprint alone. To forget a blueprint is to leave its expert out: no other
expert changes in a bit, and none is trained again. The price is that no expert ever sees another
blueprint's images: what is none of its classes it learns from `downstream.strangers` alone.

Invariants: as in `federated_factory`. Classes that an expert does not know share its probability of
"none of these" evenly, so that every expert is a distribution over all labels; its normaliser is
the same for each of them and cancels in the product.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from federation.build_policy import BuildPolicy
from federation.learning.downstream.calibration import Calibrated, calibrate, softmax
from federation.learning.downstream.classifier import build_classifier
from federation.learning.downstream.metrics import log_loss
from federation.learning.downstream.numerics import deterministic_algorithms, pinned_threads
from federation.learning.downstream.pixels import Images
from federation.learning.downstream.pool import Pool
from federation.learning.downstream.strangers import with_strangers
from federation.learning.downstream.train import Recipe, logits_of, train
from kit import canonical
from kit.errors import KitError

Shards = Sequence[tuple[int, Images]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expert:
    """A network in evaluation mode: images to logits of `classes`, then one of "none of these".

    `classes` are positions in the study, in order.
    """

    network: nn.Module
    classes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertReport:
    """How an expert does on the held-out images of its own shards.

    `log_loss` (nats) and `accuracy` count "none of these" as an answer, and a wrong one.
    `product_accuracy` is that of the product on the same images: what it takes away.
    """

    images: int
    accuracy: float
    log_loss: float
    product_accuracy: float

    def to_table(self) -> dict[str, Any]:
        """Return plain JSON values; reals are canonical text."""
        return {
            name: value if isinstance(value := getattr(self, name), int) else canonical.real(value)
            for name in self.__slots__
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductModel:
    """The product of a build's experts: `labels[i]` names column i of the logits."""

    network: nn.Module
    labels: tuple[str, ...]
    calibrated: Calibrated
    experts: tuple[ExpertReport, ...]


class ProductOfExperts(nn.Module):
    """Sum of the experts' logits, each spread over all labels, divided by a temperature."""

    def __init__(self, experts: Sequence[Expert], labels: Sequence[int]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(expert.network for expert in experts)
        self.spreads = nn.ModuleList(_spread(expert, labels) for expert in experts)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, labels] of images [N, C, H, W] in [-1, 1]."""
        parts = [
            spread(expert(x)) for expert, spread in zip(self.experts, self.spreads, strict=True)
        ]
        total: Tensor = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    @torch.no_grad()
    def divide(self, temperature: float) -> None:
        """Divide all logits; the experts stay as they are."""
        for parameter in self.spreads.parameters():
            parameter.mul_(1 / temperature)


@torch.no_grad()
def _spread(expert: Expert, labels: Sequence[int]) -> nn.Linear:
    """Return the layer from an expert's columns to one for each label."""
    known, layer = len(expert.classes), nn.Linear(len(expert.classes) + 1, len(labels))
    layer.weight.zero_()
    layer.bias.zero_()
    others = [column for column, label in enumerate(labels) if label not in expert.classes]
    for column, label in enumerate(labels):
        if label in expert.classes:
            layer.weight[column, expert.classes.index(label)] = 1
    for column in others:
        layer.weight[column, known] = 1
        layer.bias[column] = -math.log(len(others))
    return layer


def train_expert(shards: Shards, policy: BuildPolicy, *, classes: int, seed: int) -> Expert:
    """Train the expert of one blueprint on its own shards, on the threads that are pinned now.

    Args:
        shards: (position in the study, images), classes in study order.
        policy: the study's.
        classes: how many the study has.
        seed: of every random choice, from the study's secret and the blueprint's digest.

    Raises:
        KitError: the blueprint has one class, or the loss is not finite.
    """
    pool = Pool.of(shards, classes=classes, held_out=policy.held_out)
    known = len(pool.present)
    policy.require_outputs([str(index) for index in pool.present])
    trained = train(
        pool.training,
        pool.labels(pool.training),
        Recipe(
            classifier=policy.classifier,
            num_classes=known + 1,
            steps=policy.classifier_steps,
            augmentation=policy.augmentation,
            mix=partial(with_strangers, column=known),
        ),
        seed=seed,
    )
    return Expert(network=trained.network, classes=pool.present)


def blank(policy: BuildPolicy, shape: tuple[int, int, int], classes: tuple[int, ...]) -> Expert:
    """Return an expert whose weights are still to be loaded; `shape` is (channels, height, width).

    Raises:
        KitError: the policy's classifier does not take the shape.
    """
    channels, height, width = shape
    network = build_classifier(
        policy.classifier,
        channels=channels,
        height=height,
        width=width,
        num_classes=len(classes) + 1,
    )
    return Expert(network=network.eval(), classes=classes)


def product(
    experts: Sequence[Expert],
    shards: Sequence[Shards],
    *,
    classes: Sequence[str],
    policy: BuildPolicy,
    threads: int | None = None,
) -> ProductModel:
    """Join experts, fit the temperature on all held-out images, and say what each of them loses.

    Args:
        experts: in the caller's canonical order, by weights digest.
        shards: of each expert, as it was trained on.
        classes: the study's.
        policy: the study's.
        threads: pins the thread count; None keeps what the caller has pinned.

    Raises:
        KitError: there is no expert, or shards differ in shape.
    """
    whole = Pool.of([s for each in shards for s in each], classes=len(classes), held_out=0)
    network = ProductOfExperts(experts, whole.present).eval()
    rows: list[Tensor] = []
    truths = []
    with deterministic_algorithms() if threads is None else pinned_threads(threads):
        alone = []
        for expert, own in zip(experts, shards, strict=True):
            pool = Pool.of(own, classes=len(classes), held_out=policy.held_out)
            if pool.held_out is None:
                raise KitError("a product of experts wants held-out images")
            truth = pool.labels(pool.held_out)
            alone.append((softmax(logits_of(expert.network, pool.held_out).numpy()), truth))
            rows.append(logits_of(network, pool.held_out))
            columns = np.array([whole.present.index(index) for index in pool.present])
            truths.append(columns[truth])
    logits, labels = torch.cat(rows).numpy(), np.concatenate(truths)
    calibrated = calibrate(logits, labels, rule=policy.calibration)
    network.divide(calibrated.temperature)
    reports = tuple(
        ExpertReport(
            images=len(truth),
            accuracy=float((shares.argmax(axis=1) == truth).mean()),
            log_loss=log_loss(shares, truth),
            product_accuracy=float((part.numpy().argmax(axis=1) == column).mean()),
        )
        for (shares, truth), part, column in zip(alone, rows, truths, strict=True)
    )
    return ProductModel(
        network=network,
        labels=tuple(classes[index] for index in whole.present),
        calibrated=calibrated,
        experts=reports,
    )
