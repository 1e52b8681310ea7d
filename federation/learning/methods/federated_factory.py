"""FederatedFactory (arXiv 2603.16370), server topology: generators in, one classifier out.

| paper                                              | here                                      |
|----------------------------------------------------|-------------------------------------------|
| sites train generators, upload once                | `edge_agent.training`; one blueprint      |
| server samples each generator: synthetic set per c | `shard`, one per (blueprint, class)       |
| union of synthetic sets, balanced over classes     | `release_model`, by sampling weights      |
| server trains the global classifier on the union   | `downstream.train.train_classifier`       |
| deletion: drop a module, synthesise, train again   | `release_model` without its shards        |

What differs, on purpose:

- One class-conditional generator per site instead of one per class: the same privacy (parallel
  composition) from the site's whole data, and one upload.
- The classifier sees augmented images (shift, rotation, scale, intensity, noise); the published
  code trains its server classifier on raw samples.
- The published second topology (a classifier per site, fused as a product of experts) needs every
  site to hold all other generators; `product_of_experts` is what of it a coordinator can do.

Invariants: everything is a function of its arguments. No key, file, clock or network is touched; a
shard depends on one blueprint alone, so removing another blueprint changes none of its bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from federation.build_policy import Variation
from federation.learning.downstream.calibration import (
    NOTHING_HELD_OUT,
    Calibrated,
    HeldOut,
    calibrate,
)
from federation.learning.downstream.classifier import scale_logits
from federation.learning.downstream.numerics import deterministic_algorithms, pinned_threads
from federation.learning.downstream.pixels import Bytes as Shard
from federation.learning.downstream.pixels import Images, from_bytes, to_bytes
from federation.learning.downstream.pool import Pool
from federation.learning.downstream.support import Samples, SupportEstimate, support_estimate
from federation.learning.downstream.train import TrainedClassifier, logits_of, train_classifier
from federation.learning.generator.architecture import Architecture
from federation.learning.generator.sampler import sample
from kit.errors import KitError

SHARD_BATCH = 64  # images the sampler sees at once: part of the bits, never an option
REVIEWED_SAMPLES = 64  # of a class, in intake and in the site's own gate
_MINIMUM_IMAGES = 2  # a class that is said to be made of fewer is judged as if of so many
CONSTANT_STD = 0.01  # of the intensity range: an image flatter than this shows nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseModel:
    """What a build trained: `labels[i]` names column i of the logits; shards counts per label.

    `calibrated` says how well it knows the shards' held-out images, if any were held out.
    """

    trained: TrainedClassifier
    labels: tuple[str, ...]
    shards: tuple[int, ...]
    calibrated: Calibrated | None

    @property
    def network(self) -> nn.Module:
        """The classifier in evaluation mode: [N, C, H, W] in [-1, 1] to logits."""
        return self.trained.network


def shard(
    network: nn.Module,
    architecture: Architecture,
    label_index: int,
    *,
    size: int,
    seed: int,
    sampler_steps: int,
) -> Shard:
    """Return the synthetic images of one class of one blueprint: uint8 [size, C, H, W].

    Generated whole, in batches of `SHARD_BATCH`. Eight bits are the storage format, exact and
    eight times smaller than float64: 0 is -1 and 255 is +1; the step of 1/255 is far under the
    classifier's own augmentation noise.

    Args:
        network: the blueprint's generator with its weights loaded.
        architecture: what the network was built from.
        label_index: position of the class in the study.
        size: images, the study's shard size.
        seed: of the starting noise, from the study secret and the blueprint's digest.
        sampler_steps: of the deterministic sampler.

    Raises:
        KitError: the class is not one of the architecture's, or samples are not finite.
    """
    if not 0 <= label_index < architecture.num_classes or size < 1:
        raise KitError(f"class `{label_index}` or shard size `{size}` is out of range")
    labels = torch.full((size,), label_index, dtype=torch.int64)
    with deterministic_algorithms():
        images = sample(
            network,
            architecture,
            labels,
            seed=seed,
            steps=sampler_steps,
            batch_size=SHARD_BATCH,
        )
    return to_bytes(images.numpy())


def release_model(
    shards: Sequence[tuple[int, Images]],
    *,
    classes: Sequence[str],
    classifier: str,
    steps: int,
    seed: int,
    threads: int | None = None,
    augmentation: str = Variation.STANDARD,
    held_out: HeldOut = NOTHING_HELD_OUT,
) -> ReleaseModel:
    """Train the study's classifier on the shards of all approved blueprints.

    The label space is made of the classes that have a shard, in study order: without the only
    blueprint of a class, that class is gone from the model. Classes weigh the same however many
    sites have them, and sites of one class weigh the same within it.

    Args:
        shards: (position in `classes`, uint8 [M, C, H, W]) in the caller's canonical order, on
            which the bits depend: by weights digest and class, never by arrival.
        classes: the study's classes.
        classifier: a name in `downstream.classifier.classifiers()`.
        steps: training steps.
        seed: of initial weights, batches and augmentation.
        threads: as in `train_classifier`.
        augmentation: a build policy's word.
        held_out: what of every shard nothing is trained on, and what it serves for.

    Raises:
        KitError: there is no shard, a class is out of range, or shards differ in shape.
    """
    pool = Pool.of(shards, classes=len(classes), held_out=held_out.images)
    trained = train_classifier(
        pool.training,
        pool.labels(pool.training),
        classifier=classifier,
        num_classes=len(pool.present),
        steps=steps,
        seed=seed,
        threads=threads,
        augmentation=augmentation,
    )
    calibrated = None
    if pool.held_out is not None:
        with deterministic_algorithms() if threads is None else pinned_threads(threads):
            logits = logits_of(trained.network, pool.held_out).numpy()
        calibrated = calibrate(logits, pool.labels(pool.held_out), rule=held_out.calibration)
        scale_logits(trained.network, 1 / calibrated.temperature)
    return ReleaseModel(
        trained=trained,
        labels=tuple(classes[index] for index in pool.present),
        shards=tuple(pool.columns.count(column) for column in range(len(pool.present))),
        calibrated=calibrated,
    )


def _as_float(images: Samples) -> npt.NDArray[np.float32]:
    if images.dtype == np.uint8:
        return from_bytes(images.astype(np.uint8, copy=False))
    return images.astype(np.float32, copy=False)


def check_samples(images: Samples) -> None:
    """Refuse samples that show nothing: the smoke test of intake.

    Args:
        images: [n, C, H, W], float32 in [-1, 1] or uint8.

    Raises:
        KitError: a value is not finite, most images are constant, or all are the same.
    """
    if not len(images) or not prod(images.shape):
        raise KitError("there are no samples to check")
    values = _as_float(images)
    if not np.isfinite(values).all():
        raise KitError("the generator's samples are not finite")
    flat = values.reshape(len(values), -1) / 2
    if np.median(flat.std(axis=1)) < CONSTANT_STD:
        raise KitError("the generator's samples are constant images")
    if len(flat) > 1 and float(flat.std(axis=0).max()) < CONSTANT_STD:
        raise KitError("the generator's samples are all the same image")


def review_class(images: Samples, *, minimum_per_class: int) -> SupportEstimate:
    """Ask of one class what needs no private image: step 23, and the site's gate before it.

    A class has at least the study's minimum of units, so a generator whose support is a replay of
    fewer images than that has learnt next to nothing else.

    Args:
        images: [n, C, H, W] of one class, float32 in [-1, 1] or uint8; `REVIEWED_SAMPLES` of them.
        minimum_per_class: the study's.

    Raises:
        KitError: the samples show nothing, or repeat a handful of images.
    """
    check_samples(images)
    found = support_estimate(images)
    if found.replays(max(minimum_per_class, _MINIMUM_IMAGES)):
        raise KitError(f"a class repeats a handful of images: {found.words()}")
    return found
