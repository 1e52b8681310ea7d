"""A temperature: the one of the least loss, the same bits, and told on images it never saw."""

import numpy as np
import pytest

from federation.learning.downstream.calibration import calibrate, fit_temperature, softmax
from federation.learning.downstream.metrics import calibration_error, log_loss
from kit.errors import KitError


def _logits(count: int, *, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits whose labels are drawn from softmax(logits / temperature)."""
    draws = np.random.default_rng(seed)
    logits = draws.normal(0, 3, (count, 4))
    shares = softmax(logits / temperature).cumsum(axis=1)
    labels = (draws.random((count, 1)) > shares).sum(axis=1).clip(max=3)
    return logits, labels.astype(np.int64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    logits, labels = _logits(6000, temperature=temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.1)


def test_overconfident_logits_are_mended_and_the_answers_stay() -> None:
    logits, labels = _logits(4000, temperature=3.0)
    found = calibrate(logits, labels)
    assert found.images == 2000
    assert found.log_loss < found.log_loss_before - 0.1
    assert found.calibration_error_before > 0.1
    assert found.calibration_error < 0.03
    kept = calibrate(logits, labels, rule="none")
    assert (kept.temperature, kept.accuracy) == (1.0, found.accuracy)
    assert kept.log_loss == kept.log_loss_before == found.log_loss_before


def test_what_is_told_comes_from_rows_that_the_temperature_was_not_fitted_on() -> None:
    logits, labels = _logits(400, temperature=2.0)
    found = calibrate(logits, labels)
    assert found.temperature == fit_temperature(logits[::2], labels[::2])
    assert found.log_loss == log_loss(softmax(logits[1::2] / found.temperature), labels[1::2])


def test_images_that_were_all_right_leave_the_doubt_that_their_number_does() -> None:
    for count in (40, 4000):
        labels = np.arange(count) % 4
        right = np.eye(4)[labels] * 5
        found = fit_temperature(right, labels)
        confidence = softmax(right / found).max(axis=1)
        assert confidence == pytest.approx(1 - 1 / (count + 2))
    assert fit_temperature(-right, labels) == pytest.approx(10.0, rel=1e-6)
    assert fit_temperature(right[:, :1], labels * 0) == 1.0


def test_what_cannot_be_calibrated_is_refused() -> None:
    logits, labels = _logits(10, temperature=1.0)
    assert calibrate(logits, labels).images == 5
    for rows, truth in ((logits[:1], labels[:1]), (logits, labels[:3]), (logits * np.nan, labels)):
        with pytest.raises(KitError):
            calibrate(rows, truth)


def test_the_calibration_error_is_the_mean_gap_between_confidence_and_accuracy() -> None:
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    labels = np.array([0] * 7 + [1] * 3 + [1] * 8 + [0] * 2)
    gaps = 10 * abs(0.9 - 0.7) + 10 * abs(0.6 - 0.8)
    assert calibration_error(probabilities, labels) == pytest.approx(gaps / 20)
    assert calibration_error(np.eye(2)[labels], labels) == 0.0
