"""The private rivals: their sensitivity, their noise and the epsilon that they share with ours."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.accuracy.cells import Cell
from benchmarks.accuracy.datasets import deal, load
from benchmarks.accuracy.dp_fedavg import DpFedAvgPlan, PrivateSite, event_for, train
from benchmarks.accuracy.features import ColourRings, Scattering, extract, morlet
from benchmarks.accuracy.linear_head import HeadPlan, Statistics, statistics
from benchmarks.accuracy.methods import METHODS, Work
from federation.accounting import DpEvent, compose

GREY = Scattering(scales=1, orientations=8, grid=4, local_grid=4)
COLOUR = ColourRings(bins=10, radii=(0.5, 1.0))
PLAN = HeadPlan(features=GREY)


def sent(
    features: np.ndarray, labels: np.ndarray, *, noise: float, plan: HeadPlan = PLAN
) -> Statistics:
    return statistics(
        features,
        labels,
        declared=(0, 2),
        n_declared=len(labels),
        num_classes=4,
        noise_multiplier=noise,
        plan=plan,
    )


def unit_rows(count: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(count, width)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows, rng.choice([0, 2], size=count).astype(np.int64)


def test_one_unit_moves_a_hospitals_sums_by_exactly_the_sensitivity() -> None:
    features, labels = unit_rows(40, 12)
    for plan in (PLAN, HeadPlan.class_sums(GREY)):
        whole = sent(features, labels, noise=0, plan=plan)
        for left_out in range(5):
            kept = np.arange(40) != left_out
            rest = sent(features[kept], labels[kept], noise=0, plan=plan)
            parts = [whole.moment - rest.moment, whole.sums - rest.sums, whole.counts - rest.counts]
            moved = math.sqrt(sum(float((part**2).sum()) for part in parts))
            assert moved == pytest.approx(plan.sensitivity, rel=1e-5)
    assert HeadPlan.class_sums(GREY).sensitivity == 1 < PLAN.sensitivity
    whole = sent(features, labels, noise=0)
    assert sent(0.5 * features, labels, noise=0).moment.trace() < whole.moment.trace()
    with pytest.raises(RuntimeError, match="longer"):
        sent(1.1 * features, labels, noise=0)


def test_the_heads_noise_is_sigma_times_the_sensitivity_in_every_direction() -> None:
    features, labels = unit_rows(30, 150)
    exact, noisy = (sent(features, labels, noise=sigma) for sigma in (0.0, 3.0))
    expected = 3.0 * PLAN.sensitivity
    off = noisy.moment - exact.moment
    assert np.array_equal(off, off.T)
    samples = {
        "diagonal": np.diag(off),
        "beside it": off[np.triu_indices(150, 1)] * math.sqrt(2),
        "sums": (noisy.sums - exact.sums)[[0, 2]].ravel(),
    }
    for name, values in samples.items():
        tolerance = 5 / math.sqrt(2 * len(values))  # five standard errors of a deviation
        assert values.std() == pytest.approx(expected, rel=tolerance), name
    assert not noisy.sums[[1, 3]].any()  # undeclared classes carry nothing at all
    assert not noisy.counts[[1, 3]].any()
    assert (noisy.counts != exact.counts).tolist() == [True, False, True, False]


def test_the_head_learns_digits_from_three_hospitals_sums() -> None:
    federation = deal(load("digits", None), clients=3, images=None, seed=7)
    cell = Cell(dataset="digits", clients=3, images=None, epsilon=8.0, method="dp-head", seed=7)
    figures = METHODS["dp-head"].measure(federation, cell, Work(), 1)
    assert figures["accuracy"] > 0.85
    assert compose(
        [DpEvent(sample_rate=1.0, noise_multiplier=figures["noise_multiplier"], steps=1)], 1e-5
    ) == pytest.approx(8.0, rel=1e-3)
    assert figures["bytes"] == 4 * (3 * 144 * 145 // 2 + 10 * 145)
    noisy = METHODS["dp-head"].measure(federation, replace(cell, epsilon=1.0), Work(), 1)
    assert noisy["accuracy"] > 0.8
    assert noisy["bytes"] == 4 * 10 * 144  # class sums alone
    noiseless = METHODS["dp-head"].measure(federation, replace(cell, epsilon=None), Work(), 1)
    assert noiseless["accuracy"] > figures["accuracy"]
    assert noiseless["noise_multiplier"] == 0


def test_features_are_of_norm_one_and_know_one_image_at_a_time() -> None:
    rng = np.random.default_rng(0)
    for settings, channels, side in ((GREY, 1, 8), (COLOUR, 3, 28), (GREY, 1, 28)):
        images = rng.uniform(-1, 1, (6, channels, side, side)).astype(np.float32)
        together = extract(images, settings)
        alone = np.concatenate([extract(image[None], settings) for image in images])
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(together, alone, atol=1e-5)
    flat = np.full((1, 1, 8, 8), -1, dtype=np.float32)
    assert np.isfinite(extract(flat, GREY)).all()
    real, imaginary = morlet(1, orientations=4)
    assert real.sum(dim=(2, 3)).abs().max() < 1e-6
    assert imaginary.abs().sum() > 0


@pytest.mark.parametrize("epsilon", [1.0, 8.0])
def test_dp_fedavg_spends_its_epsilon_over_all_rounds_and_no_more(epsilon: float) -> None:
    plan = DpFedAvgPlan(rounds=30, local_steps=2)
    event = event_for(plan, epsilon=epsilon, delta=1e-5)
    assert event.steps == 60
    assert 0.99 * epsilon < compose([event], 1e-5) <= epsilon
    longer = event_for(DpFedAvgPlan(rounds=60, local_steps=2), epsilon=epsilon, delta=1e-5)
    assert longer.noise_multiplier > event.noise_multiplier


def one_round(site: PrivateSite, event: DpEvent, *, clip: float) -> float:
    """Return the L2 norm of what one round of one hospital changed."""
    plan = DpFedAvgPlan(
        rounds=1,
        sample_rate=event.sample_rate,
        draws=2,
        max_grad_norm=clip,
        learning_rate=1.0,
        average_decay=0.0,
    )
    before, after = (
        train([site], DpFedAvgPlan(rounds=0), event, num_classes=3, seed=3),
        train([site], plan, event, num_classes=3, seed=3),
    )
    changes = [
        (a - b).flatten()
        for a, b in zip(after.state_dict().values(), before.state_dict().values(), strict=True)
    ]
    return float(torch.linalg.norm(torch.cat(changes)))


def site_of(units: int, *, n_declared: int) -> PrivateSite:
    images = np.zeros((units, 1, 8, 8), dtype=np.float32)
    images[:, :, 2:6, 2:6] = 1
    return PrivateSite(
        images=images,
        labels=np.zeros(units, dtype=np.int64),
        units=tuple(map(str, range(units))),
        n_declared=n_declared,
    )


def test_every_unit_is_clipped_and_the_sum_divided_by_the_declared_batch() -> None:
    everyone = DpEvent(sample_rate=1.0, noise_multiplier=0.1, steps=1)
    # 400 equal gradients, each cut to C: their mean has norm C, and noise of 0.1 C / 400 is little
    assert one_round(site_of(400, n_declared=400), everyone, clip=0.01) == pytest.approx(
        0.01, rel=0.1
    )
    assert one_round(site_of(400, n_declared=200), everyone, clip=0.01) == pytest.approx(
        0.02, rel=0.1
    )


def test_a_round_without_any_unit_is_noise_of_the_full_scale() -> None:
    nobody = DpEvent(sample_rate=1e-12, noise_multiplier=2.0, steps=1)
    site = site_of(10, n_declared=10)
    network = train([site], DpFedAvgPlan(rounds=0), nobody, num_classes=3, seed=0)
    parameters = sum(p.numel() for p in network.parameters())
    # sigma C / (q n) in every parameter
    expected = 2.0 * 1e-11 / (1e-12 * 10) * math.sqrt(parameters)
    assert one_round(site, nobody, clip=1e-11) == pytest.approx(expected, rel=0.1)
