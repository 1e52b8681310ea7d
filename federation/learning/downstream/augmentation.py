"""Augmentation: varied copies of training images, under the names that a build policy uses.

No flips but where a study says that its images have no up: left and right are not the same in a
body, and a mirrored image may be a finding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from federation.build_policy import Variation
from kit.errors import KitError


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Largest changes, drawn uniformly per image and step; `symmetric` draws mirror and turn."""

    shift: float = 0.1  # of the side
    rotation_rad: float = 0.15
    scale: float = 0.1
    contrast: float = 0.15
    brightness: float = 0.1  # of the half range
    noise: float = 0.1  # standard deviation, of the half range
    symmetric: bool = False


STANDARD = Augmentation()
_NAMED: Mapping[str, Augmentation | None] = MappingProxyType(
    {
        Variation.NONE: None,
        Variation.STANDARD: STANDARD,
        Variation.SYMMETRIC: Augmentation(symmetric=True),
    }
)


def limits_of(name: str) -> Augmentation | None:
    """Return the limits that a policy's word names; None leaves every image as it is.

    Raises:
        KitError: there is no such word.
    """
    if name not in _NAMED:
        raise KitError(f"there is no augmentation `{name}`", hint=f"use one of {', '.join(_NAMED)}")
    return _NAMED[name]


def augment(
    images: Tensor, generator: torch.Generator, *, limits: Augmentation = STANDARD
) -> Tensor:
    """Return shifted, turned, scaled, re-contrasted and noisy copies of [B, C, H, W] images.

    Pixels beyond the edge repeat it.
    """

    def draw(limit: float, columns: int = 1) -> Tensor:
        return limit * (2 * torch.rand(len(images), columns, generator=generator) - 1)

    if limits.symmetric:
        images = _oriented(images, generator)
    angle, zoom = draw(limits.rotation_rad)[:, 0], 1 + draw(limits.scale)[:, 0]
    shift = 2 * draw(limits.shift, 2)  # the grid's side is 2 long
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    affine = torch.stack(
        [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1
    )
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    gain = (1 + draw(limits.contrast))[:, :, None, None]
    offset = draw(limits.brightness)[:, :, None, None]
    level = limits.noise * torch.rand(len(images), 1, 1, 1, generator=generator)
    noise = level * torch.randn(images.shape, generator=generator)
    return moved * gain + offset + noise


def _oriented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Give each image one of the orientations of its shape: 8 of a square, 4 of a rectangle."""
    coins = torch.randint(2, (3, len(images), 1, 1, 1), generator=generator).bool()
    images = torch.where(coins[0], images.flip(3), images)
    images = torch.where(coins[1], images.flip(2), images)
    if images.shape[2] == images.shape[3]:
        images = torch.where(coins[2], images.transpose(2, 3), images)
    return images
