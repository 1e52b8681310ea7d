"""Strangers: images of none of a blueprint's classes, made of its own synthetic images alone.

An expert has to know what it does not know, and may see no other blueprint's images. A stranger has
the texture and brightness of the expert's own images and none of their shape: tiles that changed
places, or everything bent. With handwritten digits at three and five sites, the product of experts
that saw such strangers was right far more often than that of experts that saw none
(`benchmarks/README.md`).
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

STRANGERS = 16  # of the 64 images of a batch
_BEND = 0.4  # standard deviation of a shift, in half sides
_BEND_POINTS = 3  # a side, between which shifts are interpolated


def with_strangers(
    x: Tensor, truth: Tensor, draws: torch.Generator, *, column: int
) -> tuple[Tensor, Tensor]:
    """Make the first images of a batch into strangers, of class `column`."""
    count = min(STRANGERS, len(x) - 1)
    strangers = strange(x[:count], draws)
    return torch.cat([strangers, x[count:]]), torch.cat(
        [torch.full_like(truth[:count], column), truth[count:]]
    )


def strange(images: Tensor, draws: torch.Generator) -> Tensor:
    """Return as many images that show none of the classes: of tiles out of place, or bent."""
    few, many, bent = images[::3], images[1::3], images[2::3]
    return torch.cat(
        [shuffled(few, draws, side=2), shuffled(many, draws, side=4), bend(bent, draws)]
    )


def shuffled(images: Tensor, draws: torch.Generator, *, side: int) -> Tensor:
    """Permute the tiles of each image, `side` x `side` of them; no image keeps its order."""
    count, channels, height, width = images.shape
    h, w = height // side, width // side
    tiles = images[:, :, : side * h, : side * w].reshape(count, channels, side, h, side, w)
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).reshape(count, side * side, channels, h, w)
    order = torch.argsort(torch.rand(count, side * side, generator=draws), dim=1)
    kept = (order == torch.arange(side * side)).all(dim=1)
    order[kept] = order[kept].flip(1)
    tiles = tiles[torch.arange(count)[:, None], order]
    whole = tiles.reshape(count, side, side, channels, h, w).permute(0, 3, 1, 4, 2, 5)
    whole = whole.reshape(count, channels, side * h, side * w)
    return F.pad(whole, (0, width - side * w, 0, height - side * h), mode="replicate")


def bend(images: Tensor, draws: torch.Generator) -> Tensor:
    """Shift points of a coarse grid at random, and everything between them with them."""
    count, _, height, width = images.shape
    shape = (count, 2, _BEND_POINTS, _BEND_POINTS)
    coarse = _BEND * torch.randn(shape, generator=draws)
    shifts = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)
    same = torch.eye(2, 3).expand(count, 2, 3)
    still = F.affine_grid(same, list(images.shape), align_corners=False)
    grid = still + shifts.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
