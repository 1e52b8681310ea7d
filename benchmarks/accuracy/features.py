"""Frozen features that saw no private image: formulas, with nothing fitted to anything.

- Grey images: local means and averages of |x * psi| over a coarse grid, psi Morlet wavelets: the
  scattering transform of order one (Bruna and Mallat 2013, eq. 2 to 5). A linear model on
  scattering features was the strongest differentially private image classifier without public
  data that Tramer and Boneh 2021 (arXiv:2011.11660) measured.
- Colour images: histograms of every channel on rings around the centre, as square roots
  (Hellinger), so that each has norm 1 (Swain and Ballard 1991).

Every image is scaled by itself alone, to norm 1.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

Floats = npt.NDArray[np.float32]

_EPSILON = 1e-3  # in the standard deviation of a group: an empty image stays finite
_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Scattering:
    """Features of grey images.

    Attributes:
        scales: J, wavelets of scale 1, 2, ... 2^(J-1) px.
        orientations: L, over half a turn.
        grid: side of the grid over which magnitudes are averaged.
        local_grid: side of the grid of local means.
    """

    scales: int
    orientations: int
    grid: int
    local_grid: int

    def of(self, images: Tensor) -> Tensor:
        """Return features [N, d] of images [N, C, H, W] in [-1, 1]."""
        grey = images.mean(dim=1, keepdim=True)
        groups = [F.adaptive_avg_pool2d(grey, self.local_grid).flatten(1)]
        for scale in range(self.scales):
            modulus = _modulus(grey, scale, self.orientations)
            groups.append(F.adaptive_avg_pool2d(modulus, self.grid).flatten(1))
        return torch.cat([_standardise(group) for group in groups], dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColourRings:
    """Features of colour images.

    Attributes:
        bins: of every channel's histogram; a value is shared between its two nearest centres.
        radii: the outer edges of the rings, in halves of the side, ascending.
    """

    bins: int
    radii: tuple[float, ...]

    def of(self, images: Tensor) -> Tensor:
        """Return features [N, d] of images [N, C, H, W] in [-1, 1]."""
        rings = _rings((images.shape[-2], images.shape[-1]), self.radii)
        centres = torch.linspace(-1, 1, self.bins).reshape(1, 1, -1, 1, 1)
        near = (1 - (images[:, :, None] - centres).abs() * (self.bins - 1) / 2).clamp(min=0)
        shares = torch.einsum("nckhw,rhw->nrck", near, rings)
        return shares.clamp(min=0).sqrt().flatten(1)


FrozenFeatures = Scattering | ColourRings


def extract(images: Floats, settings: FrozenFeatures) -> Floats:
    """Return features float32 [N, d] of images [N, C, H, W] in [-1, 1], each row of norm 1."""
    with torch.no_grad():
        parts = [settings.of(part) for part in torch.split(torch.from_numpy(images), _BATCH)]
        rows: Floats = F.normalize(torch.cat(parts), dim=1).numpy()
    return rows


def morlet(scale: int, *, orientations: int) -> tuple[Tensor, Tensor]:
    """Return the real and imaginary parts of Morlet wavelets, [L, 1, k, k], of mean zero.

    exp(-(u^2 + (v / 2)^2) / (2 s^2)) (exp(i xi u) - beta) with s = 0.8 * 2^scale and
    xi = 3 pi / (4 * 2^scale), (u, v) turned by l pi / L, scaled to L1 norm 1.
    """
    width = 0.8 * 2**scale
    reach = math.ceil(3 * width)
    axis = torch.arange(-reach, reach + 1, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    waves = []
    for turn in range(orientations):
        angle = math.pi * turn / orientations
        u = x * math.cos(angle) + y * math.sin(angle)
        v = y * math.cos(angle) - x * math.sin(angle)
        window = torch.exp(-(u**2 + (v / 2) ** 2) / (2 * width**2))
        wave = torch.exp(1j * (3 * math.pi / 4 / 2**scale) * u)
        psi = window * (wave - (window * wave).sum() / window.sum())
        waves.append(psi / psi.abs().sum())
    stacked = torch.stack(waves)[:, None]
    return stacked.real.float(), stacked.imag.float()


def _modulus(grey: Tensor, scale: int, orientations: int) -> Tensor:
    """Return |x * psi| [N, L, H, W] for every orientation, edges mirrored as far as they reach."""
    real, imaginary = morlet(scale, orientations=orientations)
    reach = real.shape[-1] // 2
    edge = min(reach, min(grey.shape[-2:]) - 1)
    padded = F.pad(grey, (edge,) * 4, mode="reflect")
    parts = [F.conv2d(padded, kernel, padding=reach - edge) for kernel in (real, imaginary)]
    return torch.sqrt(parts[0] ** 2 + parts[1] ** 2)


def _standardise(group: Tensor) -> Tensor:
    """Scale every row to mean 0 and norm 1 by its own entries."""
    centred = group - group.mean(dim=1, keepdim=True)
    deviation = centred.std(dim=1, keepdim=True) + _EPSILON
    return centred / deviation / math.sqrt(group.shape[1])


def _rings(size: tuple[int, int], radii: tuple[float, ...]) -> Tensor:
    """Return weights [rings, H, W] that take the mean over each ring."""
    y, x = (2 * (torch.arange(side) + 0.5) / side - 1 for side in size)
    radius = torch.sqrt(y[:, None] ** 2 + x[None] ** 2)
    inner = (0.0, *radii[:-1])
    masks = torch.stack(
        [((radius >= a) & (radius < b)).float() for a, b in zip(inner, radii, strict=True)]
    )
    return masks / masks.sum(dim=(1, 2), keepdim=True)
