"""Deterministic sampling of any kind; of diffusion, Heun's method (Karras et al. 2022, alg. 1)."""

import math
from itertools import pairwise

import torch

from federation.learning.generator.architecture import Architecture, kind_of
from kit.errors import KitError

SIGMA_MIN = 0.002
SIGMA_MAX_AT_64_PX = 80.0
RHO = 7.0


def sigma_max(architecture: Architecture) -> float:
    """Return the first noise level: the paper's 80 at 64 px, in proportion to the side below.

    The mean over a side of s pixels divides the noise by s, so the same share of the image's
    large-scale signal is left at the start (Hoogeboom et al. 2023, section 3.1). Small images then
    need fewer steps, and no step asks the network for levels it was hardly trained at.
    """
    side = math.sqrt(architecture.height * architecture.width)
    return SIGMA_MAX_AT_64_PX * side / 64


def schedule(steps: int, *, highest: float) -> torch.Tensor:
    """sigma_i for i < N from `highest`, then 0: float64 [steps + 1], eq. 5.

    Raises:
        RuntimeError: fewer than two steps.
    """
    if steps < 2:
        raise RuntimeError("the sampler needs at least two steps")
    ramp = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    high, low = highest ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return torch.cat([(high + ramp * (low - high)) ** RHO, torch.zeros(1, dtype=torch.float64)])


@torch.inference_mode()
def sample(
    network: torch.nn.Module,
    architecture: Architecture,
    labels: torch.Tensor,
    *,
    seed: int,
    steps: int,
    batch_size: int,
) -> torch.Tensor:
    """Return images [N, C, H, W] float32 in [-1, 1] for labels [N] int64, on the CPU.

    The network always sees whole batches of `batch_size` (the last one is filled up and cut), and
    image i depends on `seed`, i and its label only: asking for more changes no earlier bit.

    Raises:
        KitError: the network gave values that are not finite.
    """
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    shape = (batch_size, architecture.channels, architecture.height, architecture.width)
    draw = kind_of(architecture).draw
    was_training = network.training
    network.eval()
    images = []
    for start in range(0, len(labels), batch_size):
        wanted = labels[start : start + batch_size]
        filled = torch.cat([wanted, wanted[-1:].expand(batch_size - len(wanted))])
        noise = torch.randn(shape, generator=generator)
        batch = draw(network, architecture, noise.to(device), filled.to(device), steps)
        images.append(batch[: len(wanted)].cpu())
    network.train(was_training)
    result = torch.cat(images) if images else torch.empty((0, *shape[1:]))
    if not bool(result.isfinite().all()):
        raise KitError("the generator's samples are not finite")
    return result.clamp(-1, 1)


def heun(
    network: torch.nn.Module, noise: torch.Tensor, labels: torch.Tensor, sigmas: torch.Tensor
) -> torch.Tensor:
    """Integrate dx/dsigma = (x - D(x; sigma)) / sigma from sigma_0 to 0 (alg. 1)."""

    def slope(x: torch.Tensor, sigma: float) -> torch.Tensor:
        level = torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)
        denoised: torch.Tensor = network(x, level, labels)
        return (x - denoised) / sigma

    levels: list[float] = sigmas.tolist()
    x = noise * levels[0]
    for here, there in pairwise(levels):
        first = slope(x, here)
        euler = x + (there - here) * first
        second = slope(euler, there) if there > 0 else first  # the last step is Euler's
        x = x + (there - here) * (first + second) / 2
    return x
