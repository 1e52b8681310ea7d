"""What the weights say of one image, asked by the simplest attack on their kind of generator.

- A diffusion model: SimA (arXiv:2509.25003) asks once per noise level for the noise in the *clean*
  image; near training images it is small, because there the denoiser is the mean of few images and
  the image is one of them. In EDM's terms that is ||D(x; sigma) - x|| / sigma.
- Class statistics: how far out the image lies in its class, in the units of the released covariance
  (the Mahalanobis distance): an image that moved a mean or a covariance lies nearer.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from edge_agent.datasets.examples import Cohort
from federation.learning.generator.architecture import Architecture, state_arrays
from federation.learning.generator.class_gaussian import FACTOR, MEAN
from federation.learning.generator.kinds import STATISTICS
from federation.learning.generator.spectrum import spectrum

LEVELS = (0.1, 0.2, 0.4)
ROWS_PER_PASS = 256
LEAST_SPREAD = 1e-3  # of the largest: directions with less are rounding


def unit_scores(
    network: torch.nn.Module, architecture: Architecture, cohort: Cohort
) -> dict[str, float]:
    """Return a score per unit: the mean over its images; higher is likelier trained on."""
    if architecture.kind == STATISTICS.name:
        scores = distance_scores(network, architecture, cohort.images, cohort.labels)
    else:
        scores = residual_scores(network, cohort.images, cohort.labels)
    units, owner = np.unique(np.array(cohort.units, dtype=np.str_), return_inverse=True)
    means = np.bincount(owner, weights=scores) / np.bincount(owner)
    return {str(unit): float(mean) for unit, mean in zip(units, means, strict=True)}


@torch.inference_mode()
def residual_scores(
    network: torch.nn.Module,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    levels: tuple[float, ...] = LEVELS,
) -> NDArray[np.float64]:
    """Return -mean over `levels` of ln(rms(D(x; sigma) - x) / sigma) per image, float64 [N]."""
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    found = []
    for at in range(0, len(images), ROWS_PER_PASS):
        clean = torch.from_numpy(images[at : at + ROWS_PER_PASS]).to(device)
        wanted = torch.from_numpy(labels[at : at + ROWS_PER_PASS]).to(device)
        residuals = []
        for sigma in levels:
            level = torch.full((len(clean),), sigma, device=device)
            residual = (network(clean, level, wanted) - clean).flatten(1)
            rms = residual.double().square().mean(dim=1).sqrt() / sigma
            residuals.append(rms.clamp_min(torch.finfo(torch.float64).tiny).log())
        found.append(-torch.stack(residuals).mean(dim=0).cpu().numpy())
    network.train(was_training)
    return np.concatenate(found)


def distance_scores(
    network: torch.nn.Module,
    architecture: Architecture,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return -mean of z^2 for F z = c - mean over the released coefficients c, float64 [N]."""
    tensors = state_arrays(network)
    means, factor = tensors[MEAN].astype(np.float64), tensors[FACTOR].astype(np.float64)
    basis = spectrum(architecture.channels, architecture.height, architecture.width)
    coarse = basis.coefficients(images)[:, : means.shape[1]]
    latent = (coarse - means[labels]) @ np.linalg.pinv(factor, rcond=LEAST_SPREAD).T
    scores: NDArray[np.float64] = -np.square(latent).mean(axis=1)
    return scores
