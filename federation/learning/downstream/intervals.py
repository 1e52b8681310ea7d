"""Intervals of 95 % for what is counted on a sample of images; numpy only.

They hold for images drawn independently. Several images of one patient are not: with those, the
truth is less certain than an interval says.
"""

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
Z = 1.959963984540054  # the normal quantile of (1 + LEVEL) / 2

Interval = tuple[float, float]
Scores = npt.NDArray[np.floating]


def wilson(share: float, count: float) -> Interval:
    """Return Wilson's (1927) interval of a share of `count` images."""
    square = Z**2 / count
    centre = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * np.sqrt(share * (1 - share) / count + square / (4 * count))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def of_mean(shares: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> Interval:
    """Return the interval of the mean of independent shares, each of so many images.

    Wilson's for each share, put together by variance estimates recovery (Donner and Zou 2012,
    section 2): it stays inside [0, 1], and has a width where every share is 1.
    """
    limits = np.array([wilson(s, n) for s, n in zip(shares, counts, strict=True)])
    below = float(np.sqrt(((shares - limits[:, 0]) ** 2).sum())) / len(shares)
    above = float(np.sqrt(((limits[:, 1] - shares) ** 2).sum())) / len(shares)
    mean = float(shares.mean())
    return max(0.0, mean - below), min(1.0, mean + above)


def auroc(scores: Scores, positive: npt.NDArray[np.bool_]) -> tuple[float, Scores] | None:
    """Return the area under the ROC curve, and every image's influence on it; None if undefined.

    The area is the share of (positive, negative) pairs in order, ties counting half. The influences
    are the structural components of DeLong et al. (1988), centred and each over its class' count:
    the sum of their squares is the variance of the area.
    """
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    area = (float(mean_rank[positive].sum()) - n_positive * (n_positive + 1) / 2) / (
        n_positive * n_negative
    )
    influence = np.zeros(len(scores))
    for mask, own, other in (
        (positive, n_positive, n_negative),
        (~positive, n_negative, n_positive),
    ):
        within = np.bincount(inverse[mask], minlength=len(counts))
        own_rank = (np.cumsum(within) - (within - 1) / 2)[inverse]
        below = ((mean_rank - own_rank) / other)[mask]  # of the other class, ties counting half
        share = below if mask is positive else 1 - below
        influence[mask] = (share - area) / np.sqrt(own * max(1, own - 1))
    return area, influence


def of_auroc(area: float, influence: Scores, smallest: int) -> Interval:
    """Return the interval of an area, or of a mean of areas with the mean influences.

    DeLong's variance on the logit scale, which stays inside [0, 1]. An area of 0 or 1 has no
    variance: it is then taken for a share of the `smallest` class.
    """
    variance = float((influence**2).sum())
    if not 0 < area < 1 or variance == 0:
        return wilson(area, smallest)
    half = Z * np.sqrt(variance) / (area * (1 - area))
    centre = np.log(area / (1 - area))
    low, high = 1 / (1 + np.exp(-(centre - half))), 1 / (1 + np.exp(-(centre + half)))
    return float(low), float(high)
