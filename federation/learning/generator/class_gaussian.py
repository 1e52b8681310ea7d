"""One Gaussian per class over the coarse cosine coefficients of an image, with a common covariance.

Tensors, besides which nothing travels: `mean.weight` [classes, d]; `factor.weight` [d, d], the
covariance being F F^T; and `residual` [1], the root of the energy that all finer coefficients share
by their public prior. Every value takes part in every draw of its class: none hides from a review.
"""

import torch

from federation.learning.generator.architecture import Architecture, preset_of
from federation.learning.generator.kinds import MomentsPreset
from federation.learning.generator.spectrum import spectrum

MEAN, FACTOR, RESIDUAL = "mean.weight", "factor.weight", "residual"


class ClassGaussian(torch.nn.Module):
    """x = DCT^-1 of (mean_label + F n, r sqrt(prior) n') for white noise (n, n')."""

    _place: torch.Tensor
    _finer: torch.Tensor
    _rows: torch.Tensor
    _columns: torch.Tensor
    _colours: torch.Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        preset = preset_of(architecture)
        if not isinstance(preset, MomentsPreset):
            raise TypeError("the preset is one of another kind")
        basis = spectrum(architecture.channels, architecture.height, architecture.width)
        kept = preset.coefficients(architecture.channels)
        self.mean = torch.nn.Embedding(architecture.num_classes, kept)
        self.factor = torch.nn.Linear(kept, kept, bias=False)
        self.residual = torch.nn.Parameter(torch.zeros(1))
        self._kept, self._shape = kept, basis.shape
        finer = torch.from_numpy(basis.power[kept:]).sqrt().float()
        for name, value in (
            ("_place", torch.from_numpy(basis.order).argsort()),
            ("_finer", finer / finer.norm().clamp_min(1e-12)),
            ("_rows", torch.from_numpy(basis.rows).float()),
            ("_columns", torch.from_numpy(basis.columns).float()),
            ("_colours", torch.from_numpy(basis.colours).float()),
        ):
            self.register_buffer(name, value, persistent=False)

    def forward(self, noise: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        """Return images [B, C, H, W], not clipped, for white noise [B, C, H, W] and labels [B]."""
        flat = noise.flatten(1)
        coarse = self.mean(class_labels) + self.factor(flat[:, : self._kept])
        fine = self.residual * self._finer * flat[:, self._kept :]
        placed = torch.cat([coarse, fine], dim=1)[:, self._place]
        planes = placed.reshape(len(noise), *self._shape)
        mixed = self._rows.T @ planes @ self._columns
        return torch.einsum("dc,ndhw->nchw", self._colours, mixed)
