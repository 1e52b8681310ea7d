"""How good a classifier is on held-out images: numpy only, so that a site needs no torch."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from federation.learning.downstream import intervals
from federation.learning.downstream.intervals import Interval
from kit.errors import KitError

BINS = 15  # of the calibration error, of equal width
_LEAST = 1e-12  # a probability of 0 for the truth counts as this

Probabilities = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Shares from 0 to 1, with intervals of 95 %; None where the images at hand do not define one.

    `balanced_accuracy` is the mean recall of the classes that occur in the truth; `auroc` is the
    macro mean of one-vs-rest AUROC over the `auroc_classes` classes for which it is defined.
    `calibration_error` is the mean distance between confidence and accuracy (`calibration_error`).
    The intervals are those of `intervals`: of images that are independent of each other.
    """

    images: int
    accuracy: float
    accuracy_interval: Interval
    balanced_accuracy: float
    balanced_accuracy_interval: Interval
    auroc: float | None
    auroc_interval: Interval | None
    auroc_classes: int
    skipped_classes: int
    calibration_error: float

    def to_table(self) -> dict[str, Any]:
        """Return plain JSON values, field by field."""
        table = asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in table.items()}


def evaluate(probabilities: Probabilities, labels: Labels) -> Metrics:
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
    accuracy = float(correct.mean())
    present, counts = np.unique(labels, return_counts=True)
    recalls = np.array([correct[labels == c].mean() for c in present])
    area = _mean_auroc(probabilities, labels)
    return Metrics(
        images=len(labels),
        accuracy=accuracy,
        accuracy_interval=intervals.wilson(accuracy, len(labels)),
        balanced_accuracy=float(recalls.mean()),
        balanced_accuracy_interval=intervals.of_mean(recalls, counts),
        auroc=area[0],
        auroc_interval=area[1],
        auroc_classes=area[2],
        skipped_classes=probabilities.shape[1] - area[2],
        calibration_error=calibration_error(probabilities, labels),
    )


def _mean_auroc(
    probabilities: Probabilities, labels: Labels
) -> tuple[float | None, Interval | None, int]:
    """Return the mean over the classes that define one, its interval, and how many they are."""
    columns = enumerate(probabilities.T)
    found = {c: intervals.auroc(column, labels == c) for c, column in columns}
    defined = {c: area for c, area in found.items() if area is not None}
    if not defined:
        return None, None, 0
    mean = float(np.mean([area for area, _ in defined.values()]))
    influence = np.mean([influence for _, influence in defined.values()], axis=0)
    smallest = min(min(int(np.sum(labels == c)), int(np.sum(labels != c))) for c in defined)
    return mean, intervals.of_auroc(mean, influence, smallest), len(defined)


def calibration_error(probabilities: Probabilities, labels: Labels) -> float:
    """Return the expected calibration error (Guo et al. 2017, eq. 3) over 15 bins of equal width.

    The confidence of a row is its largest probability; every bin's distance between mean confidence
    and accuracy counts by its share of the images.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, weights=confidence - correct, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))


def log_loss(probabilities: Probabilities, labels: Labels) -> float:
    """Return the mean negative log of the truth's probability, in nats."""
    truth = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(truth, _LEAST)).mean())
