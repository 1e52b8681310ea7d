"""Trigger scan: does a class of one blueprint differ from the others' at one small place?

A backdoor patch that some share of a class's images carries at a fixed place moves the class's mean
there, in units of how much the class varies at that place among the others. Clean generators of
one class differ by little anywhere. What moves about, covers the whole image, or is too rare to
move a mean is not found; nor is anything in a class that nobody else declares.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from federation.learning.review.appearance import standardised
from federation.learning.review.drawn import Drawn, Images
from federation.learning.review.finding import Aid, Finding, Outcome, conclude, named

LOCAL_DIFFERENCE = 0.9
_SIDE_SHARE = 3 / 8  # a window's side, of the image's


def local_difference(images: Images, others: Sequence[Images]) -> tuple[float, tuple[int, int]]:
    """Return the largest standardised difference of means over any window, and where it is.

    Args:
        images: [n, C, H, W] of one class.
        others: the same class of other blueprints.

    Returns:
        Root mean square over the window of (mean - others' mean) / others' standard deviation, and
        the window's upper left pixel (row, column).
    """
    squares = standardised(images.mean(axis=0, dtype=np.float64), others)
    side = max(2, round(_SIDE_SHARE * min(squares.shape)))
    windows = F.avg_pool2d(torch.from_numpy(squares)[None, None], side, stride=1)[0, 0].numpy()
    place = np.unravel_index(int(windows.argmax()), windows.shape)
    return float(np.sqrt(windows.max())), (int(place[0]), int(place[1]))


def trigger(drawn: Drawn, others: Sequence[Drawn]) -> Finding:
    """Flag classes that differ at one place from the same class of the other blueprints."""
    same = {
        label: [other.images[label] for other in others if label in other.images]
        for label in drawn.images
    }
    untold = [label for label, found in same.items() if not found]
    found = {
        label: local_difference(drawn.images[label], images)
        for label, images in same.items()
        if images
    }
    if not found:
        return Finding(
            aid=Aid.TRIGGER,
            outcome=Outcome.CANNOT_TELL,
            measure=None,
            threshold=LOCAL_DIFFERENCE,
            words=f"nobody else declares {named(untold)}",
        )
    flagged = [label for label, (value, _) in found.items() if value > LOCAL_DIFFERENCE]
    worst = max(found, key=lambda label: found[label][0])
    value, (row, column) = found[worst]
    words = f"no class differs from the others' by more than {value:.2f} deviations at any place"
    if flagged:
        words = f"{named(flagged)}: most in {worst}, by {value:.2f} deviations at row {row}, column"
        words += f" {column}: look there"
    if untold:
        words += f"; cannot tell of {named(untold)}: nobody else declares them"
    return Finding(
        aid=Aid.TRIGGER,
        outcome=conclude(flagged, untold),
        measure=value,
        threshold=LOCAL_DIFFERENCE,
        words=words,
    )
