"""The gate: two questions to a generator's samples, asked at the site before anything leaves.

1. *Support* (coordinator-style, generator against itself): a birthday estimate of how many distinct
   images the generator can make. A replay of N training images has a support near N.
2. *Near copies*: how many samples lie far closer to one unit of the training set than to the next
   ones, against what real images of other units do.

What it cannot tell: it sees pixels and a few hundred samples. It does not bound what the weights
hold (an attacker has the weights, not the samples). It misses copies that are shifted, recoloured,
cut or buried in heavy noise, copies rarer than about one sample in ten, and anything about a person
who was not sampled. It finds broken and memorising runs; it proves no privacy, and passing it is no
reason to train with less noise. Distances are private: scores stay at the site, only the verdict
leaves.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.datasets.examples import Cohort
from federation.learning.downstream.support import support_size
from kit import canonical
from kit.errors import KitError

SUPPORT_FACTOR = 4  # a support of at most this many times the training images is a replay
SAME_SHARE = 0.15  # two samples are one if closer than this share of the usual nearest distance
SAME_OF_SPREAD = 0.08  # and of the samples' own spread: blurred images are close, not equal
EQUAL_SHARE = 0.02  # samples this close are one however small the spread is
MIN_COLLISIONS = 3  # fewer coincidences say nothing

NEIGHBOURS = 10  # units whose mean distance a nearest distance is divided by
COPY_QUANTILE = 0.02  # of the training units' own relative nearest distances
CHANCE_FACTOR = 2  # held-out images fall below that quantile up to twice as often (measured)
FALSE_ALARM = 1e-3  # chance of an alarm on real held-out images
MIN_UNITS = 4
MAX_REFERENCES = 2_000  # images that calibrate the quantile; more change it little

MAX_SIDE_PX = 32  # larger images are averaged down: copies stay copies, at a fraction of the work

_CHUNK_VALUES = 1 << 24  # distances held at once: 64 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question and its answer; `value` and `threshold` are private scores."""

    name: str
    passed: bool
    value: float
    threshold: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """The gate's verdict. Only `passed` may leave the site (A11)."""

    passed: bool
    checks: tuple[Check, ...]

    def to_table(self) -> dict[str, Any]:
        """Return the report as canonical JSON values (`gate.json`, local only)."""
        checks = [
            {
                "name": c.name,
                "passed": c.passed,
                "value": canonical.real(c.value),
                "threshold": canonical.real(c.threshold),
                "words": c.words,
            }
            for c in self.checks
        ]
        return {"passed": self.passed, "checks": checks}


def check(
    samples: NDArray[np.float32], sample_labels: NDArray[np.int64], cohort: Cohort
) -> GateReport:
    """Ask both questions.

    Args:
        samples: float32 [n, C, H, W] in [-1, 1], the generator's; 64 or more per class tell most.
        sample_labels: int64 [n], positions in the study's class list.
        cohort: what the generator was trained on.

    Raises:
        KitError: a sample is not finite, or the cohort has under `MIN_UNITS` units.
        RuntimeError: shapes do not fit each other.
    """
    if samples.shape[1:] != cohort.images.shape[1:] or sample_labels.shape != samples.shape[:1]:
        raise RuntimeError("samples and cohort have different shapes")
    if not len(samples) or not np.isfinite(samples).all():
        raise KitError("the generator gave no samples, or values that are not finite")
    references = _References(cohort)
    if references.units < MIN_UNITS:
        raise KitError(
            f"the gate cannot judge a generator of under {MIN_UNITS} units",
            hint="train on more patients or images",
        )
    nearest, own = references.leave_one_out()
    checks = (
        _support(samples, sample_labels, cohort, usual=float(np.median(nearest))),
        _near_copies(samples, references, own),
    )
    return GateReport(passed=all(c.passed for c in checks), checks=checks)


class _References:
    """The training images, grouped by unit, mirrored ones beside them."""

    def __init__(self, cohort: Cohort) -> None:
        names = sorted(set(cohort.units))
        number = {unit: index for index, unit in enumerate(names)}
        owner = np.array([number[unit] for unit in cohort.units])
        order = np.argsort(owner, kind="stable")
        self.owner = np.repeat(owner[order], 2)
        images, mirrored = _flat(cohort.images), _flat(cohort.images[..., ::-1])
        pairs = np.stack([images[order], mirrored[order]], axis=1)  # a run may be one with flips
        self._flat = pairs.reshape(-1, images.shape[1])
        self._starts = np.flatnonzero(np.r_[True, np.diff(self.owner) > 0])
        self.units = len(names)

    def to_units(self, images: NDArray[np.float32]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield slices of `images` and their distances to the nearest image of every unit."""
        for part, distances in _distances(images, self._flat):
            yield part, np.minimum.reduceat(distances, self._starts, axis=1)

    def leave_one_out(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return nearest and relative nearest distances of training images to other units."""
        step = max(1, -(-len(self.owner) // (2 * MAX_REFERENCES))) * 2  # unmirrored rows only
        asked, owner = self._flat[::step], self.owner[::step]
        nearest, relative = [], []
        for part, distances in self.to_units(asked):
            distances[np.arange(len(distances)), owner[part]] = np.inf
            first, share = _relative(distances, self.units - 1)
            nearest.append(first)
            relative.append(share)
        return np.concatenate(nearest), np.concatenate(relative)


def _relative(
    distances: NDArray[np.float32], units: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the nearest distance, and its ratio to the mean of the next units' distances.

    Carlini et al. 2023 (arXiv:2301.13188) divide by the mean of 50 neighbours for the same reason:
    a blurred or plain image is close to everything and no copy of anything.
    """
    count = min(NEIGHBOURS, units - 1)
    ordered = np.sort(np.partition(distances, count, axis=1)[:, : count + 1], axis=1)
    nearest = ordered[:, 0].astype(np.float64)
    around = ordered[:, 1:].mean(axis=1, dtype=np.float64)
    return nearest, nearest / np.maximum(around, np.finfo(np.float64).tiny)


def _near_copies(
    samples: NDArray[np.float32], references: _References, own: NDArray[np.float64]
) -> Check:
    rank = max(1, math.floor(COPY_QUANTILE * len(own)))
    bound = np.sort(own)[rank - 1]
    chance = min(1.0, CHANCE_FACTOR * rank / (len(own) + 1))
    shares = [_relative(d, references.units)[1] for _, d in references.to_units(_flat(samples))]
    close = int((np.concatenate(shares) < bound).sum())
    limit = _alarm_count(len(samples), chance)
    passed = close < limit
    words = (
        f"{close} of {len(samples)} samples are closer to one unit than {1 - COPY_QUANTILE:.0%} of "
        f"real images are to another; from {limit} on they are taken for copies"
    )
    return Check(
        name="near-copies",
        passed=passed,
        value=close / len(samples),
        threshold=limit / len(samples),
        words=words,
    )


def _alarm_count(n: int, chance: float) -> int:
    """Return the least k with P(Binomial(n, chance) >= k) <= `FALSE_ALARM`, at most n."""
    tail, k = 0.0, n + 1
    while k > 1:
        tail += _binomial(n, k - 1, chance)
        if tail > FALSE_ALARM:
            break
        k -= 1
    return min(k, n)


def _binomial(n: int, k: int, p: float) -> float:
    if p >= 1:
        return float(k == n)
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(choose + k * math.log(p) + (n - k) * math.log1p(-p))


def _support(
    samples: NDArray[np.float32],
    sample_labels: NDArray[np.int64],
    cohort: Cohort,
    *,
    usual: float,
) -> Check:
    """Judge each class by its own images; the class with the least support per image speaks."""
    worst, words = math.inf, "no class has samples and training images"
    for label in np.unique(sample_labels):
        images = int((cohort.labels == label).sum())
        of_class = _flat(samples[sample_labels == label])
        distinct = _distinct(of_class, usual)
        support = support_size(len(of_class), distinct)
        if images and len(of_class) - distinct >= MIN_COLLISIONS:
            ratio = support / images
        else:
            ratio = math.inf
        if ratio < worst:
            worst = ratio
            words = (
                f"class {label}: {len(of_class)} samples show {distinct} distinct images, a "
                f"support of about {support:.0f} for {images} training images"
            )
    if math.isinf(worst):
        worst, words = 2.0 * SUPPORT_FACTOR, "no class repeats itself"
    return Check(
        name="support",
        passed=worst > SUPPORT_FACTOR,
        value=worst,
        threshold=float(SUPPORT_FACTOR),
        words=words,
    )


def _distinct(flat: NDArray[np.float32], usual: float) -> int:
    """Count the samples that have no earlier sample so close that the two are one."""
    distinct = 0
    radius = _radius(flat, usual)
    for part, distances in _distances(flat, flat):
        rows = np.arange(part.start, part.start + len(distances))
        earlier = np.arange(len(flat))[None] < rows[:, None]
        distinct += int((~((distances <= radius) & earlier).any(axis=1)).sum())
    return distinct


def _radius(flat: NDArray[np.float32], usual: float) -> float:
    spread = float(np.median(next(_distances(flat[:MAX_REFERENCES], flat))[1]))
    return max(EQUAL_SHARE * usual, min(SAME_SHARE * usual, SAME_OF_SPREAD * spread))


def _flat(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 [n, values] of images averaged down to `MAX_SIDE_PX` or less."""
    n, channels, height, width = images.shape
    tall, wide = -(-height // MAX_SIDE_PX), -(-width // MAX_SIDE_PX)
    if tall > 1 or wide > 1:
        rows, columns = height // tall, width // wide
        cut = images[..., : rows * tall, : columns * wide]
        images = cut.reshape(n, channels, rows, tall, columns, wide).mean(axis=(3, 5))
    return np.ascontiguousarray(images.reshape(n, -1), dtype=np.float32)


def _distances(
    a: NDArray[np.float32], b: NDArray[np.float32]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield slices of `a` and their Euclidean distances to all of `b`, in bounded blocks."""
    squares = np.einsum("ij,ij->i", b, b)
    rows = max(1, _CHUNK_VALUES // max(1, len(b)))
    for start in range(0, len(a), rows):
        block = a[start : start + rows]
        norms = np.einsum("ij,ij->i", block, block)
        gram = norms[:, None] + squares[None] - 2 * (block @ b.T)
        yield slice(start, start + len(block)), np.sqrt(np.maximum(gram, 0))
