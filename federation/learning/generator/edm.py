"""EDM preconditioning, loss weight and noise law (Karras et al. 2022, table 1 and section 5).

sigma_data is a constant of the kit for images in [-1, 1], never a statistic of patients' images.
"""

import torch

SIGMA_DATA = 0.5


def c_skip(sigma: torch.Tensor) -> torch.Tensor:
    """c_skip = sigma_data^2 / (sigma^2 + sigma_data^2), table 1."""
    return SIGMA_DATA**2 / (sigma**2 + SIGMA_DATA**2)


def c_out(sigma: torch.Tensor) -> torch.Tensor:
    """c_out = sigma sigma_data / sqrt(sigma^2 + sigma_data^2), table 1."""
    return sigma * SIGMA_DATA / (sigma**2 + SIGMA_DATA**2).sqrt()


def c_in(sigma: torch.Tensor) -> torch.Tensor:
    """c_in = 1 / sqrt(sigma^2 + sigma_data^2), table 1."""
    return (sigma**2 + SIGMA_DATA**2).rsqrt()


def c_noise(sigma: torch.Tensor) -> torch.Tensor:
    """c_noise = ln(sigma) / 4, table 1."""
    return sigma.log() / 4


def loss_weight(sigma: torch.Tensor) -> torch.Tensor:
    """lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, table 1."""
    return (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2


def sigma_of(normal: torch.Tensor, *, p_mean: float, p_std: float) -> torch.Tensor:
    """ln(sigma) = P_mean + P_std n for n ~ N(0, 1), table 1, "noise distribution"."""
    return (p_mean + p_std * normal).exp()


def denoising_loss(
    denoised: torch.Tensor, clean: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """lambda(sigma) ||D(y + n; sigma) - y||^2 per image [B], summed over pixels, eq. 2 and 8."""
    error = (denoised - clean).square().flatten(1).sum(dim=1)
    return loss_weight(sigma) * error
