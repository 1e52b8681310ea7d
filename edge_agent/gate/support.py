"""Support: does the generator repeat a few images? Each class is judged by its own.

The estimate is the coordinator's (`federation.learning.downstream.support`); here the distance
under which two samples are one image follows from how near real images lie to each other.
"""

import math

import numpy as np
from numpy.typing import NDArray

from edge_agent.gate.pixels import MAX_REFERENCES
from edge_agent.gate.verdict import Check, Outcome
from federation.learning.downstream.distances import distances, flat
from federation.learning.downstream.support import (
    MIN_COINCIDENCES,
    REPLAY_FACTOR,
    support_estimate,
)

SAME_SHARE = 0.15  # two samples are one if closer than this share of the usual nearest distance
SAME_OF_SPREAD = 0.08  # and of the samples' own spread: blurred images are close, not equal
EQUAL_SHARE = 0.02  # samples this close are one however small the spread is


def support(
    samples: NDArray[np.float32],
    sample_labels: NDArray[np.int64],
    labels: NDArray[np.int64],
    *,
    nearest: float,
) -> Check:
    """Judge each class by its own images; the class with the least support per image speaks.

    Args:
        samples: float32 [n, C, H, W], the generator's; 64 or more per class tell most.
        sample_labels: int64 [n].
        labels: int64 [N], of the images that it was trained on.
        nearest: the usual distance of a real image to the nearest one of another unit.
    """
    worst, words = math.inf, "no class repeats itself"
    for label in np.unique(sample_labels):
        images = int((labels == label).sum())
        of_class = flat(samples[sample_labels == label])
        if not images or len(of_class) < 2:
            continue
        found = support_estimate(of_class, duplicate_rms=_radius_rms(of_class, nearest))
        if found.support is None or found.samples - found.distinct < MIN_COINCIDENCES:
            continue
        if found.support / images < worst:
            worst = found.support / images
            words = f"class {label}: {found.words()} for {images} training images"
    value = 2.0 * REPLAY_FACTOR if math.isinf(worst) else worst
    return Check(
        name="support",
        outcome=Outcome.PASSED if value > REPLAY_FACTOR else Outcome.FAILED,
        value=value,
        threshold=float(REPLAY_FACTOR),
        words=words,
    )


def _radius_rms(of_class: NDArray[np.float32], nearest: float) -> float:
    """Return the distance under which two samples are one, as `support_estimate` takes it."""
    spread = float(np.median(next(distances(of_class[:MAX_REFERENCES], of_class))[1]))
    radius = max(EQUAL_SHARE * nearest, min(SAME_SHARE * nearest, SAME_OF_SPREAD * spread))
    return radius / (2 * math.sqrt(of_class.shape[1]))
