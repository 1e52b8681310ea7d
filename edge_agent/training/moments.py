"""From noisy sums to a class-conditional Gaussian: post-processing, which costs no privacy.

Everything here is a function of released sums, of how noisy they are, and of public constants. It
never sees an image: what it does with the noise (shrinking, thresholds, positive semi-definiteness)
may be as clever as it likes.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LEAST_SHARE = 0.25  # of an even share: no class counts for less, whatever the noise says
# Variance of a pixel value within a class that images are expected to have, within as much again:
# aligned cells have 0.02, handwritten digits 0.17, of values in [-1, 1].
_USUAL_ENERGY = 0.06
_TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisySums:
    """What was released, in the units of the images, and the noise in each part.

    Attributes:
        counts: [c] units per declared class.
        sums: [c, d] of centred coefficients.
        products: [d, d] symmetric, of centred coefficients with themselves.
        counts_std, sums_std, products_std: standard deviation of the noise in one number; off the
            diagonal of `products` it is a root of two smaller.
        total: units in all, as good as it is known.
        pixels: values of an image.
    """

    counts: Floats
    sums: Floats
    products: Floats
    counts_std: float
    sums_std: float
    products_std: float
    total: float
    pixels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLaw:
    """Means [c, d] about the centre, covariance factor [d, d], energy of the finer coefficients."""

    means: Floats
    factor: Floats
    finer_energy: float


def estimate(sums: NoisySums, power: Floats) -> ClassLaw:
    """Return the law that noisy sums suggest, under the public prior `power` of all coefficients.

    Means are shrunk towards the centre, coefficient by coefficient, as far as noise and prior say
    (an empirical Bayes estimate; James and Stein 1961). The covariance keeps the eigenvalues above
    the edge of the noise's own spectrum, each corrected for what the noise adds (Benaych-Georges
    and Nadakuditi 2011, theorem 2.1); what energy is left is laid out along the prior.
    """
    kept = sums.sums.shape[1]
    prior, tail = power[:kept], float(power[kept:].sum())
    counts = _counts(sums)
    raw = sums.sums / counts[:, None]
    variance = (sums.sums_std / counts) ** 2
    scale = (raw**2).sum() - kept * variance.sum()
    scale = max(float(scale), 0.0) / (len(counts) * prior.sum())
    gain = scale * prior / (scale * prior + variance[:, None] + _TINY)
    covariance = _within(sums, counts, raw, variance)
    noise = sums.products_std / sums.total
    energy = _energy(float(np.trace(covariance)), noise * math.sqrt(kept), sums.pixels)
    edge = noise * math.sqrt(2 * kept)
    return ClassLaw(
        means=raw * gain,
        factor=_factor(covariance, prior, energy, edge),
        finer_energy=energy * tail / float(prior.sum()),
    )


def _counts(sums: NoisySums) -> Floats:
    """Shrink noisy counts towards an even share, from which they are expected within a half."""
    even = sums.total / len(sums.counts)
    gain = (even / 2) ** 2 / ((even / 2) ** 2 + sums.counts_std**2)
    return np.maximum(even + gain * (sums.counts - even), _LEAST_SHARE * even)


def _within(sums: NoisySums, counts: Floats, raw: Floats, variance: Floats) -> Floats:
    """Return the covariance within classes: E[zz'] less that of the means, whose noise returns."""
    share = counts / counts.sum()
    between = (raw * share[:, None]).T @ raw
    noise = float((share * variance).sum()) * np.eye(raw.shape[1])
    return np.asarray(sums.products / sums.total - between + noise, dtype=np.float64)


def _energy(trace: float, noise_std: float, pixels: int) -> float:
    """Return the mean of what the trace can be, given a noisy one: a normal law cut off at zero.

    A trace that the noise made small or negative would otherwise make samples that are all alike,
    a generator which no review can let pass.
    """
    usual = _USUAL_ENERGY * pixels
    gain = usual**2 / (usual**2 + noise_std**2)
    mean, std = usual + gain * (trace - usual), math.sqrt(gain) * noise_std
    if mean >= 8 * std:  # nothing is cut off; nor where there is no noise
        return max(mean, _TINY)
    if mean <= -8 * std:
        return std**2 / -mean
    density = math.exp(-0.5 * (mean / std) ** 2) * math.sqrt(2 / math.pi)
    return mean + std * density / math.erfc(-mean / std / math.sqrt(2))


def _factor(covariance: Floats, prior: Floats, energy: float, edge: float) -> Floats:
    """Return a symmetric square root [d, d] of the covariance, less what noise alone would show."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    seen = np.maximum(values, 0.0)
    true = np.where(seen > edge, (seen + np.sqrt(np.maximum(seen**2 - edge**2, 0.0))) / 2, 0.0)
    rest = max(0.0, energy - float(true.sum())) * prior / prior.sum()
    law = (vectors * true) @ vectors.T + np.diag(rest)
    values, vectors = np.linalg.eigh(law)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T, dtype=np.float64)
