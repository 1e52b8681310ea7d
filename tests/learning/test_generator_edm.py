import math

import pytest
import torch

from federation.learning.generator import edm
from federation.learning.generator.architecture import Architecture, build_network
from federation.learning.generator.sampler import sample, schedule, sigma_max
from kit.errors import KitError

SIGMAS = torch.tensor([0.002, 0.1, 0.5, 3.0, 80.0], dtype=torch.float64)


def tiny(**changes):
    shape = {"channels": 1, "height": 8, "width": 8, "num_classes": 3} | changes
    return Architecture(kind="edm-unet2d", version=1, preset="tiny", **shape)


def test_preconditioning_gives_unit_variance_input_and_target():
    # eq. 114 to 117: Var[c_in (y + n)] = 1 and Var[(y - c_skip (y + n)) / c_out] = 1
    data, noise = edm.SIGMA_DATA**2, SIGMAS**2
    assert torch.allclose(edm.c_in(SIGMAS) ** 2 * (data + noise), torch.ones(5).double())
    skip, out = edm.c_skip(SIGMAS), edm.c_out(SIGMAS)
    target = ((1 - skip) ** 2 * data + skip**2 * noise) / out**2
    assert torch.allclose(target, torch.ones(5).double())
    assert torch.allclose(edm.loss_weight(SIGMAS) * out**2, torch.ones(5).double())


def test_noise_levels_follow_the_log_normal_law():
    normal = torch.randn(40_000, generator=torch.Generator().manual_seed(1))
    levels = edm.sigma_of(normal, p_mean=-0.5, p_std=1.2).log()
    assert abs(float(levels.mean()) + 0.5) < 5 * 1.2 / math.sqrt(40_000)
    assert abs(float(levels.std()) - 1.2) < 5 * 1.2 / math.sqrt(2 * 40_000)


def test_denoising_loss_is_the_weighted_sum_of_squares_per_image():
    clean, sigma = torch.zeros(2, 1, 2, 2), torch.tensor([0.5, 1.0])
    loss = edm.denoising_loss(torch.ones(2, 1, 2, 2), clean, sigma)
    assert torch.allclose(loss, 4 * edm.loss_weight(sigma))


def test_schedule_falls_from_sigma_max_to_zero():
    levels = schedule(18, highest=80.0)
    assert float(levels[0]) == pytest.approx(80)
    assert float(levels[-2]) == pytest.approx(0.002)
    assert len(levels) == 19
    assert float(levels[-1]) == 0.0
    assert bool((levels[:-1] > levels[1:]).all())
    with pytest.raises(RuntimeError):
        schedule(1, highest=80.0)


def test_first_noise_level_is_the_papers_at_64_px_and_falls_with_the_side():
    large = Architecture(
        kind="edm-unet2d",
        version=1,
        preset="large",
        channels=1,
        height=64,
        width=64,
        num_classes=3,
    )
    assert sigma_max(large) == 80.0
    assert sigma_max(tiny()) == 10.0


class GaussianDenoiser(torch.nn.Module):
    """The exact denoiser of N(mean, s^2) data: its flow maps noise to that law."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = torch.nn.Parameter(torch.tensor(mean)), std

    def forward(self, x, sigma, class_labels):
        level = sigma.reshape(-1, 1, 1, 1) ** 2
        return (self.std**2 * x + level * self.mean) / (self.std**2 + level)


def test_sampler_reproduces_a_known_law():
    network = GaussianDenoiser(0.3, 0.1)
    images = sample(
        network, tiny(), torch.zeros(200, dtype=torch.long), seed=7, steps=18, batch_size=50
    )
    assert float(images.mean()) == pytest.approx(0.3, abs=0.01)
    assert float(images.std()) == pytest.approx(0.1, rel=0.05)


def test_samples_depend_on_seed_position_and_label_only():
    torch.manual_seed(3)
    network = build_network(tiny())
    few = {"seed": 5, "steps": 3, "batch_size": 4}
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    images = sample(network, tiny(), labels, **few)
    assert images.shape == (6, 1, 8, 8)
    assert float(images.abs().max()) <= 1
    assert torch.equal(images, sample(network, tiny(), labels, **few))
    assert torch.equal(images[:3], sample(network, tiny(), labels[:3], **few))
    assert not torch.equal(images, sample(network, tiny(), labels, **few | {"seed": 6}))


def test_sampler_refuses_a_network_that_gives_no_numbers():
    labels = torch.zeros(2, dtype=torch.long)
    few = {"seed": 5, "steps": 3, "batch_size": 2}
    assert sample(GaussianDenoiser(0.0, 0.1), tiny(), labels, **few).isfinite().all()
    with pytest.raises(KitError, match="not finite"):
        sample(GaussianDenoiser(math.nan, 0.1), tiny(), labels, **few)
