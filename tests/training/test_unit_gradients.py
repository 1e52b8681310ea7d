import copy
import warnings

import pytest
import torch
from torch import nn

from edge_agent.training import gradients
from federation.learning.generator import edm
from federation.learning.generator.architecture import Architecture, build_network
from kit.errors import KitError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from edge_agent.training.optimizer import SecretNoiseOptimizer


def network_of(preset, channels, side, classes=4):
    described = Architecture(
        kind="edm-unet2d",
        version=1,
        preset=preset,
        channels=channels,
        height=side,
        width=side,
        num_classes=classes,
    )
    torch.manual_seed(11)
    return build_network(described)


def loss_of(network, x, sigma, labels):
    return edm.denoising_loss(network(x + 0.3, sigma, labels), x, sigma).sum()


@pytest.mark.parametrize(
    ("preset", "channels", "side", "draws"),
    [("tiny", 1, 8, 1), ("tiny", 1, 9, 4), ("small", 3, 20, 2), ("large", 1, 32, 2)],
)
def test_per_unit_gradients_are_those_of_a_loop_over_units(preset, channels, side, draws):
    units = 3
    watched = network_of(preset, channels, side)
    plain = copy.deepcopy(watched)
    gradients.attach(watched, draws=draws)
    x = torch.randn(draws * units, channels, side, side)
    sigma, labels = torch.rand(draws * units) + 0.2, torch.arange(draws * units) % 4
    loss_of(watched, x, sigma, labels).backward()
    for unit in range(units):
        rows = torch.arange(draws) * units + unit  # draw-major: row k * U + u
        plain.zero_grad()
        loss_of(plain, x[rows], sigma[rows], labels[rows]).backward()
        pairs = zip(watched.parameters(), plain.parameters(), strict=True)
        for (name, _), (mine, right) in zip(plain.named_parameters(), pairs, strict=True):
            assert mine.grad is None
            assert mine.grad_sample.shape == (units, *mine.shape)
            scale = float(right.grad.abs().max()) + 1e-2  # keys' biases have no gradient
            error = float((mine.grad_sample[unit] - right.grad).abs().max())
            assert error <= 1e-5 * scale, name


def test_attaching_changes_no_forward_value():
    watched = network_of("tiny", 1, 8)
    plain = copy.deepcopy(watched)
    gradients.attach(watched, draws=2)
    x, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        assert torch.allclose(watched(x, torch.ones(4), labels), plain(x, torch.ones(4), labels))


class Strange(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, affine=False),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.LSTM(4, 4),
        nn.LayerNorm(4),
        Strange(),
    ],
)
def test_layers_without_exact_gradients_are_refused(layer):
    allowed = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU())
    gradients.attach(allowed, draws=2)
    with pytest.raises(KitError, match="no per-unit gradient"):
        gradients.attach(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), layer), draws=2)


def test_a_layer_used_twice_owes_both_gradients():
    layer = nn.Linear(3, 3)
    plain = copy.deepcopy(layer)
    gradients.attach(layer, draws=1)
    x = torch.randn(1, 3)
    layer(layer(x)).sum().backward()
    plain(plain(x)).sum().backward()
    assert torch.allclose(layer.weight.grad_sample[0], plain.weight.grad, atol=1e-6)


def optimizer_for(network, *, sigma, clip=1.0, batch=8):
    optimizer = SecretNoiseOptimizer(
        torch.optim.SGD(network.parameters(), lr=1.0),
        noise_multiplier=sigma,
        max_grad_norm=clip,
        expected_batch_size=batch,
    )
    optimizer.zero_grad(set_to_none=True)
    return optimizer


def moved(network, before):
    after = [p.detach() for p in network.parameters()]
    return torch.cat([(b - a).flatten() for a, b in zip(after, before, strict=True)])


def snapshot(network):
    return [p.detach().clone() for p in network.parameters()]


def test_noise_has_standard_deviation_sigma_times_clip_over_expected_batch():
    network = nn.Linear(200, 200)
    gradients.attach(network, draws=1)
    optimizer = optimizer_for(network, sigma=3.0, clip=0.5, batch=16)
    before = snapshot(network)
    optimizer.noisy_step(network)  # an empty draw: noise and nothing else
    step = moved(network, before)
    wanted, count = 3.0 * 0.5 / 16, len(step)
    assert abs(float(step.std()) / wanted - 1) < 5 / (2 * count) ** 0.5
    assert abs(float(step.mean())) < 5 * wanted / count**0.5


def test_an_empty_draw_still_moves_the_weights():
    network = network_of("tiny", 1, 8)
    gradients.attach(network, draws=4)
    optimizer = optimizer_for(network, sigma=1.0)
    before = snapshot(network)
    optimizer.noisy_step(network)
    changed = moved(network, before)
    assert float((changed != 0).float().mean()) > 0.99


@pytest.mark.parametrize("draws", [1, 16])
def test_a_unit_moves_the_sum_by_at_most_the_clip_however_many_draws(draws):
    network = network_of("tiny", 1, 8)
    gradients.attach(network, draws=draws)
    optimizer = optimizer_for(network, sigma=0.0, clip=0.7, batch=1)
    before = snapshot(network)
    x = 5 * torch.randn(draws, 1, 8, 8)
    loss_of(network, x, torch.full((draws,), 0.1), torch.zeros(draws).long()).backward()
    raw = sum(float(p.grad_sample.square().sum()) for p in network.parameters()) ** 0.5
    optimizer.accumulate()
    optimizer.noisy_step(network)
    assert raw > 10
    assert float(moved(network, before).norm()) == pytest.approx(0.7, rel=1e-4)


def test_pieces_of_a_draw_add_up_to_the_whole():
    x, labels = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1])
    moves = []
    for pieces in ([[0, 1, 2, 3, 4, 5]], [[0, 1, 2, 3], [4, 5]]):
        network = network_of("tiny", 1, 8)
        gradients.attach(network, draws=1)
        optimizer = optimizer_for(network, sigma=0.0)
        before = snapshot(network)
        for rows in pieces:
            loss_of(network, x[rows], torch.ones(len(rows)), labels[rows]).backward()
            optimizer.accumulate()
        optimizer.noisy_step(network)
        moves.append(moved(network, before))
    assert float(moves[0].norm()) > 0.1
    assert torch.allclose(moves[0], moves[1], atol=1e-6)
