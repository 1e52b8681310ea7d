"""Training a classifier: every draw comes from one seed, so equal settings give equal bits.

Invariants:

- Initialisation, batches and augmentation each have a generator of their own, derived from the
  seed by `kit.seeds`; torch's global generator is never read.
- Classes are balanced by sampling weights alone: no image is copied, dropped or reweighted.
- No flips: left and right are not the same in a body, and a mirrored image may be a finding.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from federation.learning.downstream.classifier import build_classifier, initialise
from federation.learning.downstream.numerics import deterministic_algorithms, pinned_threads
from kit import seeds
from kit.errors import KitError

BATCH = 64  # part of the bits
LEARNING_RATE = 2e-3  # peak of one cosine cycle
WEIGHT_DECAY = 1e-3
WARM_UP = 0.1  # share of the steps
LABEL_SMOOTHING = 0.05
_LAST_STEPS = 20  # the reported loss is their mean

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Largest changes, drawn uniformly per image and step."""

    shift: float = 0.1  # of the side
    rotation_rad: float = 0.15
    scale: float = 0.1
    contrast: float = 0.15
    brightness: float = 0.1  # of the half range
    noise: float = 0.1  # standard deviation, of the half range


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedClassifier:
    """A network in evaluation mode, and how its training went."""

    network: nn.Module
    images: int
    steps: int
    last_loss: float
    train_accuracy: float


def train_classifier(
    images: Images,
    labels: Labels,
    *,
    classifier: str,
    num_classes: int,
    steps: int,
    seed: int,
    threads: int | None = None,
) -> TrainedClassifier:
    """Train the network `classifier` from scratch for `steps` batches of 64.

    Args:
        images: float32 [N, C, H, W] in [-1, 1].
        labels: int64 [N], 0 to `num_classes` - 1.
        classifier: a name in `classifier.classifiers()`.
        num_classes: logits; a class without images is never drawn.
        steps: optimiser steps, at least 1.
        seed: of every random choice, 0 to 2**63 - 1.
        threads: pins the thread count; None keeps what the caller has pinned.

    Raises:
        KitError: arrays do not fit each other, or the loss is no longer finite.
    """
    check_examples(images, labels, num_classes=num_classes)
    _, channels, height, width = images.shape
    network = build_classifier(
        classifier, channels=channels, height=height, width=width, num_classes=num_classes
    )
    with deterministic_algorithms() if threads is None else pinned_threads(threads):
        initialise(network, generator(seed, "initial weights"))
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        rates = learning_rates(steps, peak=LEARNING_RATE)
        last_loss = fit(network, images, labels, optimiser=optimiser, rates=rates, seed=seed)
        predicted = predict_logits(network, torch.from_numpy(images)).argmax(dim=1)
    return TrainedClassifier(
        network=network,
        images=len(images),
        steps=steps,
        last_loss=last_loss,
        train_accuracy=float((predicted.numpy() == labels).mean()),
    )


def check_examples(images: Images, labels: Labels, *, num_classes: int) -> None:
    """Refuse arrays that do not make a training set.

    Raises:
        KitError: wrong shapes or types, a label out of range, a value that is not finite.
    """
    if images.ndim != 4 or images.dtype != np.float32 or not len(images):
        raise KitError("images must be float32 [N, C, H, W] with at least one image")
    if labels.shape != (len(images),) or labels.dtype != np.int64:
        raise KitError("labels must be int64, one per image")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise KitError(f"labels must be 0 to {num_classes - 1}")
    if not np.isfinite(images).all():
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
) -> float:
    """Train `network` in place from its present weights; return the mean loss of the last steps.

    Leaves it in evaluation mode.

    Args:
        network: images [B, C, H, W] to logits.
        images: float32 [N, C, H, W] in [-1, 1].
        labels: int64 [N].
        optimiser: of the network's parameters.
        rates: the learning rate of each step.
        seed: of batches and augmentation.

    Raises:
        KitError: the loss is no longer finite.
    """
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    weights = 1.0 / torch.bincount(y)[y].double()
    batches, changes = generator(seed, "batches"), generator(seed, "augmentation")
    network.train()
    losses: deque[float] = deque(maxlen=_LAST_STEPS)
    for step, rate in enumerate(rates, start=1):
        for group in optimiser.param_groups:
            group["lr"] = rate
        chosen = torch.multinomial(weights, BATCH, replacement=True, generator=batches)
        logits = network(augment(x[chosen], changes))
        loss = F.cross_entropy(logits, y[chosen], label_smoothing=LABEL_SMOOTHING)
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


def augment(
    images: Tensor, generator: torch.Generator, *, limits: Augmentation | None = None
) -> Tensor:
    """Return shifted, turned, scaled, re-contrasted and noisy copies of [B, C, H, W] images.

    Pixels beyond the edge repeat it. No flips: see the module's invariants.
    """
    limits = limits or Augmentation()

    def draw(limit: float, columns: int = 1) -> Tensor:
        return limit * (2 * torch.rand(len(images), columns, generator=generator) - 1)

    angle, zoom = draw(limits.rotation_rad)[:, 0], 1 + draw(limits.scale)[:, 0]
    shift = 2 * draw(limits.shift, 2)  # the grid's side is 2 long
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    affine = torch.stack(
        [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1
    )
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    gain = (1 + draw(limits.contrast))[:, :, None, None]
    offset = draw(limits.brightness)[:, :, None, None]
    level = limits.noise * torch.rand(len(images), 1, 1, 1, generator=generator)
    noise = level * torch.randn(images.shape, generator=generator)
    return moved * gain + offset + noise


@torch.no_grad()
def predict_logits(network: nn.Module, images: Tensor, *, batch: int = 256) -> Tensor:
    """Return logits [N, num_classes] of images [N, C, H, W] in [-1, 1], batch by batch."""
    network.eval()
    return torch.cat([network(part) for part in torch.split(images, batch)])
