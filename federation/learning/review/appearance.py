"""What one blueprint's images look like, class by class: flat, repeated, noise, or a stranger's.

Thresholds were fixed on handwritten digits at 8 px with seeds that no published table uses
(`benchmarks/review_aids.py`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from federation.learning.downstream.distances import distances, flat
from federation.learning.downstream.support import MIN_COINCIDENCES, support_estimate
from federation.learning.review.drawn import Drawn, Images
from federation.learning.review.finding import Aid, Finding, Outcome, conclude, named

SPREAD_SHARE = 0.35  # of the usual spread of the study's classes
LEAST_SPREAD = 0.03  # of the intensity range, where there is nothing to compare with
DISTINCT_SHARE = 0.9  # of the images drawn
NEIGHBOUR_CORRELATION = 0.25
UNLIKE = 1.7  # standard deviations, over all of the image
LEAST_COMPARED = 3  # classes of other blueprints, or "unlike" says nothing
FLOOR = 0.05  # of the intensity range: places where nothing ever varies
_TINY = 1e-12

Values = npt.NDArray[np.float64]


def spread(images: Images) -> float:
    """Return the mean distance of two images: root mean square, of the intensity range."""
    rows = flat(images)
    total = sum(float(block.sum(dtype=np.float64)) for _, block in distances(rows, rows))
    pairs = max(1, len(rows) * (len(rows) - 1))
    return total / pairs / (2 * float(np.sqrt(rows.shape[1])))


def neighbour_correlation(images: Images) -> float:
    """Return how alike neighbouring pixels are, of one image after the other: 0 in white noise."""
    values = images.astype(np.float64)
    variance = float(values.var(axis=(2, 3)).mean())
    down = float(np.square(np.diff(values, axis=2)).mean())
    across = float(np.square(np.diff(values, axis=3)).mean())
    return 1 - (down + across) / (4 * variance + _TINY)


def constant(drawn: Drawn, others: Sequence[Drawn]) -> Finding:
    """Flag classes whose images hardly differ, beside the classes of the other blueprints."""
    usual = [spread(images) for other in others for images in other.images.values()]
    threshold = SPREAD_SHARE * float(np.median(usual)) if usual else LEAST_SPREAD
    threshold = max(threshold, LEAST_SPREAD)
    found = {label: spread(images) for label, images in drawn.images.items()}
    flagged = [label for label, value in found.items() if value < threshold]
    words = f"two images of a class differ by {min(found.values()):.3f} of the range or more"
    if flagged:
        words = f"the images of {named(flagged)} hardly differ: {min(found.values()):.3f}"
    words += f", in others {np.median(usual):.3f}" if usual else ""
    return Finding(
        aid=Aid.CONSTANT,
        outcome=conclude(flagged, []),
        measure=min(found.values()),
        threshold=threshold,
        words=words,
    )


def duplicates(drawn: Drawn) -> Finding:
    """Flag classes that draw the same image again and again."""
    found = {label: support_estimate(images) for label, images in drawn.images.items()}
    shares = {label: each.distinct / each.samples for label, each in found.items()}
    worst = min(shares, key=lambda label: shares[label])
    flagged = [
        label
        for label, each in found.items()
        if shares[label] < DISTINCT_SHARE and each.samples - each.distinct >= MIN_COINCIDENCES
    ]
    return Finding(
        aid=Aid.DUPLICATES,
        outcome=conclude(flagged, []),
        measure=shares[worst],
        threshold=DISTINCT_SHARE,
        words=f"class {worst}: {found[worst].words()}",
    )


def noise(drawn: Drawn) -> Finding:
    """Flag classes whose pixels know nothing of their neighbours."""
    found = {label: neighbour_correlation(images) for label, images in drawn.images.items()}
    flagged = [label for label, value in found.items() if value < NEIGHBOUR_CORRELATION]
    worst = min(found.values())
    words = f"neighbouring pixels correlate by {worst:.2f} or more; white noise has 0"
    if flagged:
        words = f"{named(flagged)} look like noise: neighbouring pixels correlate by {worst:.2f}"
    return Finding(
        aid=Aid.NOISE,
        outcome=conclude(flagged, []),
        measure=worst,
        threshold=NEIGHBOUR_CORRELATION,
        words=words,
    )


def standardised(mean: Values, others: Sequence[Images]) -> Values:
    """Return [H, W]: the square of (mean - others' mean) / others' deviation, over channels.

    Every one of `others` counts the same; `mean` is [C, H, W], images are in [-1, 1].
    """
    usual = np.mean([each.mean(axis=0, dtype=np.float64) for each in others], axis=0)
    around = [np.square(each.astype(np.float64) - usual).mean(axis=0) for each in others]
    variance = np.mean(around, axis=0) + (2 * FLOOR) ** 2
    squares: Values = (np.square(mean - usual) / variance).mean(axis=0)
    return squares


def unlike(drawn: Drawn, others: Sequence[Drawn]) -> Finding:
    """Flag classes whose mean image lies far from all that the others draw, whatever the class."""
    usual = [images for other in others for images in other.images.values()]
    if len(usual) < LEAST_COMPARED:
        return Finding(
            aid=Aid.UNLIKE,
            outcome=Outcome.CANNOT_TELL,
            measure=None,
            threshold=UNLIKE,
            words=f"the others have {len(usual)} classes, and {LEAST_COMPARED} are needed",
        )
    found = {
        label: float(np.sqrt(standardised(images.mean(axis=0, dtype=np.float64), usual).mean()))
        for label, images in drawn.images.items()
    }
    flagged = [label for label, value in found.items() if value > UNLIKE]
    worst = max(found.values())
    words = f"no class's mean image is more than {worst:.2f} deviations from what the others draw"
    if flagged:
        words = f"{named(flagged)} look like nothing that the others draw: {worst:.2f} deviations"
    return Finding(
        aid=Aid.UNLIKE,
        outcome=conclude(flagged, []),
        measure=worst,
        threshold=UNLIKE,
        words=words,
    )


def shows_nothing(images: Mapping[str, Images]) -> bool:
    """Say whether a blueprint is no measure for others: flat, repeated, or noise by itself."""
    alone = Drawn(name="", images=images)
    found = (constant(alone, ()), duplicates(alone), noise(alone))
    return any(finding.outcome is Outcome.FLAGGED for finding in found)
