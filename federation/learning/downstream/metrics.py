"""How good a classifier is on held-out images: numpy only, so that a site needs no torch."""

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from kit.errors import KitError


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Shares from 0 to 1; None where the images at hand do not define one.

    `balanced_accuracy` is the mean recall of the classes that occur in the truth; `auroc` is the
    macro mean of one-vs-rest AUROC over the `auroc_classes` classes for which it is defined.
    """

    images: int
    accuracy: float
    balanced_accuracy: float
    auroc: float | None
    auroc_classes: int
    skipped_classes: int

    def to_table(self) -> dict[str, float | int | None]:
        """Return plain JSON values, field by field."""
        return asdict(self)


def evaluate(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.int64]) -> Metrics:
    """Compare predictions with the truth.

    Args:
        probabilities: [N, classes]; the largest of a row is the prediction, the first of equals.
        labels: int64 [N]; -1 for a true class that the model has no column for: always wrong, its
            recall is 0, and it is a negative for every column.

    Raises:
        KitError: there is no image, the shapes differ, or a value is not finite.
    """
    if probabilities.ndim != 2 or labels.shape != (len(probabilities),) or not len(labels):
        raise KitError("evaluation wants [N, classes] probabilities and N labels, N at least 1")
    if labels.min() < -1 or labels.max() >= probabilities.shape[1]:
        raise KitError(f"labels must be -1 to {probabilities.shape[1] - 1}")
    if not np.isfinite(probabilities).all():
        raise KitError("a probability is not finite")
    correct = probabilities.argmax(axis=1) == labels
    areas = [_auroc(column, labels == c) for c, column in enumerate(probabilities.T)]
    defined = [area for area in areas if area is not None]
    return Metrics(
        images=len(labels),
        accuracy=float(correct.mean()),
        balanced_accuracy=float(np.mean([correct[labels == c].mean() for c in np.unique(labels)])),
        auroc=float(np.mean(defined)) if defined else None,
        auroc_classes=len(defined),
        skipped_classes=len(areas) - len(defined),
    )


def _auroc(scores: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_]) -> float | None:
    """Mann-Whitney form: the share of (positive, negative) pairs in order, ties counting half."""
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_rank[inverse][positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
