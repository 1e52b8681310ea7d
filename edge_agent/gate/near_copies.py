"""Near copies: samples that lie closer to one training unit than real images of others do.

Every image's nearest distance to the training units is divided by the mean of the next ones
(Carlini et al. 2023, arXiv:2301.13188, section 4.2, for the same reason: a blurred or plain image
is close to everything and no copy of anything). Which ratios are usual is what images of held-out
units say: they are of the same hospital and were not trained on. A run that held out too few
takes its training units, each against the others.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.datasets.examples import Cohort
from edge_agent.gate.pixels import MAX_REFERENCES, UnitImages
from edge_agent.gate.verdict import Check, Outcome
from federation.learning.downstream.distances import flat

NEIGHBOURS = 10  # units whose mean distance a nearest distance is divided by
COPY_QUANTILE = 0.02  # of real images' relative nearest distances
CHANCE_FACTOR = 2  # images of others fall below that quantile up to twice as often (measured)
FALSE_ALARM = 1e-3  # chance of an alarm on real images of others
MIN_HELD_OUT_IMAGES = 100  # fewer have no 2 % quantile of their own

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Usual:
    """Real images of others against the training units: nearest distances, and as ratios."""

    nearest: Values
    ratio: Values


def usual_of(trained: UnitImages, held_out: Cohort | None) -> Usual:
    """Return what images of units that were not trained on show."""
    if held_out is None or len(held_out.images) < MIN_HELD_OUT_IMAGES:
        return Usual(*_ratios(trained.leave_one_out(), trained.units - 1))
    step = -(-len(held_out.images) // MAX_REFERENCES)
    asked = trained.to_units(flat(held_out.images[::step]))
    return Usual(*_ratios((found for _, found in asked), trained.units))


def near_copies(samples: NDArray[np.float32], trained: UnitImages, usual: Usual) -> Check:
    """Count samples below the usual ratios, and alarm beyond chance.

    Args:
        samples: float32 [n, C, H, W], the generator's.
        trained: the images that it was trained on.
        usual: from `usual_of`.
    """
    rank = max(1, math.floor(COPY_QUANTILE * len(usual.ratio)))
    bound = np.sort(usual.ratio)[rank - 1]
    chance = min(1.0, CHANCE_FACTOR * rank / (len(usual.ratio) + 1))
    ratio = _ratios((found for _, found in trained.to_units(flat(samples))), trained.units)[1]
    close = int((ratio < bound).sum())
    limit = _alarm_count(len(samples), chance)
    return Check(
        name="near-copies",
        outcome=Outcome.PASSED if close < limit else Outcome.FAILED,
        value=close / len(samples),
        threshold=limit / len(samples),
        words=(
            f"{close} of {len(samples)} samples are closer to one unit than {1 - COPY_QUANTILE:.0%}"
            f" of real images are to another; from {limit} on they are taken for copies"
        ),
    )


def _ratios(blocks: Iterable[NDArray[np.float32]], units: int) -> tuple[Values, Values]:
    """Return the nearest distances, and their ratios to the mean of the next units' distances."""
    count = min(NEIGHBOURS, units - 1)
    nearest, ratio = [], []
    for found in blocks:
        ordered = np.sort(np.partition(found, count, axis=1)[:, : count + 1], axis=1)
        first = ordered[:, 0].astype(np.float64)
        around = ordered[:, 1:].mean(axis=1, dtype=np.float64)
        nearest.append(first)
        ratio.append(first / np.maximum(around, np.finfo(np.float64).tiny))
    return np.concatenate(nearest), np.concatenate(ratio)


def _alarm_count(n: int, chance: float) -> int:
    """Return the least k with P(Binomial(n, chance) >= k) <= `FALSE_ALARM`, at most n."""
    from scipy.stats import binom

    return min(n, int(binom.isf(FALSE_ALARM, n, chance)) + 1)
