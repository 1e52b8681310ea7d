"""How many different images a generator can make, judged from a sample of them; no torch.

One way for both sides: the site asks with a distance taken from its private images, the
coordinator with a fixed one; neither the samples nor the estimate need a private image.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kit.errors import KitError

DUPLICATE_RMS = 0.02  # of the intensity range: two samples this near are one image seen twice
REPLAY_FACTOR = 4  # a support of at most this many times the training images is a replay
MIN_COINCIDENCES = 3  # fewer samples seen twice say nothing
MAX_SAMPLES = 4096  # the estimate compares all pairs
_BISECTIONS = 200

Samples = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportEstimate:
    """How many different images a generator seems able to draw.

    `support` is None when every sample was different: it is then too large to be measured.
    """

    samples: int
    distinct: int
    support: float | None

    def replays(self, images: int) -> bool:
        """Whether the support is within `REPLAY_FACTOR` times `images`, seen often enough to say.

        A replay of N images has a support near N, near 2N with mirrored ones; the rest of the
        factor is for the spread of the estimate.
        """
        if self.support is None or self.samples - self.distinct < MIN_COINCIDENCES:
            return False
        return self.support <= REPLAY_FACTOR * images

    def words(self) -> str:
        """Say it to a person."""
        if self.support is None:
            return f"{self.samples} samples, all different"
        return (
            f"{self.samples} samples show {self.distinct} different images, a support of about"
            f" {self.support:.0f}"
        )


def support_estimate(images: Samples, *, duplicate_rms: float = DUPLICATE_RMS) -> SupportEstimate:
    """Estimate the support M from n samples of which D are distinct: D = M (1 - (1 - 1/M)^n).

    Samples nearer than `duplicate_rms` (root mean square over pixels, of the intensity range) are
    joined, and D counts the joined groups. A generator that replays its training set gives M near
    the number of training images.

    Args:
        images: [n, ...] of one class, uint8 or float32 in [-1, 1], 2 to 4096 of them.
        duplicate_rms: distance under which two samples count as one image.

    Raises:
        KitError: the number of images is out of range.
    """
    if not 2 <= len(images) <= MAX_SAMPLES:
        raise KitError(f"the support estimate takes 2 to {MAX_SAMPLES} images")
    return estimate_of(len(images), _count_groups(images, duplicate_rms))


def estimate_of(samples: int, distinct: int) -> SupportEstimate:
    """Return the estimate that so many different ones among so many samples give."""
    support = None if distinct == samples else support_size(samples, distinct)
    return SupportEstimate(samples=samples, distinct=distinct, support=support)


def support_size(samples: int, distinct: int) -> float:
    """Solve D = M (1 - (1 - 1/M)^n) for M, the expected number of distinct among n draws from M.

    Args:
        samples: n, images drawn.
        distinct: D, how many of them differ; D = n gives the least M that n draws can tell.
    """
    if distinct >= samples:
        return samples * samples / 2
    low, high = float(distinct), float(samples * samples)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        expected = -middle * math.expm1(samples * math.log1p(-1 / middle)) if middle > 1 else 1.0
        low, high = (middle, high) if expected < distinct else (low, middle)
    return high


def _count_groups(images: Samples, duplicate_rms: float) -> int:
    """Count the connected components of the graph that joins near images."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    flat /= 255 if images.dtype == np.uint8 else 2
    squares = (flat**2).sum(axis=1)
    limit = duplicate_rms**2 * flat.shape[1]
    near = squares[:, None] + squares[None, :] - 2 * flat @ flat.T <= limit
    unseen = np.ones(len(images), dtype=bool)
    groups = 0
    for start in range(len(images)):
        if not unseen[start]:
            continue
        groups += 1
        frontier = np.zeros(len(images), dtype=bool)
        frontier[start] = True
        while frontier.any():
            unseen &= ~frontier
            frontier = near[frontier].any(axis=0) & unseen
    return groups
