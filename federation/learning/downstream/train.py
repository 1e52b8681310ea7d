"""Training a classifier: every draw comes from one seed, so equal settings give equal bits.

Invariants:

- Initialisation, batches and augmentation each have a generator of their own, derived from the
  seed by `kit.seeds`; torch's global generator is never read.
- Classes are balanced by sampling weights alone: no image is copied, dropped or reweighted.
- Images are read batch by batch, so that where they are kept decides what memory they need.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from federation.build_policy import Variation
from federation.learning.downstream.augmentation import (
    STANDARD,
    Augmentation,
    augment,
    limits_of,
)
from federation.learning.downstream.classifier import build_classifier, initialise
from federation.learning.downstream.numerics import deterministic_algorithms, pinned_threads
from federation.learning.downstream.pixels import Images, Index, batch
from kit import seeds
from kit.errors import KitError

BATCH = 64  # part of the bits
LEARNING_RATE = 2e-3  # peak of one cosine cycle
WEIGHT_DECAY = 1e-3
WARM_UP = 0.1  # share of the steps
LABEL_SMOOTHING = 0.05
_LAST_STEPS = 20  # the reported loss is their mean
_PREDICTED = 256  # images at once
_MEASURED = 8192  # images that the reported accuracy is counted on, at most

Labels = npt.NDArray[np.int64]
Mix = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedClassifier:
    """A network in evaluation mode, and how its training went.

    `train_accuracy` is counted on the training images, 8192 of them if there are more.
    """

    network: nn.Module
    images: int
    steps: int
    last_loss: float
    train_accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is trained and for how long: names of the registries, and optimiser steps.

    `mix` changes a batch before its augmentation, as an expert's training does.
    """

    classifier: str
    num_classes: int
    steps: int
    augmentation: str = Variation.STANDARD
    mix: Mix | None = None


def train_classifier(
    images: Images,
    labels: Labels,
    *,
    classifier: str,
    num_classes: int,
    steps: int,
    seed: int,
    threads: int | None = None,
    augmentation: str = Variation.STANDARD,
) -> TrainedClassifier:
    """Train the network `classifier` from scratch for `steps` batches of 64.

    Args:
        images: [N, C, H, W], uint8 or float32 in [-1, 1].
        labels: int64 [N], 0 to `num_classes` - 1.
        classifier: a name in `classifier.classifiers()`.
        num_classes: logits; a class without images is never drawn.
        steps: optimiser steps, at least 1.
        seed: of every random choice, 0 to 2**63 - 1.
        threads: pins the thread count; None keeps what the caller has pinned.
        augmentation: a build policy's word.

    Raises:
        KitError: arrays do not fit each other, a word is unknown, or the loss is not finite.
    """
    recipe = Recipe(
        classifier=classifier, num_classes=num_classes, steps=steps, augmentation=augmentation
    )
    return train(images, labels, recipe, seed=seed, threads=threads)


def train(
    images: Images, labels: Labels, recipe: Recipe, *, seed: int, threads: int | None = None
) -> TrainedClassifier:
    """Train as `train_classifier` does, by a recipe."""
    check_examples(images, labels, num_classes=recipe.num_classes)
    limits = limits_of(recipe.augmentation)
    _, channels, height, width = images.shape
    network = build_classifier(
        recipe.classifier,
        channels=channels,
        height=height,
        width=width,
        num_classes=recipe.num_classes,
    )
    with deterministic_algorithms() if threads is None else pinned_threads(threads):
        initialise(network, generator(seed, "initial weights"))
        last_loss = fit(
            network,
            images,
            labels,
            optimiser=torch.optim.AdamW(
                network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
            ),
            rates=learning_rates(recipe.steps, peak=LEARNING_RATE),
            seed=seed,
            limits=limits,
            mix=recipe.mix,
        )
        some = np.arange(0, len(labels), -(-len(labels) // _MEASURED))
        predicted = logits_of(network, images, some).argmax(dim=1).numpy()
    return TrainedClassifier(
        network=network,
        images=len(labels),
        steps=recipe.steps,
        last_loss=last_loss,
        train_accuracy=float((predicted == labels[some]).mean()),
    )


def check_examples(images: Images, labels: Labels, *, num_classes: int) -> None:
    """Refuse arrays that do not make a training set.

    Raises:
        KitError: wrong shapes or types, a label out of range, a value that is not finite.
    """
    if len(images.shape) != 4 or not images.shape[0]:
        raise KitError("images must be [N, C, H, W] with at least one image")
    if labels.shape != images.shape[:1] or labels.dtype != np.int64:
        raise KitError("labels must be int64, one per image")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise KitError(f"labels must be 0 to {num_classes - 1}")
    kind = images[np.zeros(1, dtype=np.int64)].dtype
    if kind not in (np.uint8, np.float32):
        raise KitError(f"images must be uint8 or float32, not {kind}")
    if isinstance(images, np.ndarray) and not np.isfinite(images).all():
        raise KitError("an image has a value that is not finite")


def generator(seed: int, purpose: str) -> torch.Generator:
    """Return the CPU generator that `seed` gives to one purpose."""
    return torch.Generator().manual_seed(seeds.seed(seed.to_bytes(8, "big"), purpose))


def fit(
    network: nn.Module,
    images: Images,
    labels: Labels,
    *,
    optimiser: torch.optim.Optimizer,
    rates: Sequence[float],
    seed: int,
    limits: Augmentation | None = STANDARD,
    mix: Mix | None = None,
) -> float:
    """Train `network` in place from its present weights; return the mean loss of the last steps.

    Leaves it in evaluation mode.

    Args:
        network: images [B, C, H, W] to logits.
        images: [N, C, H, W], uint8 or float32 in [-1, 1].
        labels: int64 [N].
        optimiser: of the network's parameters.
        rates: the learning rate of each step.
        seed: of batches and augmentation.
        limits: of the augmentation; None leaves images as they are.
        mix: changes a batch before that, as an expert's training does.

    Raises:
        KitError: the loss is no longer finite.
    """
    y = torch.from_numpy(labels)
    weights = 1.0 / torch.bincount(y)[y].double()
    batches, changes = generator(seed, "batches"), generator(seed, "augmentation")
    network.train()
    losses: deque[float] = deque(maxlen=_LAST_STEPS)
    for step, rate in enumerate(rates, start=1):
        for group in optimiser.param_groups:
            group["lr"] = rate
        chosen = torch.multinomial(weights, BATCH, replacement=True, generator=batches)
        x, truth = batch(images, chosen.numpy()), y[chosen]
        if mix is not None:
            x, truth = mix(x, truth, changes)
        logits = network(x if limits is None else augment(x, changes, limits=limits))
        loss = F.cross_entropy(logits, truth, label_smoothing=LABEL_SMOOTHING)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise KitError(f"the classifier's loss is not finite at step {step}")
    network.eval()
    return sum(losses) / len(losses)


def learning_rates(steps: int, *, peak: float) -> list[float]:
    """Return one rate per step: linear warm-up to `peak`, then half a cosine towards zero."""
    warm = max(1, round(WARM_UP * steps))
    rising = [peak * (step + 1) / warm for step in range(min(warm, steps))]
    rest = steps - warm
    return rising + [
        peak * 0.5 * (1 + math.cos(math.pi * (i + 1) / (rest + 1))) for i in range(rest)
    ]


@torch.no_grad()
def predict_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Return logits [N, num_classes] of images [N, C, H, W] in [-1, 1], batch by batch."""
    network.eval()
    return torch.cat([network(part) for part in torch.split(images, _PREDICTED)])


@torch.no_grad()
def logits_of(network: nn.Module, images: Images, index: Index | None = None) -> Tensor:
    """Return logits of the images at `index`, or of all; they are read batch by batch."""
    network.eval()
    chosen = np.arange(images.shape[0]) if index is None else index
    parts = [chosen[at : at + _PREDICTED] for at in range(0, len(chosen), _PREDICTED)]
    return torch.cat([network(batch(images, part)) for part in parts])
