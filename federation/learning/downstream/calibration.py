"""Temperature scaling (Guo et al. 2017): one number that makes probabilities of logits.

The temperature is fitted on held-out *synthetic* images. It makes the probabilities honest about
synthetic images; how honest they are about real ones depends on how near the generators came, and
only a site with real images can tell (`edge-agent evaluate` prints the calibration error).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from federation.build_policy import Calibration
from federation.learning.downstream.metrics import calibration_error, log_loss
from kit import canonical
from kit.errors import KitError

LOWEST, HIGHEST = 0.1, 10.0
_BISECTIONS = 60

Logits = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The last images of every shard, on which nothing is trained, and what is fitted on them.

    `calibration` is a build policy's word.
    """

    images: int = 0
    calibration: str = Calibration.NONE


NOTHING_HELD_OUT = HeldOut()


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """A temperature, and what it did on `images` held-out images that it was not fitted on.

    Log losses are in nats, calibration errors shares of 1; `accuracy` is the same with any
    temperature.
    """

    temperature: float
    images: int
    accuracy: float
    log_loss_before: float
    log_loss: float
    calibration_error_before: float
    calibration_error: float

    def to_table(self) -> dict[str, Any]:
        """Return plain JSON values; reals are canonical text."""
        return {
            name: value if isinstance(value := getattr(self, name), int) else canonical.real(value)
            for name in self.__slots__
        }


def calibrate(logits: Logits, labels: Labels, *, rule: str = Calibration.TEMPERATURE) -> Calibrated:
    """Fit a temperature on every second row, and say on the others what it does.

    Args:
        logits: [N, classes], finite.
        labels: int64 [N], columns.
        rule: a build policy's word; with `none` the temperature is 1.

    Raises:
        KitError: there are fewer than two rows, or a value is not finite.
    """
    if len(logits) < 2 or labels.shape != (len(logits),) or not np.isfinite(logits).all():
        raise KitError("calibration wants at least two rows of finite logits, and their labels")
    is_fitted = rule == Calibration.TEMPERATURE
    found = fit_temperature(logits[::2], labels[::2]) if is_fitted else 1.0
    others, truth = logits[1::2], labels[1::2]
    before, after = softmax(others), softmax(others / found)
    return Calibrated(
        temperature=found,
        images=len(truth),
        accuracy=float((others.argmax(axis=1) == truth).mean()),
        log_loss_before=log_loss(before, truth),
        log_loss=log_loss(after, truth),
        calibration_error_before=calibration_error(before, truth),
        calibration_error=calibration_error(after, truth),
    )


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """Return the temperature of the least log loss, from 0.1 to 10; classes weigh the same.

    N images that were all answered rightly do not prove that the next one will be: as with Platt
    (1999, section 2.2) each label counts as wrong by 1 / (N + 2), shared by the other classes.
    Else images that are easy to tell apart, as synthetic ones may be, would make it certain.

    The loss is convex in 1 / temperature, so its derivative has one zero: found by bisection in
    float64, the same bits every time.
    """
    values = logits.astype(np.float64)
    count, classes = values.shape
    if classes == 1:
        return 1.0
    weights = (1 / np.bincount(labels))[labels]
    doubt = 1 / (count + 2)
    right = values[np.arange(count), labels]
    others = (values.sum(axis=1) - right) / (classes - 1)
    truth = (1 - doubt) * right + doubt * others
    low, high = 1 / HIGHEST, 1 / LOWEST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        expected = (softmax(values * middle) * values).sum(axis=1)
        slope = float((weights * (expected - truth)).sum())
        low, high = (middle, high) if slope <= 0 else (low, middle)
    return 2 / (low + high)


def softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Return probabilities, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
