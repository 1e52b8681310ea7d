"""Intervals: known values, coverage near what they promise, and never outside [0, 1]."""

import numpy as np
import pytest

from federation.learning.downstream import intervals
from federation.learning.downstream.metrics import evaluate


def test_wilson_has_its_published_values() -> None:
    """Newcombe (1998), table I, method 3."""
    for hits, count, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        found = intervals.wilson(hits / count, count)
        assert found == pytest.approx((low, high), abs=6e-5)


def _scores(draws: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    labels = draws.choice(3, count, p=[0.5, 0.3, 0.2])
    logits = draws.normal(0, 1, (count, 3))
    logits[np.arange(count), labels] += 1.2
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True), labels


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """300 samples of 150 images: 95 % of 300 is 285, and less than 270 is 5 sigma away."""
    draws = np.random.default_rng(0)
    truth = evaluate(*_scores(draws, 100_000))
    hits = dict.fromkeys(("accuracy", "balanced_accuracy", "auroc"), 0)
    for _ in range(300):
        found = evaluate(*_scores(draws, 150))
        for name in hits:
            low, high = getattr(found, f"{name}_interval")
            assert 0 <= low <= getattr(found, name) <= high <= 1
            hits[name] += low <= getattr(truth, name) <= high
    assert all(270 <= hit <= 299 for hit in hits.values()), hits


def test_the_variance_of_an_area_is_delongs() -> None:
    """Against the definition: structural components of each image, pair by pair, with ties."""
    draws = np.random.default_rng(1)
    scores, positive = draws.integers(0, 12, 60).astype(float), draws.random(60) < 0.4
    pairs = scores[positive][:, None] - scores[~positive][None, :]
    kernel = (pairs > 0) + 0.5 * (pairs == 0)
    area, influence = intervals.auroc(scores, positive)
    assert area == pytest.approx(kernel.mean())
    variance = kernel.mean(axis=1).var(ddof=1) / kernel.shape[0]
    variance += kernel.mean(axis=0).var(ddof=1) / kernel.shape[1]
    assert (influence**2).sum() == pytest.approx(variance)


def test_a_perfect_result_on_few_images_is_not_certain() -> None:
    labels = np.arange(12) % 3
    found = evaluate(np.eye(3)[labels], labels)
    assert (found.accuracy, found.balanced_accuracy, found.auroc) == (1.0, 1.0, 1.0)
    for low, high in (
        found.accuracy_interval,
        found.balanced_accuracy_interval,
        found.auroc_interval,
    ):
        assert 0.4 < low < 0.9
        assert high == 1.0
