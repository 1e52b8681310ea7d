"""Opacus' optimiser with secret noise: clipping, summing and scaling stay Opacus' own."""

import torch
from opacus.optimizers import DPOptimizer
from torch import nn

from edge_agent.training import gradients
from edge_agent.training.noise import secret_noise


class SecretNoiseOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus has no types
    """Clips each unit to `max_grad_norm`, adds secret noise once, divides by the expected batch.

    Call `accumulate` after each backward pass over some of the drawn units (none is fine), then
    `noisy_step` once.
    """

    def accumulate(self) -> None:
        """Clip the per-unit gradients of the last backward pass and add them to the sum."""
        self.signal_skip_step(do_skip=True)
        self.step()
        self.zero_grad(set_to_none=True)

    def clipped_sum(self) -> list[torch.Tensor]:
        """Return the sum so far, one tensor a parameter, to be added to in place."""
        for parameter in self.params:
            if parameter.summed_grad is None:
                parameter.summed_grad = torch.zeros_like(parameter)
        return [parameter.summed_grad for parameter in self.params]

    def forget(self) -> None:
        """Drop the sum, which `zero_grad` keeps until a step was taken."""
        self.zero_grad(set_to_none=True)
        for parameter in self.params:
            parameter.summed_grad = None

    def noisy_step(self, network: nn.Module) -> None:
        """Add noise to the sum over all accumulated units and update the parameters.

        An empty Poisson draw has accumulated nothing and takes the same path.
        """
        gradients.empty_gradients(network)
        self.signal_skip_step(do_skip=False)
        self.step()
        self.zero_grad(set_to_none=True)

    def add_noise(self) -> None:
        """Set `grad` to the clipped sum plus N(0, (sigma C)^2), added in float64."""
        std = self.noise_multiplier * self.max_grad_norm
        sizes = [parameter.numel() for parameter in self.params]
        noise = secret_noise(torch.Size([sum(sizes)]), std=std)  # one call: it is secret, not cheap
        at = 0
        for parameter, size in zip(self.params, sizes, strict=True):
            clean = parameter.summed_grad.double()
            noisy = clean + noise[at : at + size].to(clean.device).view_as(clean)
            parameter.grad = noisy.to(parameter.dtype).view_as(parameter)
            at += size


def private_adam(
    network: nn.Module,
    *,
    learning_rate: float,
    noise_multiplier: float,
    max_grad_norm: float,
    expected_batch_size: int,
) -> SecretNoiseOptimizer:
    """Return Adam behind clipping and secret noise for a network with attached gradients."""
    return SecretNoiseOptimizer(
        torch.optim.Adam(network.parameters(), lr=learning_rate),
        noise_multiplier=noise_multiplier,
        max_grad_norm=max_grad_norm,
        expected_batch_size=expected_batch_size,
    )
