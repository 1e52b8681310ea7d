import math

import numpy as np
import pytest

from edge_agent.training.noise import secret_noise, secret_normal, secret_uniform
from edge_agent.training.sampler import image_draws, poisson_draw, unit_table


def test_poisson_draw_takes_every_unit_at_one_rate_on_its_own():
    units, q, rounds = 200, 0.31, 2000
    sizes, hits = [], np.zeros(units)
    for _ in range(rounds):
        drawn = poisson_draw(units, sample_rate=q)
        sizes.append(len(drawn))
        hits[drawn] += 1
    mean, variance = units * q, units * q * (1 - q)  # binomial: neither capped nor filled up
    assert abs(np.mean(sizes) - mean) < 5 * math.sqrt(variance / rounds)
    assert abs(np.var(sizes) - variance) < 5 * variance * math.sqrt(2 / rounds)
    assert np.abs(hits / rounds - q).max() < 6 * math.sqrt(q * (1 - q) / rounds)


def test_poisson_draw_may_be_empty_and_may_be_everyone():
    assert len(poisson_draw(50, sample_rate=1e-12)) == 0
    assert list(poisson_draw(50, sample_rate=1.0)) == list(range(50))


def test_units_weigh_the_same_however_many_images_they_have():
    table = unit_table(["big"] * 90 + ["small"] * 2)
    assert len(table) == 2
    picked = image_draws(table, np.array([0, 1]), draws=4)
    assert picked.shape == (4, 2)


def test_image_draws_are_uniform_within_the_drawn_unit():
    units = ["a", "b", "a", "c", "a", "b"]
    table = unit_table(units)
    picked = image_draws(table, np.array([0, 2]), draws=3000)
    assert {units[i] for i in picked[:, 0]} == {"a"}
    assert {units[i] for i in picked[:, 1]} == {"c"}
    counts = np.bincount(picked[:, 0], minlength=6)[[0, 2, 4]]
    assert np.abs(counts - 1000).max() < 5 * math.sqrt(3000 * (1 / 3) * (2 / 3))


def test_secret_normal_is_standard_normal_and_fresh():
    values = secret_normal(200_000).numpy()
    assert values.dtype == np.float64
    assert abs(values.mean()) < 5 / math.sqrt(200_000)
    assert abs(values.std() - 1) < 5 / math.sqrt(2 * 200_000)
    assert abs((values**4).mean() - 3) < 5 * math.sqrt(96 / 200_000)
    assert abs(np.mean(np.abs(values) < 1) - 0.682689) < 5 * math.sqrt(0.22 / 200_000)
    assert not np.array_equal(values[:100], secret_normal(100).numpy())


def test_secret_noise_has_the_asked_standard_deviation():
    import torch

    noise = secret_noise(torch.Size([300, 200]), std=3.5)
    assert noise.dtype is torch.float64
    assert abs(float(noise.std()) / 3.5 - 1) < 5 / math.sqrt(2 * 60_000)
    assert float(noise.diff(dim=0).std()) == pytest.approx(3.5 * math.sqrt(2), rel=0.03)


def test_secret_uniform_stays_in_its_range():
    values = secret_uniform(100_000)
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 5 / math.sqrt(12 * 100_000)
