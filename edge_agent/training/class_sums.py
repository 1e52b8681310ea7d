"""The first release of a private run: noisy sums per class, of units and of their images.

One Gaussian mechanism over all units (q = 1), before any gradient:

- the *counts* decide which declared classes have enough units to be trained on (A12). An exact
  count would decide, at its boundary, over all units of a class because of one;
- the *central images*, means of a class, are what the network is warmed up on (DP-FETA, Gong et
  al. 2025, arXiv:2504.01591). Whatever is done with them costs nothing more.

Invariants:

- A unit gives one vector of norm at most 1, whatever the number of its images and of their
  classes: its images share it evenly, each with `COUNT_PART` for the count of its class and
  `IMAGE_PART` for its pixels, which lie in [-1, 1] and are divided by the root of their number.
- Only rows of declared classes are released, whether or not they have a unit.
- Central images are averaged down to `SIDE_PX`: noise on a mean grows with the side of the image.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name every torch reader knows)
from numpy.typing import NDArray

from edge_agent.datasets.examples import Cohort
from edge_agent.training.noise import secret_noise
from edge_agent.training.sampler import unit_table

SIDE_PX = 8
COUNT_PART = 0.5
IMAGE_PART = math.sqrt(1 - COUNT_PART**2)
_LEAST_VARIANCE = 1e-3  # of the classes' means around their own mean, where noise hides it

Sums = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What has passed the noise: every figure may be kept, shown and used again.

    Attributes:
        counts: units per declared class, as far as the noise tells; [classes], may be negative.
        images: noisy sums of images per declared class, [classes, C, h, w] with sides of at most
            `SIDE_PX`, in units of one image.
        count_noise: standard deviation of `counts`.
        image_noise: standard deviation of every pixel of `images`.
    """

    counts: Sums
    images: Sums
    count_noise: float
    image_noise: float

    def enough(self, minimum: int) -> NDArray[np.bool_]:
        """Say of every declared class whether it has `minimum` units, as far as the noise tells."""
        return self.counts >= minimum

    def means(self) -> NDArray[np.float32]:
        """Return an estimate of each class's mean image in [-1, 1], [classes, C, h, w].

        Each is drawn towards the mean over all classes as far as the known noise outweighs what
        differs between them (James and Stein 1961).
        """
        counts = np.maximum(self.counts, max(1.0, self.count_noise))[:, None, None, None]
        own, noise = self.images / counts, (self.image_noise / counts) ** 2
        common = self.images.sum(axis=0) / counts.sum()
        spread = max(_LEAST_VARIANCE, float(((own - common) ** 2).mean() - noise.mean()))
        means: NDArray[np.float64] = common + (own - common) * (spread / (spread + noise))
        clipped: NDArray[np.float32] = np.clip(means, -1, 1).astype(np.float32)
        return clipped


def release(cohort: Cohort, declared: NDArray[np.int64], *, noise_multiplier: float) -> Release:
    """Add secret noise to the sums over `cohort`, once; charge it before it is used.

    `declared` are the positions of the declared classes in the study.
    """
    clean = sums(cohort, declared)
    noise = secret_noise(torch.Size(clean.shape), std=noise_multiplier).numpy()
    noisy = clean + noise
    shape, pixels = _small_shape(cohort), clean.shape[1] - 1
    to_images = math.sqrt(pixels) / IMAGE_PART
    return Release(
        counts=noisy[:, 0] / COUNT_PART,
        images=(noisy[:, 1:] * to_images).reshape(len(declared), *shape),
        count_noise=noise_multiplier / COUNT_PART,
        image_noise=noise_multiplier * to_images,
    )


def sums(cohort: Cohort, declared: NDArray[np.int64]) -> Sums:
    """Return the sum over units of their vectors, [classes, 1 + pixels]; sensitive: add noise."""
    units = unit_table(cohort.units)
    small = _small(cohort).reshape(len(cohort.labels), -1).astype(np.float64)
    position = {int(label): at for at, label in enumerate(declared)}
    rows = np.array([position[int(label)] for label in cohort.labels])
    total = np.zeros((len(declared), 1 + small.shape[1]))
    for start, count in zip(units.start, units.count, strict=True):
        own = units.order[start : start + count]
        for row in np.unique(rows[own]):
            of_class = own[rows[own] == row]
            total[row] += _vector(small[of_class].sum(axis=0) / count, len(of_class) / count)
    return total


def _vector(image: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Return a unit's part for one class: of norm at most `share`, and shares add up to 1."""
    pixels = image * (IMAGE_PART / math.sqrt(len(image)))
    bound = IMAGE_PART * share
    norm = float(np.linalg.norm(pixels))
    return np.concatenate([[COUNT_PART * share], pixels * min(1.0, bound / max(norm, 1e-300))])


def _small(cohort: Cohort) -> NDArray[np.float32]:
    """Return the images averaged down to at most `SIDE_PX` a side."""
    images: NDArray[np.float32] = F.adaptive_avg_pool2d(
        torch.from_numpy(cohort.images), _small_shape(cohort)[1:]
    ).numpy()
    return images


def _small_shape(cohort: Cohort) -> tuple[int, int, int]:
    channels, height, width = cohort.images.shape[1:]
    return channels, min(height, SIDE_PX), min(width, SIDE_PX)
