"""The honest rival of every private generator: a linear head on frozen features, one exchange.

Each hospital sends noisy sums over its images, once: with phi the frozen features of an image,
|phi| = 1, and y its class,

    M = sum s phi phi^T,    m_y = sum of phi over class y,    n_y = sum of k over class y,

all under one Gaussian mechanism; the server adds the hospitals' sums up and solves linear
discriminant analysis (Fisher 1936) in closed form. Relatives: FedAUXfdp (arXiv:2205.14960),
GH-OFL (2602.01186).

Privacy: taking one unit away changes a hospital's sums by (s phi phi^T, phi, k), whose L2 norm
is sqrt(s^2 + 1 + k^2), because |phi phi^T| = |phi|^2 = 1 (Frobenius); noise of sigma times that
is one Gaussian release (q = 1). A unit counts once, with its first image. Hospitals hold disjoint
units, so that all of them together cost what one costs.

Under much noise a count says less than the public declared number spread evenly over the declared
classes; the server weighs the two by their variances. Under still more, the second moment says
nothing: with s = k = 0 only class sums are sent, and an image belongs to the nearest direction.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.accuracy.features import FrozenFeatures, extract
from edge_agent.training.noise import secret_noise

Floats = npt.NDArray[np.float64]

_GUESS_DEVIATION = 0.5  # how far a class may lie from an even share, relative
_TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPlan:
    """Settings of the head.

    Attributes:
        features: the frozen features.
        moment_scale: s, of the second moment against the class sums; 0 sends class sums alone.
        count_scale: k, of the counts against the class sums.
        shrinkage: added to the covariance's eigenvalues, in units of their mean if features were
            white (1 / d).
        noise_shrinkage: added too, in units of the noise's own largest eigenvalue.
    """

    features: FrozenFeatures
    moment_scale: float = 0.5
    count_scale: float = 0.3
    shrinkage: float = 0.03
    noise_shrinkage: float = 0.3

    @classmethod
    def class_sums(cls, features: FrozenFeatures) -> Self:
        """Return the plan for much noise: nothing but class sums is sent."""
        return cls(features=features, moment_scale=0.0, count_scale=0.0)

    @property
    def sensitivity(self) -> float:
        """L2 change of a hospital's sums by one unit."""
        return math.sqrt(self.moment_scale**2 + 1 + self.count_scale**2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What one hospital sends; rows of undeclared classes are zero and carry no noise.

    Attributes:
        moment: s times the second moment, symmetric [d, d].
        sums: class sums [classes, d].
        counts: k times the counts [classes].
        expected: the declared number spread over the declared classes [classes]; public.
        noise: standard deviation of what was added to every independent entry.
    """

    moment: Floats
    sums: Floats
    counts: Floats
    expected: Floats
    noise: float


def statistics(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    *,
    declared: Sequence[int],
    n_declared: int,
    num_classes: int,
    noise_multiplier: float,
    plan: HeadPlan,
) -> Statistics:
    """Return a hospital's noisy sums over `features`, one row a unit.

    Raises:
        RuntimeError: a row is longer than 1, or a label is not declared.
    """
    rows = features.astype(np.float64)
    if np.linalg.norm(rows, axis=1).max(initial=0) > 1 + 1e-5:
        raise RuntimeError("a unit's features are longer than the sensitivity allows")
    if not set(labels.tolist()) <= set(declared):
        raise RuntimeError("a label is not declared")
    width, noise = rows.shape[1], noise_multiplier * plan.sensitivity
    moment = np.zeros((width, width))
    if plan.moment_scale:
        moment = plan.moment_scale * rows.T @ rows + _symmetric_noise(width, noise)
    sums = np.zeros((num_classes, width))
    counts, expected = np.zeros(num_classes), np.zeros(num_classes)
    for label in declared:
        mine = rows[labels == label]
        sums[label] = mine.sum(axis=0) + _noise((width,), noise)
        if plan.count_scale:
            counts[label] = plan.count_scale * len(mine) + _noise((1,), noise)[0]
        expected[label] = n_declared / len(declared)
    return Statistics(moment=moment, sums=sums, counts=counts, expected=expected, noise=noise)


def discriminant(received: Sequence[Statistics], plan: HeadPlan) -> tuple[Floats, Floats]:
    """Return weights [d, classes] and biases [classes] from all hospitals' sums."""
    sums = np.sum([s.sums for s in received], axis=0)
    if not plan.moment_scale:
        return _directions(sums, received), np.zeros(len(sums))
    moment: Floats = np.sum([s.moment for s in received], axis=0) / plan.moment_scale
    counts = np.maximum(np.sum([_counts(s, plan) for s in received], axis=0), 1.0)
    total, width = counts.sum(), len(moment)

    # within-class covariance, made positive: noise has pushed eigenvalues below zero
    means = sums / counts[:, None]
    within = moment / total - (means * counts[:, None] / total).T @ means
    values, vectors = np.linalg.eigh((within + within.T) / 2)
    # the largest eigenvalue of a symmetric Gaussian matrix: 2 sigma sqrt(d) (Wigner)
    spread = math.sqrt(sum(s.noise**2 for s in received)) / plan.moment_scale
    of_noise = 2 * spread * math.sqrt(width / 2) / total
    floor = plan.shrinkage / width + plan.noise_shrinkage * of_noise
    inverse = (vectors / (np.maximum(values, 0) + floor)) @ vectors.T

    weights = inverse @ means.T
    biases = -0.5 * (means.T * weights).sum(axis=0)
    return weights, biases


def _directions(sums: Floats, received: Sequence[Statistics]) -> Floats:
    """Return the class sums [d, classes] scaled to norm 1 each, the noise's own part taken off."""
    of_noise = np.zeros(len(sums))
    for sent in received:
        of_noise += np.where(sent.expected > 0, sums.shape[1] * sent.noise**2, 0.0)
    squares: Floats = np.maximum((sums**2).sum(axis=1) - of_noise, 1.0)
    scaled: Floats = (sums / np.sqrt(squares)[:, None]).T
    return scaled


def _counts(sent: Statistics, plan: HeadPlan) -> Floats:
    """Weigh the noisy counts and the declared ones by their variances."""
    of_noise = (sent.noise / plan.count_scale) ** 2
    of_guess = (_GUESS_DEVIATION * sent.expected) ** 2
    trust = of_guess / np.maximum(of_guess + of_noise, _TINY)
    mixed: Floats = trust * sent.counts / plan.count_scale + (1 - trust) * sent.expected
    return mixed


def head_features(images: npt.NDArray[np.float32], plan: HeadPlan) -> npt.NDArray[np.float32]:
    """Return the frozen features of images [N, C, H, W] in [-1, 1]."""
    return extract(images, plan.features)


def _symmetric_noise(width: int, std: float) -> Floats:
    """Return symmetric noise that hides a symmetric matrix of Frobenius norm 1 like a vector of it.

    In the basis where the Frobenius norm is the L2 norm, an entry beside the diagonal counts twice;
    its noise is smaller by sqrt(2).
    """
    square = _noise((width, width), std)
    upper = np.triu(square, 1) / math.sqrt(2)
    return upper + upper.T + np.diag(np.diag(square))


def _noise(shape: tuple[int, ...], std: float) -> Floats:
    if std == 0:
        return np.zeros(shape)
    noise: Floats = secret_noise(torch.Size(shape), std=std).numpy()
    return noise


def sent_bytes(sent: Statistics) -> int:
    """Count a hospital's float32 bytes: half the symmetric moment, its classes' sums and counts."""
    width, declared = len(sent.moment), int(np.count_nonzero(sent.expected))
    sums = 4 * declared * width
    return sums + 4 * (width * (width + 1) // 2 + declared) if sent.moment.any() else sums
