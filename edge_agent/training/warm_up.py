"""Warm the network up on released central images: post-processing, so no epsilon is spent.

DP-FETA (arXiv:2504.01591) trains on a few noisy means per class before DP-SGD. Here it is one mean
per class, surrounded by white noise: around it the network learns at high noise levels where each
class lies, and at low ones to take away noise, which the private steps then need not spend on.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  (the name every torch reader knows)

from edge_agent.training.noise import secret_seed
from federation.learning.generator import edm

BATCH_SIZE = 64
LEARNING_RATE = 2e-3
EMA_DECAY = 0.98
SPREAD = 0.3  # standard deviation of the pixels around a mean
P_MEAN, P_STD = 0.3, 1.2  # higher levels than in training: a mean shows no fine detail


def warm_up(
    network: torch.nn.Module,
    means: torch.Tensor,
    labels: torch.Tensor,
    *,
    side_px: tuple[int, int],
    steps: int,
    on_step: Callable[[int], None],
) -> torch.nn.Module:
    """Train `network`, which has no per-unit gradients yet, and return its moving average.

    `means` are images [N, C, h, w] of the classes `labels` [N] int64, resized to `side_px`, height
    and width; `on_step` is called with the number of steps that are done.
    """
    device = next(network.parameters()).device
    generator = torch.Generator(device).manual_seed(secret_seed())
    images = F.interpolate(means, side_px, mode="bilinear", align_corners=False).to(device)
    adam = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    average = copy.deepcopy(network).requires_grad_(False)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device)

    for step in range(steps):
        drawn = torch.randint(len(images), (BATCH_SIZE,), generator=generator, device=device)
        clean = (images[drawn] + SPREAD * normal(*images[drawn].shape)).clamp(-1, 1)
        sigma = edm.sigma_of(normal(BATCH_SIZE), p_mean=P_MEAN, p_std=P_STD)
        noisy = clean + sigma.reshape(-1, 1, 1, 1) * normal(*clean.shape)
        classes = labels.to(device)[drawn]
        loss = edm.denoising_loss(network(noisy, sigma, classes), clean, sigma).mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, latest in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(latest, 1 - decay)
        on_step(step + 1)
    return average
